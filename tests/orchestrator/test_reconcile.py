"""Reconciling records what reading shows, cleans up at the provider, and forgets what was never submitted."""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from cloud_train.cli.main import main
from cloud_train.orchestrator.reconcile import reconcile
from cloud_train.providers.base import TAKEN
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from tests.orchestrator.unfinished import KINDS, RUN, Desk, never_written, running, unreadable, vanished


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (never_written, unreadable)], ids=lambda kind: kind.__name__)
def test_the_state_shown_is_the_state_recorded_afterwards(
    kind: Callable[[Desk], None], desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    kind(desk)
    assert main(["status", RUN, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    with Ledger(desk.home.ledger_path) as ledger:
        recorded = reconcile(desk.home, ledger, RUN)
        kept = ledger.get(RUN)
    assert (shown["state"], shown["cause"], shown["attempt"]) == (recorded.state, recorded.cause, recorded.attempt)
    assert recorded.is_recorded
    assert kept is not None
    assert kept.state.is_end == recorded.state.is_end
    if shown["is_recorded"]:
        assert shown["message"] == recorded.message


def test_a_submission_that_was_never_written_is_forgotten_by_the_verbs_that_record(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    never_written(desk)
    assert main(["status", RUN, "--json"]) == 4
    with LedgerReader(desk.home.ledger_path) as reader:
        assert reader.get(RUN) is not None
    assert main(["list"]) == 0
    capsys.readouterr()
    with LedgerReader(desk.home.ledger_path) as reader:
        assert reader.get(RUN) is None


def test_processes_of_a_vanished_worker_are_stopped_on_a_shared_machine(desk: Desk) -> None:
    vanished(desk)
    with Ledger(desk.home.ledger_path) as ledger:
        reconcile(desk.home, ledger, RUN)
    assert desk.place.done == (["clean up"] if desk.place.capabilities.leaves_no_processes else ["cancel True", "clean up"])


@pytest.mark.parametrize("clock", [0.0, 3600.0, -86400.0])
def test_a_cloud_gets_its_time_to_explain_a_stop_whatever_the_clock_of_the_worker_says(desk: Desk, clock: float) -> None:
    running(desk)
    now = time.time()
    told_to_stop = AttemptStatus(State.RUNNING, started=now - 60 + clock, heartbeat=now + clock, host="there", pid=7)
    ended = told_to_stop.ended_with(Cause.PREEMPTED, "told to stop", now + clock).to_json()
    desk.store.place(f"{RUN}/{layout.status(1)}", ended)
    data, info = desk.store.objects[f"{RUN}/{layout.status(1)}"]
    desk.store.objects[f"{RUN}/{layout.status(1)}"] = data, replace(info, modified=now - 1)  # by the store's clock
    with Ledger(desk.home.ledger_path) as ledger:
        recorded = reconcile(desk.home, ledger, RUN)
    waits = desk.place.capabilities.explains_stops
    assert recorded.message.startswith("the machine was told to stop") is waits
    assert recorded.state is (State.STOPPING if waits else State.STARTING)


@pytest.mark.parametrize(("token", "is_elsewhere"), [("0123456789abcdef", False), ("fedcba9876543210", True)])
def test_an_end_that_the_launch_s_own_worker_wrote_is_not_another_machine_s(token: str, is_elsewhere: bool, desk: Desk) -> None:
    desk.submit(token="0123456789abcdef")
    with Ledger(desk.home.ledger_path) as ledger:
        ledger.launched(RUN, 1, {"job": RUN})
    status = AttemptStatus(State.RUNNING, started=1.0, heartbeat=2.0, host="there", pid=7, token=token)
    desk.store.place(f"{RUN}/{layout.status(1)}", status.ended_with(Cause.SUCCEEDED, "", 3.0).to_json())
    desk.place.observation = TAKEN  # Vertex AI says no more of a job that has ended, whichever machine began the attempt
    with Ledger(desk.home.ledger_path) as ledger:
        view = reconcile(desk.home, ledger, RUN)
        kept = ledger.get(RUN)
    assert (view.state, view.is_unmanaged) == (State.SUCCEEDED, is_elsewhere)
    assert kept is not None
    assert (kept.reference == {"job": RUN}) is not is_elsewhere
