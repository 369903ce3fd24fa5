"""Layers shared by the image classifiers. Sizes in names: B batch, C channels, H height, W width."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_train.data.pixels import Normalize
from cloud_train.networks.cnn import CnnModel


class Scale(nn.Module):
    """(pixel - mean) / std of each channel. The values are constants: they are in ``model.json``, not among the weights."""

    factor: Tensor
    offset: Tensor
    """Both (C, 1, 1)."""

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (normalize.mean, normalize.std))
        self.register_buffer("factor", 1 / std, persistent=False)
        self.register_buffer("offset", -mean / std, persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The images, scaled."""
        return torch.addcmul(self.offset, images_BCHW, self.factor)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization that also accepts a batch of one image with one pixel, which has no variance.

    torch refuses to train on that. It can occur at the end of an epoch, or in one of several processes; the running averages are then used
    instead of the batch's own, and are not updated.
    """

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The images, normalized."""
        if self.training and images_BCHW.numel() == self.num_features:
            return functional.batch_norm(images_BCHW, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(images_BCHW)


class Average(nn.Module):
    """The average of each channel: (B, C, H, W) to (B, C). Also known as global average pooling (Lin et al., 2014)."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The averages."""
        return images_BCHW.mean((2, 3))


def scaling(normalize: Normalize | None) -> OrderedDict[str, nn.Module]:
    """The network's normalizing first layer by its name, if it has one."""
    return OrderedDict() if normalize is None else OrderedDict(normalize=Scale(normalize))


def scores(model: CnnModel, shape: tuple[int, int, int], classes: int, *, average: bool) -> OrderedDict[str, nn.Module]:
    """The network's last layers by their names: from channels × height × width to a score for each class."""
    channels, height, width = shape
    layers: OrderedDict[str, nn.Module] = OrderedDict(average=Average()) if average else OrderedDict(flatten=nn.Flatten())
    if model.dropout:
        layers["dropout"] = nn.Dropout(model.dropout)
    layers["classifier"] = nn.Linear(channels if average else channels * height * width, classes)
    return layers
