"""Convolutional image classifiers: blocks of convolution → normalization → ReLU → max-pooling → dropout, and residual nets.

ResNet-18 and ResNet-50 (K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2016) in the variant called v1.5:
where a bottleneck halves the image, its 3×3 convolution does so, not the 1×1 before it. They are implemented here because torchvision is a
large dependency for a hundred lines, and each of its wheels fits only one build of torch.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_train.data.pixels import Normalize
from cloud_train.networks.cnn import RESIDUAL_NETS, RESIDUAL_WIDTHS, CnnModel, ConvBlock
from cloud_train.training.description import ModelDescription


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
    features = channels if average else channels * height * width
    if model.dense:
        layers["dense"] = hidden = nn.Sequential()
        for width in model.dense:
            hidden.append(_dense(features, width, model.dropout))
            features = width
    elif model.dropout:
        layers["dropout"] = nn.Dropout(model.dropout)
    layers["classifier"] = nn.Linear(features, classes)
    return layers


def _dense(features: int, width: int, dropout: float) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(features, width), relu=nn.ReLU(inplace=True))
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(layers)


def draw_hidden(network: nn.Sequential) -> None:
    """Draw the weights of the hidden dense layers, if there are any, as He et al. (2015) do before a ReLU."""
    for name, weight in network.named_parameters():
        if name.startswith("dense.") and name.endswith("weight"):
            nn.init.kaiming_normal_(weight, nonlinearity="relu")


class ResNet(nn.Sequential):
    """Maps images (batch, channels, height, width) to class scores (batch, classes)."""

    def __init__(self, model: CnnModel, image_shape: tuple[int, int, int], classes: int, normalize: Normalize | None = None) -> None:
        net = RESIDUAL_NETS[model.network]
        channels, height, width = image_shape
        layers = {**scaling(normalize), "stem": _stem(channels, small=model.has_small_stem(height, width))}
        channels = RESIDUAL_WIDTHS[0]
        for number, (inner, blocks) in enumerate(zip(RESIDUAL_WIDTHS, net.blocks, strict=True), 1):
            stage = nn.Sequential()
            for block in range(blocks):
                stage.append(ResidualBlock(channels, inner, net.expansion, stride=2 if number > 1 and block == 0 else 1))
                channels = inner * net.expansion
            layers[f"layer{number}"] = stage
        super().__init__(OrderedDict({**layers, **scores(model, (channels, 1, 1), classes, average=True)}))
        self._draw_weights()

    def _draw_weights(self) -> None:
        # As in P. Goyal et al., "Accurate, Large Minibatch SGD", 2017: blocks start as their shortcuts, and scores close to zero.
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, ResidualBlock):
                nn.init.zeros_(layer.last_scale)
        draw_hidden(self)


class ResidualBlock(nn.Module):
    """relu(body(x) + shortcut(x)). The body is two convolutions of 3×3, or a bottleneck of 1×1, 3×3 and 1×1 if ``expansion`` is not 1.

    The shortcut is x itself, or a 1×1 convolution of x if its size or channels change.
    """

    def __init__(self, channels: int, inner: int, expansion: int, stride: int) -> None:
        super().__init__()
        outer = inner * expansion
        if expansion == 1:
            convolutions = [_convolution(channels, inner, 3, stride), _convolution(inner, outer, 3)]
        else:
            convolutions = [_convolution(channels, inner, 1), _convolution(inner, inner, 3, stride), _convolution(inner, outer, 1)]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, convolution in enumerate(convolutions, 1):
            if number > 1:
                layers[f"relu{number - 1}"] = nn.ReLU(inplace=True)
            layers[f"conv{number}"], layers[f"norm{number}"] = convolution, BatchNorm(convolution.out_channels)
        self.body = nn.Sequential(layers)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != outer:
            self.shortcut = nn.Sequential(OrderedDict(conv=_convolution(channels, outer, 1, stride), norm=BatchNorm(outer)))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """relu(body(x) + shortcut(x)), with the block's stride and channels."""
        return functional.relu(self.body(images_BCHW) + self.shortcut(images_BCHW), inplace=True)

    @property
    def last_scale(self) -> Tensor:
        """The scale of each output channel of the body."""
        norm = self.body[-1]
        assert isinstance(norm, BatchNorm)  # the last layer of the body
        return norm.weight


def _stem(channels: int, *, small: bool) -> nn.Sequential:
    width = RESIDUAL_WIDTHS[0]
    convolution = _convolution(channels, width, 3) if small else _convolution(channels, width, 7, stride=2)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=convolution, norm=BatchNorm(width), relu=nn.ReLU(inplace=True))
    if not small:
        layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(layers)


def _convolution(channels: int, outer: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, outer, kernel, stride, padding=kernel // 2, bias=False)  # the normalization that follows has a bias


def build_cnn(model: CnnModel, description: ModelDescription) -> nn.Module:
    """The network for images of the description's shape."""
    assert description.image_shape is not None  # it is an image classifier
    network = Cnn if model.network == "blocks" else ResNet
    return network(model, description.image_shape, len(description.classes), description.normalize)


class Cnn(nn.Sequential):
    """Maps images (batch, channels, height, width) to class scores (batch, classes)."""

    def __init__(self, model: CnnModel, image_shape: tuple[int, int, int], classes: int, normalize: Normalize | None = None) -> None:
        channels, height, width = image_shape
        blocks = nn.Sequential()
        for block in model.blocks:
            blocks.append(_block(block, channels))
            channels = block.filters
            height, width = (((side + 2 * block.padding - block.kernel) // block.stride + 1) // block.pool for side in (height, width))
        head = scores(model, (channels, height, width), classes, average=model.head == "average")
        super().__init__(OrderedDict({**scaling(normalize), "blocks": blocks, **head}))
        self._draw_weights()

    def _draw_weights(self) -> None:
        # He et al. (2015) before a ReLU, Glorot and Bengio (2010) before the scores. torch's default initial weights are smaller, and
        # the classic net learns more slowly from them: 97.1% instead of 97.8% of the digits after 5 epochs (means of the same 12 seeds).
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        draw_hidden(self)


def _block(block: ConvBlock, channels: int) -> nn.Sequential:
    has_norm = block.norm == "batch"  # it replaces the convolution's bias
    convolution = nn.Conv2d(channels, block.filters, block.kernel, block.stride, block.padding, bias=not has_norm)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=convolution)
    if has_norm:
        layers["norm"] = BatchNorm(block.filters)
    layers["relu"] = nn.ReLU(inplace=True)
    if block.pool > 1:
        layers["pool"] = nn.MaxPool2d(block.pool)
    if block.dropout:
        layers["dropout"] = nn.Dropout2d(block.dropout)
    return nn.Sequential(layers)
