"""Several training processes on one machine, started and watched by torch's elastic launcher.

The launcher is a process of its own between the worker and the training processes: it hands SIGTERM on to them, ends them all when one
fails, and says which one failed first.
"""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType

from cloud_train.training.processes import LastWords, words_file
from cloud_train.worker import contract
from cloud_train.worker.api import Run

_SHIPPING_SECONDS = 2
"""Of the grace period, what is left for ending the launcher itself."""


def launch(run: Run, processes: int, arguments: tuple[str, ...]) -> int:
    """Run the Python program ``arguments`` in so many processes; returns the exit status. The failure of the one that failed first becomes
    the run's.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Otherwise each process warns at length that looking for unused parameters finds none (``gradients`` says what it is for).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    signal.signal(signal.SIGTERM, _stop)  # until the launcher has a handler of its own
    if run.stop_requested:
        return contract.STOPPED
    try:
        _start_and_wait(run, processes, arguments)
    except SignalException:
        said = _own_words(_read_words(run, processes))
        if said:  # a last checkpoint that could not be saved, say
            run.fail(said[0].message, said[0].cause)
        return 1 if said else contract.STOPPED
    except ChildFailedError as error:
        exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        words, status = _reason(exit_codes, _read_words(run, processes))
        run.fail(words.message, words.cause)
        return status
    return 0


def _start_and_wait(run: Run, processes: int, arguments: tuple[str, ...]) -> None:
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="cloud-train-launcher-") as folder:  # the launcher wants one, and leaves it behind
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"{run.run_id}-{run.attempt}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            rdzv_configs={"is_host": True},
            local_addr="127.0.0.1",
            max_restarts=0,  # attempts own retries
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=max(1, int(run.grace_seconds) - _SHIPPING_SECONDS),
        )
        elastic_launch(config, sys.executable)(*arguments)


def _stop(_number: int, _frame: FrameType | None) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException

    raise SignalException("told to stop", signal.Signals.SIGTERM)


def _read_words(run: Run, processes: int) -> dict[int, LastWords]:
    """What each process said of its end, by rank; its file is taken away."""
    said = {}
    for rank in range(processes):
        path = words_file(run.failure, rank) if run.failure is not None else None
        if path is not None and path.exists():
            with suppress(OSError, ValueError, TypeError):
                said[rank] = LastWords(**json.loads(path.read_bytes()))
            path.unlink(missing_ok=True)
    return said


def _own_words(said: Mapping[int, LastWords]) -> list[LastWords]:
    """Those of the processes that failed by themselves, the earliest first."""
    return sorted((words for words in said.values() if not words.is_consequence), key=lambda words: words.time)


def _reason(exit_codes: Mapping[int, int], said: Mapping[int, LastWords]) -> tuple[LastWords, int]:
    """Why the training failed, and the exit status that tells it.

    A process that was killed says nothing, but those that it takes along say that they lost a connection. Its status is told as a shell
    does, so that the worker sees whether it may have been killed for want of memory.
    """
    own = _own_words(said)
    if own:
        return own[0], 1
    rank = min([rank for rank in exit_codes if rank not in said] or exit_codes)
    code = exit_codes[rank]
    if code < 0:
        return LastWords(f"rank {rank}: killed by {signal.Signals(-code).name}"), 128 - code
    return LastWords(f"rank {rank}: exit status {code}"), 1
