"""A trained model's answers as a program: ``python -m cloud_train.training.predict FOLDER (--images FILE… | --prompt TEXT | --text TEXT)``.

stdout is one JSON object: ``{"predictions": […]}`` for images and lines of text, ``{"prompt", "continuation"}`` for a prompt, or
``{"error": {"message", "hint", "code"}}`` with the error's documented exit status.

Pictures are prepared as in validation. What is transparent in one is taken as it is, and none is inverted unasked: a model of light strokes
on dark ground, such as the digits, needs ``--invert`` for dark strokes on light ground.
"""

import argparse
import json
import math
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cloud_train.errors import CloudTrainError, CorruptError, MissingDependencyError, NotFoundError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cloud_train.training.description import ModelDescription

_MOST_PIXELS = 64 << 20
_NEEDED = ("torch", "numpy", "safetensors", "pydantic")
_DOES = {"images": "classifies images", "prompt": "continues text", "text": "classifies lines of text"}
_IS_ASKED = {"images": "image files", "prompt": "--prompt TEXT", "text": "--text TEXT"}


def main(arguments: list[str]) -> int:
    """Answer on stdout; returns the exit status."""
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
    parser = _Parser(prog="predict", description="Answers of a trained model, as JSON.")
    parser.add_argument("folder", type=Path, help="folder with model.safetensors and model.json")
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("--images", nargs="+", type=Path, help="image files to classify")
    question.add_argument("--prompt", help="text to continue")
    question.add_argument("--text", action="append", help="a line of text to classify; several times for several")
    parser.add_argument("--invert", action="store_true", help="the images have dark strokes on light ground")
    parser.add_argument("--length", type=int, default=200, help="characters to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is the likeliest text, 1 what the model believes")
    parser.add_argument("--top-k", type=int, help="draw from this many likeliest characters only")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    return parser.parse_args(arguments)


def _answer(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from cloud_train.training.modelfile import load_model
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        raise MissingDependencyError(
            f"using a model needs {error.name}", hint="install it with: pip install 'cloud-train[train]'"
        ) from error
    network, description = load_model(options.folder)
    kind = "images" if description.image_shape is not None else "prompt" if description.tokens is None else "text"
    asked = next(name for name in _IS_ASKED if getattr(options, name) is not None)
    if asked != kind:
        raise UsageError(f"this model {_DOES[kind]}; it cannot answer {_IS_ASKED[asked]}", hint=f"ask it with {_IS_ASKED[kind]}")
    if kind == "images":
        return {"predictions": [_classify_image(network, description, file, options.invert) for file in options.images]}
    if kind == "text":
        return {"predictions": _classify_lines(network, description, options.text)}
    from cloud_train.training.generation import generate
    from cloud_train.training.models.rnn import LanguageModel

    assert isinstance(network, LanguageModel)  # what neither reads images nor has tokens
    settings = {name: getattr(options, name) for name in ("length", "temperature", "top_k", "seed")}
    text = generate(network, "".join(description.classes), options.prompt, **settings)
    return {"prompt": options.prompt, "continuation": text}


def _classify_image(network: "nn.Module", description: "ModelDescription", file: Path, invert: bool) -> dict[str, Any]:
    read = _read_photograph if description.preparation == "photograph" else _read_drawing
    return {"file": str(file), **_likeliest(network, description, read(file, description, invert))}


def _classify_lines(network: "nn.Module", description: "ModelDescription", texts: list[str]) -> list[dict[str, Any]]:
    import torch

    from cloud_train.data.lines import encode, numbered

    numbers_of, predictions = numbered(description.tokens or ()), []
    for text in texts:
        numbers = encode(text, numbers_of, description.unit, description.max_length or sys.maxsize)
        if not numbers:
            raise UsageError(f"there is nothing to read in the text {text!r}", hint="give it a word at least")
        inputs = torch.tensor([numbers]), torch.tensor([len(numbers)])
        predictions.append({"text": text, **_likeliest(network, description, *inputs)})
    return predictions


def _likeliest(network: "nn.Module", description: "ModelDescription", *inputs: "Tensor") -> dict[str, Any]:
    """The class of one sample, its probability, and that of each class."""
    import torch

    with torch.no_grad():
        probabilities = network(*inputs).softmax(-1)[0].tolist()
    if not all(map(math.isfinite, probabilities)):
        raise CorruptError("the model's scores are not finite: its weights are not those of a training that went well")
    scores = dict(zip(description.classes, probabilities, strict=True))
    likeliest = max(scores, key=lambda name: scores[name])
    return {"class": likeliest, "probability": scores[likeliest], "scores": scores}


def _read_photograph(file: Path, description: "ModelDescription", invert: bool) -> "Tensor":
    """The middle of the photograph, as in validation: float32 (1, channels, height, width) in [0, 1]."""
    _need_pillow()
    import numpy as np
    import torch

    from cloud_train.training.data.decoding import middle, read_image

    if not file.exists():
        raise NotFoundError(f"no such file: {file}")
    assert description.image_shape is not None  # of an image classifier
    channels, side, _ = description.image_shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of much that does no harm, and the rest is an error here
        pixels = read_image(file, side, channels, middle(side))
    return torch.from_numpy((255 - pixels if invert else pixels).transpose(2, 0, 1).astype(np.float32) / 255).unsqueeze(0)


def _read_drawing(file: Path, description: "ModelDescription", invert: bool) -> "Tensor":
    """The whole drawing, scaled: float32 (1, channels, height, width) in [0, 1]."""
    _need_pillow()
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    assert description.image_shape is not None  # of an image classifier
    channels, height, width = description.image_shape
    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS
    try:
        with warnings.catch_warnings(), Image.open(file) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits a pixel, which pillow would clip to 8 instead of scaling them
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
            drawing = upright.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {file}") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CorruptError(f"{file} is not an image that can be read: {error}") from error
    pixels = np.asarray(ImageOps.invert(drawing) if invert else drawing, dtype=np.float32) / 255
    return torch.from_numpy(pixels.reshape(height, width, channels).transpose(2, 0, 1).copy()).unsqueeze(0)


def _need_pillow() -> None:
    try:
        import PIL  # noqa: F401 -- only whether it is there
    except ImportError as error:
        raise MissingDependencyError("reading images needs pillow", hint="install it with: pip install 'cloud-train[train]'") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
