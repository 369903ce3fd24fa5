"""Resuming a run that did not succeed: its next attempt, from the newest valid checkpoint."""

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cloud_train import locks
from cloud_train.errors import ConflictError, StoreError, UsageError
from cloud_train.orchestrator import own_code, own_records
from cloud_train.orchestrator.changes import check_length, job_file_remarks, recorded, remarks_on, trains_on, with_changes
from cloud_train.orchestrator.configs import Configs
from cloud_train.orchestrator.connections import CLOUD_PAUSE_SECONDS, pause_of, provider_at, store_at
from cloud_train.orchestrator.consent import Ask, refuse
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.ledgers import open_ledger
from cloud_train.orchestrator.moving import move, new_place
from cloud_train.orchestrator.packaging import with_image, with_same_image
from cloud_train.orchestrator.planning import plan_elsewhere, with_machine
from cloud_train.orchestrator.reconcile import close, declare_lost, reconcile
from cloud_train.orchestrator.stopping import outlives_its_end
from cloud_train.orchestrator.submitting import forwarded_names, handed_over, launch, refuse_unready
from cloud_train.orchestrator.trust import CheckedRecord, accept, checked_record, restore_record
from cloud_train.providers.base import Provider
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import RecordKind
from cloud_train.run.plan import Plan, new_token
from cloud_train.run.record import RunRecord
from cloud_train.run.states import State
from cloud_train.run.view import RunView

_SILENCE_SECONDS = 45.0
"""Silence after which a worker on another machine counts as lost: several times its heartbeat interval."""

_BEGINNING_SECONDS = 3.0
"""How long to wait for a worker to begin if another one may be faster."""
_LOOK_SECONDS = 0.1

_LEAST_SPACE_BYTES = 256 << 10
_LITTLE_SPACE_BYTES = 100 << 20


@dataclass(frozen=True)
class Waiting:
    """A resume waits: the attempt was started from another machine and may be alive."""

    run_id: str
    attempt: int
    """The attempt that is given time for a heartbeat."""
    host: str
    """The machine of its worker; empty if it is not known."""
    seconds: float
    """Longest wait; a heartbeat ends it early."""

    def __str__(self) -> str:
        return f"attempt {self.attempt} was started on {self.host or 'another machine'}: waiting {self.seconds:g} s for a heartbeat"


@dataclass(frozen=True)
class Elsewhere:
    """Where and how a run continues; None leaves a setting unchanged."""

    provider: str | None = None
    store: str | None = None
    """URL of the store that the run directory moves to."""
    config: str | None = None
    """Name or path of the config file with the provider's settings."""
    data: str | None = None
    """Where the job's data is: a folder on this machine, or a URL in a store."""
    changes: tuple[str, ...] = ()
    """Values that change, as ``key=value`` (``job.changing``)."""
    takes_current_code: bool = False
    """Whether the code of a script is taken as it is now; otherwise the run keeps its own."""

    def keeps_image(self, run: RunView) -> bool:
        """Whether the attempt starts the image that the run has: its own code."""
        return self.provider in (None, run.provider) and self.config is None and not self.takes_current_code


def resume(
    home: Home,
    run_id: str,
    note: Callable[[str], None] = lambda _: None,
    *,
    elsewhere: Elsewhere | None = None,
    ask: Ask = refuse,
    ask_of_configs: Ask | None = None,
    on_wait: Callable[[Waiting], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RunView:
    """Start the next attempt, in the same place or ``elsewhere``. Raises ConflictError while the run is active, if it has succeeded and no
    change makes it train on, if its code has changed, and if another command starts the same attempt and is faster.

    An attempt that was launched from another machine, and that its provider cannot find from here, is first given time for a heartbeat;
    ``on_wait``, or else ``note``, is told when that wait begins. A run from another machine is shown to ``ask`` before its first attempt
    here, and NotTrustedError is raised unless it is accepted. A config file that must be trusted first is shown to ``ask_of_configs``,
    or refused without it.
    """
    configs = Configs(home, ask_of_configs or refuse, note)
    with open_ledger(home) as ledger:
        run = reconcile(home, ledger, run_id)
        is_silent = run.is_unmanaged and not run.state.is_end
        changes = elsewhere.changes if elsewhere else ()
        if not is_silent:
            _refuse_unresumable(run, changes)
        shown = _consented(home, ledger, run, elsewhere, configs=configs, ask=ask)  # before anything that takes long
        if is_silent:
            run = _listen(home, ledger, run, on_wait or (lambda waiting: note(str(waiting))), sleep=sleep, clock=clock)
        _refuse_unresumable(run, changes)
        with locks.held(home.submission_lock(run_id)) as mine:
            if not mine:
                raise ConflictError(f"{run_id} is being resumed by another command", hint=f"check with: cloud-train status {run_id}")
            is_contested = _start(home, ledger, run_id, shown, elsewhere, configs=configs, note=note, sleep=sleep, clock=clock)
        return _begun(home, ledger, run_id, is_contested, sleep=sleep, clock=clock)


def _start(
    home: Home,
    ledger: Ledger,
    run_id: str,
    shown: str | None,
    elsewhere: Elsewhere | None,
    *,
    configs: Configs,
    note: Callable[[str], None],
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> bool:
    """Launch the next attempt, under the run's submission lock; returns whether another command may be doing the same."""
    run = reconcile(home, ledger, run_id)
    _refuse_unresumable(run, elsewhere.changes if elsewhere else ())
    _refuse_running(home, ledger, run, sleep=sleep, clock=clock)
    checked = checked_record(home, ledger, run)
    if checked.sha256 != shown and not (shown is None and checked.is_own):
        raise ConflictError(f"run.json of {run_id} has just changed", hint=f"review what it starts now: cloud-train resume {run_id}")
    plan, _ = _plan(home, run, checked, elsewhere, configs)
    _refuse_moved(run, plan, checked.record)
    provenance = _checked_changes(run, plan, checked, elsewhere, note)
    provider = provider_at(home, plan.provider)
    secrets = handed_over(provider, plan)
    refuse_unready(provider, plan)
    _refuse_full(home, provider, plan, note)
    if checked.copy is not None:
        restore_record(run, checked.copy)
        note(f"run.json of {run_id} was damaged, and is restored from this machine's copy")
    if elsewhere is None:
        plan = with_same_image(provider, plan, note)
        plan = replace(plan, token=new_token() if plan.takes_token else "")
        is_contested = close(ledger, run)
        ledger.add_attempt(run_id, plan.attempt, plan.provider, plan.provider_settings, plan.token)
    else:
        if elsewhere.keeps_image(run):
            plan = with_same_image(provider, plan, note)
        else:
            plan = replace(with_image(home, provider, plan, note), takes_token=True)
        plan = replace(plan, token=new_token() if plan.takes_token else "")
        is_contested = close(ledger, run, even_success=trains_on(elsewhere.changes))
        plan = move(ledger, plan, run.store, note, partial(own_records.keep, home, run_id), provenance=provenance)
    launch(ledger, provider, plan, secrets)
    return is_contested


def _checked_changes(
    run: RunView, plan: Plan, checked: CheckedRecord, elsewhere: Elsewhere | None, note: Callable[[str], None]
) -> dict[str, Any]:
    """Say what the attempt does otherwise than its run's job file and earlier attempts; returns what is to be recorded of it.

    Raises UsageError and ConflictError.
    """
    changes, takes_current = (elsewhere.changes, elsewhere.takes_current_code) if elsewhere else ((), False)
    before = Plan.of_attempt(checked.record, plan.attempt, checked.sha256)
    if changes:
        check_length(run, before, plan)
    in_image = plan.image is not None and (elsewhere is None or elsewhere.keeps_image(run))
    code = own_code.choose(plan, checked.record, takes_current=takes_current, in_image=in_image)
    for line in (*([code.line] if code else []), *job_file_remarks(plan), *remarks_on(before, plan, changes)):
        note(line)
    taken = own_code.as_json(code.identity) if code and code.identity else None
    added = recorded(checked.record.provenance, plan, changes, taken if takes_current else None)
    return {**added, **({own_code.RECORDED: taken} if taken else {})}


def _begun(
    home: Home, ledger: Ledger, run_id: str, is_contested: bool, *, sleep: Callable[[float], None], clock: Callable[[], float]
) -> RunView:
    """The run after the launch. If another command may have launched the same attempt, its worker is given a moment to begin.

    Raises ConflictError if the attempt is that of the other command.
    """
    run, until = reconcile(home, ledger, run_id), clock() + _BEGINNING_SECONDS
    costs = provider_at(home, run.provider).capabilities.polling_costs
    pause = pause_of(store_at(run.store), _LOOK_SECONDS)
    while is_contested and not costs and not run.host and not run.state.is_end and not run.is_unmanaged and clock() < until:
        sleep(pause)
        run = reconcile(home, ledger, run_id)
    if run.is_unmanaged and not run.state.is_end:
        raise ConflictError(
            f"another command resumed {run_id} at the same moment: its attempt {run.attempt} is running on {run.host or 'another machine'}",
            hint=f"follow it with: cloud-train logs {run_id} --follow; or stop it with: cloud-train cancel {run_id}",
        )
    return run


def _refuse_full(home: Home, provider: Provider, plan: Plan, note: Callable[[str], None]) -> None:
    """Raise StoreError for a full disk on which the attempt would end before its program starts: that of a store in a folder, or of the
    workspace for a store in a cloud if ``provider`` runs on this machine. ``note`` is told about disks with little space.
    """
    folder = store_at(plan.store).local_path(plan.run_id)
    runs_here = "file" in provider.capabilities.stores
    if folder is None and runs_here:
        folder = home.folder / "work"
    disks = [_writable(folder)] if folder is not None else []
    if runs_here:
        disks.append(Path(tempfile.gettempdir()))  # where programs put their temporary files
    for disk in {place.stat().st_dev: place for place in reversed(disks)}.values():
        if (free := shutil.disk_usage(disk).free) < _LITTLE_SPACE_BYTES:
            note(f"{disk} has only {free / 1e6:,.0f} MB of free space; a full disk stops the run")


def _writable(path: Path) -> Path:
    """The folder ``path``, or the one above it that exists, after writing to it. Raises StoreError."""
    folder = next(place for place in (path, *path.parents) if place.exists())  # a run that moves has no directory there yet
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            for _ in range(_LEAST_SPACE_BYTES // 4096):
                probe.write(bytes(4096))
    except OSError as error:
        raise StoreError(
            f"cannot write to {folder}: {os.strerror(error.errno or 0).lower()}",
            hint="make it writable or free some space there, then resume again",
        ) from error
    return folder


def _consented(home: Home, ledger: Ledger, run: RunView, elsewhere: Elsewhere | None, *, configs: Configs, ask: Ask) -> str | None:
    """The SHA-256 of the ``run.json`` that the caller has accepted, now or earlier; None if this machine wrote them all.

    Raises NotTrustedError.
    """
    if set(ledger.records(run.run_id).values()) == {RecordKind.OWN}:
        return None  # it is checked under the lock, so that a store in a cloud is read only once
    checked = checked_record(home, ledger, run)
    # Elsewhere, the program is derived from the job, not taken from the record that was accepted before.
    is_accepted = checked.kind is RecordKind.ACCEPTED and elsewhere is None
    if not checked.is_own and not is_accepted:
        plan, settings_from = _plan(home, run, checked, elsewhere, configs)
        _refuse_moved(run, plan, checked.record)
        accept(plan, settings_from, checked.record, ask, forwarded_names(provider_at(home, plan.provider), plan))
        if elsewhere is None:
            ledger.know_record(run.run_id, checked.sha256, RecordKind.ACCEPTED)
    return checked.sha256


def _refuse_moved(run: RunView, plan: Plan, record: RunRecord) -> None:
    place = new_place(run.store, run.run_id)
    if place is None or place == f"{plan.store.rstrip('/')}/{run.run_id}":
        return
    is_unfinished = place == record.provenance.get("moved_from")
    what = f"the move of {run.run_id} from {place} was not completed" if is_unfinished else f"{run.run_id} was moved to {place}"
    raise ConflictError(what, hint=f"resume it there: cloud-train adopt {shlex.quote(place)}")


def _plan(home: Home, run: RunView, checked: CheckedRecord, elsewhere: Elsewhere | None, configs: Configs) -> tuple[Plan, str]:
    """The next attempt's plan, and the origin of its provider's settings.

    Settings and folders in ``run.json`` are used only if this machine wrote it; the store always comes from the ledger. Raises UsageError
    for data in a folder that the caller did not name.
    """
    before = replace(Plan.of_attempt(checked.record, run.attempt + 1, checked.sha256), store=run.store, provider=run.provider)
    if not checked.is_own:  # values from another machine's command line do not count here either
        before = replace(before, origins={}, is_foreign=True)
    beside = Path(before.job_file).parent if checked.is_own else Path.cwd()
    chosen = configs.named(elsewhere.config, beside) if elsewhere and elsewhere.config else None
    place = provider_at(home, (elsewhere and elsewhere.provider) or (chosen and chosen.provider) or run.provider)
    stays = chosen is None and place.name == run.provider and checked.is_own
    if chosen is None and not stays:
        chosen = configs.usual(place, beside)
    settings = before.provider_settings if stays else chosen.settings.get(place.name, {}) if chosen else {}
    origin = f"the settings in {chosen.file}" if chosen else "the settings of its submission" if stays else "no settings"
    if elsewhere is None:
        plan = replace(before, provider_settings=with_machine(settings, before.job, place.capabilities))
    else:
        store = elsewhere.store or (chosen and chosen.store) or run.store
        changed = with_changes(before, elsewhere.changes)
        plan = plan_elsewhere(changed, place, settings, store=store, data=elsewhere.data, config=chosen)
        if elsewhere.keeps_image(run):
            plan = replace(plan, image=before.image)
    if plan.host_data is not None and not checked.is_own and not (elsewhere and elsewhere.data):
        raise UsageError(
            f"the data of {run.run_id} is in the folder {plan.host_data} on the machine that submitted it",
            hint=f"name its folder on this machine: cloud-train resume {run.run_id} --data FOLDER",
        )
    return plan, origin


def _listen(
    home: Home,
    ledger: Ledger,
    run: RunView,
    on_wait: Callable[[Waiting], None],
    *,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> RunView:
    """Wait for a heartbeat by this machine's clock, since the other one's may be wrong; without one, the attempt is declared lost."""
    on_wait(Waiting(run.run_id, run.attempt, run.host, _SILENCE_SECONDS))
    before, until = run.heartbeat, clock() + _SILENCE_SECONDS
    while clock() < until:
        sleep(CLOUD_PAUSE_SECONDS)
        run = reconcile(home, ledger, run.run_id)
        if run.state.is_end or run.heartbeat != before:
            return run
    entry = ledger.get(run.run_id)
    if entry is None:
        return run
    return declare_lost(home, ledger, entry, before, f"no heartbeat from {run.host or 'its machine'} for {_SILENCE_SECONDS:g} s")


def _refuse_running(home: Home, ledger: Ledger, run: RunView, *, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
    """Refuse to start a second attempt beside a running one. The run directory says that the previous attempt has ended; its provider is
    asked too, if that costs nothing. A worker that is just exiting is given a moment.
    """
    if provider_at(home, run.provider).capabilities.polling_costs:
        return
    if outlives_its_end(home, ledger, run, sleep=sleep, clock=clock) is not None:
        raise ConflictError(
            f"attempt {run.attempt} of {run.run_id} is still running at {run.provider!r}, although its run directory says {run.state}",
            hint=f"stop it first with: cloud-train cancel {run.run_id}",
        )


def _refuse_unresumable(run: RunView, changes: Sequence[str]) -> None:
    if run.state is State.SUCCEEDED and not trains_on(changes):
        raise ConflictError(
            f"{run.run_id} has succeeded; there is nothing to resume", hint=f"fetch its model with: cloud-train fetch-model {run.run_id}"
        )
    if not run.state.is_end:
        raise ConflictError(
            f"{run.run_id} is still active: attempt {run.attempt} is {run.state}",
            hint=f"follow it with: cloud-train logs {run.run_id} --follow; or stop it with: cloud-train cancel {run.run_id}",
        )
