"""Whose word counts: what this machine submitted or accepted, and what has to be accepted before it is acted on.

A run directory can be written by everyone who can write to its store. It is believed only where the ledger holds the SHA-256 of its
``run.json``; anything else is shown to the caller first. docs/security.md draws the whole border.
"""

import shlex
from dataclasses import dataclass

from cloud_train.errors import ConflictError
from cloud_train.job.models import ScriptModel
from cloud_train.orchestrator.consent import Ask, NotTrustedError, Question
from cloud_train.orchestrator.observing import RunView, read_record_bytes
from cloud_train.orchestrator.stores import store_at
from cloud_train.run.ledger import Ledger
from cloud_train.run.plan import Plan
from cloud_train.run.record import RunRecord, sha256_of


@dataclass(frozen=True)
class Spoken:
    """A ``run.json`` as it is in the store now."""

    record: RunRecord
    sha256: str
    is_accepted: bool
    """Whether this machine wrote or accepted it."""
    is_own: bool
    """Whether this machine wrote it, so that its settings are this machine's too."""


def spoken(ledger: Ledger, run: RunView) -> Spoken:
    """What the run directory says of its run, and whether this machine stands behind it.

    Raises ConflictError where it is not what this machine wrote or accepted before, NotFoundError or CorruptError where there is none.
    """
    known = ledger.records(run.run_id)
    written, record = read_record_bytes(store_at(run.store), run.run_id)
    sha256 = sha256_of(written)
    if known and sha256 not in known:
        raise ConflictError(
            f"run.json of {run.run_id} was changed in {run.store} by someone else, so nothing in it is carried out",
            hint=f"if you expected that, accept the new one: cloud-train adopt {shlex.quote(run.run_directory)},"
            f" then cloud-train resume {run.run_id}",
        )
    return Spoken(record, sha256, bool(known), known.get(sha256, False))


def accept(plan: Plan, settings_from: str, said: Spoken, ask: Ask) -> None:
    """Show what ``plan`` would start and ask for it; raises NotTrustedError unless it is accepted."""
    subject = f"{plan.run_id} was not submitted from here; resuming it starts"
    if not ask(Question(subject, tuple(_facts(plan, settings_from, said.record)), "Start it?")):
        raise NotTrustedError(
            f"{plan.run_id} was not submitted from here, and was not accepted",
            hint=f"read what it would start, then accept it with: cloud-train resume {plan.run_id} --trust",
        )


def _facts(plan: Plan, settings_from: str, record: RunRecord) -> list[tuple[str, str]]:
    """Everything of a run that reaches this machine or the caller's account."""
    program, job = plan.program, plan.job
    is_script = isinstance(job.model, ScriptModel)
    facts = [
        ("command", shlex.join(program.command) if is_script else f"the built-in trainer of {job.model.kind} models"),
        ("folder", program.directory if plan.image is None else ""),
        ("image", plan.image or ""),
        ("code", _code(plan) if is_script else ""),
        ("environment", "  ".join(f"{name}={value}" for name, value in program.environment.items())),
        ("secrets", ", ".join(job.secrets)),
        ("data", plan.host_data or program.data or getattr(job.data, "url", None) or ""),
        ("run directory", f"{plan.store.rstrip('/')}/{plan.run_id}"),
        ("provider", f"{plan.provider}, with {settings_from}"),
        ("not used", _shown(record.plan.get("provider_settings"))),
    ]
    return [(name, value) for name, value in facts if value]


def _code(plan: Plan) -> str:
    folder = getattr(plan.job.model, "directory", ".")
    return f"folder {folder} beside {plan.job_file}"


def _shown(settings: object) -> str:
    """The provider settings of whoever submitted the run: they are shown, never used."""
    if not isinstance(settings, dict) or not settings:
        return ""
    return "the submitter's settings: " + ", ".join(f"{name}: {value}" for name, value in settings.items())
