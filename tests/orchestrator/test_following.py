"""Following a run for a long time: the follower's memory does not grow."""

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.orchestrator.following import LogLine, events, follow
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reading import follow_logs
from cloud_train.providers.base import Handle, Observation
from cloud_train.providers.cloud.provider import cloud_capabilities
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.metrics import MetricPoint
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.streams import segment_key
from tests.storage.memory_store import MemoryStore

RUN = "followed-261124-120000-abcd"
LINE = b"step 000001 loss 0.1\n"
SPAN_SECONDS = 600.0
MOST_BLOCKS = 250
"""Allowed variation of Python's memory. A remembered segment takes two blocks, and a stream gets 300 segments in such a span."""


class Cloud:
    """A provider whose run is running."""

    name = "cloud"
    capabilities = cloud_capabilities(("s3",), max_nodes=1, enforces=())

    def observe(self, _handle: Handle) -> Observation:
        return Observation(State.RUNNING)

    def logs(self, _handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        return b"", cursor

    def clean_up(self, _handle: Handle) -> None:
        """Nothing to clean up."""


class Worker:
    """Fills the run directory in simulated time, and keeps nothing that it wrote."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.now, self.written = store, 0.0, 0
        self._sizes: dict[str, int] = {}
        self._kept: list[str] = []
        self._blocks: list[int] = []

    @property
    def growth(self) -> int:
        """Blocks of memory from the end of the first span to that of the second."""
        return self._blocks[1] - self._blocks[0]

    def sleep(self, seconds: float) -> None:
        """Advance the time: two lines, six metrics, and one memory measurement per span. The run ends after two spans."""
        self.now += seconds
        self._add(layout.output_log(1), LINE * 2)
        point = {"step": int(self.now), "time": self.now, "name": "loss", "value": 0.5}
        self._add(layout.metrics(1), b"".join(json.dumps({**point, "name": f"loss-{each}"}).encode() + b"\n" for each in range(6)))
        self.written += len(LINE) * 2
        self.store.calls.clear()
        while len(self._kept) > 10:
            self.store.objects.pop(self._kept.pop(0))
        if self.now >= SPAN_SECONDS * (len(self._blocks) + 1):
            gc.collect()
            self._blocks.append(sys.getallocatedblocks())
        self.say(Cause.SUCCEEDED if len(self._blocks) == 2 else None)

    def say(self, cause: Cause | None) -> None:
        """Write the attempt's status."""
        status = AttemptStatus(State.RUNNING, started=0.0, heartbeat=self.now, host="there", pid=1)
        ended = status if cause is None else status.ended_with(cause, "", self.now)
        self.store.place(f"{RUN}/{layout.status(1)}", ended.to_json(), None)

    def _add(self, stream: str, data: bytes) -> None:
        start = self._sizes.get(stream, 0)
        self._sizes[stream] = start + len(data)
        self._kept.append(segment_key(f"{RUN}/{stream}", start))
        self.store.place(self._kept[-1], data, None)


def followed_by_logs(home: Home, worker: Worker) -> int:
    return sum(map(len, follow_logs(home, RUN, sleep=worker.sleep, clock=lambda: worker.now)))


def followed_by_submit(home: Home, worker: Worker) -> int:
    return sum(len(seen.output) for seen in follow(home, RUN, sleep=worker.sleep, clock=lambda: worker.now))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A machine that has submitted the run."""
    home = Home(tmp_path / "home")
    with Ledger(home.ledger_path) as ledger:
        ledger.add(
            RUN, name="followed", provider="cloud", store="s3://bucket/runs", job_file=None, created=0.0, settings={}, record_sha256=""
        )
        ledger.launched(RUN, 1, {"job": RUN})
    return home


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store = MemoryStore()
    for module in ("state", "reconcile", "following", "reading"):
        monkeypatch.setattr(f"cloud_train.orchestrator.{module}.store_at", lambda _: store)
    for module in ("state", "reconcile", "reading"):
        monkeypatch.setattr(f"cloud_train.orchestrator.{module}.provider_at", lambda *_: Cloud())
    return store


def test_a_slow_reader_misses_nothing_when_a_retry_begins(home: Home, store: MemoryStore) -> None:
    def attempt(number: int, cause: Cause | None, output: bytes) -> None:
        status = AttemptStatus(State.RUNNING, started=0.0, heartbeat=0.0, host="there", pid=1)
        store.place(f"{RUN}/{layout.status(number)}", (status if cause is None else status.ended_with(cause, "", 1.0)).to_json(), None)
        point = json.dumps({"step": 1, "time": 1.0, "split": "train", "name": "loss", "value": number}).encode() + b"\n"
        store.place(segment_key(f"{RUN}/{layout.output_log(number)}", 0), output, None)
        store.place(segment_key(f"{RUN}/{layout.metrics(number)}", 0), point, None)

    def between(_seconds: float) -> None:  # the caller of ``follow`` has taken so long
        attempt(1, Cause.FAILED, b"one\ntwo")
        attempt(2, Cause.SUCCEEDED, b"three\n")

    store.place(f"{RUN}/{layout.status(1)}", AttemptStatus(State.RUNNING, started=0.0, heartbeat=0.0, host="there", pid=1).to_json(), None)
    store.place(segment_key(f"{RUN}/{layout.output_log(1)}", 0), b"one\n", None)
    told = list(events(follow(home, RUN, sleep=between)))
    lines = [(event.attempt, event.text) for event in told if isinstance(event, LogLine)]
    assert lines == [(1, "one"), (1, "two"), (2, "three")]
    assert [point.attempt for point in told if isinstance(point, MetricPoint)] == [1, 2]


def test_a_line_without_an_end_becomes_events_now_and_then(home: Home, store: MemoryStore) -> None:
    bar = b"\r 50%" * 20_000
    status = AttemptStatus(State.RUNNING, started=0.0, heartbeat=0.0, host="there", pid=1)
    store.place(f"{RUN}/{layout.status(1)}", status.to_json(), None)
    store.place(segment_key(f"{RUN}/{layout.output_log(1)}", 0), bar, None)
    told = events(follow(home, RUN, sleep=lambda _: None))
    line = next(event for event in told if isinstance(event, LogLine))
    assert line.text.encode() == bar


@pytest.mark.slow
@pytest.mark.parametrize("followed", [followed_by_logs, followed_by_submit])
def test_a_followers_memory_does_not_grow(followed: Callable[[Home, Worker], int], home: Home, store: MemoryStore) -> None:
    worker = Worker(store)
    worker.say(None)
    assert followed(home, worker) == worker.written, "every byte, once"
    assert worker.growth < MOST_BLOCKS
