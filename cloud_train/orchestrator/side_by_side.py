"""Reading the run directories of many runs: those in a bucket several at a time, because nearly all of a request is waiting."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from cloud_train.errors import CloudTrainError, StoreError
from cloud_train.orchestrator.connections import PATIENCE_WITH_MANY_SECONDS, store_at
from cloud_train.run.view import RunView
from cloud_train.storage.base import NotPlainError, ObjectMissingError, Store

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

AnyRun = TypeVar("AnyRun", bound=RunView)
Result = TypeVar("Result")

_AT_ONCE = 16
_AHEAD = 32
"""Runs whose directories are being read while the first of them is shown."""


class Directories:
    """Reads the run directories of one listing. A store that cannot be reached is tried once, and ``note`` is told."""

    def __init__(self, note: Callable[[str], None] = lambda _: None) -> None:
        self._note = note
        self._unreachable: dict[str, str] = {}
        self._noted: set[str] = set()

    def each(
        self, runs: Iterable[AnyRun], read: Callable[[Store, AnyRun], Result], is_wanted: Callable[[AnyRun], bool]
    ) -> Iterator[tuple[AnyRun, Result | None]]:
        """Each run in order, and what ``read`` returned; None where it raised a CloudTrainError, and for a run that is not wanted.

        ``read`` may run on any thread and ahead of its turn, so it must use nothing but the store.
        """
        from concurrent.futures import ThreadPoolExecutor as Threads  # takes 8 ms, which other commands can save

        waiting: deque[tuple[AnyRun, Callable[[], Result | None]]] = deque()
        threads = Threads(_AT_ONCE)  # a thread is started only when there is something for it
        try:
            for run in runs:
                waiting.append((run, self._begun(run, read, threads) if is_wanted(run) else _nothing))
                if len(waiting) > _AHEAD:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _begun(self, run: AnyRun, read: Callable[[Store, AnyRun], Result], threads: "ThreadPoolExecutor") -> Callable[[], Result | None]:
        try:
            store = store_at(run.store, PATIENCE_WITH_MANY_SECONDS)  # here, so that it is opened once
        except CloudTrainError:
            return _nothing
        if store.local_path(run.run_id) is not None:
            return lambda: self._read(store, run, read)
        begun: Future[Result | None] = threads.submit(self._read, store, run, read)
        return begun.result

    def _read(self, store: Store, run: AnyRun, read: Callable[[Store, AnyRun], Result]) -> Result | None:
        if run.store in self._unreachable:
            return None
        try:
            return read(store, run)
        except StoreError as error:
            if not isinstance(error, ObjectMissingError | NotPlainError):
                self._unreachable[run.store] = error.message
        except CloudTrainError:
            pass
        return None

    def _next(self, waiting: deque[tuple[AnyRun, Callable[[], Result | None]]]) -> tuple[AnyRun, Result | None]:
        run, result = waiting.popleft()
        found = run, result()
        for url in self._unreachable.keys() - self._noted:
            self._noted.add(url)
            self._note(f"showing what is known here of the runs in {url}: {self._unreachable[url]}")
        return found


def _nothing() -> None:
    return None
