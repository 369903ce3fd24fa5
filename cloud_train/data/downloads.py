"""The files that a data set downloads, and where they are kept: in the download cache, which all runs on a machine share.

The section of a data set names them in its fields: ``url`` and ``sha256`` of one file, or ``url`` of a folder and ``sha256`` by file name.
The worker downloads before the program starts, so this module works on Python 3.10 with the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

FOLDER = "downloads"
"""Folder of downloaded files, in the cache."""
UNPACKED = "unpacked"
"""Folder of unpacked archives, in the cache."""
_KEY_CHARACTERS = 16
_LONGEST_NAME = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Download:
    """One file to download."""

    url: str
    sha256: str
    """In hexadecimal."""
    name: str
    """Its name."""
    most_bytes: int | None = None
    """The largest size to accept, in bytes; None if only the disk sets a limit."""

    def place_in(self, cache: Path) -> Path:
        """Where it is kept: ``downloads/<first 16 of sha256>-<name>``."""
        return cache / FOLDER / f"{self.sha256[:_KEY_CHARACTERS]}-{_UNSAFE.sub('_', self.name)[-_LONGEST_NAME:]}"


def unpacked_place(sha256: str, cache: Path) -> Path:
    """The folder into which an archive with this SHA-256 is unpacked."""
    return cache / UNPACKED / sha256[:_KEY_CHARACTERS]


def downloads_of(data: Mapping[str, Any] | None, most_bytes: int | None = None) -> list[Download]:
    """The files to download for a job's ``data`` section, as JSON; none if it names a path or no URL.

    ``most_bytes`` is the largest size to accept of a single file (``DataSection.most_download_bytes``).
    """
    if data is None or data.get("path") is not None:
        return []
    url, sha256 = data.get("url"), data.get("sha256")
    if not isinstance(url, str) or not sha256:
        return []
    if isinstance(sha256, Mapping):
        parts = urlsplit(url)
        above = parts.path.rstrip("/")
        return [Download(parts._replace(path=f"{above}/{name}").geturl(), str(value), str(name)) for name, value in sha256.items()]
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return [Download(url, str(sha256), name, most_bytes)]
