"""``cloud-train evaluate``: how good a trained model is on new data."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cloud_train.cli.options import CheckpointOption, JsonOption, NamedRunArgument, open_client
from cloud_train.cli.output.terminal import Painter, clean, say, say_json
from cloud_train.cli.output.words import number, table

_MOST_CLASSES = 50
_SHOWN = {
    "loss": "loss",
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "macro_f1": "macro F1",
    "auc": "AUC",
    "bits_per_character": "bits per character",
    "coverage": "coverage",
}
"""Metric → its name in words."""


def evaluate(
    run: NamedRunArgument,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A file or folder in the form of the training data.", show_default=False)],
    *,
    invert: Annotated[bool, typer.Option("--invert", help="The images have dark strokes on a light background.")] = False,
    checkpoint: CheckpointOption = None,
    as_json: JsonOption = False,
) -> int:
    """Measure how good a trained model is on new data.

    DATA is not seen in training and has the form of the training data: a folder with a folder of images for each class, a file of lines
    label<TAB>text, a text, or a CSV file of time series. Of a folder with parts, the test part is used, without one the validation part.
    All of it is read, and nothing is learned from it.

    A classifier is measured by loss (in nats), accuracy, top-5 accuracy and macro F1, with two classes by the area under the ROC curve
    (AUC), and each class by recall, precision and F1; a language model by bits per character; a forecast by its errors, beside those of
    repeating the last season.

    Examples:
      cloud-train evaluate flowers new-photographs
      cloud-train evaluate sentiment-rnn reviews-of-may.tsv --json
      cloud-train evaluate airline-rnn airline-1961.csv
      cloud-train evaluate text-rnn another-book.txt --checkpoint best
    """
    chosen = open_client(as_json).run(run, latest=True)
    found = chosen.evaluate(data, checkpoint=checkpoint, invert=invert)
    if as_json:
        say_json({"run_id": chosen.id, **found})
        return 0
    say(clean(str(found["source"])))
    say(", ".join(f"{words} {found[name]:.4f}" for name, words in _SHOWN.items() if name in found))
    if "mae" in found:
        _show_errors(found)
    if classes := found.get("classes"):
        _show_classes(classes, found["confusions"])
    return 0


def _show_errors(found: dict[str, Any]) -> None:
    """The errors of forecasts, beside those of repeating the last season."""
    errors = (("mean absolute", "mae"), ("root mean square", "rmse"), ("scaled (MASE)", "mase"))
    rows = [(words, *(number(found.get(key)) for key in (name, f"naive_{name}"))) for words, name in errors]
    say()
    say(table(("ERROR", "FORECAST", "LAST SEASON REPEATED"), rows, Painter.of(sys.stdout), right=(1, 2)))


def _show_classes(classes: list[dict[str, Any]], confusions: list[dict[str, Any]]) -> None:
    """The classes, the worst first, and which of them are taken for others."""
    worst = sorted(classes, key=lambda one: (one["recall"] is None, one["recall"] or 0.0))[:_MOST_CLASSES]
    measures = ("recall", "precision", "f1")
    rows = [(clean(str(one["class"])), f"{one['samples']:,}", *(_percent(one[name]) for name in measures)) for one in worst]
    say()
    say(table(("CLASS", "SAMPLES", "RECALL", "PRECISION", "F1"), rows, Painter.of(sys.stdout), right=(1, 2, 3, 4)))
    if len(worst) < len(classes):
        say(f"… and {len(classes) - len(worst):,} classes with a higher recall; --json has all of them")
    if confusions:
        say()
        pairs = [(clean(str(one["class"])), clean(str(one["predicted"])), f"{one['samples']:,}") for one in confusions]
        say(table(("CLASS", "TAKEN FOR", "SAMPLES"), pairs, Painter.of(sys.stdout), right=(2,)))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
