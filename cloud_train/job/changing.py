"""Changing the job of a run between two attempts: only values with which its model and its data stay the same."""

from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

from cloud_train.errors import UsageError
from cloud_train.job.checks import check_training
from cloud_train.job.document import Document, read_document
from cloud_train.job.loading import spec_of, with_defaults
from cloud_train.job.models import JobSpec
from cloud_train.job.overrides import apply_overrides, frozen, path_of
from cloud_train.networks.base import ScriptModel
from cloud_train.spec.problems import JobFileError, Path, Place, Problem, dotted, shortened

_OF_TRAINING = tuple(("train", name) for name in ("epochs", "steps", "early_stopping", "deliver", "evaluate", "tensorboard"))
_OF_ANY_RUN = (("checkpoint",), ("limits",), ("retry",), ("resources", "memory"))
_LENGTH = (("train", "epochs"), ("train", "steps"))
_PLACES = (("provider",), ("store",), ("name",))
"""Values that a run or its plan may have from elsewhere."""


def changed_spec(spec: JobSpec, overrides: Sequence[str]) -> JobSpec:
    """``spec`` with each ``key=value`` applied. Raises UsageError for a key that may not change, JobFileError for an invalid value."""
    allowed = _OF_ANY_RUN if isinstance(spec.model, ScriptModel) else (*_OF_TRAINING, *_OF_ANY_RUN)
    for text in overrides:
        path = path_of(text)
        if path and not any(path[: len(one)] == one for one in allowed):
            raise UsageError(
                f"--set {dotted(path)}: a resumed run keeps its model, its data and how it learns",
                hint=f"these may change: {', '.join(map(dotted, allowed))}; for anything else, submit a new run",
            )
    document = apply_overrides(Document(frozen(spec.model_dump(mode="json"))), overrides)
    changed, problems = spec_of(document)
    if changed is None or problems:
        raise JobFileError([*problems.values()])
    if not isinstance(spec.model, ScriptModel):
        changed = with_defaults(changed)
    if found := [Problem(Place(f"--set {dotted(where)}"), said, wanted) for where, said, wanted in check_training(changed, ())]:
        raise JobFileError(found)
    return changed


def file_differences(spec: JobSpec, origins: dict[str, str], file: FilePath) -> list[str]:
    """The values that a job file sets otherwise than the run, each as ``train.epochs: 5, now 10``.

    ``origins`` are those of the run's values: what was given on its command line is not compared. Raises JobFileError for a file with
    mistakes, and NotFoundError.
    """
    document = read_document(file)
    now, problems = spec_of(document)
    if now is None or problems:
        raise JobFileError([*problems.values()])
    now = with_defaults(now)
    before, after = (dict(_leaves(one.model_dump(mode="json"), ())) for one in (spec, now))
    different = (path for path in dict.fromkeys([*before, *after]) if before.get(path) != after.get(path))
    return [
        f"{dotted(path)}: {_shown(before, path)}, now {_shown(after, path)}"
        for path in different
        if not _is_given(path, origins, str(file))
    ]


def _is_given(path: Path, origins: dict[str, str], file: str) -> bool:
    """Whether the run has this value from elsewhere than its job file, such as from its command line."""
    alike = _LENGTH if path in _LENGTH else (path,)
    if path in _PLACES or path[0] in ("env", "secrets"):  # values of env may be secret
        return True
    names = [origins.get(dotted(one), "default") for one in alike]
    if path[:1] == ("data",):
        names += [origin for name, origin in origins.items() if name.startswith("data.") and not origin.startswith(file)]
    return any(name != "default" and not name.startswith(f"{file}:") for name in names)


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif value not in ({}, [], None):
        yield path, value


def _shown(values: dict[Path, Any], path: Path) -> str:
    return shortened(str(values[path])) if path in values else "not set"
