"""Waiting for a turn on a machine that other runs use too (``run.turns``)."""

from __future__ import annotations

import os
from pathlib import Path

from cloud_train.errors import UsageError
from cloud_train.run.turns import Machine, Needs, Turn, leave, take, turn_name
from cloud_train.worker import accelerators
from cloud_train.worker.processes.subprocesses import Signals

_LOOK_SECONDS = 0.25


def parse_needs(text: str) -> Needs:
    """What ``cpus=2,memory=1073741824,gpus=1`` says. Raises UsageError."""
    given = dict(part.partition("=")[::2] for part in text.split(","))
    try:
        return Needs(*(int(given.get(name, 0)) for name in ("cpus", "memory", "gpus")))
    except ValueError as error:
        raise UsageError(f"--needs must be such as cpus=2,gpus=1, not {text!r}") from error


def wait_for_turn(folder: Path, run_id: str, attempt: int, needs: Needs, signals: Signals) -> bool:
    """Wait until what the run asks for is free, and let its programs see only the GPUs that it was given; False if told to stop.

    ``folder`` has the locks of the workers on this machine, this worker's too, and the queue's folder.
    """
    machine = this_machine(needs.gpus > 0)
    mine = Turn(turn_name(run_id, attempt), needs)
    while not signals.stop_requested:
        mine = take(folder, mine, machine)
        if mine.gpus is not None:
            if mine.gpus:
                os.environ[accelerators.visible_variable(os.environ)] = ",".join(mine.gpus)
            return True
        signals.wait(_LOOK_SECONDS)
    leave(folder, mine.name)
    return False


def this_machine(with_gpus: bool) -> Machine:
    """What this machine has for runs. Its GPUs are asked for only if they matter: that takes a moment."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(cpus, memory, tuple(accelerators.usable(os.environ)) if with_gpus else ())
