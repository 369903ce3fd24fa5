"""Beginning with weights that were trained before (``train.start_from``): what fits the network is loaded, the rest stays random.

The file is safetensors, or a ``state_dict`` saved by torch, which is read with ``weights_only=True``: nothing in it is executed. Names and
shapes decide what fits. Layers that depend on the classes or on the vocabulary are loaded only if those are the same, in the same order:
tensors of the same shape would fit otherwise, and mean something else.
"""

import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cloud_train.beneath import open_plain
from cloud_train.errors import CorruptError, JobError
from cloud_train.networks.cnn import CnnModel
from cloud_train.run.starting_point import DESCRIPTION, StartingPoint
from cloud_train.spec.problems import shortened
from cloud_train.training.description import ModelDescription
from cloud_train.training.modelfile import read_description, read_weights
from cloud_train.training.models.torchvision_names import renamed
from cloud_train.worker import contract

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""The keys under which training programs save a ``state_dict`` among other things."""
_PREFIXES = ("module.", "_orig_mod.")
"""What ``DataParallel`` and ``torch.compile`` put before the names."""
_COUNTER = "num_batches_tracked"
"""A counter of batch normalization, without which older files were saved; our networks make no use of it."""
_BUFFERS = ("running_mean", "running_var", _COUNTER)
_MOST_NAMED = 6
_LEAST_SHARE = 0.5
"""The share of the parameters, without the head, that has to fit."""


@dataclass(frozen=True)
class Start:
    """The weights that a run begins with."""

    source: str
    """What they are, for display."""
    sha256: str
    """SHA-256 of their file, in hexadecimal."""
    weights: Mapping[str, Tensor] | None = None
    """The tensors by name; None in an attempt that continues from a checkpoint."""
    description: ModelDescription | None = None
    """What they were trained for; None if the file does not say."""


@dataclass(frozen=True)
class Fit:
    """What of some weights was loaded into a network."""

    source: str
    """What the weights are, for display."""
    loaded: int
    """The number of tensors."""
    fresh: tuple[str, ...]
    """The tensors that are random instead, each with the reason."""
    unused: tuple[str, ...]
    """The tensors that the network does not have."""
    remarks: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """The fit in words, for the beginning of the log."""
        fresh = f"; initialized with random values: {_listed(self.fresh)}" if self.fresh else ""
        unused = f"; not used: {_listed(self.unused)}" if self.unused else ""
        yield f"starts from {self.source}: {self.loaded} of {self.loaded + len(self.fresh)} tensors{fresh}{unused}"
        yield from self.remarks


def read_start(found: StartingPoint | None) -> Start | None:
    """What the run's plan says about its weights, with the weights if this attempt begins with them. Raises CorruptError."""
    if found is None:
        return None
    place = os.environ.get(contract.START_FROM)
    if not place:
        return Start(found.source, found.weights.sha256)
    path = Path(place)
    description = read_description(path.with_name(DESCRIPTION)) if DESCRIPTION in found.files else None
    return Start(found.source, found.weights.sha256, _read(path, found.source), description)


def load_start(network: nn.Module, own: ModelDescription, start: Start) -> Fit:
    """Load what fits into ``network``, which ``own`` describes; everything else keeps its random values.

    Raises JobError if less than half of the parameters fit, without the layer of the scores, and CorruptError for values that are not
    finite.
    """
    wanted = network.state_dict()
    given = dict(start.weights or {})
    if isinstance(own.model, CnnModel) and own.model.network != "blocks":
        given = renamed(given, own.model.network)
    head = _head(own)
    barred, remarks = _barred(own, start.description, wanted)
    fitting: dict[str, Tensor] = {}
    fresh = []
    for name, tensor in wanted.items():
        if name.endswith(_COUNTER) and name not in given:
            continue
        if name not in given:
            fresh.append(f"{name} (missing)")
        elif given[name].shape != tensor.shape:
            fresh.append(f"{name} ({_shape(given[name])} → {_shape(tensor)})")
        elif name in barred:
            fresh.append(f"{name} ({barred[name]})")
        else:
            fitting[name] = given[name]
    for name, tensor in fitting.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CorruptError(f"{start.source} has values in {name} that are not finite")
    _check_share(wanted, fitting, head, fresh, start.source)
    with torch.no_grad():
        for name, tensor in fitting.items():
            wanted[name].copy_(tensor)
    unused = tuple(name for name in given if name not in wanted)
    return Fit(start.source, len(fitting), tuple(fresh), unused, tuple(remarks))


def _read(path: Path, source: str) -> dict[str, Tensor]:
    with os.fdopen(open_plain(path), "rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
        if is_safetensors:
            return read_weights(path)
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch asks its users to report pickles of other versions
                found = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorruptError(
                f"{source} is not a file of tensors alone, so it is not read: {reason}",
                hint="save the weights with torch.save(model.state_dict(), …) or with safetensors",
            ) from error
    return _state_dict(found, source)


def _state_dict(found: Any, source: str) -> dict[str, Tensor]:
    """The tensors by name in what torch has read, perhaps beside other things."""
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise CorruptError(f"{source} has no tensors by name", hint="save the weights with torch.save(model.state_dict(), …)")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _head(own: ModelDescription) -> str:
    """The beginning of the names of the layer that computes the scores."""
    return f"{own.layers[-1].name}."


def _barred(own: ModelDescription, theirs: ModelDescription | None, wanted: Mapping[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """The tensors that would mean something else, each with the reason, and remarks about the others."""
    if theirs is None:
        return {}, []
    barred: dict[str, str] = {}
    remarks = []
    if theirs.classes != own.classes:
        same = sorted(theirs.classes) == sorted(own.classes)
        reason = "the same classes in another order" if same else "other classes"
        barred = {name: reason for name in wanted if name.startswith(_head(own))}
        if len(theirs.classes) == len(own.classes):
            remarks.append(
                f"warning: the weights were trained for {reason}, so their scores are not used:"
                f" {_listed(theirs.classes)}; now {_listed(own.classes)}"
            )
    mine, before = (one.tokens if one.tokens is not None else one.classes for one in (own, theirs))
    if own.sample_kind != "images" and before != mine:
        barred |= dict.fromkeys(_of_inputs(own, wanted), "another vocabulary")
    if own.normalize != theirs.normalize:
        remarks.append(f"warning: the weights were trained with normalize {_scaling(theirs)}; now {_scaling(own)}")
    return barred, remarks


def _of_inputs(own: ModelDescription, wanted: Mapping[str, Tensor]) -> list[str]:
    """The tensors of a recurrent network that have a column or a row for each token."""
    if "embedding.weight" in wanted:
        return ["embedding.weight"]
    first = f"{own.layers[0].name}."
    return [name for name in wanted if name.startswith(first) and ("weight_ih" in name or name.endswith("i2h.weight"))]


def _check_share(wanted: Mapping[str, Tensor], fitting: Mapping[str, Tensor], head: str, fresh: list[str], source: str) -> None:
    body = {name: tensor.numel() for name, tensor in wanted.items() if not name.startswith(head) and not name.endswith(_BUFFERS)}
    fits = sum(size for name, size in body.items() if name in fitting)
    if fitting and fits >= _LEAST_SHARE * sum(body.values()):
        return
    raise JobError(
        f"the weights of {source} are those of another network: {fits:,} of {sum(body.values()):,} parameters fit,"
        f" without the layer of the scores; what does not fit: {_listed(fresh)}",
        hint="train the same model as the one that made the weights; only its last layer may differ",
    )


def _scaling(description: ModelDescription) -> str:
    normalize = description.normalize
    return f"mean {list(normalize.mean)} and std {list(normalize.std)}" if normalize is not None else "switched off"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "1"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(shortened, names[:_MOST_NAMED])) + more
