"""The protocol of docs/design.md, "One writer at a time", in every order of a few events, and that its rules are necessary."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloud_train.orchestrator import reconcile, run_directory
from cloud_train.run import fencing, layout
from cloud_train.run.record import AttemptStatus
from cloud_train.run.succession import Branch
from cloud_train.storage.base import ObjectInfo, Store
from tests.protocol import explorer
from tests.protocol.explorer import Limits, ViolationError, every_order, one_order

DEPTH = int(os.environ.get("CLOUD_TRAIN_PROTOCOL_DEPTH", "1"))
"""Switches beyond those of a quick check: 1 for the suite; 2 takes hours."""
SAMPLES = int(os.environ.get("CLOUD_TRAIN_PROTOCOL_SAMPLES", "300"))


@pytest.mark.parametrize(
    ("cast", "limits"),
    [
        pytest.param("ab", Limits(switches=DEPTH, steps=2), marks=pytest.mark.slow),
        pytest.param("b", Limits(switches=DEPTH + 1, steps=2), marks=pytest.mark.slow),
        ("aa", Limits(switches=DEPTH)),
        ("aa", Limits(switches=DEPTH - 1, deaths=1)),
        pytest.param("ab", Limits(switches=DEPTH - 1, deaths=1), marks=pytest.mark.slow),
        ("ab", Limits(switches=0, lost=1)),
        pytest.param("b", Limits(switches=DEPTH, programs=True), marks=pytest.mark.slow),
        ("b", Limits(switches=DEPTH - 1, late=1)),
        pytest.param("a", Limits(switches=DEPTH + 1, lies=1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_no_order_of_few_events_breaks_the_protocol(cast: str, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = sum(1 for _ in every_order(limits, cast, monkeypatch))
    print(f"{cast} {limits}: {orders} orders")
    assert orders > 10


def writes_whatever_it_saw(patch: pytest.MonkeyPatch) -> None:
    """An observer writes an end without comparing the version."""

    def write_end(store: Store, key: str, status: AttemptStatus, _seen: ObjectInfo | None) -> bool:
        store.put(key, status.to_json())
        return True

    patch.setattr(reconcile, "_write_end", write_end)


def ends_what_it_did_not_launch(patch: pytest.MonkeyPatch) -> None:
    """An observation of a launch ends whatever attempt is the newest."""
    found = run_directory._found

    def of_any_launch(*arguments: Any) -> run_directory.Found:
        return replace(found(*arguments), is_of_launch=True)

    patch.setattr(run_directory, "_found", of_any_launch)


def never_looks_for_a_newer_attempt(patch: pytest.MonkeyPatch) -> None:
    """A worker writes on, whatever it finds in its status and beside it."""
    patch.setattr(fencing, "newer_attempt", lambda *_: None)
    find = fencing.find

    def find_open(*arguments: Any) -> fencing.Written | None:
        there = find(*arguments)
        return replace(there, is_closed=False) if there else None

    patch.setattr(fencing, "find", find_open)


def publishes_without_a_condition(patch: pytest.MonkeyPatch) -> None:
    """A worker checks, and then writes a manifest over whatever is there."""

    def publish(store: Store, key: str, data: bytes, check: Callable[[], None]) -> None:
        check()
        store.put(key, data)

    patch.setattr(explorer, "publish", publish)


def takes_the_newest_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """A resume continues from the newest checkpoint, whichever attempt made it."""
    patch.setattr(Branch, "holds", lambda *_: True)


def does_not_close_the_end(patch: pytest.MonkeyPatch) -> None:
    """A resume starts the next attempt without making the end of the one before final."""
    patch.setattr(reconcile, "close", lambda *_: None)

    def left_open(status: Any, **changes: Any) -> Any:
        return replace(status, **{name: value for name, value in changes.items() if name != "closed"})

    patch.setattr(reconcile, "replace", left_open)


def does_not_take_an_end_back(patch: pytest.MonkeyPatch) -> None:
    """A worker that finds an end in its place writes nothing any more, and continues."""
    write = fencing.Lease.write

    def gives_in(self: fencing.Lease, status: bytes) -> bool:
        there = fencing.find(self._store, self._run_id, self._name)
        return True if there is not None and there.is_end else write(self, status)

    patch.setattr(fencing.Lease, "write", gives_in)


def keeps_the_checkpoints_of_all_attempts_together(patch: pytest.MonkeyPatch) -> None:
    """All attempts have one folder of checkpoints."""
    patch.setattr(layout, "checkpoints", lambda _: layout.CHECKPOINTS)


@pytest.mark.parametrize(
    ("mistake", "cast", "limits"),
    [
        (writes_whatever_it_saw, "a", Limits(switches=2, lies=1)),
        (ends_what_it_did_not_launch, "ab", Limits(switches=4, deaths=1)),
        (never_looks_for_a_newer_attempt, "b", Limits(switches=2)),
        pytest.param(publishes_without_a_condition, "b", Limits(switches=2), marks=pytest.mark.slow),
        (takes_the_newest_checkpoint, "b", Limits(switches=2, steps=2)),
        (does_not_close_the_end, "b", Limits(switches=2)),
        (does_not_take_an_end_back, "a", Limits(switches=2, lies=1)),
        (keeps_the_checkpoints_of_all_attempts_together, "b", Limits(switches=3, programs=True)),
        (keeps_the_checkpoints_of_all_attempts_together, "b", Limits(switches=2, late=1)),
    ],
)
def test_without_one_of_its_rules_the_protocol_breaks(
    mistake: Callable[[pytest.MonkeyPatch], None], cast: str, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    with pytest.raises(ViolationError) as found:
        draw_until(3_000, cast, limits, monkeypatch)
    print(f"{mistake.__name__}: {found.value}")


def draw_until(most: int, cast: str, limits: Limits, patch: pytest.MonkeyPatch) -> None:
    """Raises ViolationError for the first drawn order that breaks the protocol, and AssertionError if ``most`` do not."""
    for seed in range(most):
        one_order(limits, [], cast, patch, drawn(seed, 0.15))
    raise AssertionError("no order of events shows the mistake")


def drawn(seed: int, chance: float) -> Callable[[int], int]:
    """Decisions by chance, most of them that the present actor continues and that nothing happens."""
    dice = random.Random(seed)
    return lambda options: dice.randrange(options) if dice.random() < chance else 0


@pytest.mark.slow
def test_no_drawn_order_of_many_events_breaks_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SAMPLES):
        limits = Limits(switches=12, deaths=2, lost=2, lies=1, late=2, programs=seed % 2 == 0)
        one_order(limits, [], ("ab", "aa", "abb", "aab")[seed % 4], monkeypatch, drawn(seed, 0.25))
