"""The weights that a run begins with, as its plan records them: ``train.start_from``, with the SHA-256 of every file.

``submit`` copies the files into the run directory; what is on a web server is downloaded by the worker instead. Either way every attempt
begins with the same bytes, wherever it runs.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cloud_train.run.documents import Fields, one_line

if TYPE_CHECKING:
    from typing_extensions import Self  # noqa: UP035 -- typing has it from Python 3.11 on

WEIGHTS = "weights"
"""Name of the file with the tensors, whatever its format and its name elsewhere."""
DESCRIPTION = "model.json"
"""Name of the description of the model, if there is one."""
LARGEST_FILE_BYTES = 1 << 60
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_URL = 8192


@dataclass(frozen=True)
class StartFile:
    """One file of the weights."""

    url: str
    """Where it was found: an absolute path, the URL of an object in a store, or the URL of a file on a web server."""
    sha256: str
    """In hexadecimal."""
    size: int | None = None
    """In bytes; None for a file on a web server."""


@dataclass(frozen=True)
class StartingPoint:
    """The weights that a run begins with."""

    source: str
    """What they are, for display: the id of a run, a path or a URL."""
    files: Mapping[str, StartFile]
    """By name: ``WEIGHTS``, and ``DESCRIPTION`` if there is one."""

    @property
    def weights(self) -> StartFile:
        """The file with the tensors."""
        return self.files[WEIGHTS]

    @property
    def is_on_web(self) -> bool:
        """Whether the worker downloads the weights; otherwise they are in the run directory."""
        return self.weights.url.startswith(("http://", "https://"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_plan(cls, plan: Mapping[str, Any]) -> Self | None:
        """The starting point in the ``plan`` of a ``run.json``; None if it has none. Raises ValueError for one with another form."""
        fields = Fields(dict(plan), "plan")
        if fields.is_null("start"):
            return None
        start = Fields(fields.mapping("start"), "plan.start")
        files = {name: _file(name, values) for name, values in start.mapping("files").items()}
        if WEIGHTS not in files or not set(files) <= {WEIGHTS, DESCRIPTION}:
            start.refuse("files", f"an object with {WEIGHTS!r}")
        return cls(one_line(start.text("source", _LONGEST_URL)), files)


def _file(name: str, values: object) -> StartFile:
    fields = Fields(values, f"plan.start.files.{name}")
    sha256 = fields.text("sha256")
    if not _SHA256.fullmatch(sha256):
        fields.refuse("sha256", "a SHA-256 in hexadecimal")
    return StartFile(one_line(fields.text("url", _LONGEST_URL)), sha256, fields.whole_or_none("size", 0, LARGEST_FILE_BYTES))
