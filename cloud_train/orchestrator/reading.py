"""Reading a run's logs and metrics: from its run directory, and from its cloud's own log of an attempt whose worker has not started."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from heapq import merge
from itertools import groupby

from cloud_train.errors import NotFoundError, ProviderError, StoreError, UsageError
from cloud_train.orchestrator.connections import patiently, pause_of, provider_at, store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.ledgers import read_ledger
from cloud_train.orchestrator.polling import Poller
from cloud_train.orchestrator.reconcile import looking_at
from cloud_train.orchestrator.run_directory import check_there, read_record
from cloud_train.orchestrator.state import read_run
from cloud_train.providers.base import Handle
from cloud_train.run import documents, layout
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.metrics import (
    MOST_BYTES,
    MOST_NAMES,
    MOST_POINTS,
    MOST_THINNED_BYTES,
    MOST_THINNED_POINTS,
    MergedMetrics,
    MetricPoint,
    MetricsReader,
)
from cloud_train.run.states import State
from cloud_train.run.streams import LogReader, open_stream
from cloud_train.run.view import RunView
from cloud_train.storage.base import Store

_PAUSE_SECONDS = 0.2
_REQUEST_SECONDS = 10.0
"""Pause between two requests for logs, which clouds limit."""
_MOST_NOTES_BYTES = 16 << 20
_MOST_ATTEMPTS = 1_000
"""Attempts whose metrics are read, the newest: each that has none takes time as well."""


def read_logs(home: Home, run_id: str, attempt: int | None = None, node: int = 0, tail: int | None = None) -> Iterator[bytes]:
    """The program's output, byte for byte, in pieces; of the newest attempt if ``attempt`` is None.

    Raises NotFoundError for an attempt that does not exist, UsageError for a node that the run does not have.
    """
    run = read_run(home, run_id)
    reader = _log(run, attempt or run.attempt, node)
    if tail is not None:
        reader.skip_to_tail(tail)
    return reader.read()


def follow_logs(
    home: Home,
    run_id: str,
    node: int = 0,
    tail: int | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    note: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    record: bool = True,
) -> Iterator[bytes]:
    """The program's output as it arrives, until the run ends, including further attempts.

    Findings are recorded unless ``record`` is False. ``note`` is called when the run's store becomes unreachable. ``clock`` times the
    requests to a cloud. Raises UsageError for a node that the run does not have.
    """
    if node:
        _check_node(read_run(home, run_id), node)
    with looking_at(home, run_id, record, note) as (ledger, look):
        attempt, reader = 0, None
        poller = Poller(clock)
        early = ProviderLogs(home, note, clock)
        while True:
            run = patiently(lambda: look(poller), note, sleep)
            early.tell(run, ledger)
            if reader is None or run.attempt != attempt:
                if reader is not None:
                    yield from _new_output(reader, note, sleep)
                store = store_at(run.store)
                reader = LogReader(store, f"{run_id}/{layout.output_log(run.attempt, node)}")
                if tail is not None and not attempt:
                    patiently(partial(reader.skip_to_tail, tail), note, sleep)
                attempt = run.attempt
            yield from _new_output(reader, note, sleep)
            if run.state.is_end:
                return
            sleep(pause_of(store, _PAUSE_SECONDS))


def _new_output(reader: LogReader, note: Callable[[str], None], sleep: Callable[[float], None]) -> Iterator[bytes]:
    """The output since the last read, in pieces, retried while the store is unreachable."""
    while piece := patiently(lambda: next(reader.read(), b""), note, sleep):
        yield piece


def read_worker_log(home: Home, run_id: str, attempt: int | None = None, node: int = 0) -> list[str]:
    """The lines of the worker's own log: where it resumed, which checkpoints it skipped, how the attempt ended."""
    run = read_run(home, run_id)
    stream = open_stream(store_at(run.store), f"{run_id}/{layout.worker_log(attempt or run.attempt, node)}")
    data = stream.read(0, _MOST_NOTES_BYTES)
    return data.decode(errors="replace").splitlines()


def read_provider_logs(home: Home, run_id: str) -> list[str]:
    """The lines of the cloud's own log of the newest attempt.

    Empty for a provider on this machine. Raises ProviderError.
    """
    lines: list[str] = []
    with read_ledger(home) as ledger:
        ProviderLogs(home, lines.append).tell_all(read_run(home, run_id), ledger)
    return lines


def read_metrics(home: Home, run_id: str, note: Callable[[str], None] = lambda _: None, *, thin: bool = False) -> list[MetricPoint]:
    """The metrics of the run, in the order of its steps; if attempts share a step, the later attempt counts.

    If there are too many, not all are kept, and ``note`` is told which are left out. With ``thin``, only those are kept that a table of
    epochs and a plot need.
    """
    run = read_run(home, run_id)
    store = store_at(run.store)
    metrics = MergedMetrics(MOST_THINNED_POINTS if thin else MOST_POINTS)
    most_bytes = MOST_THINNED_BYTES if thin else MOST_BYTES
    attempts = [1] if run.attempt == 1 else _attempts(store, run)
    is_cut = len(attempts) > _MOST_ATTEMPTS
    for attempt in attempts[-_MOST_ATTEMPTS:]:
        reader = MetricsReader(store, run_id, attempt, most_bytes=most_bytes)
        for point in reader.read_thinned() if thin else reader.read():
            metrics.add(point)
        is_cut = is_cut or reader.has_skipped
        if reader.rejected.count:
            note(f"attempt {attempt}: {reader.rejected}" if len(attempts) > 1 else str(reader.rejected))
    if is_cut:
        most = f"at most {most_bytes >> 20} MiB of an attempt are read, and {_MOST_ATTEMPTS:,} attempts"
        note(f"the earliest metrics of {run_id} are skipped: {most}")
    if metrics.has_left_out_names:
        note(f"{run_id} has more than {MOST_NAMES:,} different metrics; the rest are left out")
    if metrics.is_thinned and not thin:
        note(f"{run_id} has more than {MOST_POINTS:,} values; of the metrics with most values only some are kept")
    return metrics.points()


def each_metric(home: Home, run_id: str) -> Iterator[MetricPoint]:
    """Every metric of the run, however many, as ``read_metrics`` orders them, as far as each attempt wrote them in the order of its steps.

    Only the values of one step are held at a time.
    """
    run = read_run(home, run_id)
    store = store_at(run.store)
    attempts = [1] if run.attempt == 1 else _attempts(store, run)[-_MOST_ATTEMPTS:]
    readers = [MetricsReader(store, run_id, attempt, most_bytes=sys.maxsize).read() for attempt in attempts]
    if len(readers) == 1:
        yield from readers[0]
        return
    for _, points in groupby(merge(*readers, key=lambda point: point.step), key=lambda point: point.step):
        newest: dict[str, list[MetricPoint]] = {}
        for point in points:  # those of earlier attempts first
            if (known := newest.setdefault(point.key, [])) and known[0].attempt < point.attempt:
                known.clear()
            known.append(point)
        for group in newest.values():
            yield from group


class ProviderLogs:
    """Passes on the cloud's own log of an attempt until its worker starts, each line once."""

    def __init__(self, home: Home, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._home, self._note, self._clock = home, note, clock
        self._attempt, self._due = 0, clock()
        self._cursor: str | None = None
        self._begun = b""
        self._said = ""

    def tell(self, run: RunView, ledger: LedgerReader) -> None:
        """Pass on new lines, unless the worker has started or the next request is not due yet."""
        if run.message and run.message != self._said and run.state in (State.QUEUED, State.STARTING):
            self._said = run.message
            self._note(run.message)
        if run.heartbeat is not None or run.state.is_end or self._clock() < self._due:
            return
        self._due = self._clock() + _REQUEST_SECONDS
        with suppress(ProviderError):  # reported when the run itself is checked
            lines = list(self._new_lines(run, ledger))
            if lines and not _has_begun(run):  # meanwhile; the cloud's log then has the program's output as well, which is shown anyway
                for line in lines:
                    self._note(line)

    def tell_all(self, run: RunView, ledger: LedgerReader) -> None:
        """Pass on every new line; raises ProviderError."""
        for line in self._new_lines(run, ledger):
            self._note(line)

    def _new_lines(self, run: RunView, ledger: LedgerReader) -> Iterator[str]:
        entry = ledger.get(run.run_id)
        if entry is None or entry.reference is None or run.is_unmanaged:
            return
        provider = provider_at(self._home, run.provider)
        if not provider.capabilities.starts_slowly:
            return
        if run.attempt != self._attempt:
            self._attempt, self._cursor, self._begun = run.attempt, None, b""
        handle = Handle(run.run_id, run.attempt, run.provider, run.store, entry.reference)
        while True:
            data, cursor = provider.logs(handle, self._cursor)
            *lines, self._begun = (self._begun + data).split(b"\n")
            for line in lines:
                yield f"{run.provider}: {line.decode(errors='replace')}"
            if cursor == self._cursor or not data:
                self._cursor = cursor
                return
            self._cursor = cursor


def _has_begun(run: RunView) -> bool:
    """Whether the worker of the run's attempt has written its first status, which it does before its program starts."""
    try:
        store_at(run.store).stat(f"{run.run_id}/{layout.status(run.attempt)}")
    except StoreError:
        return False
    return True


def _attempts(store: Store, run: RunView) -> list[int]:
    """Numbers of the attempts in the run directory, up to the run's newest one."""
    found = (documents.attempt_number(name) for name in store.folders(f"{run.run_id}/{layout.ATTEMPTS}/"))
    return sorted(number for number in found if number is not None and number <= run.attempt)


def _log(run: RunView, attempt: int, node: int) -> LogReader:
    if node:
        _check_node(run, node)
    reader = LogReader(store_at(run.store), f"{run.run_id}/{layout.output_log(attempt, node)}")
    begins = attempt == run.attempt and not run.state.is_end  # it may not have written anything yet
    if not begins and not reader.stream.exists():
        check_there(store_at(run.store), run.run_id)
        raise NotFoundError(
            f"attempt {attempt} of {run.run_id} has no log of node {node}",
            hint=documents.one_line(run.message)
            or f"the newest attempt is {run.attempt}; this one may have ended before its program started",
        )
    return reader


def _check_node(run: RunView, node: int) -> None:
    nodes = int(read_record(store_at(run.store), run.run_id).job.get("resources", {}).get("nodes", 1))  # validated when it was read
    if node >= nodes:
        ranks = "0 only" if nodes == 1 else f"0 to {nodes - 1}"
        raise UsageError(f"{run.run_id} has no node {node}; its nodes are {ranks}", hint=f"resources.nodes in its job is {nodes}")
