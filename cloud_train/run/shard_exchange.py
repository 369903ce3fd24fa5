"""A folder of shards that are still being downloaded, and how the program that reads them and the worker's fetcher communicate.

They communicate through small files in that folder, which works between any processes. Several runs may share the folder: files that
concern one attempt have the run id and the node rank in their names; the marks for urgently needed shards are shared by all.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_train.beneath import open_plain

_OWN = ".cloud-train-"  # the prefix of all files that are never data
_SOURCE = f"{_OWN}source"
_NEEDED = f"{_OWN}needed-"
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class ShardExchange:
    """The folder, as seen by one attempt on one node."""

    folder: Path
    run_id: str
    node_rank: int = 0

    @property
    def source(self) -> str | None:
        """The URL that the shards come from; None for a folder without downloads."""
        return _read(self.folder / _SOURCE)

    def come_from(self, url: str) -> None:
        """Record that the shards come from ``url``. Raises OSError."""
        _write(self.folder / _SOURCE, url)

    def expect(self, shards: Sequence[int]) -> None:
        """Announce the order in which the program will need the shards with these numbers. Raises OSError."""
        _write(self._file("order"), json.dumps(list(shards)))

    def need(self, shard: int) -> None:
        """Announce that the program is waiting for a shard. Raises OSError."""
        os.close(open_plain(self.folder / f"{_NEEDED}{shard}", os.O_WRONLY | os.O_CREAT))

    def arrived(self, shard: int) -> None:
        """Remove the announcement that a shard is needed, now that it is available."""
        with suppress(OSError):
            (self.folder / f"{_NEEDED}{shard}").unlink()

    def in_order(self, missing: Collection[int]) -> list[int]:
        """The ``missing`` shards in download order: those being waited for, those expected, then the rest."""
        needed = [shard for shard in sorted(missing) if (self.folder / f"{_NEEDED}{shard}").exists()]
        expected = self._expected()
        return [shard for shard in dict.fromkeys([*needed, *expected, *sorted(missing)]) if shard in missing]

    def fail(self, reason: str) -> None:
        """Report that no more shards will arrive. Raises OSError."""
        _write(self._file("failed"), reason)

    @property
    def failure(self) -> str | None:
        """Why no more shards will arrive; None without a failure."""
        return _read(self._file("failed"))

    def stop(self) -> None:
        """Tell a program that is waiting for a shard that the attempt is about to end. Raises OSError."""
        _write(self._file("stop"), "")

    @property
    def is_stopped(self) -> bool:
        """Whether the attempt is about to end."""
        return self._file("stop").exists()

    def forget(self) -> None:
        """Remove this attempt's messages."""
        for kind in ("order", "failed", "stop"):
            with suppress(OSError):
                self._file(kind).unlink()

    def _expected(self) -> list[int]:
        try:
            said = json.loads(_read(self._file("order")) or "[]")
        except (ValueError, RecursionError):
            return []
        return [shard for shard in said if isinstance(shard, int)] if isinstance(said, list) else []

    def _file(self, kind: str) -> Path:
        return self.folder / f"{_OWN}{kind}-{self.run_id}-{self.node_rank}"


def _read(file: Path) -> str | None:
    """The content of a regular file, up to a limit; None if there is no such file."""
    try:
        descriptor = open_plain(file)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(_MOST_BYTES).decode(errors="replace")


def _write(file: Path, text: str) -> None:
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # left by an earlier process, or a planted link
    with os.fdopen(open_plain(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as opened:
        opened.write(text.encode(errors="surrogateescape"))
    beside.replace(file)
