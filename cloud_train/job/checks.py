"""What no single field can decide: parts of a job that do not fit each other, and values that point at nothing."""

import re
from collections.abc import Iterator
from pathlib import Path as FilePath

from cloud_train.job.architecture import layers
from cloud_train.job.datasets import describe
from cloud_train.job.facts import DataFacts, LayerFacts
from cloud_train.job.models import CnnModel, DigitsData, FilesData, JobSpec, PythonDocsData, RnnModel, ScriptModel, TextData
from cloud_train.job.problems import Path

Finding = tuple[Path, str, str]
"""Where, what is wrong, and what was expected."""

_SECRET = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_|$)", re.IGNORECASE)
_IMAGES = "an image data set: digits"
_TEXTS = "a text: python-docs or text"


def check(spec: JobSpec, directory: FilePath) -> list[Finding]:
    """Everything in ``spec`` that does not fit together; ``directory`` is where its relative paths start."""
    return [*_model_and_data(spec, directory), *_training(spec), *_environment(spec)]


def facts(spec: JobSpec, directory: FilePath) -> tuple[DataFacts | None, tuple[LayerFacts, ...]]:
    """What the data and the model amount to; raises FieldError where the data cannot be used, or the model does not fit it."""
    if isinstance(spec.model, ScriptModel) or not isinstance(spec.data, DigitsData | PythonDocsData | TextData):
        return None, ()
    data = describe(spec.data, directory)
    return data, layers(spec.model, data)


def _model_and_data(spec: JobSpec, directory: FilePath) -> Iterator[Finding]:
    model, data = spec.model, spec.data
    if isinstance(model, ScriptModel):
        if data is not None and not isinstance(data, FilesData):
            yield (
                ("data", "dataset"),
                f"a script reads its own data, and cannot be given {data.dataset!r}",
                "dataset: files, or no data at all",
            )
        if not (directory / model.directory).is_dir():
            yield ("model", "directory"), f"there is no folder {directory / model.directory}", "a folder, relative to the job file"
        if isinstance(data, FilesData) and not (directory / FilePath(data.path).expanduser()).exists():
            yield ("data", "path"), f"there is nothing at {directory / FilePath(data.path).expanduser()}", "a file or a folder"
        return
    wanted = _IMAGES if isinstance(model, CnnModel) else _TEXTS
    if data is None:
        yield ("model", "kind"), f"a {model.kind} needs data, and the job names none", f"data: with {wanted}"
    elif isinstance(data, FilesData) or isinstance(data, DigitsData) != isinstance(model, CnnModel):
        yield ("data", "dataset"), f"a {model.kind} cannot learn from {data.dataset!r}", wanted
    if isinstance(model, RnnModel) and model.cell == "linear":
        if model.layers > 1:
            yield ("model", "layers"), "the linear cell has one layer", "layers: 1, or another cell"
        if model.embedding_size is not None:
            yield ("model", "embedding_size"), "the linear cell takes its characters one-hot", "no embedding_size, or another cell"


def _training(spec: JobSpec) -> Iterator[Finding]:
    train = spec.train
    if train.epochs is not None and train.steps is not None:
        yield ("train", "steps"), "a job is as long as its epochs or its steps, not both", "epochs or steps"
    if train.optimizer.momentum and train.optimizer.name != "sgd":
        yield ("train", "optimizer", "momentum"), f"{train.optimizer.name} has no momentum of this kind", "name: sgd, or no momentum"


def _environment(spec: JobSpec) -> Iterator[Finding]:
    for name in spec.env:
        if _SECRET.search(name):
            yield ("env", name), f"{name} looks like a secret, and a job file is no place for its value", f"secrets: [{name}]"
        if name.startswith("CLOUD_TRAIN_"):
            yield ("env", name), f"{name} belongs to cloud-train", "another name"
