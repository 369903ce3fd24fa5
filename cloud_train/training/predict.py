"""A trained model as a program: ``python -m cloud_train.training.predict FOLDER (--images FILE… | --prompt TEXT | --text TEXT |
--series FILE | --data PLACE)``.

stdout is one JSON object: ``{"predictions": […]}`` for images, lines of text and series, ``{"prompt", "continuation"}`` for a prompt, what
``training.assessment`` returns for data, or
``{"error": {"message", "hint", "code"}}`` with the error's documented exit status.

Images are prepared as in validation. Transparency is ignored, and nothing is inverted by default: a model of light strokes on a dark
background, such as the digits, needs ``--invert`` for dark strokes on a light one.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from cloud_train.errors import CloudTrainError, MissingDependencyError, UsageError

_NEEDED = ("torch", "numpy", "safetensors", "pydantic")
_OPTION_OF = {"images": "images", "text": "prompt", "lines": "text", "series": "series"}
"""What a model reads → the option that passes it."""
_DOES = {"images": "classifies images", "prompt": "continues text", "text": "classifies lines of text", "series": "forecasts time series"}
_ASKED_WITH = {"images": "image files", "prompt": "--prompt TEXT", "text": "--text TEXT", "series": "--series FILE"}


def main(arguments: list[str]) -> int:
    """Print the predictions; returns the exit status."""
    try:
        answer, status = _answer(_parse(arguments)), 0
    except CloudTrainError as error:
        answer = {"error": {"message": error.message, "hint": error.hint, "code": error.code}}
        status = error.exit_code
    print(json.dumps(answer))
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="predict", description="Predictions of a trained model, as JSON.")
    parser.add_argument("folder", type=Path, help="folder with model.safetensors and model.json")
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("--images", nargs="+", type=Path, help="image files to classify")
    question.add_argument("--prompt", help="text to continue")
    question.add_argument("--text", action="append", help="a line of text to classify; may be repeated")
    question.add_argument("--series", type=Path, help="a CSV file of time series to forecast")
    question.add_argument("--data", type=Path, help="data to evaluate the model on")
    parser.add_argument("--invert", action="store_true", help="the images have dark strokes on a light background")
    parser.add_argument("--length", type=int, default=200, help="characters to write")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 picks the likeliest characters, 1 samples from the model's own probabilities"
    )
    parser.add_argument("--top-k", type=int, help="sample only from this many likeliest characters")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    return parser.parse_args(arguments)


def _answer(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from cloud_train.training.loading import LoadedModel
        from cloud_train.training.modelfile import load_network
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        raise MissingDependencyError(
            f"using a model needs {error.name}", hint="install it with: pip install 'cloud-train[train]'"
        ) from error
    model = LoadedModel(*load_network(options.folder))
    if options.data is not None:
        from cloud_train.training.assessment import assess

        return assess(model, options.data, invert=options.invert)
    takes = _OPTION_OF[model.description.sample_kind]
    asked = next(name for name in _ASKED_WITH if getattr(options, name) is not None)
    if asked != takes:
        raise UsageError(f"this model {_DOES[takes]}; it does not accept {_ASKED_WITH[asked]}", hint=f"use {_ASKED_WITH[takes]}")
    if takes == "prompt":
        settings = {name: getattr(options, name) for name in ("length", "temperature", "top_k", "seed")}
        return {"prompt": options.prompt, "continuation": model.generate(options.prompt, **settings)}
    if takes == "series":
        return {"predictions": model.forecast(options.series)}
    samples = options.images if takes == "images" else options.text
    key = "file" if takes == "images" else "text"
    found = model.predict(samples, invert=options.invert)
    predictions = []
    for sample, one in zip(samples, found, strict=True):
        known = {} if one.known_tokens is None else {"known_tokens": one.known_tokens}
        predictions.append({key: str(sample), "class": one.label, "probability": one.probability, "scores": one.scores, **known})
    return {"predictions": predictions}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
