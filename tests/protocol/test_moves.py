"""Moves to other stores, in every order of a few events; and that the rules of docs/design.md, "To another store", are necessary."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloud_train.errors import ConflictError
from cloud_train.orchestrator import adopting, moving, reconcile, resuming
from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus
from tests.protocol import moves
from tests.protocol.explorer import Limits, ViolationError, every_order
from tests.protocol.test_exploration import DEPTH, SAMPLES, drawn


@pytest.mark.parametrize(
    ("cast", "limits"),
    [
        ("A", Limits(switches=0, deaths=1, looks=1)),
        ("A", Limits(switches=0, lost=1, looks=1)),
        ("A", Limits(switches=0, late=1, looks=1)),
        ("AA", Limits(switches=DEPTH, looks=1)),
        pytest.param("wB", Limits(switches=DEPTH, looks=1), marks=pytest.mark.slow),
        pytest.param("AB", Limits(switches=DEPTH, looks=1), marks=pytest.mark.slow),
        pytest.param("AB", Limits(switches=DEPTH, looks=1, targets=2), marks=pytest.mark.slow),
        pytest.param("Ab", Limits(switches=DEPTH, looks=1), marks=pytest.mark.slow),
        pytest.param("Ax", Limits(switches=DEPTH, looks=1), marks=pytest.mark.slow),
        pytest.param("AB", Limits(switches=DEPTH - 1, deaths=1, looks=1), marks=pytest.mark.slow),
        pytest.param("Ax", Limits(switches=DEPTH - 1, deaths=1, looks=1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_no_order_of_few_events_breaks_a_move(cast: str, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = sum(1 for _ in every_order(limits, cast, monkeypatch, moves.one_order))
    print(f"{cast} {limits}: {orders} orders")
    assert orders > 10


def completes_whatever_has_happened(patch: pytest.MonkeyPatch) -> None:
    """A move closes its claim without comparing the version."""

    def close(self: Any) -> None:
        closed = replace(self._status, closed=True)
        self._source.put(self._seen.key, closed.to_json())

    patch.setattr(moving._Claim, "close", close)


def claims_nothing(patch: pytest.MonkeyPatch) -> None:
    """A move writes its claim over whatever is there."""

    def claim(self: Any, source: Any, plan: Any) -> None:
        place = f"{plan.store}/{plan.run_id}"
        self._source, self.run_id = source, plan.run_id
        status = AttemptStatus.from_json(source.get(f"{plan.run_id}/{layout.status(1)}"), "")
        self._status = replace(status, closed=False, moved_to=place, token=plan.token)
        self._seen = source.put(f"{plan.run_id}/{layout.status(plan.attempt)}", self._status.to_json())

    patch.setattr(moving._Claim, "__init__", claim)


def removes_what_another_move_may_have_written(patch: pytest.MonkeyPatch) -> None:
    """A move that was refused deletes ``run.json`` in the new place."""

    def complete(self: Any, record: bytes) -> None:
        self._target.put(f"{self._run_id}/{layout.RUN}", record)
        try:
            self._claim.close()
        except ConflictError:
            self._target.delete(f"{self._run_id}/{layout.RUN}")
            raise

    patch.setattr(moving._Arrival, "complete", complete)


def writes_over_another_record(patch: pytest.MonkeyPatch) -> None:
    """A move writes ``run.json`` without comparing the version."""

    def write(self: Any, record: bytes) -> None:
        self._target.put(f"{self._run_id}/{layout.RUN}", record)

    patch.setattr(moving._Arrival, "_write", write)


def heeds_no_mark(patch: pytest.MonkeyPatch) -> None:
    """A resume in the new place does not ask whether the move is complete."""
    patch.setattr(resuming, "new_place", lambda *_: None)


def leaves_the_mark(patch: pytest.MonkeyPatch) -> None:
    """The mark of a move that was interrupted after its decision is never removed."""
    for module in (moving, adopting):
        patch.setattr(module, "finish", lambda *_: None)


def completes_a_move_by_closing_its_claim(patch: pytest.MonkeyPatch) -> None:
    """A resume that closes the claim of an interrupted move leaves it as if that were complete."""

    def still_naming(status: Any, **changes: Any) -> Any:
        return replace(status, **{name: value for name, value in changes.items() if name != "moved_to"})

    patch.setattr(reconcile, "replace", still_naming)


def leaves_the_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """A move copies no checkpoint."""
    patch.setattr(moving, "_copy_newest_checkpoint", lambda *_: None)


@pytest.mark.parametrize(
    ("mistake", "cast", "limits"),
    [
        (completes_whatever_has_happened, "Ab", Limits(switches=1, looks=1)),
        (claims_nothing, "Ab", Limits(switches=1, looks=1)),
        (removes_what_another_move_may_have_written, "AB", Limits(switches=1, looks=1)),
        (writes_over_another_record, "AB", Limits(switches=1, looks=1)),
        (heeds_no_mark, "Ax", Limits(switches=1, looks=1)),
        (leaves_the_mark, "A", Limits(switches=0, deaths=1, looks=1)),
        (completes_a_move_by_closing_its_claim, "A", Limits(switches=0, deaths=1, looks=1)),
        (leaves_the_checkpoint, "A", Limits(switches=0, looks=1)),
    ],
)
def test_without_one_of_its_rules_a_move_breaks(
    mistake: Callable[[pytest.MonkeyPatch], None], cast: str, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    with pytest.raises(ViolationError) as found:
        for _ in every_order(limits, cast, monkeypatch, moves.one_order):
            pass
    print(f"{mistake.__name__}: {found.value}")


@pytest.mark.slow
def test_no_drawn_order_of_many_events_breaks_a_move(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SAMPLES):
        limits = Limits(switches=12, deaths=2, lost=2, late=2, lies=1, targets=1 + seed % 2)
        moves.one_order(limits, [], ("ABx", "Ab", "wBb", "ABxb")[seed // 2 % 4], monkeypatch, drawn(seed, 0.25))
