"""How often providers are polled, and listing many attempts with one request."""

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from cloud_train.errors import ProviderError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.polling import Poller
from cloud_train.orchestrator.reading import ProviderLogs
from cloud_train.orchestrator.reconcile import reconcile, update_runs
from cloud_train.orchestrator.state import end_without_worker
from cloud_train.providers.base import Capabilities, Handle, Observation, Provider
from cloud_train.providers.cloud.provider import cloud_capabilities
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from tests.storage.memory_store import MemoryStore

RUN = "asked-261124-120000-abcd"
CLOUD = cloud_capabilities(("s3",), max_nodes=1, enforces=())


class Counted:
    """A provider with preset answers that counts its requests."""

    name = "counted"

    def __init__(self, capabilities: Capabilities = CLOUD) -> None:
        self.capabilities = capabilities
        self.asked: list[float] = []
        self.listed: list[int] = []
        self.now = 0.0
        self.answer = Observation(State.RUNNING)
        self.pages: list[bytes] = []

    def observe(self, _handle: Handle) -> Observation:
        self.asked.append(self.now)
        return self.answer

    def observe_all(self, handles: Sequence[Handle]) -> list[Observation]:
        self.listed.append(len(handles))
        return [self.answer] * len(handles)

    def clean_up(self, _handle: Handle) -> None:
        """Nothing to clean up."""

    def logs(self, _handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        start = int(cursor or 0)
        return (self.pages[start], str(start + 1)) if start < len(self.pages) else (b"", cursor)


def handle(run_id: str = RUN, attempt: int = 1) -> Handle:
    return Handle(run_id, attempt, "counted", "s3://bucket/runs", {"name": run_id})


def test_a_cloud_is_polled_less_and_less_often_but_at_least_once_a_minute() -> None:
    place = Counted()
    poller = Poller(clock=lambda: place.now)
    for second in range(1000):
        place.now = float(second)
        poller.observe(cast(Provider, place), handle())
    pauses = [after - before for before, after in pairwise(place.asked)]
    assert place.asked[:4] == [0, 2, 4, 6]
    early = [(at, pause) for at, pause in zip(place.asked, pauses, strict=False) if 4 <= at < 120]
    assert all(at / 2 <= pause <= at / 2 + 1 for at, pause in early)  # the poller is called every second
    assert set(pauses[-10:]) == {60}


def test_a_day_of_following_makes_as_many_requests_as_documented() -> None:
    place = Counted()
    poller = Poller(clock=lambda: place.now)
    for second in range(0, 86400, 2):
        place.now = float(second)
        poller.observe(cast(Provider, place), handle())
    within = [sum(asked < seconds for asked in place.asked) for seconds in (60, 3600, 86400)]
    assert within == [9, 68, 1448]
    text = (Path(__file__).parents[2] / "docs" / "clouds.md").read_text()
    assert "9 times in the first minute, 68 in the first hour, then 60 an hour, 1,448 in a day" in text


def test_a_local_provider_is_polled_every_time() -> None:
    place = Counted(Capabilities(stores=("file",), max_nodes=1, spot=False, enforces=()))
    poller = Poller(clock=lambda: place.now)
    for _ in range(5):
        poller.observe(cast(Provider, place), handle())
    assert len(place.asked) == 5


def test_the_next_attempt_is_polled_immediately() -> None:
    place = Counted()
    poller = Poller(clock=lambda: place.now)
    poller.observe(cast(Provider, place), handle())
    poller.observe(cast(Provider, place), handle(attempt=2))
    assert len(place.asked) == 2


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Counted:
    place = Counted()
    for module in ("state", "listing", "reconcile", "reading"):
        monkeypatch.setattr(f"cloud_train.orchestrator.{module}.provider_at", lambda *_: place)
    return place


def open_as(monkeypatch: pytest.MonkeyPatch, store: MemoryStore) -> None:
    for module in ("state", "reconcile", "reading"):
        monkeypatch.setattr(f"cloud_train.orchestrator.{module}.store_at", lambda _: store)


def submitted(home: Home, number: int, state: State = State.RUNNING) -> str:
    with Ledger(home.ledger_path) as ledger:
        return written_down(ledger, number, state)


def written_down(ledger: Ledger, number: int, state: State = State.RUNNING) -> str:
    run_id = f"asked-261124-120000-{number:04d}"
    ledger.add(
        run_id,
        name="asked",
        provider="counted",
        store="s3://no-such-bucket/runs",
        job_file=None,
        created=float(number),
        settings={},
        record_sha256="",
    )
    ledger.launched(run_id, 1, {"name": run_id})
    ledger.observed(run_id, 1, state)
    return run_id


def test_a_thousand_runs_take_one_request(home: Home, place: Counted) -> None:
    with Ledger(home.ledger_path) as ledger:
        ledger._connection.execute("PRAGMA synchronous = OFF")  # three thousand changes that need not survive a power cut
        for number in range(1000):
            written_down(ledger, number)
    runs = update_runs(home)  # the store does not exist, and is not read either
    assert [run.state for run in runs] == [State.RUNNING] * 1000
    assert (place.listed, place.asked) == ([1000], [])


def test_runs_of_an_unreachable_cloud_are_still_listed(home: Home, place: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> list[Observation]:
        raise ProviderError("the login has expired")

    submitted(home, 1)
    monkeypatch.setattr(place, "observe_all", fail)
    said: list[str] = []
    assert [run.state for run in update_runs(home, note=said.append)] == [State.RUNNING]
    assert said == ["cannot reach counted: the login has expired"]


def test_a_clouds_log_before_the_worker_starts_is_passed_on_once_and_in_whole_lines(
    home: Home, place: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_as(monkeypatch, MemoryStore())
    run_id = submitted(home, 1, State.STARTING)
    now, said = [0.0], list[str]()
    words = ProviderLogs(home, said.append, clock=lambda: now[0])
    with Ledger(home.ledger_path) as ledger:
        entry = ledger.get(run_id)
        assert entry is not None
        run = entry.view()
        place.pages = [b"pulling the image\nunpack", b"ing it\n"]
        words.tell(run, ledger)
        words.tell(run, ledger)
        assert said == ["counted: pulling the image", "counted: unpacking it"]
        place.pages.append(b"starting\n")
        words.tell(run, ledger)
        assert len(said) == 2  # the next request is not due yet
        now[0] = 11
        words.tell(run, ledger)
        assert said[2:] == ["counted: starting"]
        place.pages.append(b"what the worker has in its own log\n")
        now[0] = 30
        words.tell(entry.view(AttemptStatus(State.RUNNING, started=1.0, heartbeat=1.0, host="", pid=1)), ledger)
        assert len(said) == 3


def test_a_clouds_log_is_not_passed_on_once_the_worker_has_begun_even_if_the_run_was_looked_at_before(
    home: Home, place: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_as(monkeypatch, store := MemoryStore())
    run_id = submitted(home, 1, State.STARTING)
    said = list[str]()
    with Ledger(home.ledger_path) as ledger:
        entry = ledger.get(run_id)
        assert entry is not None
        run = entry.view()
        key = f"{run_id}/{layout.status(1)}"
        store.put(key, AttemptStatus(State.RUNNING, started=1.0, heartbeat=1.0, host="", pid=1).to_json())
        place.pages = [b"what the program printed, and is shown from its own log\n"]
        ProviderLogs(home, said.append).tell(run, ledger)
    assert said == []


def test_success_reported_by_the_provider_alone_does_not_count(tmp_path: Path) -> None:
    from cloud_train.storage.local import LocalStore

    ended = end_without_worker(LocalStore(tmp_path), RUN, 1, None, Observation(State.SUCCEEDED, Cause.SUCCEEDED))
    assert ended.cause is Cause.UNKNOWN
    assert "the worker never did" in ended.message


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (Observation(Cause.TIMED_OUT.state, Cause.TIMED_OUT, "at the longest time"), (Cause.TIMED_OUT.state, Cause.TIMED_OUT)),
        (Observation(State.CANCELLED, Cause.CANCELLED, "stopped"), (State.CANCELLED, Cause.CANCELLED)),
        (Observation(State.STOPPING), (State.STOPPING, None)),
        (Observation(State.RUNNING), (State.STOPPING, None)),
        (Observation(State.QUEUED, None, "waits for another machine"), (State.INTERRUPTED, Cause.PREEMPTED)),
        (Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, "killed"), (State.INTERRUPTED, Cause.PREEMPTED)),
    ],
)
def test_a_preempted_worker_gets_the_reason_from_its_cloud(
    home: Home, place: Counted, monkeypatch: pytest.MonkeyPatch, said: Observation, shown: tuple[State, Cause | None]
) -> None:
    run_id, store, now = submitted(home, 1), MemoryStore(), time.time()
    open_as(monkeypatch, store)
    key = f"{run_id}/{layout.status(1)}"
    status = AttemptStatus(State.RUNNING, started=now - 60, heartbeat=now, host="there", pid=1)
    store.place(key, status.ended_with(Cause.PREEMPTED, "told to stop", now).to_json())
    poller = Poller()
    with Ledger(home.ledger_path) as ledger:
        poller.observe(cast(Provider, place), handle(run_id))  # it was running just before
        place.answer = said
        seen = reconcile(home, ledger, run_id, poller)
    assert (seen.state, seen.cause) == shown
    assert AttemptStatus.from_json(store.get(key), key).cause is (seen.cause or Cause.PREEMPTED)


def test_without_a_reason_from_the_cloud_the_workers_own_counts(home: Home, place: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, store, ended = submitted(home, 1), MemoryStore(), time.time() - 151
    open_as(monkeypatch, store)
    status = AttemptStatus(State.RUNNING, started=1.0, heartbeat=ended, host="there", pid=1)
    store.place(f"{run_id}/{layout.status(1)}", status.ended_with(Cause.PREEMPTED, "told to stop", ended).to_json())
    with Ledger(home.ledger_path) as ledger:
        assert reconcile(home, ledger, run_id).cause is Cause.PREEMPTED


def test_an_outdated_answer_from_a_cloud_does_not_move_a_run_back(home: Home, place: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, store = submitted(home, 1, State.STARTING), MemoryStore()
    open_as(monkeypatch, store)
    states = []
    with Ledger(home.ledger_path) as ledger:
        for said in (State.QUEUED, State.RUNNING, State.QUEUED):
            place.answer = Observation(said)
            states.append(reconcile(home, ledger, run_id).state)
        status = AttemptStatus(State.RUNNING, started=1.0, heartbeat=2.0, host="there", pid=1)
        store.place(f"{run_id}/{layout.status(1)}", status.to_json())
        for said in (State.RUNNING, State.QUEUED, State.STARTING):
            place.answer = Observation(said)
            states.append(reconcile(home, ledger, run_id).state)
        store.place(f"{run_id}/{layout.status(1)}", status.ended_with(Cause.SUCCEEDED, "", 3.0).to_json())
        states.append(reconcile(home, ledger, run_id).state)
        place.answer = Observation(State.RUNNING)
        states.append(reconcile(home, ledger, run_id).state)
    assert states == [State.QUEUED, State.STARTING, State.QUEUED, *[State.RUNNING] * 3, *[State.SUCCEEDED] * 2]
