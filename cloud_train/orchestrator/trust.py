"""Whether a run directory may be acted on: checks its ``run.json`` against the ledger, and otherwise asks the caller to accept it.

Everyone who can write to a store can write a run directory. It is acted on only if the ledger has the SHA-256 of its ``run.json``; any
other is shown to the caller first. docs/security.md describes the whole security model.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_train.errors import ConflictError, CorruptError
from cloud_train.networks.base import ScriptModel
from cloud_train.orchestrator import own_records
from cloud_train.orchestrator.connections import store_at
from cloud_train.orchestrator.consent import Ask, NotTrustedError, Question
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.run_directory import read_record_bytes
from cloud_train.run import documents, layout
from cloud_train.run.ledger_entry import RecordKind
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.plan import Plan
from cloud_train.run.record import RunRecord, sha256_of
from cloud_train.run.view import RunView
from cloud_train.spec.secret_names import without_credentials
from cloud_train.storage.base import ObjectChangedError, ObjectMissingError
from cloud_train.storage.credential_forwarding import FILES


@dataclass(frozen=True)
class CheckedRecord:
    """A ``run.json`` as it is in the store now."""

    record: RunRecord
    sha256: str
    kind: RecordKind
    """Its kind in the ledger; *seen* if it is not there."""
    copy: bytes | None = None
    """This machine's own copy, with which the damaged one in the store has to be replaced; None if that is not damaged."""

    @property
    def is_own(self) -> bool:
        """Whether this machine wrote it, so that its settings are this machine's too."""
        return self.kind is RecordKind.OWN


def checked_record(home: Home, ledger: LedgerReader, run: RunView) -> CheckedRecord:
    """The run's ``run.json``, and its kind in the ledger. In the place of a damaged one, the copy counts that this machine wrote.

    Raises ConflictError if the ledger knows only others for this run; NotFoundError if it is missing, CorruptError if it is malformed.
    """
    known = ledger.records(run.run_id)
    try:
        written, record = read_record_bytes(store_at(run.store), run.run_id)
    except CorruptError as error:
        copy = own_records.kept(home, run.run_id, run.store, [sha256 for sha256, kind in known.items() if kind is RecordKind.OWN])
        if copy is None:
            raise CorruptError(error.message, hint=_way_back(run, known)) from error
        return CheckedRecord(RunRecord.from_json(copy, "this machine's copy"), sha256_of(copy), RecordKind.OWN, copy)
    sha256 = sha256_of(written)
    if known and sha256 not in known:
        raise ConflictError(
            f"run.json of {run.run_id} was changed in {run.store} by someone else, so it is refused",
            hint=f"if you expected this, accept the new one: cloud-train adopt {shlex.quote(run.run_directory)},"
            f" then cloud-train resume {run.run_id}",
        )
    return CheckedRecord(record, sha256, known.get(sha256, RecordKind.SEEN))


def restore_record(run: RunView, copy: bytes) -> None:
    """Replace the damaged ``run.json`` in the store by this machine's copy. Raises ConflictError if it has changed, and StoreError."""
    store, key = store_at(run.store), f"{run.run_id}/{layout.RUN}"
    seen, written = store.read(key, documents.LARGEST_RECORD + 1)
    with suppress(CorruptError):
        RunRecord.from_json(written, key)
        raise _changed(run)
    try:
        store.replace(seen, copy)
    except (ObjectChangedError, ObjectMissingError) as error:
        raise _changed(run) from error


def _changed(run: RunView) -> ConflictError:
    return ConflictError(f"run.json of {run.run_id} has just changed", hint=f"check with: cloud-train status {run.run_id}")


def _way_back(run: RunView, known: Mapping[str, RecordKind]) -> str:
    """What to do about a damaged ``run.json`` of which this machine has no copy: nothing can be started from its SHA-256."""
    restore = f"restore it from a copy of the run directory{_named_by(known)}, then resume again"
    if run.job_file is None or RecordKind.OWN not in known.values():
        return f"resume the run on the machine that submitted it, which has a copy; or {restore}"
    return f"{restore}; without a copy, start a new run: cloud-train submit {shlex.quote(run.job_file)}"


def _named_by(known: Mapping[str, RecordKind]) -> str:
    return f" (its SHA-256 is {' or '.join(known)})" if known else ""


def accept(plan: Plan, settings_from: str, record: RunRecord, ask: Ask, credentials: Sequence[str] = ()) -> None:
    """Show what ``plan`` would start and ask whether to start it; raises NotTrustedError unless that is accepted.

    ``credentials`` are the names of the store's credentials that the attempt receives.
    """
    subject = f"this machine has no record of submitting {plan.run_id}; resuming it starts"
    facts = [(name, value) for name, value in _facts(plan, settings_from, record, credentials) if value]
    if not ask(Question(subject, tuple(facts), "Start it?")):
        raise NotTrustedError(
            f"{plan.run_id} was not submitted from this machine and was not accepted",
            hint=f"review what it would start, then accept it with: cloud-train resume {plan.run_id} --trust",
        )


def _facts(plan: Plan, settings_from: str, record: RunRecord, credentials: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Everything in a run that affects this machine or the caller's account, as names and values; an empty value is not shown."""
    program, job, folder = plan.program, plan.job, Path(plan.job_file).parent
    if isinstance(job.model, ScriptModel):
        yield "command", shlex.join(program.command)
        yield "code", _resolved(folder, job.model.directory) if plan.image is not None else ""
    else:
        yield "command", f"the built-in trainer of {job.model.kind} models{', with the environment below' if program.environment else ''}"
    yield "folder", program.directory if plan.image is None else ""
    yield "image", plan.image or ""
    for name in ("dockerfile", "requirements"):
        if plan.image is not None and (file := getattr(job.image, name)):
            yield name, _resolved(folder, file)
    yield "environment", "  ".join(f"{name}={value}" for name, value in program.environment.items())
    yield "secrets", ", ".join(job.secrets)
    yield "credentials", _credentials(plan, credentials)
    yield "rights", "yours on this machine, with this shell's whole environment" if plan.provider == "local" else ""
    yield "data", plan.host_data or program.data or ""
    yield "download", without_credentials(getattr(job.data, "url", None) or "")
    if plan.start is not None:
        yield "weights", without_credentials(plan.start.weights.url if plan.start.is_on_web else plan.start.source)
    yield "run directory", f"{plan.store.rstrip('/')}/{plan.run_id}"
    yield "provider", f"{plan.provider}, with {settings_from}"
    yield "resources", _resources(plan)
    yield "not used", _shown(record.plan.get("provider_settings"))


def _credentials(plan: Plan, names: Sequence[str]) -> str:
    """The stores' credentials by name, and the stores; a credential file is in the container, where the program can read it too."""
    if not names:
        return ""
    opened = " and ".join(dict.fromkeys(url for url in (plan.store, plan.program.data) if url))
    shown = ", ".join(f"{name} (a file that the program can read)" if name in FILES else name for name in names)
    return f"{shown}, for the worker to open {opened}"


def _resolved(folder: Path, name: str) -> str:
    """The absolute path that a path in the job refers to; unchanged if it cannot be resolved."""
    try:
        return str((folder / name).resolve())
    except (OSError, RuntimeError, ValueError):
        return str(folder / name)


def _resources(plan: Plan) -> str:
    """The resources and limits that determine the cost."""
    wanted, limits = plan.job.resources, plan.job.limits
    parts = [f"{name}: {value}" for name in ("machine", "accelerator", "cpus", "memory") if (value := getattr(wanted, name)) is not None]
    parts += [f"nodes: {wanted.nodes}"] if wanted.nodes > 1 else []
    parts += [f"at most {limits.duration} per attempt"] if limits.duration else []
    parts += [f"up to {plan.program.attempts} attempts"] if plan.program.attempts > 1 else []
    return ", ".join(parts)


def _shown(settings: object) -> str:
    """The provider settings in ``run.json``: they are shown, never used."""
    if not isinstance(settings, dict) or not settings:
        return ""
    return "the submitter's settings: " + ", ".join(f"{name}: {value}" for name, value in settings.items())
