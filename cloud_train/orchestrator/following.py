"""Following a run until it ends: its state, its newest metrics, and its program's output."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cloud_train.errors import CloudTrainError, StoreError
from cloud_train.orchestrator.connections import patiently, pause_of, store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.polling import Observer, Poller
from cloud_train.orchestrator.reconcile import looking_at
from cloud_train.orchestrator.run_directory import changes_in, read_record
from cloud_train.orchestrator.summaries import goal_of
from cloud_train.run import layout
from cloud_train.run.metrics import GLANCE_BYTES, MOST_BYTES, MOST_NAMES, MetricPoint, MetricsReader
from cloud_train.run.record import RunRecord
from cloud_train.run.starting_point import StartingPoint
from cloud_train.run.states import State
from cloud_train.run.streams import LogReader
from cloud_train.run.view import RunView

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.5
_PAUSE_GROWTH = 1.2
_MOST_POINTS = 100_000
_LONGEST_LINE = 64 << 10
"""Bytes of an incomplete line, such as a progress bar without line feeds, that are collected before they become an event."""


@dataclass(frozen=True)
class Progress:
    """One update of a run that is being followed."""

    view: RunView
    step: int | None
    total_steps: int | None
    epoch: float | None
    """Epochs done, with a fraction."""
    epochs: int | None
    latest: dict[str, float | None] = field(default_factory=dict)
    """The newest value of each metric, such as ``train/loss``; None where it is not finite."""
    steps_per_second: float | None = None
    eta_seconds: float | None = None
    output: bytes = b""
    """Output of the program since the previous update."""
    earlier_output: bytes = b""
    """The rest of the previous attempt's output, which precedes ``output``, if this update is the first of another attempt."""
    points: tuple[MetricPoint, ...] = ()
    """Metrics since the previous update, at most the newest 100,000."""
    changes: tuple[dict[str, Any], ...] = ()
    """What ``resume`` changed: ``{"attempt", "set", "code"}``, the first attempt with it, the values as ``key=value``, and the identity of
    a script's code as it then was, or None."""
    starts_from: dict[str, str] | None = None
    """The weights that the run began with: ``{"source", "sha256"}``; None for random ones."""
    rejected: str = ""
    """How many lines of the attempt's metrics were not understood, of those read so far, and the first of them; empty if there is none."""


@dataclass(frozen=True)
class StateChange:
    """The run changed its state, or started another attempt."""

    run: RunView


@dataclass(frozen=True)
class LogLine:
    """A line that the program printed, without its line feed; bytes that are not UTF-8 are replaced."""

    attempt: int
    text: str


Event = StateChange | LogLine | MetricPoint


def follow(
    home: Home,
    run_id: str,
    sleep: Callable[[float], None] = time.sleep,
    note: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Poll the run until it ends, more often at first; yields an update whenever something changed, and the end last.

    ``note`` is called when the run's store becomes unreachable. ``clock`` times the requests to a cloud.
    """
    with looking_at(home, run_id, record=True, note=note) as (_, look):
        watch = _Watch(look, clock=clock)
        pause = _FIRST_PAUSE_SECONDS
        before: Progress | None = None
        while before is None or not before.view.state.is_end:
            now = patiently(watch.look, note, sleep)
            if now != before:
                yield now
                pause = max(_FIRST_PAUSE_SECONDS, pause / 2)
            before = now
            if not now.view.state.is_end:
                sleep(pause_of(store_at(now.view.store), pause))
                pause = min(_LONGEST_PAUSE_SECONDS, pause * _PAUSE_GROWTH)


def events(looks: Iterable[Progress]) -> Iterator[Event]:
    """The events between updates of a run, in order; the end of the run is the last one."""
    state: tuple[int, State] | None = None
    begun = b""
    for seen in looks:
        run = seen.view
        is_new, attempt, state = (run.attempt, run.state) != state, state[0] if state else run.attempt, (run.attempt, run.state)
        if run.attempt != attempt:
            lines, begun = _lines(begun + seen.earlier_output, is_all=True), b""
            yield from (LogLine(attempt, line) for line in lines)
        if is_new and not run.state.is_end:
            yield StateChange(run)
        output = begun + seen.output
        is_all = run.state.is_end or len(output) - output.rfind(b"\n") > _LONGEST_LINE
        begun = b"" if is_all else output[output.rfind(b"\n") + 1 :]
        yield from (LogLine(run.attempt, line) for line in _lines(output, is_all))
        yield from seen.points
        if is_new and run.state.is_end:
            yield StateChange(run)


def _lines(output: bytes, is_all: bool) -> list[str]:
    """The complete lines; with ``is_all``, also an incomplete last one."""
    *lines, last = output.split(b"\n")
    return [line.decode(errors="replace") for line in ([*lines, last] if is_all and last else lines)]


def glance(home: Home, run_id: str, note: Callable[[str], None] = lambda _: None, *, record: bool) -> Progress:
    """The run's state and newest metrics, without its program's output; nothing is recorded unless ``record``.

    If the store of a run that has ended cannot be reached, the ledger's view is returned, and ``note`` is told.
    """
    with looking_at(home, run_id, record, note) as (ledger, look):
        try:
            return _Watch(look, with_output=False).look()
        except StoreError as error:
            entry = ledger.get(run_id)
            if entry is None or not entry.state.is_end:
                raise
            note(error.message)
            return Progress(entry.view(), step=None, total_steps=None, epoch=None, epochs=None)


def _starts_from(record: RunRecord | None) -> dict[str, str] | None:
    start = StartingPoint.from_plan(record.plan) if record else None
    return {"source": start.source, "sha256": start.weights.sha256} if start else None


class _Watch:
    """The state that following keeps between two updates."""

    def __init__(
        self,
        look: Callable[[Observer | None], RunView],
        with_output: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._with_output = look, with_output
        self._record: RunRecord | None = None
        self._attempt = 0
        self._poller = Poller(clock)
        self._latest: dict[str, float | None] = {}
        self._printed: list[bytes] = []
        self._pace = _Pace()

    def look(self) -> Progress:
        view = self._look(self._poller)
        points: deque[MetricPoint] = deque(maxlen=_MOST_POINTS if self._with_output else 0)
        earlier = b""
        if view.attempt != self._attempt:
            if self._attempt and self._with_output:
                earlier = self._read(points)  # the previous attempt added this after the last update
            self._begin(view)
        # The state was read before the metrics and the output: nothing is added to them after an end, so nothing is missed.
        output = self._read(points)
        total, epochs = goal_of(self._record) if self._record else (None, None)
        step = self._pace.step
        remaining = total - step if total is not None and step is not None else None
        rate = self._pace.steps_per_second
        return Progress(
            view=view,
            step=step,
            total_steps=total,
            epoch=self._pace.epoch,
            epochs=epochs,
            latest=dict(self._latest),
            steps_per_second=rate,
            eta_seconds=remaining / rate if remaining is not None and rate else None,
            output=output,
            earlier_output=earlier,
            points=tuple(points),
            changes=tuple(changes_in(self._record.provenance)) if self._record else (),
            starts_from=_starts_from(self._record),
            rejected=str(self._metrics.rejected),
        )

    def _read(self, points: deque[MetricPoint]) -> bytes:
        """The attempt's output since the last call; its metrics since then are added to ``points``."""
        for point in self._metrics.read():
            points.append(point)
            if point.key in self._latest or len(self._latest) < MOST_NAMES:
                self._latest[point.key] = point.value
            self._pace.add(point)
        if not self._with_output:
            for point in self._metrics.read_skipped():
                if len(self._latest) < MOST_NAMES:
                    self._latest.setdefault(point.key, point.value)
        if self._with_output:
            self._printed.extend(self._log.read())  # kept, so that nothing is lost if the store fails halfway
        output, self._printed = b"".join(self._printed), []
        return output

    def _begin(self, view: RunView) -> None:
        store = store_at(view.store)
        self._attempt = view.attempt
        most_bytes = MOST_BYTES if self._with_output else GLANCE_BYTES
        self._metrics = MetricsReader(store, view.run_id, view.attempt, most_bytes=most_bytes)
        self._log = LogReader(store, f"{view.run_id}/{layout.output_log(view.attempt)}")
        self._pace = _Pace()
        with suppress(CloudTrainError):  # without a run directory, only the ledger's view can be shown
            self._record = read_record(store, view.run_id)  # for each attempt: ``resume`` may have changed it


class _Pace:
    """Steps per second, over the last half minute by the program's own time stamps, or over its last 4,096 steps if there were more."""

    _WINDOW_SECONDS = 30.0
    _MOST_MARKS = 4096

    def __init__(self) -> None:
        self.step: int | None = None
        self.epoch: float | None = None
        self._marks: deque[tuple[float, int]] = deque(maxlen=self._MOST_MARKS)

    def add(self, point: MetricPoint) -> None:
        self.step = point.step if self.step is None else max(self.step, point.step)
        self.epoch = point.epoch if point.epoch is not None else self.epoch
        if point.time is None or (self._marks and point.step <= self._marks[-1][1]):
            return
        if self._marks and point.time < self._marks[-1][0]:  # the clock was set back
            self._marks.clear()
        self._marks.append((point.time, point.step))
        while point.time - self._marks[0][0] > self._WINDOW_SECONDS and len(self._marks) > 2:
            self._marks.popleft()

    @property
    def steps_per_second(self) -> float | None:
        if len(self._marks) < 2:
            return None
        (first_time, first_step), (last_time, last_step) = self._marks[0], self._marks[-1]
        return (last_step - first_step) / (last_time - first_time) if last_time > first_time else None
