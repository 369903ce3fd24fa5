"""The built-in models. Module names are those of ``job.architecture``, which counts their parameters without torch."""

import torch
from torch import nn

from cloud_train.job.models import CnnModel
from cloud_train.training.description import ModelDescription
from cloud_train.training.models.cnn import Cnn
from cloud_train.training.models.language import LanguageModel, LinearLanguageModel, StackedLanguageModel
from cloud_train.training.models.lines import LineClassifier
from cloud_train.training.models.resnet import ResNet

__all__ = ["Cnn", "LanguageModel", "LineClassifier", "ResNet", "build"]


def build(description: ModelDescription, seed: int) -> nn.Module:
    """The network that ``description`` describes, its weights drawn from ``seed``, in training mode and torch's usual memory format.

    An image classifier maps images (B, channels, height, width), float32 in [0, 1], to scores (B, classes). A language model maps
    characters (B, T) and a state to scores (B, T, classes) and the state after them. A classifier of lines maps tokens (B, T) and lengths
    (B,) to scores (B, classes). Scores are what a softmax makes probabilities of.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _network(description)


def _network(description: ModelDescription) -> nn.Module:
    model, classes, image_shape = description.model, len(description.classes), description.image_shape
    if not isinstance(model, CnnModel):
        if description.tokens is not None:
            return LineClassifier(model, description.inputs, classes)
        return LinearLanguageModel(model, classes) if model.cell == "linear" else StackedLanguageModel(model, classes)
    assert image_shape is not None  # whoever makes a description sees to it
    network = Cnn if model.network == "blocks" else ResNet
    return network(model, image_shape, classes, description.normalize)
