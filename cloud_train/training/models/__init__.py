"""The built-in models. Module names are those of ``job.architecture``, which counts their parameters without torch."""

import torch
from torch import nn

from cloud_train.job.models import CnnModel, RnnModel
from cloud_train.training.models.cnn import Cnn
from cloud_train.training.models.rnn import Rnn, build_rnn

__all__ = ["Cnn", "Rnn", "build"]


def build(model: CnnModel | RnnModel, classes: int, image_shape: tuple[int, int, int] | None, seed: int) -> nn.Module:
    """The network that ``model`` describes, its weights drawn from ``seed``.

    ``image_shape`` is (channels, height, width) for a CNN, None for an RNN. A CNN maps (batch, channels, height, width) to scores (batch,
    classes); an RNN maps characters (batch, time) and a state to scores (batch, time, classes) and the state after them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, RnnModel):
            return build_rnn(model, classes)
        assert image_shape is not None
        return Cnn(model, image_shape, classes)
