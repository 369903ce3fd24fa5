"""Clouds that show a job some time after it was created: nothing that was started is taken for lost, on any of the three."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reconcile import reconcile
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import UNMANAGED
from cloud_train.run.record import AttemptStatus, RunRecord
from cloud_train.run.states import Cause, State
from tests.clouds.clock import VirtualClock
from tests.clouds.paper import CLOUDS, RUN, Cloud, paper_cloud
from tests.storage.memory_store import MemoryStore


@dataclass
class Desk:
    """A submission of which nobody knows what became, as its process is gone."""

    cloud: Cloud
    clock: VirtualClock
    home: Home
    store: MemoryStore
    ledger: Ledger

    def sent(self, seconds_ago: float = 0.0) -> None:
        """All of a submission but the launch."""
        plan = self.cloud.plan
        self.ledger.add(
            RUN,
            name="paper",
            provider=plan.provider,
            store=plan.store,
            job_file=None,
            created=1.0,
            settings=plan.provider_settings,
            record_sha256="",
        )
        record = RunRecord(RUN, 1.0, plan.job.model_dump(mode="json"), plan.program, plan.facts(), {})
        self.store.place(f"{RUN}/{layout.RUN}", record.to_json())
        self.ledger.sending(RUN, 1, time.time() - seconds_ago)

    def status(self) -> AttemptStatus:
        return AttemptStatus.from_json(self.store.get(f"{RUN}/{layout.status(1)}"), "the store")


@pytest.fixture(params=CLOUDS)
def desk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    clock, store, home = VirtualClock(time.time()), MemoryStore(), Home(tmp_path / "home")
    with paper_cloud(request.param, clock, tmp_path) as cloud, Ledger(home.ledger_path) as ledger:
        for module in ("state", "reconcile"):
            monkeypatch.setattr(f"cloud_train.orchestrator.{module}.provider_at", lambda *_: cloud.provider)
            monkeypatch.setattr(f"cloud_train.orchestrator.{module}.store_at", lambda _: store)
        yield Desk(cloud, clock, home, store, ledger)


def test_a_job_that_shows_a_minute_after_its_submission_was_killed_is_found_then(desk: Desk) -> None:
    desk.cloud.server.faults.hide("jobs", seconds=60)
    desk.sent()
    handle = desk.cloud.launched()
    seen = reconcile(desk.home, desk.ledger, RUN)
    assert (seen.state, seen.cause) == (State.SUBMITTING, None)
    assert "does not list a job yet; check again later" in seen.message
    desk.clock.advance(61)
    seen = reconcile(desk.home, desk.ledger, RUN)
    assert seen.state is State.QUEUED
    entry = desk.ledger.get(RUN)
    assert entry is not None
    assert entry.reference is not None
    assert entry.reference["job"] == handle.reference["job"]
    assert entry.started is None, "it has not begun"


@pytest.mark.parametrize("desk", ["gcp"], indirect=True)  # nothing of it is the cloud's own
def test_a_job_that_never_shows_ends_and_a_worker_that_comes_all_the_same_finds_its_place_taken(desk: Desk) -> None:
    desk.sent(seconds_ago=601)
    seen = reconcile(desk.home, desk.ledger, RUN)
    assert (seen.cause, "cut off before anything was started" in seen.message) == (Cause.INFRASTRUCTURE, True)
    assert desk.status().cause is Cause.INFRASTRUCTURE


@pytest.mark.parametrize("desk", ["gcp"], indirect=True)  # nothing of it is the cloud's own
def test_a_worker_that_came_although_its_job_never_showed_is_heard(desk: Desk) -> None:
    desk.sent(seconds_ago=601)
    status = AttemptStatus(State.RUNNING, started=2.0, heartbeat=3.0, host="there", pid=1)
    desk.store.place(f"{RUN}/{layout.status(1)}", status.to_json())
    reconcile(desk.home, desk.ledger, RUN)
    seen = reconcile(desk.home, desk.ledger, RUN)
    assert (seen.state, seen.is_unmanaged, seen.heartbeat) == (State.RUNNING, True, 3.0)
    entry = desk.ledger.get(RUN)
    assert entry is not None
    assert entry.reference == UNMANAGED


def test_a_job_that_is_asked_for_before_it_shows_is_taken_to_wait(desk: Desk) -> None:
    for things in ("jobs", "names"):
        desk.cloud.server.faults.hide(things, seconds=60)
    handle = desk.cloud.launched()
    seen = desk.cloud.provider.observe(handle)
    assert seen.state is State.QUEUED
    assert "does not show" in seen.message
    desk.clock.advance(61)
    assert desk.cloud.provider.observe(handle).cause is None
