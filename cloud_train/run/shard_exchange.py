"""A folder in which shards still arrive: what the program that needs them and the worker's process that fetches them say to each other.

Everything is a small file in that folder, so it works between any processes. Several runs share the folder: what concerns one attempt has
the run's id and the node in its name, and that a shard is needed at once is everybody's.
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_train.beneath import open_plain

_OWN = ".cloud-train-"  # as of all files that are never data
_SOURCE = f"{_OWN}source"
_NEEDED = f"{_OWN}needed-"
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class ShardExchange:
    """The folder, as one attempt on one node has it."""

    folder: Path
    run_id: str
    node_rank: int = 0

    @property
    def source(self) -> str | None:
        """The URL that the shards come from; None for a folder in which nothing arrives."""
        return _read(self.folder / _SOURCE)

    def come_from(self, url: str) -> None:
        """Say that the shards come from ``url``. Raises OSError."""
        _write(self.folder / _SOURCE, url)

    def expect(self, shards: Sequence[int]) -> None:
        """Say in which order the shards of these numbers will be needed. Raises OSError."""
        _write(self._file("order"), json.dumps(list(shards)))

    def need(self, shard: int) -> None:
        """Say that the program is waiting for a shard. Raises OSError."""
        os.close(open_plain(self.folder / f"{_NEEDED}{shard}", os.O_WRONLY | os.O_CREAT))

    def arrived(self, shard: int) -> None:
        """Nobody needs to wait for a shard any more."""
        with suppress(OSError):
            (self.folder / f"{_NEEDED}{shard}").unlink()

    def in_order(self, missing: Collection[int]) -> list[int]:
        """The ``missing`` shards in the order in which they are to come: what is waited for, what is expected, and then the others."""
        needed = [shard for shard in sorted(missing) if (self.folder / f"{_NEEDED}{shard}").exists()]
        expected = self._expected()
        return [shard for shard in dict.fromkeys([*needed, *expected, *sorted(missing)]) if shard in missing]

    def fail(self, reason: str) -> None:
        """Say that no more shards will come. Raises OSError."""
        _write(self._file("failed"), reason)

    @property
    def failure(self) -> str | None:
        """Why no more shards will come; None as long as they do."""
        return _read(self._file("failed"))

    def stop(self) -> None:
        """Tell a program that waits for a shard that the attempt is to end. Raises OSError."""
        _write(self._file("stop"), "")

    @property
    def is_stopped(self) -> bool:
        """Whether the attempt is to end."""
        return self._file("stop").exists()

    def forget(self) -> None:
        """Take away what an attempt of this run said."""
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
    """What a plain file holds, up to a limit; None if there is none."""
    try:
        descriptor = open_plain(file)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(_MOST_BYTES).decode(errors="replace")


def _write(file: Path, text: str) -> None:
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # of an earlier process, or a planted link
    with os.fdopen(open_plain(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as opened:
        opened.write(text.encode(errors="surrogateescape"))
    beside.replace(file)
