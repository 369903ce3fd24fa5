"""A model as files: ``model.safetensors`` with the weights, ``model.json`` with all that is needed to build the network and read its
answers.

``model.json``::

    {"format": 1, "model": {"kind": "cnn", …}, "image_shape": [1, 28, 28], "classes": ["0", "1", …]}

``model`` is the job's section of that name; ``image_shape`` is null for text, whose classes are its characters. Both files are read as data
that anyone may have written: nothing is executed, and a network is built only if it has as many parameters as there are weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from cloud_train.errors import CorruptError, JobError, NotFoundError
from cloud_train.job.architecture import layers
from cloud_train.job.facts import DataFacts
from cloud_train.job.models import CnnModel, JobSpec, RnnModel, ScriptModel
from cloud_train.training.data import DataSet
from cloud_train.training.models import build

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
FORMAT = 1
_LARGEST_DESCRIPTION_BYTES = 16 << 20


@dataclass(frozen=True)
class ModelDescription:
    """What ``model.json`` says."""

    model: CnnModel | RnnModel
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    """(channels, height, width), None for text."""

    @classmethod
    def of(cls, job: JobSpec, data: DataSet) -> Self:
        """The description of the job's model on this data."""
        if isinstance(job.model, ScriptModel):
            raise JobError("model.kind: a script is no built-in model")
        return cls(job.model, data.classes, data.image_shape)

    def parameters(self) -> int:
        """Number of weights, by arithmetic; raises FieldError if the model cannot be built."""
        channels, height, width = self.image_shape or (0, 0, 0)
        facts = DataFacts("", (height, width, channels), len(self.classes), 0, 0, "")
        return sum(layer.parameters for layer in layers(self.model, facts))

    def build(self, seed: int = 0) -> nn.Module:
        """The network, its weights drawn from ``seed``."""
        return build(self.model, len(self.classes), self.image_shape, seed)


def save_model(folder: Path, network: nn.Module, description: ModelDescription) -> None:
    """Write both files into ``folder``; raises OSError. The same weights give the same bytes."""
    for name, content in model_files(network, description).items():
        (folder / name).write_bytes(content)  # by Python, so that a full disk is the usual OSError and no error of the format's own


def model_files(network: nn.Module, description: ModelDescription) -> dict[str, bytes]:
    """Both files by name. The bytes are copies: the network may go on learning."""
    fields = {
        "format": FORMAT,
        "model": description.model.model_dump(mode="json"),
        "image_shape": description.image_shape,
        "classes": description.classes,
    }
    return {WEIGHTS: save(weights_of(network)), DESCRIPTION: f"{json.dumps(fields)}\n".encode()}


def load_model(folder: Path) -> tuple[nn.Module, ModelDescription]:
    """The network of ``folder`` on the CPU, ready to answer. Raises NotFoundError without its files, CorruptError if they do not fit."""
    description = read_description(folder / DESCRIPTION)
    weights = read_weights(folder / WEIGHTS)
    found = sum(tensor.numel() for tensor in weights.values())
    try:
        wanted = description.parameters()
    except JobError as error:
        raise CorruptError(f"{folder / DESCRIPTION} does not describe a model: {error.message}") from error
    if found != wanted:
        raise CorruptError(f"{folder / WEIGHTS} has {found:,} parameters, and {DESCRIPTION} describes a model of {wanted:,}")
    network = description.build()
    _check_fit(network.state_dict(), weights, folder / WEIGHTS)
    network.load_state_dict(weights)
    return network.eval(), description


def _check_fit(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> None:
    for name in (*wanted, *found):
        mine, theirs = (_form(tensors.get(name)) for tensors in (wanted, found))
        if mine != theirs:
            raise CorruptError(f"{path} does not fit {DESCRIPTION}: {name} is {theirs} there, and should be {mine}")
        if not found[name].isfinite().all():
            raise CorruptError(f"{path} has numbers in {name} that are not finite")


def _form(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} of {'×'.join(map(str, tensor.shape))}"


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """The network's weights and buffers on the CPU, in the memory order that a file holds."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; raises NotFoundError or CorruptError."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}") from error
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise CorruptError(f"{path} is not a safetensors file: {error}") from error


def read_description(path: Path) -> ModelDescription:
    """Read ``model.json``; raises NotFoundError or CorruptError."""
    try:
        if path.stat().st_size > _LARGEST_DESCRIPTION_BYTES:
            raise CorruptError(f"{path} is larger than a model's description can be")
        return _description(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no {path.name} in {path.parent}", hint="only what the built-in cnn and rnn trainers made can be used here"
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CorruptError(f"{path} does not describe a model: {said}") from error


def _description(fields: Mapping[str, Any]) -> ModelDescription:
    if fields["format"] != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    model = TypeAdapter[CnnModel | RnnModel](CnnModel | RnnModel).validate_json(json.dumps(fields["model"]))
    classes, shape = tuple(fields["classes"]), fields["image_shape"]
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are not names")
    if isinstance(model, RnnModel):
        if any(len(character) != 1 for character in classes) or list(classes) != sorted(set(classes)):
            raise ValueError("its classes are not the characters of a vocabulary")
        return ModelDescription(model, classes, None)
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(side) is int and 0 < side < 1 << 15 for side in shape):
        raise ValueError("its image shape is not channels, height and width")
    return ModelDescription(model, classes, (shape[0], shape[1], shape[2]))
