"""From a job file to a ``JobSpec``: every mistake at once, each with its place; and where each value came from."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from cloud_train.job.checks import Finding, check, check_fit, facts
from cloud_train.job.config import Config
from cloud_train.job.document import Document, read_document
from cloud_train.job.explain import explain, place_of
from cloud_train.job.facts import DataFacts, LayerFacts
from cloud_train.job.models import JobSpec, ScriptModel
from cloud_train.job.overrides import apply_overrides
from cloud_train.job.problems import FieldError, JobFileError, Path, Place, Problem, dotted

DEFAULT_EPOCHS = 5


@dataclass(frozen=True)
class LoadedJob:
    """A job file that was read, with what it amounts to."""

    spec: JobSpec
    file: FilePath
    """The job file, absolute."""
    directory: FilePath
    """Its folder, at which the job's relative paths start."""
    origins: dict[str, str]
    """Dotted path of each value → ``file:line``, ``--set``, ``--provider`` or ``default``."""
    data: DataFacts | None
    layers: tuple[LayerFacts, ...]


def load_job(path: FilePath, overrides: Sequence[str] = (), config: Config | None = None, provider: str | None = None) -> LoadedJob:
    """Read a job file. Of several values for the same thing ``provider`` counts most, then ``overrides``, the config, the file, the
    default.

    Raises NotFoundError if the file cannot be read, and JobFileError with every mistake that is in it.
    """
    file = path.absolute()
    document = _overridden(read_document(path), overrides, config, provider)
    spec, problems = _validate(document)
    data: DataFacts | None = None
    layers: tuple[LayerFacts, ...] = ()
    if spec is not None:
        data, layers, found = _examine(spec, file.parent, wrong=problems)
        # Only what is not wrong by itself is held against the rest.
        found = [finding for finding in found if not any(finding[0][: len(wrong)] == wrong for wrong in problems)]
        problems |= {where: Problem(place_of(where, document.values, document.keys), said, wanted) for where, said, wanted in found}
    if problems or spec is None:
        raise JobFileError(list(problems.values()))
    spec = _with_defaults(spec)
    return LoadedJob(spec, file, file.parent, _origins(spec, document), data, layers)


def _examine(spec: JobSpec, directory: FilePath, wrong: Collection[Path]) -> tuple[DataFacts | None, tuple[LayerFacts, ...], list[Finding]]:
    """What the job amounts to, and what does not fit together in it; the values at the paths ``wrong`` are known to be mistaken."""
    both_right = not any(path[:1] in (("model",), ("data",)) for path in wrong)
    unfit = list(check_fit(spec)) if both_right else []
    found = [*check(spec, directory, wrong), *unfit]
    if any(path[:1] == ("data",) for path, _, _ in found):
        return None, (), found
    try:
        return *facts(spec.model if both_right else None, spec.data, directory), found
    except FieldError as error:
        return None, (), [*found, (error.path, error.reason, error.hint or "")]


def _overridden(document: Document, overrides: Sequence[str], config: Config | None, provider: str | None) -> Document:
    """The document with everything in it that outranks the file, so that all of it is validated alike."""
    data, values = dict(document.data), dict(document.values)
    for name in ("provider", "store"):
        value = getattr(config, name) if config else None
        if config and value is not None:
            data[name], values[(name,)] = value, config.places[(name,)]
    changed = apply_overrides(Document(data, values, document.keys), overrides)
    if provider is None:
        return changed
    return Document({**changed.data, "provider": provider}, {**changed.values, ("provider",): Place("--provider")}, changed.keys)


def _validate(document: Document) -> tuple[JobSpec | None, dict[Path, Problem]]:
    """The spec, and what is wrong. Where something is, the spec is what is left without it, good only for finding further mistakes."""
    try:
        return JobSpec.model_validate(document.data), {}
    except ValidationError as error:
        problems = explain(error.errors(include_url=False), JobSpec, document.data, document.values, document.keys)
    try:
        return JobSpec.model_validate(_remainder(document.data, problems)), problems
    except ValidationError:
        return None, problems


def _remainder(data: dict[str, Any], wrong: Iterable[Path]) -> dict[str, Any]:
    """The file without its mistakes, so that the rest can be looked at. In place of a model with one stands a model that needs no data."""
    # A list with a mistake in it goes as a whole.
    paths = {path[: next((depth for depth, part in enumerate(path) if isinstance(part, int)), len(path))] for path in wrong}
    left = {"name": "job", **_without(data, paths, ())}
    sections = {path[0] for path in paths if path}
    if "data" in sections:
        left.pop("data", None)
    if "model" in sections:
        left["model"] = {"kind": "script", "command": "true"}
    return left


def _without(value: Any, paths: set[Path], here: Path) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner, paths, (*here, key)) for key, inner in value.items() if (*here, key) not in paths}
    return value


def _with_defaults(spec: JobSpec) -> JobSpec:
    if isinstance(spec.model, ScriptModel) or spec.train.epochs or spec.train.steps:
        return spec
    return spec.model_copy(update={"train": spec.train.model_copy(update={"epochs": DEFAULT_EPOCHS})})


def _origins(spec: JobSpec, document: Document) -> dict[str, str]:
    return {dotted(path): _origin(path, document) for path in _leaves(spec.model_dump(mode="json"), ())}


def _origin(path: Path, document: Document) -> str:
    place = document.values.get(path)
    above = path
    while place is None and above:
        above = above[:-1]
        around = document.values.get(above)
        if around is not None and around.line is None:  # an option of the command line gave the whole of it
            place = around
    if place is None:
        return "default"
    return place.file.split(" ")[0] if place.line is None else f"{place.file}:{place.line}"


def _leaves(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path
