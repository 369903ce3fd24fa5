"""Using a trained model in Python: ``load_model("folder")`` returns a torch module that classifies images and lines or continues text."""

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cloud_train.data.sequences import encode, numbered
from cloud_train.errors import CorruptError, MissingDependencyError, NotFoundError, UsageError
from cloud_train.run.layout import MANIFEST
from cloud_train.run.manifest import verify
from cloud_train.training import modelfile
from cloud_train.training.data.text import encode as encode_characters
from cloud_train.training.description import ModelDescription
from cloud_train.training.forecasting import forecast
from cloud_train.training.generation import generate
from cloud_train.training.models.rnn import LanguageModel

_MOST_PIXELS = 64 << 20
_KERAS = (".keras",)
_HOW_TO_LOAD = {
    ".pt": "torch.load(path, weights_only=True)",
    ".pth": "torch.load(path, weights_only=True)",
    ".safetensors": "safetensors.torch.load_file(path)",
    ".onnx": "onnxruntime.InferenceSession(path)",
    ".h5": "keras.saving.load_model(path)",
}
"""How the files of other programs are usually loaded, by file extension."""


@dataclass(frozen=True)
class Prediction:
    """A classifier's prediction for one sample."""

    label: str
    """The likeliest class."""
    probability: float
    """Its probability."""
    scores: dict[str, float]
    """The probability of each class, in the order of the classes."""
    known_tokens: int | None = None
    """Of a line of text, how many of its tokens are in the model's vocabulary: with 0, the prediction says nothing about the line. None for
    an image.
    """


class LoadedModel(nn.Module):
    """A trained network in evaluation mode, with the meaning of its inputs and outputs.

    Called like the network itself: with images (B, channels, height, width), float32 in [0, 1]; with tokens (B, T) and lengths (B,); with
    characters (B, T) and a state; or with windows of series (B, history + horizon, columns). ``preprocess`` creates these inputs, except
    windows; ``predict``, ``generate`` and ``forecast`` do everything in one call.
    """

    def __init__(self, network: nn.Module, description: ModelDescription) -> None:
        super().__init__()
        self.network = network
        """The network itself."""
        self.description = description
        """The contents of ``model.json``."""
        self._numbers = numbered(description.tokens or ())
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the scores; for a language model, its characters; for a forecast, its targets."""
        return self.description.classes

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """The characters of a language model, or the tokens of a classifier of lines (number n is ``vocabulary[n - 1]``); otherwise
        None.
        """
        kind = self.description.sample_kind
        return None if kind in ("images", "series") else self.description.tokens or self.description.classes

    def forward(self, *inputs: Any) -> Any:
        """The network's output: scores, and a language model's state."""
        return self.network(*inputs)

    def preprocess(self, sample: str | Path, *, invert: bool = False) -> tuple[Tensor, ...]:
        """The network's inputs for one sample, as in validation: a batch of one.

        ``sample`` is the path of an image, a line of text, or the beginning of a text. Use ``invert`` for images of dark strokes on a light
        background if the model was trained on light strokes on a dark one. Raises NotFoundError and CorruptError for files, UsageError for
        text without any token.
        """
        description = self.description
        if description.sample_kind == "series":
            raise UsageError("the windows of a forecast are made from a file of series", hint="use forecast")
        if description.sample_kind == "images":
            read = _read_photograph if description.preparation == "photograph" else _read_drawing
            return (read(Path(sample), description, invert),)
        if description.sample_kind == "text":
            return (encode_characters(str(sample), "".join(description.classes)).unsqueeze(0),)
        numbers = encode(str(sample), self._numbers, description.unit, description.max_length or sys.maxsize)
        if not numbers:
            raise UsageError(f"the text {str(sample)!r} contains nothing to classify", hint="use a text with at least one word")
        return torch.tensor([numbers]), torch.tensor([len(numbers)])

    @torch.no_grad()
    def predict(self, samples: Sequence[str | Path], *, invert: bool = False) -> list[Prediction]:
        """The class of each sample: paths of images, or lines of text. Raises UsageError for a language model, and what ``preprocess``
        raises.
        """
        if isinstance(self.network, LanguageModel):
            raise UsageError("a language model has no classes to predict", hint="use generate")
        if self.description.series is not None:
            raise UsageError("a forecast has no classes to predict", hint="use forecast")
        device = next(self.parameters()).device
        predictions = []
        for sample in samples:
            inputs = [tensor.to(device) for tensor in self.preprocess(sample, invert=invert)]
            probabilities = self(*inputs).softmax(-1)[0].tolist()
            if not all(map(math.isfinite, probabilities)):
                raise CorruptError("the model's scores are not finite: its training must have failed")
            scores = dict(zip(self.classes, probabilities, strict=True))
            likeliest = max(scores, key=lambda name: scores[name])
            known = int(inputs[0].count_nonzero()) if self.description.tokens is not None else None
            predictions.append(Prediction(likeliest, scores[likeliest], scores, known))
        return predictions

    def generate(self, prompt: str, *, length: int = 200, temperature: float = 0.8, top_k: int | None = None, seed: int = 0) -> str:
        """``length`` characters that continue ``prompt``; the same ``seed`` gives the same text. Only for a language model on a CPU.

        Raises UsageError for a classifier, and for a prompt with characters that are not in the vocabulary.
        """
        if not isinstance(self.network, LanguageModel):
            raise UsageError("only a language model can continue a text", hint="use predict, or forecast for time series")
        settings = {"length": length, "temperature": temperature, "top_k": top_k, "seed": seed}
        return generate(self.network, "".join(self.classes), prompt, **settings)  # type: ignore[arg-type]  # of four types

    def forecast(self, file: str | Path) -> list[dict[str, Any]]:
        """The rows that follow each series of a CSV file, which has the columns of the training data (``training.forecasting.forecast``).

        Raises UsageError for a model that does not forecast, and for series that it cannot read.
        """
        if self.description.series is None:
            raise UsageError("the model does not forecast time series", hint="use predict or generate")
        return forecast(self.network, self.description, Path(file))


def load_model(folder: str | Path) -> "LoadedModel | Callable[..., Any]":
    """The model in a folder that ``cloud-train fetch-model`` made, on the CPU, every byte verified.

    A model of the built-in trainers is a ``LoadedModel``. A script's ``.keras`` file is a Keras model, if Keras is installed. Raises
    NotFoundError for a folder without a model, CorruptError for one that was changed, UsageError for a script's model in another format,
    with how to load it, and MissingDependencyError if a package is missing, such as the plugin that provides the network.
    """
    folder = Path(folder).expanduser()
    if not (folder / MANIFEST).is_file():
        what = f"{folder} is not a fetched model: it has no {MANIFEST}" if folder.is_dir() else f"no such folder: {folder}"
        raise NotFoundError(what, hint="fetch a model with: cloud-train fetch-model RUN --to FOLDER")
    names = sorted(verify(folder).files)
    if modelfile.DESCRIPTION in names and modelfile.WEIGHTS in names:
        return LoadedModel(*modelfile.load_network(folder))
    return _load_foreign(folder, names)


def _load_foreign(folder: Path, names: Sequence[str]) -> Callable[..., Any]:
    """A script's model, whose format is determined by the names of its files."""
    keras_files = [name for name in names if name.endswith(_KERAS)]
    if len(keras_files) == 1:
        try:
            from keras.saving import load_model as load_keras
        except ImportError as error:
            raise MissingDependencyError(
                f"{folder / keras_files[0]} needs Keras, which is not installed", hint="install it with: pip install keras"
            ) from error
        model: Callable[..., Any] = load_keras(folder / keras_files[0])
        return model
    known = [f"{_HOW_TO_LOAD[suffix]} with {folder / name}" for name in names if (suffix := Path(name).suffix) in _HOW_TO_LOAD]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    raise UsageError(
        f"{folder} contains a script's model in an unknown format: {shown}",
        hint=f"load it in the way its program saved it{f': {known[0]}' if known else ''}",
    )


def _read_photograph(file: Path, description: ModelDescription, invert: bool) -> Tensor:
    """The centre of the photograph, as in validation: float32 (1, channels, height, width) in [0, 1]."""
    _require_pillow()
    from cloud_train.training.data.decoding import middle, read_image

    if not file.exists():
        raise NotFoundError(f"no such file: {file}")
    assert description.image_shape is not None  # it is an image classifier
    channels, side, _ = description.image_shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most of Pillow's warnings are harmless, and the rest are errors here
        pixels = read_image(file, side, channels, middle(side))
    return torch.from_numpy((255 - pixels if invert else pixels).transpose(2, 0, 1).astype(np.float32) / 255).unsqueeze(0)


def _read_drawing(file: Path, description: ModelDescription, invert: bool) -> Tensor:
    """The whole drawing, scaled: float32 (1, channels, height, width) in [0, 1]."""
    _require_pillow()
    from PIL import Image, ImageOps

    assert description.image_shape is not None  # it is an image classifier
    channels, height, width = description.image_shape
    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS
    try:
        with warnings.catch_warnings(), Image.open(file) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip to 8 bits instead of scaling
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
            drawing = upright.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {file}") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CorruptError(f"{file} is not a readable image: {error}") from error
    pixels = np.asarray(ImageOps.invert(drawing) if invert else drawing, dtype=np.float32) / 255
    return torch.from_numpy(pixels.reshape(height, width, channels).transpose(2, 0, 1).copy()).unsqueeze(0)


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401 -- only whether it is installed
    except ImportError as error:
        raise MissingDependencyError("reading images needs pillow", hint="install it with: pip install 'cloud-train[train]'") from error
