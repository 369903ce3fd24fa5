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

from cloud_train.run.cached import open_to_read, write_new

_OWN = ".cloud-train-"  # as of all files that are never data
_SOURCE = f"{_OWN}source"
_NEEDED = f"{_OWN}needed-"
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Arrivals:
    """The folder, as one attempt on one node has it."""

    folder: Path
    run_id: str
    node_rank: int = 0

    @property
    def source(self) -> str | None:
        """The URL that the shards come from; None for a folder in which nothing arrives."""
        try:
            return _read(self.folder / _SOURCE)
        except OSError:
            return None

    def come_from(self, url: str) -> None:
        """Say that the shards come from ``url``. Raises OSError."""
        write_new(self.folder / _SOURCE, url)

    def expect(self, shards: Sequence[int]) -> None:
        """Say in which order the shards of these numbers will be needed. Raises OSError."""
        self._write("order", json.dumps(list(shards)))

    def need(self, shard: int) -> None:
        """Say that somebody is waiting for a shard. Raises OSError."""
        os.close(os.open(self.folder / f"{_NEEDED}{shard}", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))

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
        self._write("failed", reason)

    @property
    def failure(self) -> str | None:
        """Why no more shards will come; None as long as they do."""
        return self._read("failed")

    def stop(self) -> None:
        """Tell whoever waits for a shard that the attempt is to end. Raises OSError."""
        self._write("stop", "")

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
            said = json.loads(self._read("order") or "[]")
        except ValueError:
            return []
        return [shard for shard in said if isinstance(shard, int)] if isinstance(said, list) else []

    def _file(self, kind: str) -> Path:
        return self.folder / f"{_OWN}{kind}-{self.run_id}-{self.node_rank}"

    def _read(self, kind: str) -> str | None:
        try:
            return _read(self._file(kind))
        except OSError:
            return None

    def _write(self, kind: str, text: str) -> None:
        file = self._file(kind)
        beside = file.with_name(f"{file.name}.{os.getpid()}")
        write_new(beside, text)
        beside.replace(file)


def _read(path: Path) -> str | None:
    descriptor = open_to_read(path)
    if descriptor is None:
        return None
    with open(descriptor, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 -- of a descriptor
        return file.read(_MOST_BYTES)
