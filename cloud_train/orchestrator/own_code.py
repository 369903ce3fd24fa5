"""The code that an attempt of a script runs: the run's own, unless today's is asked for.

An image holds the run's code. On this machine a script runs where it is, so its code is compared with what the run recorded of it. Built-in
models have no code of their own.
"""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloud_train.errors import ConflictError, UsageError
from cloud_train.networks.base import ScriptModel
from cloud_train.run.code_identity import CodeIdentity, changed_files, identity_beside, listed
from cloud_train.run.plan import Plan
from cloud_train.run.record import RunRecord
from cloud_train.storage.registry import scheme_of

RECORDED = "code"
"""The key of a run's provenance that has the identity of its code."""
_SHORT = 12


@dataclass(frozen=True)
class ChosenCode:
    """What the next attempt of a script runs."""

    line: str
    """Which code it is, in words."""
    identity: CodeIdentity | None = None
    """To be recorded; None if the record stays as it is."""


def identity_of(plan: Plan) -> CodeIdentity | None:
    """The identity of the plan's code as it is on this machine now; None for a built-in model.

    It covers neither the job file nor a store beside the code.
    """
    if not isinstance(plan.job.model, ScriptModel):
        return None
    job_file = Path(plan.job_file)
    folder = job_file.resolve().parent / plan.job.model.directory
    return identity_beside(folder, job_file, Path(plan.store) if scheme_of(plan.store) == "file" else None)


def recorded(plan: Plan) -> dict[str, Any]:
    """The part of a new run's provenance that identifies its code; empty for a built-in model."""
    found = identity_of(plan)
    return {RECORDED: as_json(found)} if found else {}


def as_json(identity: CodeIdentity) -> dict[str, Any]:
    """The identity as it is recorded."""
    return asdict(identity)


def choose(plan: Plan, record: RunRecord, *, takes_current: bool, in_image: bool) -> ChosenCode | None:
    """The code of the next attempt; None for a built-in model. ``in_image``: the attempt starts the run's own image.

    Raises ConflictError if the run's own code has changed since, and UsageError if a built-in model's is asked for.
    """
    model = plan.job.model
    if not isinstance(model, ScriptModel):
        if takes_current:
            raise UsageError(f"--code: {plan.run_id} trains a built-in model, which has no code of its own")
        return None
    if in_image and not takes_current:
        return ChosenCode(f"code: the run's own, in its image {plan.image}")
    now, folder = identity_of(plan), (Path(plan.job_file).parent / model.directory).resolve()
    assert now is not None
    before = record.provenance.get(RECORDED)
    files = before.get("files") if isinstance(before, dict) else None
    if not isinstance(before, dict) or not isinstance(files, dict) or not all(isinstance(one, str) for one in (*files, *files.values())):
        return ChosenCode(f"code: as it is now in {folder}; the run has no record of its code to compare it with", now)
    changes = changed_files(files, now.files)
    if takes_current:
        return ChosenCode(f"code: as it is now in {folder}{_at(asdict(now))}, {_compared(changes)}", now)
    if decisive := [change for change in changes if not change.endswith(" is new")]:
        raise ConflictError(
            f"the code of {plan.run_id} in {folder} has changed since this run began: {listed(decisive)}",
            hint=f"{_way_back(before)}; or continue with the code as it is now: cloud-train resume {plan.run_id} --code current",
        )
    return ChosenCode(f"code: the run's own, {'with new files' if changes else 'unchanged'} in {folder}{_at(before)}")


def _compared(changes: list[str]) -> str:
    return f"which differs from the run's own: {listed(changes)}" if changes else "which is still the run's own"


def _at(identity: Mapping[str, Any]) -> str:
    commit = identity.get("commit")
    modified = ", modified" if identity.get("is_modified") else ""
    return f" (commit {commit[:_SHORT]}{modified})" if isinstance(commit, str) and commit.isalnum() else ""


def _way_back(before: Mapping[str, Any]) -> str:
    """How to get the run's own code back."""
    commit = before.get("commit")
    if not isinstance(commit, str) or not commit.isalnum():
        return "restore these files, then resume again"
    also = ", with changes that were not committed" if before.get("is_modified") else ""
    return f"go back to commit {shlex.quote(commit[:_SHORT])}{also}, then resume again"
