"""What one attempt may publish, and which checkpoints the next one continues: the part of the protocol that programs need too.

``run.fencing`` has the rest. docs/design.md describes the protocol.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloud_train import locks
from cloud_train.beneath import mode_of, open_folder
from cloud_train.errors import StoreError
from cloud_train.run import layout


class SupersededError(StoreError):
    """A newer attempt of the run has begun elsewhere: this one may not write results any more."""

    code = "superseded"


def superseded_by(number: int) -> str:
    """The reason for the end of an attempt that attempt ``number`` has overtaken."""
    return f"superseded by attempt {number}"


@contextmanager
def publishing(run: Path, attempt: int | None) -> Iterator[None]:
    """Hold the lock of the run directory ``run`` in a folder while results of ``attempt`` get their names.

    Raises SupersededError if a newer attempt has begun: a worker claims one under the same lock. ``attempt`` None: outside cloud-train.
    Nothing but renames may happen meanwhile: a process that is suspended while it holds the lock keeps the next attempt from beginning.
    """
    if attempt is None:
        yield
        return
    try:
        directory = open_folder(run, (), listed=True)
    except OSError as error:
        raise StoreError(f"cannot open {run}: {os.strerror(error.errno or 0).lower()}") from error
    try:
        with locks.folder_held(directory, run):
            if mode_of(layout.status(attempt + 1), directory):
                raise SupersededError(superseded_by(attempt + 1))
            yield
    finally:
        os.close(directory)


@dataclass(frozen=True)
class Ancestor:
    """What a status says about where its attempt began."""

    origin: int | None
    """The attempt that made the checkpoint, 0 for a start from the beginning; None if it is not recorded."""
    step: int | None
    """The step of that checkpoint."""


class Branch:
    """The checkpoints that attempt ``number`` continues: those of the attempt before, up to where it began those of that one's, and so on.

    Checkpoints of an attempt that was overtaken and made more of them, which no later attempt has seen, are not among them.
    """

    def __init__(self, number: int, ancestor: Callable[[int], Ancestor | None]) -> None:
        """``ancestor`` reads what the status of an attempt says; None if it has none. It is asked once for each, and only if necessary."""
        self._number, self._read = number, ancestor
        self._said: dict[int, Ancestor | None] = {}
        self._limits: dict[int, float] = {}
        self._next, self._limit = number - 1, float("inf")

    def holds(self, attempt: int | None, step: int, folder: int = 1) -> bool:
        """Whether the checkpoint of ``step``, made by ``attempt`` as its manifest says, belongs to the branch.

        ``folder`` is the attempt in whose folder it is. A checkpoint from an earlier version always belongs.
        """
        made_by = self.maker(attempt, folder)
        if folder > 1 and made_by is not None and made_by > folder:
            return False
        if made_by is None or made_by >= self._number:
            return True
        while self._next >= max(made_by, 1):
            self._limits[self._next] = self._limit
            self._walk()
        return step <= self._limits.get(made_by, -1)

    def maker(self, attempt: int | None, folder: int) -> int | None:
        """The attempt that made a checkpoint, as its manifest says, or else its ``folder``; None if an earlier version wrote it.

        A program that writes its manifests itself names no attempt. Earlier versions kept the checkpoints of all attempts in the folder of
        the first.
        """
        if attempt is not None or folder > 1:
            return attempt or folder
        first = self._ancestor(1) if self._number > 1 else None
        return None if first is None or first.origin is None else 1

    def _ancestor(self, number: int) -> Ancestor | None:
        if number not in self._said:
            self._said[number] = self._read(number)
        return self._said[number]

    def _walk(self) -> None:
        found = self._ancestor(self._next)
        if found is None or found.origin is None:
            self._next -= 1  # it made no checkpoint, or an earlier version ran it
            return
        self._next = min(found.origin, self._next - 1)
        self._limit = min(self._limit, found.step if found.step is not None else -1)
