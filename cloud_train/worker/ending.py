"""Why an attempt ended, derived from the exit status, the program's own words and the kernel's counters."""

import json
import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from cloud_train.beneath import open_plain, read_all
from cloud_train.run.record import Program
from cloud_train.run.states import Cause
from cloud_train.worker import contract
from cloud_train.worker.worker_log import ESCAPES

_SAID = frozenset({Cause.FAILED, Cause.OUT_OF_MEMORY, Cause.INFRASTRUCTURE, Cause.NO_ACCELERATOR})
"""The causes that a program may report itself."""
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the program itself, or the last command of its shell
_READ_BYTES = 64 * 1024
_LAST_LINES = 30
_PROGRESS = re.compile(r"\d%\|.*\||\d ?(?:it|s|step|batch)/(?:s|it|step|batch)\b|[=#>━█▏▎▍▌▋▊▉.-]{8}")
"""Progress bars of tqdm, rich, Keras and pip."""
_ERROR = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b(?::|$)|\b(?:error|fatal|panic|failed|fault|killed|aborted|cannot)\b",
    re.IGNORECASE,
)
"""Exceptions of Python by their names, and the words of other programs."""


_READ_ONLY = re.compile(r"read-only file system|\bEROFS\b", re.IGNORECASE)
_WRITABLE = "in a container, write into $CLOUD_TRAIN_CHECKPOINTS, $CLOUD_TRAIN_MODEL or /tmp"


def stopwatch() -> float:
    """Seconds on a clock that is never set; on Linux it counts the time in which the machine is suspended, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Stop(Enum):
    """Why a worker stops its program."""

    TOLD = "told to stop"
    CANCELLED = "cancelled"
    TIME_LIMIT = "reached its time limit"
    NOTICE = "the machine is about to be reclaimed"
    OTHER_NODE = "stopped with another node"
    SUPERSEDED = "superseded by a newer attempt"


_CAUSE_OF_STOP = {
    Stop.TOLD: Cause.PREEMPTED,
    Stop.NOTICE: Cause.PREEMPTED,
    Stop.CANCELLED: Cause.CANCELLED,
    Stop.TIME_LIMIT: Cause.TIMED_OUT,
    Stop.OTHER_NODE: Cause.INFRASTRUCTURE,
    Stop.SUPERSEDED: Cause.INFRASTRUCTURE,
}


@dataclass(frozen=True)
class Ending:
    """An attempt's end."""

    cause: Cause
    message: str
    exit_code: int | None = None
    """Exit status of the program; negative for a signal, None if it never started."""
    is_consequence: bool = False
    """Whether this node ended because another one did."""
    time: float = field(default_factory=time.time)
    """When the worker noticed it, in seconds since the epoch."""
    moment: float = field(default_factory=stopwatch)
    """The same by ``stopwatch``."""
    is_noticed: bool = False
    """Whether this node's machine is about to be reclaimed."""
    is_superseded: bool = False
    """Whether a newer attempt has begun elsewhere: then nothing of this one counts any more."""


@dataclass(frozen=True)
class Said:
    """A program's own report on its failure."""

    message: str = ""
    cause: Cause | None = None
    """None if the program did not report one."""
    is_consequence: bool = False


def of_program(exit_code: int, out_of_memory: bool, failure: Path, output_log: Path) -> Ending:
    """The end of a program that was not told to stop. ``out_of_memory``: the kernel's OOM killer was active while it ran."""
    if exit_code == 0:
        return Ending(Cause.SUCCEEDED, "", exit_code)
    cause = Cause.OUT_OF_MEMORY if out_of_memory and exit_code in _KILLED else Cause.FAILED
    said = read_failure(failure)
    if said.message:
        known = cause if said.cause is None or cause is Cause.OUT_OF_MEMORY else said.cause
        return Ending(known, said.message, exit_code, said.is_consequence)
    reason = telling_line(output_log)
    if _READ_ONLY.search(reason):
        reason += f" ({_WRITABLE})"
    return Ending(cause, f"{describe(exit_code)}: {reason}" if reason else describe(exit_code), exit_code)


def of_stop(reason: Stop, program: Program, exit_code: int | None, killed: str, failure: Path) -> Ending:
    """The end of a program that the worker stopped. ``exit_code`` is None if it had not started; ``killed`` explains how it was killed."""
    said = read_failure(failure)
    if reason is Stop.OTHER_NODE and said.message and not said.is_consequence:  # both failed, and this one may have been the first
        return Ending(said.cause or Cause.FAILED, said.message, exit_code)
    message = f"{reason.value} of {program.duration_seconds:g} s" if reason is Stop.TIME_LIMIT else reason.value
    if exit_code is None:
        message += " before the program started"
    if killed:
        message += f"; {killed}"
    message = f"{message}: {said.message}" if said.message else message
    is_consequence, is_noticed = reason is Stop.OTHER_NODE, reason is Stop.NOTICE
    return Ending(_CAUSE_OF_STOP[reason], message, exit_code, is_consequence=is_consequence, is_noticed=is_noticed)


def beside_others(exit_code: int, end: Ending) -> Ending:
    """The end of a program that was not told to stop, on one of several nodes: if it saved and stopped, it did so with another node."""
    if exit_code != contract.STOPPED or end.cause is not Cause.FAILED:
        return end
    return replace(end, cause=Cause.PREEMPTED, message=Stop.OTHER_NODE.value, is_consequence=True)


def describe(exit_code: int) -> str:
    """``exit status 3`` or ``killed by SIGSEGV``."""
    if exit_code >= 0:
        return f"exit status {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


def read_failure(path: Path) -> Said:
    """Read the program's report on its failure: JSON with ``message`` and ``cause``, or plain text."""
    text = _read_end(path, from_end=False).decode(errors="replace").strip()
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return Said(text)
    if not isinstance(fields, dict) or not fields.get("message"):
        return Said(text)
    cause = next((cause for cause in _SAID if cause.value == str(fields.get("cause"))), None)
    return Said(str(fields["message"]), cause, fields.get("is_consequence") is True)


def telling_line(path: Path) -> str:
    """The line of a log that most probably says why the program failed: the last one that looks like an error, or else the last one.

    Only the last lines are considered, and no progress bars among them. A carriage return ends a line, and escape sequences are removed.
    """
    text = ESCAPES.sub("", _read_end(path, from_end=True).decode(errors="replace"))
    lines = [stripped for line in text.replace("\r", "\n").split("\n") if (stripped := line.strip())]
    told = [line for line in lines if not _PROGRESS.search(line)][-_LAST_LINES:]
    errors = [line for line in told if _ERROR.search(line)]
    return next(reversed(errors or told or lines), "")


def oom_kills(root: Path = Path("/")) -> int:
    """The number of OOM kills on this machine and in this control group; compare before and after."""
    counted = _counter(root / "proc/vmstat")
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            hierarchy, _, group = line.split(":", 2)
            if hierarchy == "0":  # version 2
                counted += _counter(root / "sys/fs/cgroup" / group.lstrip("/") / "memory.events")
    return counted


def _counter(path: Path) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _read_end(path: Path, from_end: bool) -> bytes:
    """At most 64 KiB from one end of a regular file; empty if there is none. Does not follow links or block on pipes."""
    try:
        descriptor = open_plain(path)
    except OSError:
        return b""
    try:
        start = max(0, os.fstat(descriptor).st_size - _READ_BYTES) if from_end else 0
        return read_all(descriptor, start, start + _READ_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
