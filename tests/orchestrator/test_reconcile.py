"""Reconciling records what reading shows, cleans up at the provider, and forgets what was never submitted."""

import json
from collections.abc import Callable

import pytest

from cloud_train.cli.main import main
from cloud_train.orchestrator.reconcile import reconcile
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_reader import LedgerReader
from tests.orchestrator.unfinished import KINDS, RUN, Desk, never_written, unreadable, vanished


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
