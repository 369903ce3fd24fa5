"""Values of a run's job that change with its next attempt: ``resume --set``.

They belong to that attempt and to later ones. The record of the run is written again, like that of a run that moves; its provenance keeps
what changed and when.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloud_train.errors import CloudTrainError, ConflictError, UsageError
from cloud_train.job.changing import changed_spec, file_differences
from cloud_train.job.overrides import path_of
from cloud_train.networks.base import ScriptModel
from cloud_train.orchestrator.connections import store_at
from cloud_train.orchestrator.planning import steps_of
from cloud_train.orchestrator.results import newest_step
from cloud_train.orchestrator.run_directory import CHANGES
from cloud_train.run.code_identity import listed
from cloud_train.run.plan import Plan
from cloud_train.run.states import State
from cloud_train.run.view import RunView
from cloud_train.spec.problems import dotted

_ORIGIN = "resume --set"
_OF_CODE = ("sha256", "commit", "is_modified")


def with_changes(plan: Plan, overrides: Sequence[str]) -> Plan:
    """The plan with ``key=value`` texts applied to its job. Raises UsageError and JobFileError."""
    if not overrides:
        return plan
    spec = changed_spec(plan.job, overrides)
    per_epoch, in_all = steps_of(spec, plan.data)
    origins = {**plan.origins, **{dotted(path_of(text)): _ORIGIN for text in overrides}}
    return replace(plan, job=spec, steps_per_epoch=per_epoch, total_steps=in_all, origins=origins)


def trains_on(overrides: Sequence[str]) -> bool:
    """Whether these changes can make a run that has succeeded train further."""
    return any(path_of(text)[:1] == ("train",) for text in overrides)


def check_length(run: RunView, before: Plan, plan: Plan) -> None:
    """Raise UsageError if the changed job ends before the newest checkpoint, and ConflictError if nothing is left to do after success."""
    if isinstance(plan.job.model, ScriptModel) or plan.total_steps is None:
        return
    done = newest_step(store_at(run.store), run)
    if done is None and run.state is State.SUCCEEDED:
        raise ConflictError(f"{run.run_id} has no checkpoint to train on from", hint="submit a new run")
    if done is None or plan.total_steps > done:
        return
    if plan.total_steps == done and run.state is not State.SUCCEEDED:
        return
    wanted = f"{plan.job.train.steps:,} steps" if plan.job.train.steps else f"{plan.job.train.epochs:,} epochs, {plan.total_steps:,} steps"
    epochs = f" ({done / plan.steps_per_epoch:.4g} epochs)" if plan.steps_per_epoch else ""
    raise UsageError(f"{run.run_id} has done {done:,} steps{epochs} already; {wanted} are no more than that", hint=_longer(before))


def _longer(before: Plan) -> str:
    name = "train.steps" if before.job.train.steps else "train.epochs"
    return f"set {name} to the length of the whole training, not to what is added"


def remarks_on(before: Plan, plan: Plan, overrides: Sequence[str]) -> list[str]:
    """What the user should know about these changes."""
    said = [f"changed from attempt {plan.attempt} on: {', '.join(overrides)}"] if overrides else []
    schedule = plan.job.train.schedule_section.name
    if plan.total_steps != before.total_steps and schedule != "constant" and plan.total_steps is not None:
        were = "" if before.total_steps is None else f" instead of {before.total_steps:,}"
        said.append(f"the learning rate now follows the schedule {schedule!r} over {plan.total_steps:,} steps{were}, so it may jump here")
    return said


def job_file_remarks(plan: Plan) -> list[str]:
    """What the job file says now that the run does not do: the run's own values hold."""
    if plan.is_foreign:
        return []
    found: list[str] = []
    with suppress(CloudTrainError):  # it is gone, or has mistakes: nothing of it is used
        found = file_differences(plan.job, plan.origins, Path(plan.job_file))
    if not found:
        return []
    how = "take a value over with --set, where resume allows it, or submit a new run"
    return [f"the job file has changed, and the run keeps its own values ({listed(found)}); {how}"]


def recorded(provenance: Mapping[str, Any], plan: Plan, overrides: Sequence[str], code: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is added to the provenance of a run whose next attempt changes these values, or its ``code``."""
    if not overrides and code is None:
        return {}
    earlier = provenance.get(CHANGES)
    entry = {"attempt": plan.attempt, "set": list(overrides), "code": {name: code[name] for name in _OF_CODE} if code else None}
    return {CHANGES: [*(earlier if isinstance(earlier, list) else []), entry]}
