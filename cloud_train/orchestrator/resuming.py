"""Another attempt of a run that ended without success: it goes on from the newest checkpoint whose every byte checks."""

from cloud_train.errors import ConflictError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.observing import RunView, look, read_record
from cloud_train.orchestrator.submitting import launch, refuse_unready, secret_values
from cloud_train.providers.registry import load_provider
from cloud_train.run import locks
from cloud_train.run.ledger import Ledger
from cloud_train.run.plan import Plan
from cloud_train.run.states import State
from cloud_train.storage.registry import open_store


def resume(home: Home, run_id: str) -> RunView:
    """Start the next attempt. Raises ConflictError while the run goes on, and if it has succeeded."""
    with Ledger(home.ledger_path) as ledger:
        _refuse_unresumable(look(home, ledger, run_id))
        with locks.held(home.submission_lock(run_id)) as mine:
            if not mine:
                raise ConflictError(f"{run_id} is being resumed by another command", hint=f"see: cloud-train status {run_id}")
            run = look(home, ledger, run_id)  # again, now that nobody else can resume it
            _refuse_unresumable(run)
            provider = load_provider(run.provider, home.folder)
            plan = Plan.of_attempt(read_record(open_store(run.store), run_id), run.attempt + 1)
            secrets = secret_values(plan.job.secrets)
            refuse_unready(provider, plan)
            ledger.add_attempt(run_id, plan.attempt, plan.provider)
            launch(ledger, provider, plan, secrets)
        return look(home, ledger, run_id)


def _refuse_unresumable(run: RunView) -> None:
    if run.state is State.SUCCEEDED:
        raise ConflictError(f"{run.run_id} has succeeded; there is nothing to resume", hint=f"cloud-train fetch-model {run.run_id}")
    if not run.state.is_end:
        raise ConflictError(
            f"{run.run_id} goes on: attempt {run.attempt} is {run.state}",
            hint=f"watch it with: cloud-train logs {run.run_id} --follow; or end it with: cloud-train cancel {run.run_id}",
        )
