"""From a plan to a running attempt, in steps that survive being killed at any point.

Image (if the provider runs containers) → ledger row *submitting* → run directory → ``provider.launch`` → ledger row *starting*. The image
comes first, because it costs nothing and belongs to no run: a failed build leaves no run. The other steps hold the run's submission lock. A
row that is still *submitting* while the lock is free was cut off, which ``state`` detects and ``reconcile`` records.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloud_train import locks
from cloud_train.errors import CloudTrainError, ProviderError, UsageError
from cloud_train.orchestrator import given_values, own_code, own_records
from cloud_train.orchestrator.connections import provider_at, store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.packaging import with_image
from cloud_train.orchestrator.readiness import missing_here, missing_secrets
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.starting import copy_start, remove_start
from cloud_train.providers.base import AlreadyLaunchedError, Handle, LaunchUnknownError, Provider
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.plan import Plan, new_token
from cloud_train.run.record import AttemptStatus, RunRecord, sha256_of
from cloud_train.run.repository import commit_of
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.base import AccessDeniedError
from cloud_train.storage.credential_forwarding import names_for, settings_for
from cloud_train.storage.registry import bucket_and_prefix
from cloud_train.version import __version__


def submit(home: Home, plan: Plan, note: Callable[[str], None] = lambda _: None) -> RunView:
    """Start the first attempt of ``plan``. Whatever happens in between, the run is afterwards either absent or visible and consistent.

    ``note`` receives a line about each step that takes time, such as building an image.
    """
    provider = provider_at(home, plan.provider)
    secrets = handed_over(provider, plan)
    refuse_unready(provider, plan)
    for remark in plan.remarks:
        note(remark)
    plan = with_image(home, provider, plan, note)
    created = time.time()
    record = RunRecord(plan.run_id, created, plan.job.model_dump(mode="json"), plan.program, plan.facts(), _provenance(plan))
    written = record.to_json()
    plan = replace(plan, record_sha256=sha256_of(written), token=new_token())
    store = store_at(plan.store)
    with locks.held(home.submission_lock(plan.run_id)), Ledger(home.ledger_path) as ledger:
        ledger.add(
            plan.run_id,
            name=plan.job.name,
            provider=plan.provider,
            store=plan.store,
            job_file=plan.job_file,
            created=created,
            settings=plan.provider_settings,
            record_sha256=plan.record_sha256,
            token=plan.token,
        )
        own_records.keep(home, plan.run_id, written)
        try:
            copy_start(plan, store, note)  # first: a run directory with a run.json has the weights that this names
            store.create(f"{plan.run_id}/{layout.RUN}", written)
        except CloudTrainError:
            ledger.forget(plan.run_id)
            if plan.start is not None:
                remove_start(plan.run_id, store)
            raise
        launch(ledger, provider, plan, secrets)
    return update_run(home, plan.run_id)


def launch(ledger: Ledger, provider: Provider, plan: Plan, secrets: dict[str, str]) -> Handle:
    """Launch the attempt that is *submitting* in the ledger, and record the outcome."""
    if provider.capabilities.shows_late:
        ledger.sending(plan.run_id, plan.attempt, time.time())
    try:
        handle = provider.launch(provider.render(plan), secrets)
    except LaunchUnknownError:
        raise  # the attempt stays *submitting* until ``reconcile`` settles it
    except ProviderError as error:
        now = time.time()
        ledger.observed(plan.run_id, plan.attempt, Cause.REJECTED.state, Cause.REJECTED, error.message, started=now, ended=now)
        if not isinstance(error, AlreadyLaunchedError):
            _write_down_rejection(plan, error.message, now)
        raise
    ledger.launched(plan.run_id, plan.attempt, handle.reference)
    return handle


def _write_down_rejection(plan: Plan, message: str, now: float) -> None:
    """Record the rejection in the run directory too, for other machines and for a worker that was started after all, which then exits."""
    status = AttemptStatus(State.STARTING, started=now, heartbeat=now, host=socket.gethostname(), pid=0, token=plan.token)
    with suppress(CloudTrainError):
        key = f"{plan.run_id}/{layout.status(plan.attempt)}"
        store_at(plan.store).create(key, status.ended_with(Cause.REJECTED, message, now).to_json())


def handed_over(provider: Provider, plan: Plan) -> dict[str, str]:
    """Values for the attempt that are never stored: the job's secrets, and for another machine the stores' credentials.

    Raises UsageError naming the missing secrets.
    """
    secrets = secret_values(plan.job.secrets)
    if not provider.capabilities.forwards_credentials:  # it runs on this machine, or on one with its own identity
        return secrets
    return {name: value for url in _urls(plan) for name, value in settings_for(url).items()} | secrets


def forwarded_names(provider: Provider, plan: Plan) -> tuple[str, ...]:
    """The names of the credentials for the stores that ``handed_over`` adds."""
    if not provider.capabilities.forwards_credentials:
        return ()
    return tuple(dict.fromkeys(name for url in _urls(plan) for name in names_for(url)))


def _urls(plan: Plan) -> tuple[str, ...]:
    return (plan.store, *([plan.program.data] if plan.program.data else []))


def secret_values(names: tuple[str, ...]) -> dict[str, str]:
    """The values of the job's ``secrets``, from this process's environment. Raises UsageError naming the missing ones."""
    if (error := missing_secrets(names)) is not None:
        raise error
    return {name: os.environ[name] for name in names}


def refuse_unready(provider: Provider, plan: Plan) -> None:
    """Raise before anything is written if this plan cannot start, because of a refused request, a missing folder or a missing package."""
    problems = provider.check(provider.render(plan))
    if problems:
        raise ProviderError(f"{provider.name!r} would refuse this run: {'; '.join(problems)}")
    _refuse_absent_data(plan.job.data.store_url if plan.job.data else None)
    for error in missing_here(provider, plan):
        raise error


def _refuse_absent_data(url: str | None) -> None:
    """Refuse data that does not exist in its store. Data that may not be listed from here passes: the worker may have other permissions."""
    if url is None:
        return
    bucket, key = bucket_and_prefix(url)
    try:
        found = any(info.key == key or not key or info.key.startswith(f"{key}/") for info in store_at(bucket).list(key))
    except AccessDeniedError:
        return
    if not found:
        raise UsageError(f"data.path: nothing found at {url}", hint="set it to an object, or a folder of objects")


def _provenance(plan: Plan) -> dict[str, Any]:
    return {
        "job_file": plan.job_file,
        "git": commit_of(Path(plan.job_file).parent),
        "cloud_train": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "host": socket.gethostname(),
        **given_values.recorded(plan),
        **own_code.recorded(plan),
    }
