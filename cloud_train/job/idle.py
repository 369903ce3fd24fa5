"""Fields that mean nothing beside what else the job says: the blocks of a residual net, say. Whoever gives one is told so."""

from collections.abc import Iterator

from pydantic import BaseModel

from cloud_train.job.datasets import DownloadableData
from cloud_train.job.models import CnnModel, JobSpec, Schedule
from cloud_train.spec.problems import Finding, Path

_OF_SCHEDULES = {"every": "step", "factor": "step", "peak_at": "one-cycle"}


def idle_fields(spec: JobSpec) -> Iterator[Finding]:
    """Every field that means nothing in this job, given or not, with the reason and what would make sense."""
    yield from _model(spec)
    yield from _data(spec)
    if isinstance(spec.train.schedule, Schedule):
        yield from _schedule(spec.train.schedule)
    yield from _ranking(("checkpoint", "best"), spec.checkpoint.best.metric)
    if spec.train.early_stopping is not None:
        yield from _ranking(("train", "early_stopping"), spec.train.early_stopping.metric)


def is_given(spec: JobSpec, path: Path) -> bool:
    """Whether the job says something about the field at ``path``, and does not leave it to its default."""
    section: object = spec
    for part in path[:-1]:
        section = getattr(section, str(part))
    return isinstance(section, BaseModel) and path[-1] in section.model_fields_set


def _model(spec: JobSpec) -> Iterator[Finding]:
    model = spec.model
    if not isinstance(model, CnnModel):
        return
    if model.network == "blocks":
        yield ("model", "stem"), "only a residual net has a stem", "network: resnet18 or resnet50, or no stem"
    else:
        yield ("model", "blocks"), f"a {model.network} has blocks of its own", "network: blocks, or no blocks"
        yield ("model", "head"), f"a {model.network} always ends with the averages of its channels", "network: blocks, or no head"


def _data(spec: JobSpec) -> Iterator[Finding]:
    data = spec.data
    if isinstance(data, DownloadableData) and data.path is not None:
        yield ("data", "url"), "data comes from a path or from a url, not from both", "path or url"
        yield ("data", "sha256"), "data that a path names is not compared with a checksum", "url and sha256, or path alone"


def _schedule(schedule: Schedule) -> Iterator[Finding]:
    for field, name in _OF_SCHEDULES.items():
        if schedule.name != name:
            yield ("train", "schedule", field), f"{field} means nothing to the schedule {schedule.name}", f"name: {name}, or no {field}"
    if schedule.name == "one-cycle":
        wanted = "peak_at, or another schedule"
        yield ("train", "schedule", "warmup"), "one-cycle rises by itself, and has no warm-up", wanted


def _ranking(section: Path, metric: str | None) -> Iterator[Finding]:
    if metric is None:
        yield (*section, "goal"), "a goal is that of a metric, and none is given", "metric: validation/loss, say, or no goal"
