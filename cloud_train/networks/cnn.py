"""Convolutional image classifiers: blocks as the job lists them, or a residual net."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cloud_train.data.base import SampleKind
from cloud_train.networks.base import ModelSection
from cloud_train.spec.facts import DataFacts, LayerFacts
from cloud_train.spec.problems import FieldError, Finding
from cloud_train.spec.types import Count, Section, Share

_SMALL_IMAGE = 64


@dataclass(frozen=True)
class ResidualNet:
    """The shape of a residual net of He et al. (2016)."""

    blocks: tuple[int, int, int, int]
    """Residual blocks of each stage; the stages have 64, 128, 256 and 512 channels inside, and all but the first halve the image."""
    expansion: int
    """Output channels of a block for each channel inside: 1 for two 3×3 convolutions, 4 for a bottleneck of 1×1, 3×3 and 1×1."""


RESIDUAL_NETS = {"resnet18": ResidualNet((2, 2, 2, 2), 1), "resnet50": ResidualNet((3, 4, 6, 3), 4)}
RESIDUAL_WIDTHS = (64, 128, 256, 512)


class ConvBlock(Section):
    """One block of a CNN: convolution, batch normalization if asked for, ReLU, max-pooling, dropout if asked for."""

    filters: Count
    """Output channels of the convolution."""
    kernel: Count = 3
    """Side of the square kernel, in pixels."""
    stride: Count = 1
    """Step of the kernel, in pixels."""
    padding: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Pixels of zeros around the image before the convolution."""
    norm: Literal["none", "batch"] = "none"
    """``batch`` puts batch normalization (Ioffe and Szegedy, 2015) between convolution and ReLU; the convolution then has no bias."""
    pool: Count = 2
    """Side and stride of the max-pooling window, in pixels; 1 disables pooling."""
    dropout: Share = 0.0
    """Fraction of the channels that is dropped after the pooling, in training."""


class CnnModel(ModelSection):
    """A convolutional image classifier: blocks, or a residual net, then dense layers, the last of which computes the class scores."""

    kind: Literal["cnn"]
    """A convolutional network."""
    network: Literal["blocks", "resnet18", "resnet50"] = "blocks"
    """``blocks`` uses the blocks listed in the field ``blocks``; the others are the residual nets of He et al. (2016), in the variant
    called v1.5, whose bottlenecks halve the image in their 3×3 convolution.
    """
    blocks: tuple[ConvBlock, ...] = Field(default_factory=lambda: (ConvBlock(filters=32), ConvBlock(filters=64)), min_length=1)
    """The blocks, starting from the image. The default is two blocks of 32 and 64 filters: with 28×28×1 pixels and 10 classes, the classic
    net of 34,826 parameters. Not for a residual net.
    """
    head: Literal["flatten", "average"] = "flatten"
    """What the dense layers read after the ``blocks``: every pixel of every channel, or each channel's average (global average pooling)."""
    dense: tuple[Count, ...] = ()
    """Widths of hidden dense layers, each with a ReLU, before the one of the class scores; ``[128]`` makes it the tutorials' larger net."""
    dropout: Share = 0.0
    """Fraction of the outputs of each hidden dense layer that is dropped, in training; without any, of the last layer's inputs."""
    stem: Literal["auto", "small", "large"] = "auto"
    """How a residual net begins: ``large`` is a 7×7 convolution with stride 2 and max-pooling, as for ImageNet; ``small`` is a 3×3
    convolution with stride 1, as for CIFAR; ``auto`` uses the small one for images below 64 pixels.
    """

    reads: ClassVar[tuple[SampleKind, ...]] = ("images",)
    builder: ClassVar[str] = "cloud_train.training.models.cnn:build_cnn"

    def layer_facts(self, data: DataFacts) -> tuple[LayerFacts, ...]:
        """The layers for images of this size. Raises FieldError if the image is too small for a block."""
        height, width, channels = data.sample_shape
        net = RESIDUAL_NETS.get(self.network)
        body = _blocks(self, height, width, channels) if net is None else _residual(self, net, height, width, channels)
        return tuple(_classifier(self, [*body], data.classes))

    def ignored_fields(self) -> Iterator[Finding]:
        """Fields that belong to the other kind of network."""
        if self.network == "blocks":
            yield ("model", "stem"), "only a residual net has a stem", "network: resnet18 or resnet50, or no stem"
        else:
            yield ("model", "blocks"), f"{self.network} has a fixed set of blocks", "network: blocks, or no blocks"
            yield ("model", "head"), f"{self.network} always ends with global average pooling", "network: blocks, or no head"

    def has_small_stem(self, height: int, width: int) -> bool:
        """Whether a residual net begins with the small stem, for images of this size."""
        return min(height, width) < _SMALL_IMAGE if self.stem == "auto" else self.stem == "small"


def _blocks(model: CnnModel, height: int, width: int, channels: int) -> Iterator[LayerFacts]:
    for number, block in enumerate(model.blocks):
        name, bias = f"blocks.{number}", 0 if block.norm == "batch" else 1
        parameters = (channels * block.kernel**2 + bias) * block.filters
        channels = block.filters
        height, width = ((side + 2 * block.padding - block.kernel) // block.stride + 1 for side in (height, width))
        _check_pixels(number, block, height, width)
        yield LayerFacts(f"{name}.conv", _convolution(block.kernel, block.stride), (channels, height, width), parameters)
        if block.norm == "batch":
            yield LayerFacts(f"{name}.norm", "BatchNorm2d", (channels, height, width), 2 * channels)
        yield LayerFacts(f"{name}.relu", "ReLU", (channels, height, width), 0)
        if block.pool > 1:
            height, width = height // block.pool, width // block.pool
            yield LayerFacts(f"{name}.pool", f"MaxPool2d {block.pool}", (channels, height, width), 0)
        if block.dropout:
            yield LayerFacts(f"{name}.dropout", f"Dropout2d {block.dropout:g}", (channels, height, width), 0)


def _check_pixels(number: int, block: ConvBlock, height: int, width: int) -> None:
    if min(height, width) < block.pool:
        left = f"{max(height, 0)}×{max(width, 0)} pixels are left after the {block.kernel}×{block.kernel} convolution"
        raise FieldError(
            ("model", "blocks", number),
            f"the image is too small for this block: {left}" + (f", and pooling needs {block.pool}" if block.pool > 1 else ""),
            hint="remove a block, or increase data.size",
        )


def _residual(model: CnnModel, net: ResidualNet, height: int, width: int, channels: int) -> Iterator[LayerFacts]:
    small = model.has_small_stem(height, width)
    kernel = 3 if small else 7
    inner = RESIDUAL_WIDTHS[0]
    if not small:  # the convolution and the pooling each halve the image, rounded up
        height, width = ceil(ceil(height / 2) / 2), ceil(ceil(width / 2) / 2)
    kind = _convolution(kernel, 1) if small else f"{_convolution(kernel, 2)}, MaxPool2d 3"
    yield LayerFacts("stem", kind, (inner, height, width), channels * inner * kernel**2 + 2 * inner)
    channels = inner
    for stage, (inner, count) in enumerate(zip(RESIDUAL_WIDTHS, net.blocks, strict=True), 1):
        for number in range(count):
            stride = 2 if stage > 1 and number == 0 else 1
            height, width = ceil(height / stride), ceil(width / stride)
            parameters = _residual_parameters(channels, inner, net.expansion, stride)
            channels = inner * net.expansion
            kind = ("BasicBlock" if net.expansion == 1 else "Bottleneck") + (", stride 2" if stride == 2 else "")
            yield LayerFacts(f"layer{stage}.{number}", kind, (channels, height, width), parameters)


def _residual_parameters(channels: int, inner: int, expansion: int, stride: int) -> int:
    """Parameters of one block: its convolutions, two per channel for each normalization, and the shortcut if it is a convolution."""
    outer = inner * expansion
    if expansion == 1:
        parameters = 9 * (channels + inner) * inner + 4 * inner
    else:
        parameters = (channels + 9 * inner + outer) * inner + 4 * inner + 2 * outer
    has_convolution = stride > 1 or channels != outer
    return parameters + (channels * outer + 2 * outer if has_convolution else 0)


def _classifier(model: CnnModel, body: list[LayerFacts], classes: int) -> Iterator[LayerFacts]:
    """The body, and the layers that turn its output channels into class scores."""
    yield from body
    channels, height, width = (int(side) for side in body[-1].output_shape)
    is_average = model.network != "blocks" or model.head == "average"
    features = channels if is_average else channels * height * width
    yield LayerFacts("average", "Average", (features,), 0) if is_average else LayerFacts("flatten", "Flatten", (features,), 0)
    for number, width in enumerate(model.dense):
        yield LayerFacts(f"dense.{number}.linear", "Linear", (width,), (features + 1) * width)
        features = width
        yield LayerFacts(f"dense.{number}.relu", "ReLU", (features,), 0)
        if model.dropout:
            yield LayerFacts(f"dense.{number}.dropout", f"Dropout {model.dropout:g}", (features,), 0)
    if model.dropout and not model.dense:
        yield LayerFacts("dropout", f"Dropout {model.dropout:g}", (features,), 0)
    yield LayerFacts("classifier", "Linear", (classes,), (features + 1) * classes)


def _convolution(kernel: int, stride: int) -> str:
    return f"Conv2d {kernel}×{kernel}" + (f", stride {stride}" if stride > 1 else "")
