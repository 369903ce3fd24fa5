"""Another attempt of a run that ended without success: it goes on from the newest checkpoint whose every byte checks."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloud_train.errors import ConflictError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.moving import move, new_place
from cloud_train.orchestrator.observing import RunView, declare_dead, look, read_record
from cloud_train.orchestrator.packaging import with_image, with_same_image
from cloud_train.orchestrator.places import provider_at
from cloud_train.orchestrator.planning import plan_elsewhere
from cloud_train.orchestrator.stores import CLOUD_PAUSE_SECONDS, store_at
from cloud_train.orchestrator.submitting import handed_over, launch, refuse_unready
from cloud_train.run import locks
from cloud_train.run.ledger import Ledger
from cloud_train.run.plan import Plan
from cloud_train.run.states import State

_SILENCE_SECONDS = 45.0
"""For which a worker on another machine must give no sign of life, several times the pace at which it gives them."""


@dataclass(frozen=True)
class Elsewhere:
    """Where a run goes on; what is None stays as it was."""

    provider: str | None = None
    store: str | None = None
    """URL of the store that the run directory moves to."""
    config: str | None = None
    """Name or path of the config file with the provider's settings."""


def resume(
    home: Home,
    run_id: str,
    note: Callable[[str], None] = lambda _: None,
    *,
    elsewhere: Elsewhere | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RunView:
    """Start the next attempt, where the run was or ``elsewhere``. Raises ConflictError while the run goes on, and if it has succeeded.

    An attempt that was launched from another machine, and that its provider cannot find from here, is listened for first: ``note`` is told.
    """
    with Ledger(home.ledger_path) as ledger:
        run = look(home, ledger, run_id)
        if run.is_elsewhere and not run.state.is_end:
            run = _listen(home, ledger, run, note, sleep=sleep, clock=clock)
        _refuse_unresumable(run)
        with locks.held(home.submission_lock(run_id)) as mine:
            if not mine:
                raise ConflictError(f"{run_id} is being resumed by another command", hint=f"see: cloud-train status {run_id}")
            run = look(home, ledger, run_id)  # again, now that nobody else can resume it
            _refuse_unresumable(run)
            plan = _plan(home, run, elsewhere)
            moved_to = new_place(run.store, run_id)
            if moved_to and moved_to != f"{plan.store.rstrip('/')}/{run_id}":
                raise ConflictError(f"{run_id} was moved to {moved_to}", hint=f"go on there: cloud-train adopt {shlex.quote(moved_to)}")
            provider = provider_at(home, plan.provider)
            secrets = handed_over(provider, plan)
            refuse_unready(provider, plan)
            if elsewhere is None:
                plan = with_same_image(provider, plan, note)
                ledger.add_attempt(run_id, plan.attempt, plan.provider)
            else:
                plan = with_image(home, provider, plan, note)
                move(plan, run.store, note)
                ledger.move(run_id, plan.attempt, plan.provider, plan.store)
            launch(ledger, provider, plan, secrets)
        return look(home, ledger, run_id)


def _plan(home: Home, run: RunView, elsewhere: Elsewhere | None) -> Plan:
    record = read_record(store_at(run.store), run.run_id)
    if elsewhere is None:
        return Plan.of_attempt(record, run.attempt + 1)
    return plan_elsewhere(home, record, run.attempt + 1, provider=elsewhere.provider, store=elsewhere.store, config=elsewhere.config)


def _listen(
    home: Home, ledger: Ledger, run: RunView, note: Callable[[str], None], *, sleep: Callable[[float], None], clock: Callable[[], float]
) -> RunView:
    """Whether anybody still works on the run: by this machine's clock alone, for the other one's may be wrong."""
    note(f"attempt {run.attempt} runs on {run.host or 'another machine'}, or did: waiting {_SILENCE_SECONDS:g} s for a sign of life")
    before, until = run.heartbeat, clock() + _SILENCE_SECONDS
    while clock() < until:
        sleep(CLOUD_PAUSE_SECONDS)
        run = look(home, ledger, run.run_id)
        if run.state.is_end or run.heartbeat != before:
            return run
    entry = ledger.get(run.run_id)
    if entry is None:
        return run
    return declare_dead(ledger, entry, f"no sign of life from {run.host or 'its machine'} for {_SILENCE_SECONDS:g} s")


def _refuse_unresumable(run: RunView) -> None:
    if run.state is State.SUCCEEDED:
        raise ConflictError(f"{run.run_id} has succeeded; there is nothing to resume", hint=f"cloud-train fetch-model {run.run_id}")
    if not run.state.is_end:
        raise ConflictError(
            f"{run.run_id} goes on: attempt {run.attempt} is {run.state}",
            hint=f"watch it with: cloud-train logs {run.run_id} --follow; or end it with: cloud-train cancel {run.run_id}",
        )
