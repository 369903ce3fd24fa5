"""Building the network that a description describes."""

import torch
from torch import nn

from cloud_train.errors import JobError
from cloud_train.spec.registry import implementation
from cloud_train.training.description import ModelDescription


def build(description: ModelDescription, seed: int) -> nn.Module:
    """The network that ``description`` describes, its weights drawn from ``seed``, in training mode and torch's usual memory format.

    An image classifier maps images (B, channels, height, width), float32 in [0, 1], to scores (B, classes). A language model maps
    characters (B, T) and a state to scores (B, T, classes) and the state after them. A classifier of lines maps tokens (B, T) and lengths
    (B,) to scores (B, classes). Scores are what a softmax makes probabilities of.

    Raises JobError if a plugin's layer facts do not fit its network.
    """
    builder = implementation(description.model.builder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = builder(description.model, description)
    built = sum(parameter.numel() for parameter in network.parameters())
    told = sum(layer.parameters for layer in description.layers)
    if built != told:  # a model that was saved like this could never be loaded
        kind = description.model.kind
        raise JobError(f"the network of kind {kind!r} has {built:,} parameters, and its layer_facts add up to {told:,}")
    return network
