"""Fields without an effect beside the rest of the job, such as the blocks of a residual net. A job that sets one is refused."""

from collections.abc import Iterator

from pydantic import BaseModel

from cloud_train.job.models import JobSpec
from cloud_train.spec.problems import Finding, Path


def ignored_fields(spec: JobSpec) -> Iterator[Finding]:
    """Every field without an effect in this job, given or not, with the reason and what would make sense."""
    yield from spec.model.ignored_fields()
    if spec.data is not None:
        yield from spec.data.ignored_fields()
    if not isinstance(spec.train.schedule, str):
        yield from spec.train.schedule.ignored_fields()
    yield from _ranking(("checkpoint", "best"), spec.checkpoint.best.metric)
    if spec.train.early_stopping is not None:
        yield from _ranking(("train", "early_stopping"), spec.train.early_stopping.metric)


def is_given(spec: JobSpec, path: Path) -> bool:
    """Whether the job sets the field at ``path``, and does not leave it to its default."""
    section: object = spec
    for part in path[:-1]:
        section = getattr(section, str(part))
    return isinstance(section, BaseModel) and path[-1] in section.model_fields_set


def _ranking(section: Path, metric: str | None) -> Iterator[Finding]:
    if metric is None:
        yield (*section, "goal"), "a goal needs a metric", "metric: validation/loss, say, or no goal"
