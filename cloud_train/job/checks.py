"""What no single field can decide: parts of a job that do not fit each other, and values that point at nothing.

Each section checks itself (``check``); here is what puts them together.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath

from cloud_train.data.base import IN_STORE
from cloud_train.data.registry import DATASETS
from cloud_train.job.ignored_fields import ignored_fields, is_given
from cloud_train.job.models import JobSpec
from cloud_train.job.training_checks import check_learning, check_numbers, check_training
from cloud_train.networks.base import ModelSection
from cloud_train.networks.script import ScriptModel
from cloud_train.spec.facts import DataFacts, LayerFacts
from cloud_train.spec.paths import has_home, is_there
from cloud_train.spec.problems import AbsentDataError, FieldError, Finding, Path
from cloud_train.spec.secret_names import granting_parameter, looks_secret, without_credentials
from cloud_train.spec.trainer_variables import TRAINER_VARIABLES

_OURS = "CLOUD_TRAIN_"
_NOT_IN_IMAGES = re.compile(r"://|[?#=]|\s")
"""What belongs to URLs and their queries, which may hold credentials, and to no image's name."""


@dataclass(frozen=True)
class Examination:
    """What a job amounts to, and what is wrong with it."""

    findings: tuple[Finding, ...] = ()
    data: DataFacts | None = None
    layers: tuple[LayerFacts, ...] = ()
    absent: Finding | None = None
    """Said apart from the ``findings``: the data is not on this machine."""


def examine(spec: JobSpec, directory: FilePath, wrong: Collection[Path] = ()) -> Examination:
    """Look at the whole of ``spec``; ``directory`` is where its relative paths start.

    The values at the paths ``wrong`` are known to be mistaken: defaults stand in their place, and nothing follows from them.
    """
    sections = {path[:1] for path in wrong}
    model_is_right, data_is_right = ("model",) not in sections, ("data",) not in sections
    findings = [*_check(spec, wrong)]
    if model_is_right:
        findings += [*spec.model.check(spec.data), *_check_script(spec, directory)]
    findings += _check_image(spec, directory)
    if model_is_right and data_is_right:
        findings += _check_fit(spec)
    if spec.data is None or any(path[:1] == ("data",) for path, _, _ in findings):
        return Examination(tuple(findings))
    absent: Finding | None = None
    try:
        data = spec.data.describe(directory)
    except AbsentDataError as error:
        data, absent = error.known, _finding(error)
    except FieldError as error:
        return Examination((*findings, _finding(error)))
    if data is None or isinstance(spec.model, ScriptModel):
        return Examination(tuple(findings), data, absent=absent)
    findings += check_numbers(spec, data)
    try:
        return Examination(tuple(findings), data, spec.model.layer_facts(data), absent)
    except FieldError as error:
        return Examination((*findings, _finding(error)), data, absent=absent)


def _check(spec: JobSpec, wrong: Collection[Path]) -> Iterator[Finding]:
    """What is wrong without regard to how model and data fit."""
    if spec.data is not None:
        yield from spec.data.check()
    if not has_home(spec.store):
        yield ("store",), f"no user is called {FilePath(spec.store).parts[0]!r}", "a path that starts with '~/', or the whole path"
    if "://" in spec.store and not IN_STORE.fullmatch(spec.store.partition("?")[0].rstrip("/")) and not spec.store.startswith("file://"):
        wanted = "a folder, s3://bucket/…, gs://bucket/… or az://account/container/…"
        yield ("store",), f"{without_credentials(spec.store)!r} is not the URL of a store", wanted
    elif "://" in spec.store and granting_parameter(spec.store):
        yield ("store",), "a signature or a key must not be in the URL of a store", "the URL without them"
    yield from check_training(spec, wrong)
    for path, said, wanted in ignored_fields(spec):
        deciding = {(*path[:-1], "name"), (*path[:-1], "metric")}
        if is_given(spec, path) and deciding.isdisjoint(wrong):
            yield path, said, wanted
    if spec.limits.duration is not None and not spec.limits.duration.seconds:
        yield ("limits", "duration"), "a duration of zero would stop the run at once", "a duration of more than nothing, or no limit"
    yield from _environment(spec)


def _check_fit(spec: JobSpec) -> Iterator[Finding]:
    """Why this model cannot learn from this data, or not in this way."""
    model, data = spec.model, spec.data
    if data is None:
        if not isinstance(model, ScriptModel):
            yield ("model", "kind"), f"model kind {model.kind!r} needs data, and the job has none", f"data: with {_fitting(model)}"
    elif isinstance(model, ScriptModel):
        if data.sample_kind not in model.reads:
            wanted = "dataset: files, or no data at all"
            yield ("data", "dataset"), f"a script reads its own data and cannot be given {data.dataset!r}", wanted
    elif data.sample_kind not in model.reads:
        yield ("data", "dataset"), f"model kind {model.kind!r} cannot learn from {data.dataset!r}", _fitting(model)
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
        yield ("model", "directory"), f"there is no folder {folder}", "a folder, relative to the job file"
    if spec.resources.processes > 1:
        yield ("resources", "processes"), "a script starts its own processes", "no processes"


def _check_image(spec: JobSpec, directory: FilePath) -> Iterator[Finding]:
    files = {"dockerfile": spec.image.dockerfile, "requirements": spec.image.requirements}
    if spec.image.base is not None and files["dockerfile"] is not None:
        yield ("image", "dockerfile"), "dockerfile and base exclude each other", "one of the two"
        del files["dockerfile"]
    if spec.image.base is not None and (found := _NOT_IN_IMAGES.search(spec.image.base)):
        yield ("image", "base"), f"the name of an image has no {found[0]!r}", "a name such as registry.example.com/me/digits:1.0"
    for name, path in files.items():
        if path is not None and not (directory / FilePath(path).expanduser()).is_file():
            yield ("image", name), f"there is no file {directory / FilePath(path).expanduser()}", "a file, relative to the job file"


def _environment(spec: JobSpec) -> Iterator[Finding]:
    for name in spec.env:
        if looks_secret(name):
            yield ("env", name), f"{name} looks like a secret; its value must not be in a job file", f"secrets: [{name}]"
        if name.startswith(_OURS):
            yield ("env", name), f"{name} belongs to cloud-train", "another name"
        elif not isinstance(spec.model, ScriptModel) and name not in TRAINER_VARIABLES and not looks_secret(name):
            wanted = "one that tunes a library, such as OMP_NUM_THREADS; a script may set any variable"
            yield ("env", name), f"the built-in trainers do not accept the variable {name}", wanted
    for index, name in enumerate(spec.secrets):
        if name in spec.env:
            yield ("secrets", index), f"{name} is under env as well", "one of the two"
        if name.startswith(_OURS):
            yield ("secrets", index), f"{name} belongs to cloud-train", "another name"


def _finding(error: FieldError) -> Finding:
    return error.path, error.reason, error.hint or ""
