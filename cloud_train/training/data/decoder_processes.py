"""Work done ahead of time in separate processes: torch's ``DataLoader``, made to start and end reliably.

The results depend only on the requests, not on the number of processes.
"""

import atexit
import errno
import multiprocessing
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cloud_train.errors import CloudTrainError

Request = TypeVar("Request")
Result = TypeVar("Result")
Work = Callable[[Request, int, Callable[[], bool]], Result]

_AHEAD = 2
"""Requests that each process may work on or finish before their turn."""
_SLOTS = _AHEAD + 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DYING_SECONDS = 1.0
"""How long to wait for the exit of a process that broke off a transfer."""


class DecoderProcessError(CloudTrainError):
    """The processes that decode images cannot be started, or have failed."""

    code = "decoder-process"


def done_ahead(work: Work[Request, Result], requests: Iterable[Request], processes: int, *, pin_memory: bool = False) -> Generator[Result]:
    """``work(request, slot, is_stopped)`` for each of the ``requests``, in order, run in ``processes`` processes (at least one).

    ``requests`` may be infinite: a few are taken at a time. A result consists of tuples, lists, strings, numbers and tensors;
    ``pin_memory`` pins the tensors for copying to a GPU. A CloudTrainError in a process is raised here, in its turn.

    Tensors are passed through shared memory, which is slow to allocate and fast to reuse. So ``slot`` is one of a few numbers; when a
    process gets the same slot again, it may overwrite the tensors of that slot's previous result. The caller must have finished with a
    result before it asks for the next.

    The processes ignore SIGTERM and SIGINT: these are meant for the training, which may need the processes until it has saved. Closing the
    generator ends them as soon as ``work`` returns; ``work`` should return early, with any result, once ``is_stopped()``. Raises
    DecoderProcessError if one of them is killed.
    """
    failures: list[Exception] = []
    results, workers, stop = _started(work, _with_slots(requests, processes, failures), processes, pin_memory)
    at_exit = partial(_kill, workers)
    atexit.register(at_exit)  # if this process ended with the generator open, it would wait for them forever: they ignore SIGTERM
    mapped: deque[Any] = deque(maxlen=0 if pin_memory else _SLOTS * processes)  # keeps a slot's memory mapped
    try:
        while True:
            _check(workers)
            try:
                result = next(results)
            except StopIteration:
                if failures:
                    raise failures[0] from None
                return
            except (RuntimeError, OSError, EOFError) as error:
                raise _explained(error, workers) from error
            if isinstance(result, CloudTrainError):
                raise result
            mapped.append(result)
            yield result
    finally:
        stop.fill_(True)
        results._shutdown_workers()  # torch has no public way to end them now
        _kill(workers)
        atexit.unregister(at_exit)


def _with_slots(requests: Iterable[Request], processes: int, failures: list[Exception]) -> Generator[tuple[Request, int]]:
    """The requests, each with its slot; if they fail, they end and the error is added to ``failures``.

    The loader assigns requests to processes in turn. It takes the next request when it returns the result of the one 2 × ``processes``
    earlier, and all earlier results have been used by then; within a process, a slot is reused after 3 × ``processes`` requests.
    """
    try:
        for number, request in enumerate(requests):
            yield request, number // processes % _SLOTS
    except Exception as error:  # noqa: BLE001 -- raised later in its turn; inside the loader it would leave it half initialized
        failures.append(error)


def shared_memory(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialized tensor in shared memory, passed to other processes without a copy. Raises RuntimeError if /dev/shm is full."""
    tensor = torch.empty(tuple(shape), dtype=dtype)
    tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch declares no types for it
    return tensor


class _Requests(Dataset[Result | CloudTrainError], Generic[Request, Result]):
    """A data set for the loader that maps each request to its result."""

    def __init__(self, work: Work[Request, Result], stop: Tensor) -> None:
        self._work, self._stop = work, stop

    def __getitem__(self, request: tuple[Request, int]) -> Result | CloudTrainError:
        try:
            return self._work(*request, self._is_stopped)
        except CloudTrainError as error:
            return error  # if raised, it would arrive as a traceback's text

    def _is_stopped(self) -> bool:
        return bool(self._stop)


def _started(
    work: Work[Request, Result], requests: Iterable[tuple[Request, int]], processes: int, pin_memory: bool
) -> tuple[Any, Sequence[BaseProcess], Tensor]:
    """The loader's iterator, its processes, and the shared flag that stops them."""
    before = multiprocessing.active_children()

    def new() -> list[BaseProcess]:
        return [process for process in multiprocessing.active_children() if process not in before]

    with ExitStack() as failed:
        failed.callback(lambda: _kill(new()))
        try:
            stop = shared_memory((1,), torch.bool).fill_(False)
            with _undisturbed():
                loader: DataLoader[Any] = DataLoader(
                    _Requests(work, stop),
                    sampler=requests,
                    batch_size=None,
                    num_workers=processes,
                    collate_fn=_as_it_is,
                    pin_memory=pin_memory,
                    worker_init_fn=_ignore_signals,
                    multiprocessing_context="fork" if sys.platform == "linux" else None,  # fast, and nothing has to be pickled
                    generator=torch.Generator(),  # otherwise it draws from the global one
                    prefetch_factor=_AHEAD,
                )
                results = iter(loader)
        except (OSError, RuntimeError) as error:
            raise _explained(error, ()) from error
        failed.pop_all()
    return results, new(), stop


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The context in which processes start: signals are blocked until ``_ignore_signals`` has run in them, and warnings are ignored."""
    on_child = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # more processes than cores, a fork with threads
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            # The loader's own handler would raise an error at any point of the training; _check looks for ended processes instead.
            signal.signal(signal.SIGCHLD, on_child or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _ignore_signals(_number: int) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _as_it_is(result: Result) -> Result:
    return result


def _check(workers: Sequence[BaseProcess], seconds: float = 0.0) -> None:
    """Raise DecoderProcessError if a process has ended, or does so within ``seconds``."""
    ended = wait([process.sentinel for process in workers], seconds)
    for process in workers:
        if process.sentinel in ended:
            process.join()
            raise _lost(process.exitcode or 0)


def _lost(exit_code: int) -> DecoderProcessError:
    if exit_code == -signal.SIGBUS:
        return _no_shared_memory()
    how = f"was killed ({signal.Signals(-exit_code).name})" if exit_code < 0 else f"ended with exit status {exit_code}"
    return DecoderProcessError(
        f"a process that decodes images {how}", hint="it may have run out of memory: lower data.workers, or use a machine with more memory"
    )


def _explained(error: Exception, workers: Sequence[BaseProcess]) -> Exception:
    """An error that tells the user what to do about a loader's error; the error itself if nothing is known."""
    try:
        _check(workers, _DYING_SECONDS if workers else 0)
    except DecoderProcessError as lost:
        return lost
    if "shared memory" in str(error) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        return _no_shared_memory()
    if isinstance(error, OSError):
        return DecoderProcessError(
            f"cannot start the processes that decode images, or communicate with them: {error}", hint="lower data.workers"
        )
    return error


def _no_shared_memory() -> DecoderProcessError:
    return DecoderProcessError(
        "shared memory (/dev/shm), which passes decoded images, is full",
        hint="increase it (docker run --shm-size), or lower data.workers or train.batch_size",
    )


def _kill(workers: Sequence[BaseProcess]) -> None:
    for process in workers:
        if process.is_alive():
            process.kill()
    for process in workers:
        process.join()
