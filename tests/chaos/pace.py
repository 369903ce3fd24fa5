"""Runs first in every Python process of a simulated machine: short intervals, the machine's name, and its clock.

``sitecustomize`` of the machines imports it. ``CHAOS_HOST`` is the machine's name, ``CHAOS_CLOCK`` the seconds by which a command's clock
is wrong; that of workers is wrong by the seconds in the file ``CHAOS_CLOCK_OF_WORKERS``, which may change while they run.
"""

import os
import sys
import time
from typing import Any

SILENCE_SECONDS = 4.0
"""As ``resume`` and ``cancel`` wait for a sign of life here; the product waits 45 s for a heartbeat every 5 to 10 s."""


def _set(module: Any, **values: float) -> None:
    for name, value in values.items():
        assert isinstance(getattr(module, name), int | float), name
        setattr(module, name, value)


def _quicken_worker() -> None:
    from cloud_train.worker import supervisor
    from cloud_train.worker.context import Timing
    from cloud_train.worker.uploads import attempts, streams

    supervisor.DEFAULT_TIMING = Timing(heartbeat=0.2, look=0.1)
    _set(attempts, _LIFE_SIGN_SECONDS=0.5, _CANCEL_SECONDS=0.5)
    _set(streams, _LEAST_SECONDS=0.5)


def _quicken_command(arguments: list[str]) -> None:
    from cloud_train.orchestrator import connections

    _set(connections, CLOUD_PAUSE_SECONDS=0.4, _PATIENCE_SECONDS=5.0)
    if "resume" in arguments:
        from cloud_train.orchestrator import resuming

        _set(resuming, _SILENCE_SECONDS=SILENCE_SECONDS, CLOUD_PAUSE_SECONDS=0.4)
    if "cancel" in arguments:
        from cloud_train.orchestrator import stopping

        _set(stopping, _SILENCE_SECONDS=SILENCE_SECONDS, _MARGIN_SECONDS=3.0)


def _follow_clock(path: str) -> None:
    true = time.time

    def now() -> float:
        try:
            with open(path) as file:  # noqa: PTH123 -- called often
                return true() + float(file.read())
        except FileNotFoundError:
            return true()

    time.time = now


def _rename(host: str) -> None:
    import socket

    true = os.uname()
    os.uname = lambda: os.uname_result((true.sysname, host, true.release, true.version, true.machine))
    socket.gethostname = lambda: host


def _step_clock(seconds: float) -> None:
    true = time.time
    time.time = lambda: true() + seconds


if "CHAOS_HOST" in os.environ:
    _rename(os.environ["CHAOS_HOST"])
    if "cloud_train.worker" in sys.orig_argv:
        _follow_clock(os.environ["CHAOS_CLOCK_OF_WORKERS"])
        _quicken_worker()
    elif "cloud_train" in sys.orig_argv:
        _step_clock(float(os.environ.pop("CHAOS_CLOCK", "0")))
        _quicken_command(sys.orig_argv)
