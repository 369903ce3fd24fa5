"""A trained model's answers as a program: ``python -m cloud_train.training.predict FOLDER (--images FILE… | --prompt TEXT)``.

stdout is one JSON object, ``{"predictions": […]}`` for images, ``{"prompt", "continuation"}`` for a prompt, or ``{"error": {"message",
"hint", "code"}}`` with the error's documented exit status. An image is made grey (what is transparent in it is taken as it is), scaled to
the size that the model was trained on, and never inverted unasked: a model of light strokes on dark ground, such as the digits, needs
``--invert`` for dark strokes on light ground.
"""

import argparse
import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from cloud_train.errors import CloudTrainError, CorruptError, MissingDependencyError, NotFoundError, UsageError

_MOST_PIXELS = 64 << 20
_NEEDED = ("torch", "numpy", "safetensors", "pydantic")


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
    if options.prompt is not None:
        from cloud_train.training.generation import generate
        from cloud_train.training.models.rnn import Rnn

        if not isinstance(network, Rnn):
            raise UsageError("this model classifies images; it cannot continue a text", hint="name image files instead of a prompt")
        settings = {name: getattr(options, name) for name in ("length", "temperature", "top_k", "seed")}
        text = generate(network, "".join(description.classes), options.prompt, **settings)
        return {"prompt": options.prompt, "continuation": text}
    if description.image_shape is None:
        raise UsageError("this model continues text; it cannot classify images", hint="give it a --prompt instead of files")
    return {"predictions": [_classify(network, description, file, options.invert) for file in options.images]}


def _classify(network: Any, description: Any, file: Path, invert: bool) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        probabilities = network(_read_image(file, description.image_shape, invert)).softmax(-1)[0].tolist()
    if not all(map(math.isfinite, probabilities)):
        raise CorruptError("the model's scores are not finite: its weights are not those of a training that went well")
    scores = dict(zip(description.classes, probabilities, strict=True))
    likeliest = max(scores, key=lambda name: scores[name])
    return {"file": str(file), "class": likeliest, "probability": scores[likeliest], "scores": scores}


def _read_image(file: Path, shape: tuple[int, int, int], invert: bool) -> Any:
    """The image as the model takes it: float32 of (1, channels, height, width) in [0, 1]."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError("reading images needs pillow", hint="install it with: pip install 'cloud-train[train]'") from error
    import numpy as np
    import torch

    channels, height, width = shape
    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS
    try:
        with warnings.catch_warnings(), Image.open(file) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits a pixel, which pillow would clip to 8 instead of scaling them
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
            grey = upright.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {file}") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CorruptError(f"{file} is not an image that can be read: {error}") from error
    pixels = np.asarray(ImageOps.invert(grey) if invert else grey, dtype=np.float32) / 255
    return torch.from_numpy(pixels.reshape(height, width, channels).transpose(2, 0, 1).copy()).unsqueeze(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
