"""Data that lies in a store: ``data.path`` may be a URL there, of one object or of a folder of them."""

import re

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
"""The beginning of what is a URL and no path."""

IN_STORE = re.compile(r"(s3|gs)://[^/]+(/.+)?|az://[^/]+/[^/]+(/.+)?")
"""The URLs of data in stores that are known."""


def data_in_store(data: object) -> str | None:
    """The URL that ``data.path`` of a data section is, or None if it is none; such data is fetched when the run starts."""
    path: str | None = getattr(data, "path", None)
    return path if path is not None and ADDRESS.match(path) else None
