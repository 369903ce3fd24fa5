"""Checks across fields: parts of a job that do not fit together, and paths to files that do not exist.

Each section checks itself (``check``); this module checks the combination.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath

from pydantic import BaseModel

from cloud_train.data.base import IN_STORE, DataSection, SampleKind
from cloud_train.data.registry import DATASETS
from cloud_train.environment import TRAINER_VARIABLES
from cloud_train.job.cloud_names import meant_azure_store
from cloud_train.job.models import JobSpec
from cloud_train.job.optimizers import OptimizerSection
from cloud_train.job.program_file import program_file, similar_file
from cloud_train.job.schedules import ScheduleSection
from cloud_train.job.start_from import check_start
from cloud_train.networks.base import ModelSection, ScriptModel
from cloud_train.spec.facts import DataFacts, LayerFacts
from cloud_train.spec.paths import is_there, mistake_in
from cloud_train.spec.problems import AbsentDataError, FieldError, Finding, Path
from cloud_train.spec.registry import BrokenComponentError, full_reason, plugin_code
from cloud_train.spec.secret_names import granting_parameter, looks_secret, without_credentials

_OURS = "CLOUD_TRAIN_"
_NOT_IN_IMAGES = re.compile(r"://|[?#=]|\s")
"""Characters that occur in URLs and their queries, which may hold credentials, but never in the name of an image."""


_METRICS = ("validation/loss", "validation/accuracy")
_METRICS_OF: dict[SampleKind, tuple[str, ...]] = {
    "text": (*_METRICS, "validation/bits_per_character"),
    "series": ("validation/loss", "validation/mae", "validation/rmse", "validation/mase"),
}
"""What a validation reports, where that is not loss and accuracy."""
_OPTIMIZER: Path = ("train", "optimizer")


@dataclass(frozen=True)
class Examination:
    """The facts about a job, and its mistakes."""

    findings: tuple[Finding, ...] = ()
    data: DataFacts | None = None
    layers: tuple[LayerFacts, ...] = ()
    absent: Finding | None = None
    """Set if the data is not on this machine; not part of ``findings``."""


def examine(spec: JobSpec, directory: FilePath, wrong: Collection[Path] = ()) -> Examination:
    """Check all of ``spec``; its relative paths start at ``directory``.

    The values at the paths ``wrong`` are known to be invalid and were replaced by defaults, so nothing is derived from them.
    """
    sections = {path[:1] for path in wrong}
    model_is_right, data_is_right = ("model",) not in sections, ("data",) not in sections
    findings = [*_check(spec, wrong)]
    if model_is_right:
        findings += [*_asked(spec.model, "check", spec.data), *_check_script(spec, directory)]
    findings += _check_image(spec, directory)
    if model_is_right:
        findings += check_start(spec, directory)
    if model_is_right and data_is_right:
        findings += _check_fit(spec)
    if spec.data is None or any(path[:1] == ("data",) for path, _, _ in findings):
        return Examination(tuple(findings))
    absent: Finding | None = None
    try:
        data = _data_facts(spec.data, directory)
    except AbsentDataError as error:
        data, absent = error.known, _failure(spec.data, error)
    except (FieldError, BrokenComponentError) as error:
        return Examination((*findings, _failure(spec.data, error)))
    if data is None or isinstance(spec.model, ScriptModel):
        return Examination(tuple(findings), data, absent=absent)
    findings += check_numbers(spec, data)
    layers: tuple[LayerFacts, ...] = ()
    try:
        layers = _layers(spec.model, data)
    except (FieldError, BrokenComponentError) as error:
        findings.append(_failure(spec.model, error))
    return Examination(tuple(findings), data, layers, absent)


def _data_facts(data: DataSection, directory: FilePath) -> DataFacts | None:
    with plugin_code(data, "fails in describe"):
        facts = data.describe(directory)
        if not isinstance(facts, DataFacts | None):
            raise TypeError(f"it returned {type(facts).__name__}, not DataFacts")
    return facts


def _layers(model: ModelSection, data: DataFacts) -> tuple[LayerFacts, ...]:
    with plugin_code(model, "fails in layer_facts"):
        layers = tuple(model.layer_facts(data))
        if not all(isinstance(layer, LayerFacts) for layer in layers):
            raise TypeError("it returned something other than LayerFacts")
    return layers


def _asked(component: BaseModel, method: str, *arguments: object) -> list[Finding]:
    """The findings of a component's method; a plugin whose code fails there is one itself."""
    try:
        with plugin_code(component, f"fails in {method}"):
            return [(path, said, wanted) for path, said, wanted in getattr(component, method)(*arguments)]
    except BrokenComponentError as error:
        return [_failure(component, error)]


def _failure(component: BaseModel, error: FieldError | BrokenComponentError) -> Finding:
    """The finding for an error that a component's code raised; that of a broken plugin is at the component's name."""
    if isinstance(error, FieldError):
        return error.path, error.reason, error.hint or ""
    places: dict[type[BaseModel], Path] = {
        DataSection: ("data", "dataset"),
        ModelSection: ("model", "kind"),
        OptimizerSection: (*_OPTIMIZER, "name"),
        ScheduleSection: ("train", "schedule"),
    }
    path = next(path for base, path in places.items() if isinstance(component, base))
    return path, full_reason(error), ""


def _check(spec: JobSpec, wrong: Collection[Path]) -> Iterator[Finding]:
    """Mistakes that do not depend on whether model and data fit together."""
    if spec.data is not None:
        yield from _asked(spec.data, "check")
    if mistake := mistake_in(spec.store):
        yield ("store",), *mistake
    elif "://" in spec.store and not IN_STORE.fullmatch(spec.store.partition("?")[0].rstrip("/")) and not spec.store.startswith("file://"):
        wanted = meant_azure_store(spec.store) or "a folder, s3://bucket/…, gs://bucket/… or az://account/container/…"
        yield ("store",), f"{without_credentials(spec.store)!r} is not a store URL", wanted
    elif "://" in spec.store and granting_parameter(spec.store):
        yield ("store",), "a store URL must not contain a signature or a key", "the URL without them"
    yield from check_training(spec, wrong)
    for path, said, wanted in ignored_fields(spec):
        deciding = {(*path[:-1], "name"), (*path[:-1], "metric")}
        if is_given(spec, path) and deciding.isdisjoint(wrong):
            yield path, said, wanted
    if spec.limits.duration is not None and not spec.limits.duration.seconds:
        yield ("limits", "duration"), "a duration of zero would stop the run at once", "a duration greater than zero, or no limit"
    yield from _environment(spec)


def _check_fit(spec: JobSpec) -> Iterator[Finding]:
    """Why this model cannot learn from this data, or cannot be trained on it in this way."""
    model, data = spec.model, spec.data
    if data is None:
        if not isinstance(model, ScriptModel):
            yield ("model", "kind"), f"model kind {model.kind!r} needs data, but the job has none", f"data: with {_fitting(model)}"
    elif isinstance(model, ScriptModel):
        if data.sample_kind not in model.reads:
            wanted = "dataset: files, or no data section"
            yield ("data", "dataset"), f"a script reads its own data and cannot use the data set {data.dataset!r}", wanted
    elif data.sample_kind not in model.reads:
        yield ("data", "dataset"), f"model kind {model.kind!r} cannot learn from {data.dataset!r}", _fitting(model)
    elif not data.loader:
        yield ("data", "dataset"), f"the built-in trainers cannot load {data.dataset!r}: its plugin sets no loader", _fitting(model)
    else:
        yield from check_learning(spec)


def _fitting(model: ModelSection) -> str:
    """The data sets that a model can learn from."""
    names = [name for name, data in DATASETS.built_in.items() if data.sample_kind in model.reads]
    return f"dataset: {', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else f"dataset: {''.join(names)}"


def _check_script(spec: JobSpec, directory: FilePath) -> Iterator[Finding]:
    if not isinstance(spec.model, ScriptModel):
        return
    folder = directory / spec.model.directory
    if not is_there(folder) or not folder.is_dir():
        yield ("model", "directory"), f"no such folder: {folder}", "a folder, relative to the job file"
    elif spec.image.dockerfile is None and (file := program_file(spec.model.command)) and not is_there(folder / file):
        close = similar_file(folder, file)
        yield ("model", "command"), f"there is no file {file} in {folder}", f"{close!r}?" if close else "a file in model.directory"
    if spec.resources.processes > 1:
        yield ("resources", "processes"), "processes has no effect: a script starts its own processes", "no resources.processes"


def _check_image(spec: JobSpec, directory: FilePath) -> Iterator[Finding]:
    files = {"dockerfile": spec.image.dockerfile, "requirements": spec.image.requirements}
    if spec.image.base is not None and files["dockerfile"] is not None:
        yield ("image", "dockerfile"), "dockerfile and base cannot both be set", "dockerfile or base"
        del files["dockerfile"]
    if spec.image.base is not None and (found := _NOT_IN_IMAGES.search(spec.image.base)):
        yield ("image", "base"), f"the name of an image cannot contain {found[0]!r}", "a name such as registry.example.com/me/digits:1.0"
    for name, path in files.items():
        if path is not None and not (directory / FilePath(path).expanduser()).is_file():
            yield ("image", name), f"no such file: {directory / FilePath(path).expanduser()}", "a file, relative to the job file"


def _environment(spec: JobSpec) -> Iterator[Finding]:
    for name in spec.env:
        if looks_secret(name):
            yield ("env", name), f"{name} looks like a secret; its value must not be in a job file", f"secrets: [{name}]"
        if name.startswith(_OURS):
            yield ("env", name), f"{name} is reserved for cloud-train", "another name"
        elif not isinstance(spec.model, ScriptModel) and name not in TRAINER_VARIABLES and not looks_secret(name):
            wanted = "one that tunes a library, such as OMP_NUM_THREADS; a script may set any variable"
            yield ("env", name), f"the built-in trainers do not accept the variable {name}", wanted
    for index, name in enumerate(spec.secrets):
        if name in spec.env:
            yield ("secrets", index), f"{name} is also listed under env", "env or secrets"
        if name.startswith(_OURS):
            yield ("secrets", index), f"{name} is reserved for cloud-train", "another name"


def ignored_fields(spec: JobSpec) -> Iterator[Finding]:
    """Every field that has no effect in this job, whether it is set or not, with the reason and what would make sense."""
    yield from _asked(spec.model, "ignored_fields")
    if spec.data is not None:
        yield from _asked(spec.data, "ignored_fields")
    if not isinstance(spec.train.schedule, str):
        yield from _asked(spec.train.schedule, "ignored_fields")
    yield from _ranking(("checkpoint", "best"), spec.checkpoint.best.metric)
    if spec.train.early_stopping is not None:
        yield from _ranking(("train", "early_stopping"), spec.train.early_stopping.metric)


def is_given(spec: JobSpec, path: Path) -> bool:
    """Whether the job sets the field at ``path`` and does not leave it at its default."""
    section: object = spec
    for part in path[:-1]:
        section = getattr(section, str(part))
    return isinstance(section, BaseModel) and path[-1] in section.model_fields_set


def _ranking(section: Path, metric: str | None) -> Iterator[Finding]:
    if metric is None:
        yield (*section, "goal"), "goal has no effect without a metric", "a metric, such as validation/loss, or no goal"


def check_training(spec: JobSpec, wrong: Collection[Path]) -> Iterator[Finding]:
    """Mistakes that do not depend on model and data. Nothing is derived from the values at the paths ``wrong``."""
    train = spec.train
    if train.epochs is not None and train.steps is not None:
        yield ("train", "steps"), "epochs and steps cannot both be set", "epochs or steps"
    if train.evaluate.unit == "second":
        yield ("train", "evaluate"), "validation at intervals of time is not reproducible", "epochs or steps, such as '1 epoch'"
    if {(*_OPTIMIZER, "name"), (*_OPTIMIZER, "momentum")}.isdisjoint(wrong):
        yield from _asked(train.optimizer, "check")
    yield from _asked(train.schedule_section, "check")
    if {("train", "batch_size"), ("train", "accumulate"), ("resources", "processes"), ("resources", "nodes")}.isdisjoint(wrong):
        yield from _batch(spec)


def check_learning(spec: JobSpec) -> Iterator[Finding]:
    """What a built-in model cannot do with its data, of a kind that it can learn from."""
    if isinstance(spec.model, ScriptModel) or spec.data is None:
        return
    kind = spec.data.sample_kind
    known = _METRICS_OF.get(kind, _METRICS)
    early_stopping = spec.train.early_stopping
    for path, metric in (
        (("checkpoint", "best", "metric"), spec.checkpoint.best.metric),
        (("train", "early_stopping", "metric"), early_stopping.metric if early_stopping else None),
    ):
        if metric is not None and metric not in known:
            yield path, f"validation on {spec.data.dataset!r} does not report {metric}", ", ".join(known)
    chosen = spec.best
    if early_stopping and early_stopping.metric in known and chosen.metric in known and early_stopping.metric != chosen.metric:
        said = f"the best checkpoint is chosen by {chosen.metric}, so early stopping cannot follow {early_stopping.metric}"
        yield ("train", "early_stopping", "metric"), said, f"{chosen.metric}, or no metric here"
    elif early_stopping and early_stopping.metric and early_stopping.goal and chosen.goal not in (None, early_stopping.goal):
        said = f"the best checkpoint is the one with the {chosen.goal} of {chosen.metric}"
        yield ("train", "early_stopping", "goal"), said, f"{chosen.goal}, or no goal here"
    if kind in _METRICS_OF and spec.train.class_weights is not None:
        said = f"class weights do not apply to a {'language model' if kind == 'text' else 'forecast'}"
        yield ("train", "class_weights"), said, "no class_weights, or a data set with classes"
    if kind == "series" and spec.train.label_smoothing:
        yield ("train", "label_smoothing"), "a forecast has no classes to smooth", "no label_smoothing, or a data set with classes"
    if spec.train.carry_state:
        if kind != "text":
            yield (
                ("train", "carry_state"),
                "carry_state needs text, which continues from sequence to sequence",
                "no carry_state, or a text data set",
            )
        elif spec.train.accumulate > 1:
            yield ("train", "carry_state"), "carry_state cannot be combined with accumulate", "no accumulate, or no carry_state"


def check_numbers(spec: JobSpec, data: DataFacts) -> Iterator[Finding]:
    """What does not fit the data's numbers of classes and samples."""
    train = spec.train
    weights = train.class_weights
    if isinstance(weights, tuple) and len(weights) != data.classes:
        yield ("train", "class_weights"), f"{len(weights)} weights for {data.classes} classes", f"{data.classes} numbers, or balanced"
    if train.carry_state and data.train_samples is not None and data.train_samples < train.batch_size:
        yield (
            ("train", "carry_state"),
            f"carry_state reads {train.batch_size:,} sequences in parallel, but the text has {data.train_samples:,} training sequences",
            "a smaller batch_size, a smaller data.sequence_length, or more text",
        )


def _batch(spec: JobSpec) -> Iterator[Finding]:
    train, processes = spec.train, spec.resources.processes * spec.resources.nodes
    if processes > train.batch_size:
        wanted = f"at most {train.batch_size}, or a larger train.batch_size"
        yield ("resources", "processes"), f"{processes} processes cannot share a batch of {train.batch_size}", wanted
    elif train.accumulate * processes > train.batch_size:
        least = train.accumulate * processes
        shared = f" for each of {processes} processes" if processes > 1 else ""
        said = f"a batch of {train.batch_size} cannot be split into {train.accumulate} parts{shared}"
        yield ("train", "accumulate"), said, f"batch_size: at least {least}"
    if train.carry_state and train.batch_size % processes:
        wanted = f"batch_size: a multiple of {processes}"
        yield (
            ("train", "carry_state"),
            f"a batch of {train.batch_size} sequences cannot be divided evenly among {processes} processes",
            wanted,
        )
