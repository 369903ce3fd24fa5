"""Reads a job file into a ``JobSpec``: reports all mistakes at once, each with its place, and keeps where each value came from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from cloud_train.job.checks import Examination, examine
from cloud_train.job.config import Config, is_provider, overridden_settings
from cloud_train.job.document import Document, read_document
from cloud_train.job.models import BY_NAME, JobSpec
from cloud_train.job.overrides import apply_overrides, section_of
from cloud_train.job.user_defaults import NO_DEFAULTS, UserDefaults
from cloud_train.job.validation_errors import explain, place_of
from cloud_train.networks.base import ScriptModel
from cloud_train.spec.facts import DataFacts, LayerFacts
from cloud_train.spec.problems import Finding, JobFileError, Path, Place, Problem, dotted, shortened

DEFAULT_EPOCHS = 5


@dataclass(frozen=True)
class LoadedJob:
    """A job file that was read, and the facts about it."""

    spec: JobSpec
    file: FilePath
    """The job file, absolute."""
    directory: FilePath
    """Its folder, where the job's relative paths start."""
    origins: dict[str, str]
    """Dotted path of each value → ``file:line``, ``--set``, ``--provider``, ``--store`` or ``default``."""
    data: DataFacts | None
    layers: tuple[LayerFacts, ...]
    settings: Mapping[str, Any]
    """The settings of the job's provider: those of the config file, with what ``--set`` changed."""
    absent: Problem | None = None
    """Set if the data is not on this machine; None if it is, if it will be downloaded, or if none is needed."""
    places: Mapping[Path, Place] = field(default_factory=dict)
    """Where each value that was given is written."""


def load_job(
    path: FilePath,
    overrides: Sequence[str] = (),
    config: Config | None = None,
    provider: str | None = None,
    *,
    store: str | None = None,
    absent_data_is_fine: bool = False,
    defaults: UserDefaults = NO_DEFAULTS,
) -> LoadedJob:
    """Read a job file. Order of precedence: ``provider`` and ``store``, ``overrides``, the config, the file, the user's ``defaults``, ours.

    An override whose key begins with a provider's name, such as ``aws.machine``, changes that provider's settings.

    Raises NotFoundError if the file cannot be read, and JobFileError with every mistake in it. Data that is not on this machine is a
    mistake, unless ``absent_data_is_fine``: then the job holds what is known without the data.
    """
    file = path.absolute()
    of_settings = [text for text in overrides if (name := section_of(text)) not in JobSpec.model_fields and is_provider(name)]
    of_job = [text for text in overrides if text not in of_settings]
    written = read_document(path, keeps_duplicates=True)
    document = _overridden(with_sections(_with_user_defaults(written, defaults)), of_job, config, {"provider": provider, "store": store})
    spec, problems = spec_of(document)
    examined = Examination() if spec is None else examine(spec, file.parent, wrong=problems)
    absent = [examined.absent] if examined.absent else []
    findings = [*examined.findings, *(absent if not absent_data_is_fine else ())]
    # Only values that are valid by themselves are checked against the rest.
    found = [finding for finding in findings if not any(finding[0][:length] in problems for length in range(len(finding[0]) + 1))]
    problems |= {finding[0]: _located(finding, document) for finding in found}
    settings, misplaced = _settings(config, of_settings, spec.provider) if spec else ({}, [])
    if problems or misplaced or written.duplicates or spec is None:
        raise JobFileError([*written.duplicates, *problems.values(), *misplaced])
    spec = with_defaults(spec)
    origins = _origins(spec, document)
    missing = _located(absent[0], document) if absent else None
    return LoadedJob(spec, file, file.parent, origins, examined.data, examined.layers, settings, missing, document.values)


def _settings(config: Config | None, overrides: Sequence[str], provider: str) -> tuple[dict[str, Any], list[Problem]]:
    """The provider's settings, and the mistakes in the overrides of them."""
    elsewhere = [text for text in overrides if section_of(text) != provider]
    expected = f"a setting of {provider!r}, or --provider {section_of(elsewhere[0])}" if elsewhere else ""
    mistakes = [Problem(Place(f"--set {shortened(text)}"), f"has no effect: the job runs on {provider!r}", expected) for text in elsewhere]
    try:
        return overridden_settings(config, [text for text in overrides if text not in elsewhere], provider), mistakes
    except JobFileError as error:
        return {}, [*mistakes, *error.problems]


def _located(finding: Finding, document: Document) -> Problem:
    where, said, wanted = finding
    return Problem(place_of(where, document.values, document.keys), said, wanted)


def with_sections(document: Document) -> Document:
    """The document with a section wherever a job gives only the name that such a section begins with: ``optimizer: adam``."""
    data, values = dict(document.data), dict(document.values)
    for path, key in BY_NAME.items():
        *above, last = path
        section: Any = data
        for part in above:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(name := section.get(last), str):
            if above:
                (first,) = above
                section = data[first] = dict(section)
            section[last] = {key: name}
            values[(*path, key)] = values.get(path, Place(""))
    return Document(data, values, document.keys, document.duplicates)


def _with_user_defaults(document: Document, defaults: UserDefaults) -> Document:
    added = {name: value for name, value in defaults.values.items() if name not in document.data}
    places: dict[Path, Place] = {(name,): defaults.places[name] for name in added}
    return Document({**document.data, **added}, {**document.values, **places}, document.keys)


def _overridden(document: Document, overrides: Sequence[str], config: Config | None, options: Mapping[str, str | None]) -> Document:
    """The document with everything that overrides the file applied, so that all of it is validated in the same way."""
    data, values = dict(document.data), dict(document.values)
    for name in ("provider", "store"):
        value = getattr(config, name) if config else None
        if config and value is not None:
            data[name], values[(name,)] = value, config.places[(name,)]
    changed = apply_overrides(Document(data, values, document.keys), overrides)
    given = {name: value for name, value in options.items() if value is not None}
    places: dict[Path, Place] = {(name,): Place(f"--{name}") for name in given}
    return with_sections(Document({**changed.data, **given}, {**changed.values, **places}, changed.keys))


def spec_of(document: Document) -> tuple[JobSpec | None, dict[Path, Problem]]:
    """The spec and its problems. If there are any, the spec is what remains without them, good only for finding further mistakes."""
    try:
        return JobSpec.model_validate(document.data), {}
    except ValidationError as error:
        problems = explain(error.errors(include_url=False), JobSpec, document.data, document.values, document.keys)
    try:
        return JobSpec.model_validate(_remainder(document.data, problems)), problems
    except ValidationError:
        return None, problems


def _remainder(data: dict[str, Any], wrong: Iterable[Path]) -> dict[str, Any]:
    """The file without its mistakes, so that the rest can be checked. A model with a mistake is replaced by one that needs no data."""
    # A list with a mistake in it is removed as a whole.
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


def with_defaults(spec: JobSpec) -> JobSpec:
    """The spec with the defaults that depend on other fields."""
    if isinstance(spec.model, ScriptModel):
        return spec
    train = spec.train
    changes: dict[str, Any] = {}
    if not train.epochs and not train.steps:
        changes["epochs"] = DEFAULT_EPOCHS
    if train.clip_norm is None:
        changes["clip_norm"] = spec.model.default_clip_norm
    return spec.model_copy(update={"train": train.model_copy(update=changes)})


def _origins(spec: JobSpec, document: Document) -> dict[str, str]:
    return {dotted(path): _origin(path, document) for path in _leaves(spec.model_dump(mode="json"), ())}


def _origin(path: Path, document: Document) -> str:
    place = document.values.get(path)
    above = path
    while place is None and above:
        above = above[:-1]
        around = document.values.get(above)
        if around is not None and around.line is None:  # all of it was set by a command-line option
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
