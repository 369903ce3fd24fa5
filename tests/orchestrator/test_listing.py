"""A list shows runs as they stand in their stores, reads little for that, and one that cannot be reached delays it once."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from cloud_train.client import Client
from cloud_train.errors import StoreError, UsageError
from cloud_train.orchestrator import connections, listing, side_by_side, summaries
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.summaries import Summary, chosen
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.ranking import Ranking
from cloud_train.run.record import AttemptStatus, Program, RunRecord
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.base import Store, TransientStoreError
from tests.orchestrator.conftest import Submit
from tests.storage.memory_store import MemoryStore
from tests.stores import server_or_skip, use
from tests.support import accepting, wait_until

STARTED = AttemptStatus(State.RUNNING, started=1000.0, heartbeat=1000.0, host="there", pid=1, token="theirs")
SUCCEEDED = STARTED.ended_with(Cause.SUCCEEDED, "", 1200.0)


@pytest.fixture(params=["a folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "a folder":
        url = str(tmp_path / "runs")
    else:
        server = server_or_skip("s3")
        use(server, monkeypatch)
        url = f"{server.new_url()}/runs"
    yield connections.store_at(url)
    connections.store_at.cache_clear()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A store that counts what is asked of it."""
    bucket = MemoryStore()
    for module in ("state", "side_by_side"):
        monkeypatch.setattr(f"cloud_train.orchestrator.{module}.store_at", lambda *_: bucket)
    return bucket


def add(home: Home, url: str, number: int, cause: Cause = Cause.FAILED, name: str = "test") -> str:
    """A run whose first attempt the ledger has as ended."""
    run_id = f"{name}-261124-120000-{number:04d}"
    with Ledger(home.ledger_path) as ledger:
        ledger.add(
            run_id,
            name=name,
            provider="local",
            store=url,
            job_file=None,
            created=float(number),
            settings={},
            record_sha256="",
            token="ours",
        )
        ledger.launched(run_id, 1, {"pid": 1})
        ledger.observed(run_id, 1, cause.state, cause, started=1000.0, ended=1010.0, host="here")
    return run_id


def put_attempt(store: Store, run_id: str, number: int, status: AttemptStatus) -> None:
    store.put(f"{run_id}/{layout.status(number)}", status.to_json())


def put_first(store: Store, run_id: str, cause: Cause = Cause.FAILED, *, closed: bool = False) -> None:
    ours = replace(STARTED, host="here", token="ours", closed=closed)
    put_attempt(store, run_id, 1, ours.ended_with(cause, "", 1010.0))


def put_record(store: Store, run_id: str, ranking: Ranking | None = None, total_steps: int | None = 200) -> None:
    program = Program(("true",), "/", ranking=ranking or Ranking())
    plan: dict[str, Any] = {"provider": "local", "provider_settings": {}, "total_steps": total_steps}
    record = RunRecord(run_id, 1000.0, {"name": "test", "train": {"epochs": 4}}, program, plan, {"job_file": None})
    store.put(f"{run_id}/{layout.RUN}", record.to_json())


def put_metrics(store: Store, run_id: str, *points: tuple[int, str, float | None], attempt: int = 1, before: bytes = b"") -> None:
    lines = []
    for step, key, value in points:
        split, _, name = key.partition("/")
        lines.append(json.dumps({"step": step, "epoch": step / 50, "time": 1.0, "split": split, "name": name, "value": value}))
    key = f"{run_id}/{layout.metrics(attempt)}"
    store.put(key if store.local_path(key) else f"{key}.{0:015d}", before + "".join(f"{line}\n" for line in lines).encode())


def test_a_run_that_another_machine_resumed_is_listed_as_it_stands_in_its_store(home: Home, store: Store) -> None:
    run_id, untouched = add(home, store.url, 1), add(home, store.url, 2)
    put_first(store, untouched)
    put_first(store, run_id, closed=True)
    put_attempt(store, run_id, 2, SUCCEEDED)
    client = Client(home.folder)
    expected = {untouched: (State.FAILED, 1), run_id: (State.SUCCEEDED, 2)}
    assert {run.id: (run.view.state, run.view.attempt) for run in client.runs()} == expected
    with Ledger(home.ledger_path) as ledger:
        before = ledger.get(run_id)
        assert before is not None
        assert (before.state, before.attempt) == (State.FAILED, 1), "listing without recording only reads"
    assert {run.run_id: (run.state, run.attempt) for run in update_runs(home)} == expected
    with Ledger(home.ledger_path) as ledger:
        after = ledger.get(run_id)
        assert after is not None
        assert (after.state, after.attempt, after.is_unmanaged) == (State.SUCCEEDED, 2, True)


def test_a_run_that_another_machine_is_training_on_is_listed_as_running(home: Home, store: Store) -> None:
    run_id = add(home, store.url, 1, Cause.INFRASTRUCTURE)
    put_first(store, run_id, Cause.INFRASTRUCTURE, closed=True)
    put_attempt(store, run_id, 2, STARTED)
    [run] = Client(home.folder).runs(states=["running"])
    assert (run.id, run.view.attempt, run.view.is_unmanaged) == (run_id, 2, True)


@pytest.mark.slow
def test_a_run_that_failed_here_and_succeeded_elsewhere_is_listed_as_succeeded(home: Home, tmp_path: Path, start: Submit) -> None:
    here, there = home, Home(tmp_path / "other-home")
    run = start('[ "$CLOUD_TRAIN_ATTEMPT" = 2 ]')
    wait_until(lambda: update_run(here, run.run_id).state is State.FAILED, "it has failed", 60)
    adopt(there, run.run_directory)
    resume(there, run.run_id, ask=accepting)
    wait_until(lambda: update_run(there, run.run_id).state is State.SUCCEEDED, "it has succeeded", 60)
    [listed] = Client(here.folder).runs()
    assert (listed.view.state, listed.view.attempt) == (State.SUCCEEDED, 2)
    assert [(each.state, each.attempt) for each in update_runs(here)] == [(State.SUCCEEDED, 2)]


def test_only_runs_that_can_be_resumed_are_looked_up_and_only_the_newest(
    home: Home, bucket: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_MOST_CHECKED", 2)
    causes = [Cause.FAILED, Cause.FAILED, Cause.SUCCEEDED, Cause.CANCELLED]
    ids = [add(home, bucket.url, number, cause) for number, cause in enumerate(causes)]
    for run_id, cause in zip(ids, causes, strict=True):
        put_first(bucket, run_id, cause)
    bucket.calls.clear()
    assert len(update_runs(home)) == len(ids)
    read = {key.partition("/")[0] for _, key in bucket.calls}
    assert read == {ids[3], ids[1]}
    bucket.calls.clear()
    assert len(update_runs(home, 1)) == 1
    assert {key.partition("/")[0] for _, key in bucket.calls} == {ids[3]}, "only those that are listed"


def test_completion_reads_no_store_for_runs_that_have_ended(home: Home, bucket: MemoryStore) -> None:
    add(home, bucket.url, 1)
    assert len(Client(home.folder).runs(check_ended=False)) == 1
    assert not bucket.calls


def test_a_store_that_cannot_be_reached_is_tried_once_and_named_once(
    home: Home, bucket: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, key: str) -> None:
        raise TransientStoreError("no route to the store")

    monkeypatch.setattr(side_by_side, "_AT_ONCE", 1)
    bucket.before = fail
    ids = [add(home, bucket.url, number) for number in range(5)]
    notes: list[str] = []
    assert [run.run_id for run in update_runs(home, note=notes.append)] == ids[::-1]
    assert len(bucket.calls) == 1
    assert notes == [f"showing what is known here of the runs in {bucket.url}: no route to the store"]


def test_runs_are_chosen_by_the_name_of_their_job_before_they_are_counted(home: Home, tmp_path: Path) -> None:
    ids = [add(home, str(tmp_path), number, name=("one", "two")[number % 2]) for number in range(6)]
    client = Client(home.folder)
    assert [run.id for run in client.runs(2, name="two")] == [ids[5], ids[3]]
    assert [run.id for run in client.runs(name="two", states="succeeded")] == []
    assert [run.id for run in client.runs(1, states=[State.CANCELLED, State.FAILED])] == [ids[5]]
    assert client.runs(name="on") == []
    with pytest.raises(UsageError, match="unknown state: lost") as refused:
        client.runs(states=["lost"])
    assert "succeeded, failed, cancelled, interrupted" in (refused.value.hint or "")


def view_of(run_id: str, url: str, *, attempt: int = 1, state: State = State.RUNNING) -> RunView:
    return RunView(run_id, "test", "local", url, None, 1000.0, attempt, state)


def summary_of(store: Store, run_id: str, state: State = State.RUNNING) -> Summary:
    [summary] = summaries.summaries([view_of(run_id, store.url, state=state)])
    return summary


def test_a_summary_has_the_progress_and_the_metric_that_decides(store: Store) -> None:
    put_record(store, "test-1")
    put_metrics(store, "test-1", (99, "train/loss", 0.5), (100, "validation/loss", 0.4), (100, "validation/accuracy", 0.98))
    summary = summary_of(store, "test-1")
    assert (summary.metric, summary.value, summary.step, summary.total_steps, summary.progress) == (
        "validation/accuracy",
        0.98,
        100,
        200,
        0.5,
    )
    document = summary.to_json()
    assert (document["metric"], document["progress"]) == ({"name": "validation/accuracy", "value": 0.98}, 0.5)
    assert (document["epoch"], document["epochs"], document["is_deleted"]) == (2.0, 4, False)


def test_without_a_known_number_of_steps_the_epochs_count(store: Store) -> None:
    put_record(store, "test-1", total_steps=None)
    put_metrics(store, "test-1", (50, "train/loss", 0.5))
    assert summary_of(store, "test-1").progress == 0.25


def test_a_metric_that_is_rare_is_found_behind_many_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "_TAIL_BYTES", 2_000)
    put_record(store, "test-1")
    put_metrics(store, "test-1", (1, "validation/accuracy", 0.7), *((step, "train/loss", 0.5) for step in range(2, 200)))
    summary = summary_of(store, "test-1")
    assert (summary.metric, summary.value, summary.step) == ("validation/accuracy", 0.7, 199)


def test_only_the_end_of_the_metrics_is_read(bucket: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put_record(bucket, "test-1")
    put_metrics(bucket, "test-1", (7, "validation/accuracy", 0.7), before=b'{"step": 1, "loss": 0.5}\n' * 400_000)
    read: list[int] = []
    get = bucket.get

    def counted(key: str, start: int = 0, end: int | None = None) -> bytes:
        data = get(key, start, end)
        read.append(len(data))
        return data

    monkeypatch.setattr(bucket, "get", counted)
    assert summary_of(bucket, "test-1").value == 0.7
    assert sum(read) < 100_000


def test_a_deleted_run_directory_is_recognised_and_an_unstarted_run_is_not_looked_up(bucket: MemoryStore) -> None:
    assert summary_of(bucket, "test-1", state=State.FAILED).is_deleted
    bucket.calls.clear()
    assert summary_of(bucket, "test-1", state=State.QUEUED) == Summary(view_of("test-1", bucket.url, state=State.QUEUED))
    assert not bucket.calls


def test_of_very_many_runs_only_the_newest_are_read(bucket: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "_MOST_READ", 3)
    for number in range(5):
        put_record(bucket, f"test-{number}")
        put_metrics(bucket, f"test-{number}", (number, "train/loss", 0.5))
    found = list(summaries.summaries(view_of(f"test-{number}", bucket.url) for number in range(5)))
    assert [summary.step for summary in found] == [0, 1, 2, None, None]


def test_summaries_of_a_store_that_cannot_be_read_have_the_view(bucket: MemoryStore) -> None:
    def fail(name: str, key: str) -> None:
        raise StoreError("access denied")

    bucket.before = fail
    notes: list[str] = []
    view = view_of("test-1", bucket.url)
    assert list(summaries.summaries([view], notes.append)) == [Summary(view)]
    assert len(notes) == 1


def test_several_directories_in_a_bucket_are_read_at_once(bucket: MemoryStore) -> None:
    """The first read ends only when another one has begun."""
    together = Barrier(4)

    def wait(name: str, key: str) -> None:
        together.wait(30)

    bucket.before = wait
    runs = [view_of(f"test-{number}", bucket.url) for number in range(4)]

    def read(store: Store, run: RunView) -> int:
        return len(list(store.list(run.run_id)))

    found = list(side_by_side.Directories().each(runs, read, lambda _: True))
    assert found == [(run, 0) for run in runs]


@pytest.mark.parametrize(
    ("latest", "ranking", "expected"),
    [
        ({"validation/accuracy": 0.9, "validation/loss": 0.1, "validation/f1": 0.8}, Ranking("validation/f1"), "validation/f1"),
        ({"validation/accuracy": 0.9, "validation/loss": 0.1}, Ranking("validation/f1"), "validation/loss"),
        ({"train/loss": 0.9, "validation/loss": 0.1}, Ranking(), "validation/loss"),
        ({"train/accuracy": 0.9, "train/loss": 0.1}, Ranking(), "train/loss"),
        ({"train/box_loss": 0.9, "train/a": 0.1}, Ranking(), "train/box_loss"),
        ({"train/samples_per_second": 0.9, "train/reward": 0.1}, Ranking(), "train/reward"),
        ({"train/samples_per_second": 0.9}, Ranking(), None),
        ({}, Ranking(), None),
    ],
)
def test_the_metric_that_decides_is_shown_or_else_a_loss(latest: dict[str, float | None], ranking: Ranking, expected: str | None) -> None:
    assert chosen(latest, ranking) == expected
