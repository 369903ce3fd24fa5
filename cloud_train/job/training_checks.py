"""What no single field of the ``train`` and ``checkpoint`` sections can decide, and how many processes and samples they need."""

from collections.abc import Collection, Iterator

from cloud_train.job.models import JobSpec
from cloud_train.networks.script import ScriptModel
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.problems import Finding, Path

_METRICS = ("validation/loss", "validation/accuracy")
_METRIC_OF_TEXT = "validation/bits_per_character"
_OPTIMIZER: Path = ("train", "optimizer")


def check_training(spec: JobSpec, wrong: Collection[Path]) -> Iterator[Finding]:
    """What is wrong without regard to model and data. Nothing follows from the values at the paths ``wrong``."""
    train = spec.train
    if train.epochs is not None and train.steps is not None:
        yield ("train", "steps"), "epochs and steps exclude each other", "epochs or steps"
    if train.evaluate.unit == "second":
        yield ("train", "evaluate"), "a validation that depends on the clock is not repeatable", "epochs or steps, such as '1 epoch'"
    if {(*_OPTIMIZER, "name"), (*_OPTIMIZER, "momentum")}.isdisjoint(wrong):
        yield from train.optimizer.check()
    yield from train.schedule_section.check()
    if {("train", "batch_size"), ("train", "accumulate"), ("resources", "processes"), ("resources", "nodes")}.isdisjoint(wrong):
        yield from _batch(spec)


def check_learning(spec: JobSpec) -> Iterator[Finding]:
    """What a built-in model cannot do on its data, where the two fit."""
    if isinstance(spec.model, ScriptModel) or spec.data is None:
        return
    is_text = spec.data.sample_kind == "text"
    known = (*_METRICS, _METRIC_OF_TEXT) if is_text else _METRICS
    early_stopping = spec.train.early_stopping
    for path, metric in (
        (("checkpoint", "best", "metric"), spec.checkpoint.best.metric),
        (("train", "early_stopping", "metric"), early_stopping.metric if early_stopping else None),
    ):
        if metric is not None and metric not in known:
            yield path, f"validating on {spec.data.dataset!r} does not give {metric}", ", ".join(known)
    if is_text and spec.train.class_weights is not None:
        yield ("train", "class_weights"), "class weights do not apply to a language model", "no class_weights, or a data set with classes"
    if spec.train.carry_state:
        if not is_text:
            yield ("train", "carry_state"), "only running text continues from one sequence to the next", "no carry_state, or a text as data"
        elif spec.train.accumulate > 1:
            yield ("train", "carry_state"), "carry_state does not work with accumulate", "no accumulate"


def check_numbers(spec: JobSpec, data: DataFacts) -> Iterator[Finding]:
    """What does not fit the numbers of the data."""
    train = spec.train
    weights = train.class_weights
    if isinstance(weights, tuple) and len(weights) != data.classes:
        yield ("train", "class_weights"), f"{len(weights)} weights for {data.classes} classes", f"{data.classes} numbers, or balanced"
    if train.carry_state and data.train_samples is not None and data.train_samples < train.batch_size:
        yield (
            ("train", "carry_state"),
            f"{train.batch_size:,} streams are read side by side, and the text has {data.train_samples:,} sequences to train on",
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
        yield ("train", "accumulate"), said, f"batch_size: {least} at least"
    if train.carry_state and train.batch_size % processes:
        wanted = f"batch_size: a multiple of {processes}"
        yield ("train", "carry_state"), f"{processes} processes cannot share {train.batch_size} streams of text equally", wanted
