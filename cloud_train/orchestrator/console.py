"""Links to the provider's own console: the page of a run's newest attempt, or of the job that a plan would start."""

from contextlib import suppress

from cloud_train.errors import CloudTrainError
from cloud_train.orchestrator.connections import provider_at
from cloud_train.orchestrator.home import Home
from cloud_train.providers.base import ConsoleLinked, Handle, Request
from cloud_train.run.plan import Plan


def url_of_plan(home: Home, plan: Plan, request: Request) -> str | None:
    """URL of the page that the job of ``request`` would have; None if the provider has none, or does not know it yet."""
    provider = provider_at(home, plan.provider)
    return provider.console_url(request) if isinstance(provider, ConsoleLinked) else None


def url_of_run(home: Home, run_id: str) -> str | None:
    """URL of the page of a run's newest attempt; None for a run that was launched from another machine, or whose provider has no pages."""
    from cloud_train.run.ledger_reader import LedgerReader  # which a dry run does not need

    with suppress(CloudTrainError), LedgerReader(home.ledger_path) as ledger:  # what shows a link reports such errors by itself
        entry = ledger.get(run_id)
        if entry is None or not entry.reference or entry.is_unmanaged:
            return None
        provider = provider_at(home, entry.provider)
        if isinstance(provider, ConsoleLinked):
            return provider.console_url(Handle(entry.run_id, entry.attempt, entry.provider, entry.store, entry.reference))
    return None
