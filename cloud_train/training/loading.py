"""Using a trained model in Python: ``load_model("folder")`` gives a torch module that answers questions about images and text."""

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
"""How files that other programs leave are usually loaded, by the ends of their names."""


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one sample."""

    label: str
    """The likeliest class."""
    probability: float
    """Its probability."""
    scores: dict[str, float]
    """The probability of each class, in the order of the classes."""


class LoadedModel(nn.Module):
    """A trained network in evaluation mode, with what its inputs and answers mean.

    Called like the network itself: with images (B, channels, height, width), float32 in [0, 1]; with tokens (B, T) and lengths (B,); or
    with characters (B, T) and a state. ``preprocess`` makes these inputs, and ``predict`` and ``generate`` do everything in one call.
    """

    def __init__(self, network: nn.Module, description: ModelDescription) -> None:
        super().__init__()
        self.network = network
        """The network itself."""
        self.description = description
        """All that ``model.json`` says."""
        self._numbers = numbered(description.tokens or ())
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the scores; a language model's are the characters that it writes."""
        return self.description.classes

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """What the model reads: the characters of a language model, the tokens of a classifier of lines (number n is
        ``vocabulary[n - 1]``); None for a classifier of images.
        """
        kind = self.description.sample_kind
        return None if kind == "images" else self.description.tokens or self.description.classes

    def forward(self, *inputs: Any) -> Any:
        """What the network answers: scores, and from a language model its state too."""
        return self.network(*inputs)

    def preprocess(self, sample: str | Path, *, invert: bool = False) -> tuple[Tensor, ...]:
        """The inputs of the network for one sample, as in validation: a batch of one.

        ``sample`` is the path of an image, a line of text, or the beginning of a text. ``invert`` is for images of dark strokes on a light
        background where the model was trained on light strokes on a dark one. Raises NotFoundError and CorruptError for files, UsageError
        for a text that the model cannot read.
        """
        description = self.description
        if description.sample_kind == "images":
            read = _read_photograph if description.preparation == "photograph" else _read_drawing
            return (read(Path(sample), description, invert),)
        if description.sample_kind == "text":
            return (encode_characters(str(sample), "".join(description.classes)).unsqueeze(0),)
        numbers = encode(str(sample), self._numbers, description.unit, description.max_length or sys.maxsize)
        if not numbers:
            raise UsageError(f"the text {str(sample)!r} contains nothing to read", hint="give at least one word")
        return torch.tensor([numbers]), torch.tensor([len(numbers)])

    @torch.no_grad()
    def predict(self, samples: Sequence[str | Path], *, invert: bool = False) -> list[Prediction]:
        """The class of each sample: paths of images, or lines of text. Raises UsageError for a language model, and as ``preprocess``."""
        if isinstance(self.network, LanguageModel):
            raise UsageError("a language model has no classes to predict", hint="use generate")
        device = next(self.parameters()).device
        predictions = []
        for sample in samples:
            inputs = [tensor.to(device) for tensor in self.preprocess(sample, invert=invert)]
            probabilities = self(*inputs).softmax(-1)[0].tolist()
            if not all(map(math.isfinite, probabilities)):
                raise CorruptError("the model's scores are not finite: its weights do not come from a successful training")
            scores = dict(zip(self.classes, probabilities, strict=True))
            likeliest = max(scores, key=lambda name: scores[name])
            predictions.append(Prediction(likeliest, scores[likeliest], scores))
        return predictions

    def generate(self, prompt: str, *, length: int = 200, temperature: float = 0.8, top_k: int | None = None, seed: int = 0) -> str:
        """``length`` characters that continue ``prompt``; the same ``seed`` gives the same text. Of a language model on a CPU.

        Raises UsageError for a classifier, and for a prompt with characters that the model has never seen.
        """
        if not isinstance(self.network, LanguageModel):
            raise UsageError("a classifier cannot continue a text", hint="use predict")
        settings = {"length": length, "temperature": temperature, "top_k": top_k, "seed": seed}
        return generate(self.network, "".join(self.classes), prompt, **settings)  # type: ignore[arg-type]  # of four types


def load_model(folder: str | Path) -> "LoadedModel | Callable[..., Any]":
    """The model in a folder that ``cloud-train fetch-model`` made, on the CPU, every byte verified.

    A model of the built-in trainers is a ``LoadedModel``. A script's ``.keras`` file is a Keras model, if Keras is installed. Raises
    NotFoundError for a folder without a model, CorruptError for one that was changed, UsageError for a script's model of another form, with
    how to load it, and MissingDependencyError.
    """
    folder = Path(folder).expanduser()
    if not (folder / MANIFEST).is_file():
        what = f"{folder} has no {MANIFEST}" if folder.is_dir() else f"there is no folder {folder}"
        raise NotFoundError(f"{what}: it is not a model of cloud-train", hint="get one with: cloud-train fetch-model RUN --to FOLDER")
    names = sorted(verify(folder).files)
    if modelfile.DESCRIPTION in names and modelfile.WEIGHTS in names:
        return LoadedModel(*modelfile.load_network(folder))
    return _load_foreign(folder, names)


def _load_foreign(folder: Path, names: Sequence[str]) -> Callable[..., Any]:
    """A script's model, whose form is told by the names of its files."""
    keras_files = [name for name in names if name.endswith(_KERAS)]
    if len(keras_files) == 1:
        try:
            from keras.saving import load_model as load_keras
        except ImportError as error:
            raise MissingDependencyError(
                f"{folder / keras_files[0]} is a Keras model", hint="install it with: pip install keras"
            ) from error
        model: Callable[..., Any] = load_keras(folder / keras_files[0])
        return model
    known = [f"{_HOW_TO_LOAD[suffix]} with {folder / name}" for name in names if (suffix := Path(name).suffix) in _HOW_TO_LOAD]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    raise UsageError(
        f"{folder} has the model of a script, in a form that cannot be told from its files: {shown}",
        hint=f"load it as its program saved it{f': {known[0]}' if known else ''}",
    )


def _read_photograph(file: Path, description: ModelDescription, invert: bool) -> Tensor:
    """The middle of the photograph, as in validation: float32 (1, channels, height, width) in [0, 1]."""
    _require_pillow()
    from cloud_train.training.data.decoding import middle, read_image

    if not file.exists():
        raise NotFoundError(f"no such file: {file}")
    assert description.image_shape is not None  # of an image classifier
    channels, side, _ = description.image_shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of much that does no harm, and the rest is an error here
        pixels = read_image(file, side, channels, middle(side))
    return torch.from_numpy((255 - pixels if invert else pixels).transpose(2, 0, 1).astype(np.float32) / 255).unsqueeze(0)


def _read_drawing(file: Path, description: ModelDescription, invert: bool) -> Tensor:
    """The whole drawing, scaled: float32 (1, channels, height, width) in [0, 1]."""
    _require_pillow()
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
        raise CorruptError(f"{file} is not a readable image: {error}") from error
    pixels = np.asarray(ImageOps.invert(drawing) if invert else drawing, dtype=np.float32) / 255
    return torch.from_numpy(pixels.reshape(height, width, channels).transpose(2, 0, 1).copy()).unsqueeze(0)


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401 -- only whether it is there
    except ImportError as error:
        raise MissingDependencyError("reading images needs pillow", hint="install it with: pip install 'cloud-train[train]'") from error
