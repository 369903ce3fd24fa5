"""What no single field can decide: parts of a job that do not fit each other, and values that point at nothing."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path as FilePath

from cloud_train.job.architecture import layers
from cloud_train.job.datasets import describe
from cloud_train.job.document import has_home
from cloud_train.job.facts import DataFacts, LayerFacts
from cloud_train.job.models import CnnModel, Data, DigitsData, FilesData, JobSpec, Model, RnnModel, ScriptModel
from cloud_train.job.problems import Path
from cloud_train.job.secrecy import looks_secret

Finding = tuple[Path, str, str]
"""Where, what is wrong, and what was expected."""

_IMAGES = "an image data set: digits"
_TEXTS = "a text: python-docs or text"
_OURS = "CLOUD_TRAIN_"


def check(spec: JobSpec, directory: FilePath, wrong: Collection[Path] = ()) -> Iterator[Finding]:
    """What is wrong in ``spec`` without regard to how model and data fit; ``directory`` is where its relative paths start.

    The values at the paths ``wrong`` are known to be mistaken: defaults stand in their place, and nothing follows from them.
    """
    yield from _model(spec, directory)
    yield from _paths(spec, directory)
    yield from _training(spec, wrong)
    yield from _environment(spec)


def check_fit(spec: JobSpec) -> Iterator[Finding]:
    """Why this model cannot learn from this data."""
    model, data = spec.model, spec.data
    if isinstance(model, ScriptModel):
        if data is not None and not isinstance(data, FilesData):
            yield (
                ("data", "dataset"),
                f"a script reads its own data, and cannot be given {data.dataset!r}",
                "dataset: files, or no data at all",
            )
        return
    wanted = _IMAGES if isinstance(model, CnnModel) else _TEXTS
    if data is None:
        yield ("model", "kind"), f"a {model.kind} needs data, and the job names none", f"data: with {wanted}"
    elif isinstance(data, FilesData) or isinstance(data, DigitsData) != isinstance(model, CnnModel):
        yield ("data", "dataset"), f"a {model.kind} cannot learn from {data.dataset!r}", wanted


def facts(model: Model | None, data: Data | None, directory: FilePath) -> tuple[DataFacts | None, tuple[LayerFacts, ...]]:
    """What data and model amount to, where the model fits the data. Raises FieldError for data that cannot be used, or is too small."""
    if data is None or isinstance(data, FilesData):
        return None, ()
    described = describe(data, directory)
    return described, () if model is None or isinstance(model, ScriptModel) else layers(model, described)


def _model(spec: JobSpec, directory: FilePath) -> Iterator[Finding]:
    model = spec.model
    if isinstance(model, ScriptModel) and not _is_there(directory / model.directory, FilePath.is_dir):
        yield ("model", "directory"), f"there is no folder {directory / model.directory}", "a folder, relative to the job file"
    if isinstance(model, RnnModel) and model.cell == "linear":
        if model.layers > 1:
            yield ("model", "layers"), "the linear cell has one layer", "layers: 1, or another cell"
        if model.embedding_size is not None:
            yield ("model", "embedding_size"), "the linear cell takes its characters one-hot", "no embedding_size, or another cell"


def _paths(spec: JobSpec, directory: FilePath) -> Iterator[Finding]:
    for where, text in (("store",), spec.store), (("data", "path"), getattr(spec.data, "path", "")):
        if not has_home(text):
            yield where, f"nobody here is called {FilePath(text).parts[0]!r}", "a path that starts with '~/', or the whole path"
        elif where[0] == "data" and isinstance(spec.data, FilesData) and not _is_there(directory / FilePath(text).expanduser()):
            yield where, f"there is nothing at {directory / text}", "a file or a folder, relative to the job file"


def _training(spec: JobSpec, wrong: Collection[Path]) -> Iterator[Finding]:
    train = spec.train
    if train.epochs is not None and train.steps is not None:
        yield ("train", "steps"), "a job is as long as its epochs or its steps, not both", "epochs or steps"
    if train.optimizer.momentum and train.optimizer.name != "sgd" and ("train", "optimizer", "name") not in wrong:
        yield ("train", "optimizer", "momentum"), f"{train.optimizer.name} has no momentum of this kind", "name: sgd, or no momentum"
    if spec.limits.duration is not None and not spec.limits.duration.seconds:
        yield ("limits", "duration"), "a run that is stopped at once does nothing", "a duration of more than nothing, or no limit"


def _environment(spec: JobSpec) -> Iterator[Finding]:
    for name in spec.env:
        if looks_secret(name):
            yield ("env", name), f"{name} looks like a secret, and a job file is no place for its value", f"secrets: [{name}]"
        if name.startswith(_OURS):
            yield ("env", name), f"{name} belongs to cloud-train", "another name"
    for index, name in enumerate(spec.secrets):
        if name in spec.env:
            yield ("secrets", index), f"{name} stands under env as well", "one of the two"
        if name.startswith(_OURS):
            yield ("secrets", index), f"{name} belongs to cloud-train", "another name"


def _is_there(path: FilePath, kind: Callable[[FilePath], bool] = FilePath.exists) -> bool:
    try:
        return kind(path)
    except OSError:  # a name that is too long, or a folder that may not be entered
        return False
