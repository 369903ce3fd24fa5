"""Several training processes, started and monitored on each node by torch's elastic launcher.

The launcher is a separate process between the worker and the training processes: it forwards SIGTERM to them, ends them all when one fails,
and reports which one failed first. On several nodes the launchers meet at node 0, by torch's *static* rendezvous: a node's rank is the
worker's own, so that process ``local`` of node ``node`` always has the rank ``node * processes + local``. Exact resumption depends on that;
a rendezvous that assigns ranks in the order of arrival would break it.
"""

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from cloud_train.beneath import IrregularError, open_within, unlink_within
from cloud_train.training.processes import MEETING, LastWords, words_file
from cloud_train.worker import contract
from cloud_train.worker.api import Run

_SHIPPING_SECONDS = 2
"""The part of the grace period that is reserved for ending the launcher itself."""
_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def launch(run: Run, processes: int, arguments: tuple[str, ...]) -> int:
    """Run the Python program ``arguments`` in ``processes`` processes on this node; returns the exit status. The first failure becomes the
    run's.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Otherwise each process prints a long warning about find_unused_parameters, which ``gradients`` needs.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Until the launcher installs its own handler. While nodes meet, torch waits where no handler runs, and there is nothing to save yet.
    signal.signal(signal.SIGTERM, _stop if run.nodes == 1 else signal.SIG_DFL)
    if run.stop_requested:
        return contract.STOPPED
    ranks = range(run.node_rank * processes, (run.node_rank + 1) * processes)
    try:
        _start_and_wait(run, processes, arguments)
    except SignalException:
        own = _own_words(_read_words(run, ranks))
        if own:  # such as a last checkpoint that could not be saved
            run.fail(own[0].message, own[0].cause)
        return 1 if own else contract.STOPPED
    except ChildFailedError as error:
        exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        said = _read_words(run, ranks)
        if run.nodes > 1 and not said and set(exit_codes.values()) == {contract.STOPPED}:
            return contract.STOPPED  # all processes stop together, and another node was asked to stop
        words, status = _reason(exit_codes, said)
        run.fail(words.message, words.cause, is_consequence=words.is_consequence)
        return status
    except DistError as error:
        if run.nodes == 1:
            raise
        _explain_meeting(run, error)
        return 1
    return 0


def _start_and_wait(run: Run, processes: int, arguments: tuple[str, ...]) -> None:
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with (
        tempfile.TemporaryDirectory(prefix="cloud-train-launcher-") as folder,  # the launcher requires one and does not remove it
        _meeting(run, Path(folder)) as meeting,
    ):
        config = LaunchConfig(
            min_nodes=run.nodes,
            max_nodes=run.nodes,
            nproc_per_node=processes,
            run_id=f"{run.run_id}-{run.attempt}",
            **meeting,
            max_restarts=0,  # attempts handle retries
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=max(1, int(run.grace_seconds) - _SHIPPING_SECONDS),
        )
        elastic_launch(config, sys.executable)(*arguments)


@contextmanager
def _meeting(run: Run, folder: Path) -> Iterator[dict[str, Any]]:
    """The rendezvous settings with which the launchers of several nodes find each other; a single node needs no network."""
    if run.nodes == 1:
        from cloud_train.training.single_node import single_node_rendezvous

        with single_node_rendezvous(folder) as meeting:
            yield meeting
        return
    os.environ.pop(MEETING, None)
    address, port = os.environ[contract.MASTER_ADDRESS], int(os.environ[contract.MASTER_PORT])
    # By default gloo listens on the address of the machine's own host name, which is the loopback interface on many machines.
    if interface := interface_towards(address, port):
        for name in _INTERFACE_VARIABLES:
            os.environ.setdefault(name, interface)
    from cloud_train.training.several_nodes import several_nodes_rendezvous

    with several_nodes_rendezvous(address, port, run.node_rank) as meeting:
        yield meeting


def _explain_meeting(run: Run, error: Exception) -> None:
    place = f"{os.environ[contract.MASTER_ADDRESS]}:{os.environ[contract.MASTER_PORT]}"
    reason = " ".join(str(error).split())[:300]
    if run.node_rank == 0:
        run.fail(f"cannot meet the other nodes at {place} (set CLOUD_TRAIN_MASTER_PORT to use another port): {reason}", "infrastructure")
    else:
        run.fail(f"cannot reach node 0 at {place}: {reason}", "infrastructure", is_consequence=True)


def _stop(_number: int, _frame: FrameType | None) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException

    raise SignalException("stop requested", signal.Signals.SIGTERM)


def _read_words(run: Run, ranks: Iterable[int]) -> dict[int, LastWords]:
    """Why each process ended, by rank; removes the files."""
    said = {}
    for rank in ranks:
        path = words_file(run.failure, rank) if run.failure is not None else None
        if path is None:
            continue
        root = run.root_of(path)
        with suppress(OSError, ValueError, TypeError), os.fdopen(open_within(path, root), "rb") as file:
            said[rank] = LastWords(**json.loads(file.read()))
        with suppress(FileNotFoundError, IrregularError):
            unlink_within(path, root)
    return said


def _own_words(said: Mapping[int, LastWords]) -> list[LastWords]:
    """Those of processes that failed by themselves, the earliest first."""
    return sorted((words for words in said.values() if not words.is_consequence), key=lambda words: words.time)


def _reason(exit_codes: Mapping[int, int], said: Mapping[int, LastWords]) -> tuple[LastWords, int]:
    """Why the training failed, and the exit status to return.

    A process that was killed leaves no message, but the others report that they lost a connection. Its status follows the shells'
    convention, so that the worker can recognize a kill for lack of memory.
    """
    own = _own_words(said)
    if own:
        return own[0], 1
    silent = [rank for rank in exit_codes if rank not in said]
    if said and not silent:
        return min(said.values(), key=lambda words: words.time), 1  # another node's process is the one that ended first
    rank = min(silent)
    code = exit_codes[rank]
    if code < 0:
        return LastWords(f"rank {rank}: killed by {signal.Signals(-code).name}"), 128 - code
    return LastWords(f"rank {rank}: exit status {code}"), 1


def interface_towards(host: str, port: int) -> str | None:
    """The name of the interface, such as ``eth0``, through which this machine reaches ``host``; None if it is unknown.

    Nothing is sent: connecting a datagram socket only consults the routing table.
    """
    with suppress(OSError):
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as asking:
            asking.connect(address)
            own = str(asking.getsockname()[0])
        for name, addresses in psutil.net_if_addrs().items():
            if any(known.address.partition("%")[0] == own for known in addresses):
                return name
    return None
