"""The queue of runs on one machine: a run that asks for cores, memory or GPUs starts when they are free. There is no daemon.

Each worker that waits or runs has a file in the folder ``queue``, and beside that folder a lock which it holds for as long as it lives. A
waiting worker looks again every moment, and starts itself when what it asks for is free. A file whose lock is not held belongs to a worker
that has ended, and is removed by the next that looks.

What earlier waiting runs ask for counts as taken. So a small run may start before a large one, but never delays it.
"""

from __future__ import annotations  # the worker also runs on Python 3.10

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cloud_train import locks
from cloud_train.private import make_folder, write_text

QUEUE = "queue"
"""The queue's folder, beside the lock files."""
_LOCK, _FILE = ".lock", ".json"
_LARGEST_FILE = 10_000


@dataclass(frozen=True)
class Needs:
    """What a run asks for on its machine; 0 for anything that it does not mention."""

    cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0

    def __bool__(self) -> bool:
        return self != Needs()

    def __str__(self) -> str:
        """Such as ``2 cores and 1 GPU``."""
        memory = f"{self.memory_bytes / 2**30:.3g} GiB of memory" if self.memory_bytes else ""
        parts = [_counted(self.cpus, "core"), memory, _counted(self.gpus, "GPU")]
        *others, last = [part for part in parts if part] or ["nothing"]
        return f"{', '.join(others)} and {last}" if others else last


@dataclass(frozen=True)
class Machine:
    """What the machine has for runs. ``gpus`` are their numbers or UUIDs, as CUDA_VISIBLE_DEVICES lists them."""

    cpus: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()

    def most_of(self, needs: Needs) -> Needs:
        """``needs``, but no more than the machine has: a run that asks for more has it alone. The program itself may then refuse."""
        return Needs(min(needs.cpus, self.cpus), min(needs.memory_bytes, self.memory_bytes), min(needs.gpus, len(self.gpus)))


@dataclass(frozen=True)
class Turn:
    """One worker's place in the queue."""

    name: str
    """The run's id and the number of the attempt: ``digits-…-7k3f.1``."""
    needs: Needs
    number: int = 0
    """Smaller for those that came earlier."""
    gpus: tuple[str, ...] | None = None
    """The GPUs that it was given; None while it waits."""

    @property
    def is_waiting(self) -> bool:
        """Whether it has not started yet."""
        return self.gpus is None

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.name.rpartition(".")[0]


def turn_name(run_id: str, attempt: int) -> str:
    """The name of an attempt's turn."""
    return f"{run_id}.{attempt}"


def lock_file(folder: Path, name: str) -> Path:
    """The lock that the worker with this turn holds; ``folder`` is the one that the queue's folder is in."""
    return folder / f"{name}{_LOCK}"


def read(folder: Path) -> list[Turn]:
    """The turns of all workers that are alive, the earliest first. Changes nothing."""
    return [turn for turn, is_alive in _all(folder) if is_alive]


def take(folder: Path, mine: Turn, machine: Machine) -> Turn:
    """Join the queue, or look whether its turn has come; returns ``mine`` as it is now.

    Raises StoreError if the queue's lock cannot be taken, OSError if its folder cannot be written.
    """
    queue = folder / QUEUE
    make_folder(queue)
    directory = os.open(queue, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with locks.folder_held(directory, queue):
            found = list(_all(folder))
            for turn, is_alive in found:
                if not is_alive:
                    _file(folder, turn.name).unlink(missing_ok=True)
            others = [turn for turn, is_alive in found if is_alive and turn.name != mine.name]
            number = mine.number or 1 + max((turn.number for turn in others), default=0)
            now = replace(mine, needs=machine.most_of(mine.needs), number=number)
            now = replace(now, gpus=_given(now, others, machine))
            if now != mine:
                write_text(_file(folder, mine.name), json.dumps(_fields(now)))
            return now
    finally:
        os.close(directory)


def leave(folder: Path, name: str) -> None:
    """Leave the queue without having started."""
    with suppress(OSError):
        _file(folder, name).unlink()


def explain(turns: Sequence[Turn], name: str) -> str:
    """Why the worker with this turn waits, in words; empty if it does not."""
    waiting = [turn.name for turn in turns if turn.is_waiting]
    if name not in waiting:
        return ""
    place = waiting.index(name)
    mine = next(turn for turn in turns if turn.name == name)
    running = [turn.run_id for turn in turns if not turn.is_waiting and _share(turn.needs, mine.needs)]
    first = f"; {', '.join(running[:3])}{' and others' if len(running) > 3 else ''} must end first" if running else ""
    return f"place {place + 1} in this machine's queue: the run asks for {mine.needs}{first}"


def _given(mine: Turn, others: Sequence[Turn], machine: Machine) -> tuple[str, ...] | None:
    """The GPUs for a run whose turn it is, and None for one that has to wait."""
    if not mine.is_waiting:
        return mine.gpus
    before = [turn for turn in others if not turn.is_waiting or turn.number < mine.number]
    for name, most in (("cpus", machine.cpus), ("memory_bytes", machine.memory_bytes)):
        asked, taken = getattr(mine.needs, name), sum(getattr(turn.needs, name) for turn in before)
        if asked and taken and asked + taken > most:
            return None
    free = [gpu for gpu in machine.gpus if not any(gpu in (turn.gpus or ()) for turn in before)]
    reserved = sum(turn.needs.gpus for turn in before if turn.is_waiting)
    is_free = not mine.needs.gpus or mine.needs.gpus + reserved <= len(free)
    return tuple(free[: mine.needs.gpus]) if is_free else None


def _share(one: Needs, other: Needs) -> bool:
    return any(getattr(one, name) and getattr(other, name) for name in ("cpus", "memory_bytes", "gpus"))


def _all(folder: Path) -> Iterable[tuple[Turn, bool]]:
    """Every turn, and whether its worker is alive, in order."""
    found = []
    for path in (folder / QUEUE).glob(f"*{_FILE}"):
        with suppress(OSError, ValueError, TypeError, KeyError):  # removed meanwhile, or not one of ours
            found.append(_turn(path.name.removesuffix(_FILE), json.loads(path.read_bytes()[:_LARGEST_FILE])))
    for turn in sorted(found, key=lambda turn: (turn.number, turn.name)):
        yield turn, locks.is_held(lock_file(folder, turn.name))


def _turn(name: str, fields: dict[str, object]) -> Turn:
    needs = Needs(*(int(str(fields[key])) for key in ("cpus", "memory_bytes", "gpus")))
    given = fields["given"]
    gpus = None if given is None else tuple(str(gpu) for gpu in given) if isinstance(given, list) else ()
    return Turn(name, needs, int(str(fields["number"])), gpus)


def _fields(turn: Turn) -> dict[str, object]:
    needs = {"cpus": turn.needs.cpus, "memory_bytes": turn.needs.memory_bytes, "gpus": turn.needs.gpus}
    return {"number": turn.number, **needs, "given": None if turn.gpus is None else list(turn.gpus)}


def _file(folder: Path, name: str) -> Path:
    return folder / QUEUE / f"{name}{_FILE}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}" if number else ""
