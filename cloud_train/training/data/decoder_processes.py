"""Work that is done ahead in processes beside the training: torch's ``DataLoader``, made to start and to end well.

What comes out depends on the requests alone, not on the number of processes.
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
"""Requests that each process works on, or has finished, before their turn."""
_SLOTS = _AHEAD + 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DYING_SECONDS = 1.0
"""How long a process that broke off a transfer may take to be seen as ended."""


class DecoderProcessError(CloudTrainError):
    """The processes that decode images cannot be started, or have failed."""

    code = "decoder-process"


def done_ahead(work: Work[Request, Result], requests: Iterable[Request], processes: int, *, pin_memory: bool = False) -> Generator[Result]:
    """``work(request, slot, is_stopped)`` for each of the ``requests``, in their order, done in ``processes`` processes, at least one.

    ``requests`` may be endless: a few are taken at a time. A result is made of tuples, lists, texts, numbers and tensors; ``pin_memory``
    makes the tensors ready to be copied to a GPU. A CloudTrainError in a process is raised here, in its turn.

    Tensors come through shared memory, which is slow to get from the operating system and quick to use again. So ``slot`` is one of a few
    numbers, and when a process gets the same one as before, it may write over the tensors of the result before: whoever asks for the next
    result has to be done with the last one.

    SIGTERM and SIGINT leave the processes alone: whoever sends them to a group of processes means the training, which may need them until
    it has saved. Closing the generator ends them, as soon as ``work`` has returned: it should do that early once ``is_stopped()``, with
    whatever result. Raises DecoderProcessError if one of them is killed.
    """
    failures: list[Exception] = []
    results, workers, stop = _started(work, _with_slots(requests, processes, failures), processes, pin_memory)
    at_exit = partial(_kill, workers)
    atexit.register(at_exit)  # a process that ends with this generator still open would wait for them forever: they ignore SIGTERM
    mapped: deque[Any] = deque(maxlen=0 if pin_memory else _SLOTS * processes)  # torch then finds the memory of a slot where it was
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
        results._shutdown_workers()  # torch has no public way to end them at a given moment
        _kill(workers)
        atexit.unregister(at_exit)


def _with_slots(requests: Iterable[Request], processes: int, failures: list[Exception]) -> Generator[tuple[Request, int]]:
    """The requests, each with its slot; they end where they fail, and ``failures`` says how.

    The loader gives the requests to one process after another. It takes the next when it hands out the result of the one 2 × ``processes``
    before, and what came before that has been dealt with by then; in one process, the same slot comes after 3 × ``processes``.
    """
    try:
        for number, request in enumerate(requests):
            yield request, number // processes % _SLOTS
    except Exception as error:  # noqa: BLE001 -- it is raised in its turn, whatever it is; in the loader, it would leave a half-made one behind
        failures.append(error)


def shared_memory(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor that goes to another process as it is, whatever is in it. Raises RuntimeError where /dev/shm is used up."""
    tensor = torch.empty(tuple(shape), dtype=dtype)
    tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch declares no types for it
    return tensor


class _Requests(Dataset[Result | CloudTrainError], Generic[Request, Result]):
    """What the loader takes for a data set: its items are requests and what is made of them."""

    def __init__(self, work: Work[Request, Result], stop: Tensor) -> None:
        self._work, self._stop = work, stop

    def __getitem__(self, request: tuple[Request, int]) -> Result | CloudTrainError:
        try:
            return self._work(*request, self._is_stopped)
        except CloudTrainError as error:
            return error  # raised, it would arrive as the text of its traceback

    def _is_stopped(self) -> bool:
        return bool(self._stop)


def _started(
    work: Work[Request, Result], requests: Iterable[tuple[Request, int]], processes: int, pin_memory: bool
) -> tuple[Any, Sequence[BaseProcess], Tensor]:
    """The loader's iterator, its processes, and what tells them to stop."""
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
                    multiprocessing_context="fork" if sys.platform == "linux" else None,  # quick, and there is nothing to hand over
                    generator=torch.Generator(),  # without one it draws from the global generator
                    prefetch_factor=_AHEAD,
                )
                results = iter(loader)
        except (OSError, RuntimeError) as error:
            raise _explained(error, ()) from error
        failed.pop_all()
    return results, new(), stop


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Around the start of processes: signals wait until ``_ignore_signals`` has run there, and torch's opinions do not count."""
    on_child = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # more processes than cores, a fork beside threads
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            # The loader has its own handler raise an error wherever the training is at that moment; here _check looks instead.
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
        f"a process that decodes images {how}", hint="the memory may be used up: give the run fewer data.workers or more memory"
    )


def _explained(error: Exception, workers: Sequence[BaseProcess]) -> Exception:
    """What the user can do about an error of the loader's; the error itself where that is nothing."""
    try:
        _check(workers, _DYING_SECONDS if workers else 0)
    except DecoderProcessError as lost:
        return lost
    if "shared memory" in str(error) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        return _no_shared_memory()
    if isinstance(error, OSError):
        return DecoderProcessError(
            f"the processes that decode images cannot be started, or not be heard: {error}", hint="lower data.workers"
        )
    return error


def _no_shared_memory() -> DecoderProcessError:
    return DecoderProcessError(
        "the shared memory (/dev/shm) is used up, through which decoded images come",
        hint="make it larger (docker run --shm-size), or lower data.workers or train.batch_size",
    )


def _kill(workers: Sequence[BaseProcess]) -> None:
    for process in workers:
        if process.is_alive():
            process.kill()
    for process in workers:
        process.join()
