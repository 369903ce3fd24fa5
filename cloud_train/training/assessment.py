"""How good a trained model is on data that it has not seen: a folder of images, lines with labels, a text, or series."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from cloud_train.data.image_folder import ImageFolder, list_images
from cloud_train.data.sequences import Parts, read_lines
from cloud_train.data.text import whole_text
from cloud_train.errors import CorruptError, UsageError
from cloud_train.spec.problems import FieldError
from cloud_train.training.data.text import validation_samples
from cloud_train.training.distributed import World
from cloud_train.training.evaluation import evaluate
from cloud_train.training.forecasting import assess_forecasts
from cloud_train.training.loading import LoadedModel
from cloud_train.training.measures import measure_of
from cloud_train.training.ordering import validation_picks

_BATCH = 64
_MOST_CONFUSIONS = 10
_TOP = 5
_MOST_NAMED = 5

Labelled = tuple[str | Path, int]
"""A sample, a file or a line, and the number of its class."""


def assess(model: LoadedModel, place: Path, *, invert: bool = False) -> dict[str, Any]:
    """How good the model is on all data in ``place``, which has the form of its training data.

    Of a folder with parts, the test part is used, without one the validation part. ``source`` says what was read.

    - A classifier's result has ``samples``, ``loss`` in nats, ``accuracy``, ``macro_f1``, ``top5_accuracy`` (of more than five classes),
      ``auc`` (of two classes, if the data has both), ``classes`` (for each: its samples, recall, precision and F1, None where they are not
      defined) and ``confusions``.
    - A language model's has ``characters``, ``loss``, ``accuracy`` and ``bits_per_character``.
    - A forecast's is what ``assess_forecasts`` returns.

    Raises UsageError for data that the model cannot be evaluated on, such as with a class that it does not know, and what ``preprocess``
    raises for a sample.
    """
    kind = model.description.sample_kind
    if kind == "series":
        return assess_forecasts(model.network, model.description, place)
    try:
        if kind == "text":
            return _text(model, place)
        source, samples = _images(model, place) if kind == "images" else _lines(model, place)
    except FieldError as error:
        raise UsageError(error.message, hint=error.hint) from error
    return {"source": source, **_classified(model, samples, invert)}


def _images(model: LoadedModel, place: Path) -> tuple[str, list[Labelled]]:
    listed: ImageFolder = list_images(place, None, ())
    part = listed.test or listed.validation or listed.train
    numbers = _numbers(model, listed.classes, part.folder)
    by_class = zip(part.folders, part.images, numbers, strict=True)
    found: list[Labelled] = [(part.folder / folder / name, number) for folder, names, number in by_class for name in names]
    return f"{part.folder}, {len(found):,} images", found


def _lines(model: LoadedModel, place: Path) -> tuple[str, list[Labelled]]:
    parts: Parts = read_lines(place, ())
    lines = parts.test or parts.validation or parts.train
    which = " test" if parts.test else " validation" if parts.validation else ""
    labels = sorted({line.label for line in lines})
    numbers = dict(zip(labels, _numbers(model, labels, place), strict=True))
    return f"{place}, {len(lines):,}{which} lines", [(line.text, numbers[line.label]) for line in lines]


def _numbers(model: LoadedModel, classes: Sequence[str], place: Path) -> list[int]:
    """The model's number of each class in the data. Raises UsageError for a class that it does not know."""
    known = {name: number for number, name in enumerate(model.classes)}
    if unknown := [name for name in classes if name not in known]:
        raise UsageError(
            f"{place} has classes that the model does not know: {_some(unknown)}", hint=f"the model's classes are {_some(model.classes)}"
        )
    return [known[name] for name in classes]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    return f"{shown} and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else shown


def _classified(model: LoadedModel, samples: Sequence[Labelled], invert: bool) -> dict[str, Any]:
    counts: Counter[tuple[int, int]] = Counter()  # (class, predicted class)
    loss, among_five = 0.0, 0
    second: list[Tensor] = []  # of two classes, how much the second one is preferred
    truth: list[Tensor] = []
    for scores, targets in _scored(model, samples, invert):
        loss += functional.cross_entropy(scores.float(), targets, reduction="sum").item()
        counts.update(zip(targets.tolist(), scores.argmax(-1).tolist(), strict=True))
        among_five += int((scores.topk(min(_TOP, scores.shape[1])).indices == targets.unsqueeze(1)).sum())
        if len(model.classes) == 2:
            second.append(scores[:, 1] - scores[:, 0])
            truth.append(targets)
    if not math.isfinite(loss):
        raise CorruptError("the model's scores are not finite: its training must have failed")
    right = sum(count for (target, found), count in counts.items() if target == found)
    classes = [_of_class(number, name, counts) for number, name in enumerate(model.classes)]
    f1 = [one["f1"] for one in classes if one["f1"] is not None]
    auc = area_under_curve(torch.cat(second), torch.cat(truth)) if second else None
    return {
        "samples": len(samples),
        "loss": loss / len(samples),
        "accuracy": right / len(samples),
        "macro_f1": sum(f1) / len(f1),
        **({"top5_accuracy": among_five / len(samples)} if len(model.classes) > _TOP else {}),
        **({"auc": auc} if auc is not None else {}),
        "classes": classes,
        "confusions": [
            {"class": model.classes[target], "predicted": model.classes[found], "samples": count}
            for (target, found), count in counts.most_common()
            if target != found
        ][:_MOST_CONFUSIONS],
    }


def _of_class(number: int, name: str, counts: Counter[tuple[int, int]]) -> dict[str, Any]:
    samples = sum(count for (target, _), count in counts.items() if target == number)
    predicted = sum(count for (_, found), count in counts.items() if found == number)
    right = counts[number, number]
    return {
        "class": name,
        "samples": samples,
        "recall": right / samples if samples else None,
        "precision": right / predicted if predicted else None,
        "f1": 2 * right / (samples + predicted) if samples + predicted else None,
    }


def area_under_curve(scores_N: Tensor, is_positive_N: Tensor) -> float | None:
    """The area under the ROC curve: the probability that a positive sample has a higher score than a negative one, ties counting half
    (Hanley and McNeil, 1982). None unless there are both. ``is_positive_N`` has 0 and 1.
    """
    positives = int(is_positive_N.sum())
    negatives = len(is_positive_N) - positives
    if not positives or not negatives:
        return None
    _, group_N, sizes = torch.unique(scores_N, return_inverse=True, return_counts=True)
    middle_ranks = sizes.cumsum(0) - (sizes - 1) / 2  # of equal scores, from 1
    rank_sum = float(middle_ranks.double()[group_N][is_positive_N.bool()].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


@torch.no_grad()
def _scored(model: LoadedModel, samples: Sequence[Labelled], invert: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores (B, classes) and class numbers (B,), batch by batch."""
    remaining = iter(samples)
    while batch := list(islice(remaining, _BATCH)):
        inputs = [model.preprocess(sample, invert=invert) for sample, _ in batch]
        targets = torch.tensor([number for _, number in batch])
        if model.description.sample_kind == "images":
            yield model(torch.cat([image for (image,) in inputs])), targets
        else:
            lengths = torch.cat([length for _, length in inputs])
            yield model(pad_sequence([tokens[0] for tokens, _ in inputs], batch_first=True), lengths), targets


def _text(model: LoadedModel, place: Path) -> dict[str, Any]:
    text = whole_text(place, ())
    known = set(model.classes)
    if unknown := Counter(character for character in text if character not in known):
        shown = _some([character for character, _ in unknown.most_common()])
        raise UsageError(
            f"{place} has {unknown.total():,} characters that the model does not know: {shown}",
            hint="use a text with the characters of the training text",
        )
    if len(text) < 2:
        raise UsageError(f"{place} has {len(text)} characters, which leaves nothing to predict")
    samples = validation_samples(text, "".join(model.classes))
    metrics = evaluate(model.network, samples, validation_picks(samples, _BATCH, World()), measure_of(model.description))
    return {"source": f"{place}, {len(text):,} characters", "characters": samples.targets.numel(), **metrics}
