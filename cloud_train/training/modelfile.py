"""A model as files: ``model.safetensors`` with the weights, ``model.json`` with everything needed to build the network and interpret its
outputs.

``model.json``::

    {"format": 2, "model": {"kind": "cnn", …}, "classes": ["0", "1", …], "image_shape": [1, 28, 28], "normalize": null,
     "tokens": null, "unit": "characters", "preparation": "drawing", "max_length": null, "series": null}

The fields are those of ``ModelDescription``; ``model`` is the job's section of that name. Neither file is trusted: nothing is executed, and
a network is built only if it has as many parameters as there are weights, and if evaluating it takes a reasonable amount of memory and
time.
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from cloud_train.beneath import open_plain, write_file
from cloud_train.data.pixels import Normalize
from cloud_train.data.series import Forecasting
from cloud_train.errors import CorruptError, JobError, MissingDependencyError, NotFoundError
from cloud_train.job.validation_errors import in_words
from cloud_train.networks.registry import MODELS, Model
from cloud_train.spec.facts import LayerFacts
from cloud_train.spec.problems import shortened
from cloud_train.spec.registry import BrokenComponentError, UnknownComponentError
from cloud_train.spec.types import Count
from cloud_train.training.description import ModelDescription, build

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
FORMAT = 2
_LARGEST_DESCRIPTION_BYTES = 32 << 20
_MOST_BLOCKS = 1000
_MOST_NUMBERS = 1 << 28
"""Largest output of a layer for one image: 1 GiB."""
_MOST_PRODUCTS = 1 << 43
"""Most multiplications for one image: some minutes on a CPU core, a thousand times what ResNet-50 needs."""
_BUFFERS = {"running_mean", "running_var", "num_batches_tracked"}
"""The tensors of a batch normalization that are not parameters."""
_DESCRIPTORS = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")
_Side = Annotated[int, Field(gt=0, lt=1 << 15)]


def save_model(folder: Path, network: nn.Module, description: ModelDescription, root: Path | None = None) -> None:
    """Write both files into ``folder``, following no link below ``root``; raises OSError. The same weights give the same bytes."""
    for name, content in model_files(network.state_dict(), description).items():
        write_file(folder / name, root, content)  # by Python, so that a full disk is an ordinary OSError and not an error of the format


def model_files(weights: Mapping[str, torch.Tensor], description: ModelDescription) -> dict[str, bytes]:
    """Both files by name, from a network's ``state_dict()``. The bytes are copies, so training may continue."""
    fields = {"format": FORMAT, **vars(description), "model": description.model.model_dump(mode="json")}
    for name in ("normalize", "series"):
        fields[name] = fields[name] and fields[name].model_dump(mode="json")
    return {WEIGHTS: save(_plain(weights)), DESCRIPTION: f"{json.dumps(fields, ensure_ascii=False)}\n".encode()}


def load_network(folder: Path) -> tuple[nn.Module, ModelDescription]:
    """The network in ``folder`` on the CPU, in evaluation mode. Raises NotFoundError if a file is missing, CorruptError if they do not fit,
    MissingDependencyError if no installed package provides its kind of network, BrokenComponentError if that package is broken.
    """
    description = read_description(folder / DESCRIPTION)
    weights = read_weights(folder / WEIGHTS)
    found = sum(tensor.numel() for name, tensor in weights.items() if name.rpartition(".")[2] not in _BUFFERS)
    try:
        layers = description.layers
    except BrokenComponentError:
        raise
    except JobError as error:
        raise CorruptError(f"{folder / DESCRIPTION} does not describe a model: {error.message}") from error
    wanted = sum(layer.parameters for layer in layers)
    if found != wanted:
        raise CorruptError(f"{folder / WEIGHTS} has {found:,} parameters, but {DESCRIPTION} describes a model with {wanted:,}")
    _check_cost(layers, description.image_shape, folder / DESCRIPTION)
    network = build(description, seed=0)
    _check_fit(network.state_dict(), weights, folder / WEIGHTS)
    network.load_state_dict(weights)
    return network.eval(), description


def _check_cost(layers: Iterable[LayerFacts], image_shape: tuple[int, int, int] | None, path: Path) -> None:
    """Refuse an image classifier with few weights but enormous outputs."""
    if image_shape is None:
        return
    outputs = [tuple(map(int, layer.output_shape)) for layer in layers]
    products = sum(layer.parameters * math.prod(output[1:]) for layer, output in zip(layers, outputs, strict=True))
    if max(map(math.prod, [image_shape, *outputs])) > _MOST_NUMBERS or products > _MOST_PRODUCTS:
        raise CorruptError(f"{path} describes a model that would need an unreasonable amount of memory or time")


def _check_fit(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> None:
    for name in (*wanted, *found):
        mine, theirs = (_form(tensors.get(name)) for tensors in (wanted, found))
        if mine != theirs:
            raise CorruptError(f"{path} does not fit {DESCRIPTION}: {name} is {theirs}, but should be {mine}")
        if not found[name].isfinite().all():
            raise CorruptError(f"{path} has values in {name} that are not finite")


def _form(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} of {'×'.join(map(str, tensor.shape))}"


def _plain(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights and buffers on the CPU, contiguous, as a file needs them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; raises NotFoundError or CorruptError."""
    try:
        descriptor = open_plain(path)  # a container may have put a link or a pipe there
        try:
            return load_file(_DESCRIPTORS / str(descriptor))
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {path}") from error
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise CorruptError(f"{path} is not a safetensors file: {error}") from error


def read_description(path: Path) -> ModelDescription:
    """Read ``model.json``; raises NotFoundError or CorruptError."""
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            content = file.read(_LARGEST_DESCRIPTION_BYTES + 1)
        if len(content) > _LARGEST_DESCRIPTION_BYTES:
            raise CorruptError(f"{path} is too large for a model's description")
        return _description(content, path)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path.parent} has no {path.name}", hint="use a model of the built-in trainers") from error
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise CorruptError(f"{path} does not describe a model: {error}") from error


class _Fields(BaseModel):
    """``model.json``, field by field; their combination is checked afterwards."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: int
    model: Model
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    image_shape: tuple[_Side, _Side, _Side] | None
    normalize: Normalize | None
    tokens: tuple[Annotated[str, Field(min_length=1)], ...] | None
    unit: Literal["characters", "words"]
    preparation: Literal["drawing", "photograph"]
    max_length: Count | None
    series: Forecasting | None = None  # earlier versions recorded none


def _description(content: bytes, path: Path) -> ModelDescription:
    fields = json.loads(content)
    if fields["format"] != FORMAT:
        raise ValueError(f"its format is unknown; this version reads format {FORMAT}")
    model = fields["model"]
    if (
        isinstance(model, dict) and len(model.get("blocks") or ()) > _MOST_BLOCKS
    ):  # each takes a hundred times as much memory once it is parsed
        raise ValueError(f"it has more than {_MOST_BLOCKS:,} blocks")
    if isinstance(model, dict) and isinstance(model.get("kind"), str):
        _check_kind(model["kind"], path)
    try:
        read = _Fields.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(in_words(error, _Fields, fields)) from error
    description = ModelDescription(**{name: value for name, value in read if name != "format"})
    kind = description.sample_kind
    if kind not in read.model.reads:
        raise ValueError(f"image_shape, tokens and series describe {kind}, which a model of kind {read.model.kind!r} does not read")
    checks = {"images": _check_image_classifier, "series": _check_forecast}
    checks.get(kind, _check_reader)(description)
    return description


def _check_kind(kind: str, path: Path) -> None:
    """Raise MissingDependencyError if no installed package provides the model ``kind``, BrokenComponentError if its plugin is broken."""
    try:
        MODELS.get(kind)
    except UnknownComponentError as error:
        raise MissingDependencyError(
            f"{path}: no installed package provides the model kind {shortened(kind)!r}",
            hint=f"install the package whose entry point in the group {MODELS.group} is called {shortened(kind)!r}",
        ) from error


def _check_image_classifier(description: ModelDescription) -> None:
    if description.image_shape is None or description.tokens is not None or description.series is not None:
        raise ValueError("an image classifier needs an image_shape and neither tokens nor series")
    channels, height, width = description.image_shape
    if description.preparation == "photograph" and height != width:
        raise ValueError("a photograph is cropped to a square, but image_shape is not square")
    if channels not in (1, 3):
        raise ValueError("an image must have 1 channel or 3")
    if description.normalize is not None:
        lengths = {len(description.normalize.mean), len(description.normalize.std)}
        if lengths not in ({1}, {channels}):
            raise ValueError("normalize must have one value for each channel")


def _check_forecast(description: ModelDescription) -> None:
    series = description.series
    if series is None or description.normalize is not None or description.tokens is not None:
        raise ValueError("a forecast has series, and neither normalize nor tokens")
    names = [series.time, series.id, *series.columns(description.classes).features]
    if len(set(names)) < len(names):
        raise ValueError("a column occurs twice in series")
    if series.history < series.season:
        raise ValueError("the history of series is shorter than its season")
    widths = {"mean": len(names) - 2, "std": len(names) - 2, "naive_error": len(description.classes)}
    for scale in series.scales.values():
        for field, width in widths.items():
            if len(getattr(scale, field)) != width:
                raise ValueError(f"a scale of series has {len(getattr(scale, field))} values for {field}, but needs {width}")


def _check_reader(description: ModelDescription) -> None:
    if description.normalize is not None:
        raise ValueError("only an image classifier can have normalize")
    if description.tokens is not None:
        if len(set(description.tokens)) < len(description.tokens):
            raise ValueError("a token occurs twice in tokens")
    elif any(len(character) != 1 for character in description.classes) or list(description.classes) != sorted(set(description.classes)):
        raise ValueError("classes must be the sorted characters of a vocabulary")
