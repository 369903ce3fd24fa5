"""The ``model`` section: a convolutional network, a recurrent one, or a program of the user's own."""

from typing import Annotated, Literal

from pydantic import Field

from cloud_train.spec.section import Count, Section, Share


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
    """Side and stride of the max-pooling window, in pixels; 1 pools nothing."""
    dropout: Share = 0.0
    """Part of the channels that is dropped after the pooling, in training."""


class CnnModel(Section):
    """A convolutional image classifier: blocks, or a residual net, then one dense layer of class scores."""

    kind: Literal["cnn"]
    """A convolutional network."""
    network: Literal["blocks", "resnet18", "resnet50"] = "blocks"
    """``blocks`` is what ``blocks`` lists; the others are the residual nets of He et al. (2016), in the variant
    called v1.5, whose bottlenecks halve the image in their 3×3 convolution.
    """
    blocks: tuple[ConvBlock, ...] = Field(default_factory=lambda: (ConvBlock(filters=32), ConvBlock(filters=64)), min_length=1)
    """The blocks, from the image inwards. The default is two of 32 and 64 filters: on 28×28×1 and 10 classes the classic net of 34,826
    parameters. Not for a residual net.
    """
    head: Literal["flatten", "average"] = "flatten"
    """What the dense layer reads after the ``blocks``: every pixel of every channel, or each channel's average (global average pooling)."""
    dropout: Share = 0.0
    """Part of the dense layer's inputs that is dropped, in training."""
    stem: Literal["auto", "small", "large"] = "auto"
    """How a residual net begins: ``large`` with 7×7 pixels, stride 2 and a max-pooling, as for ImageNet; ``small`` with 3×3 and stride 1,
    as for CIFAR; ``auto`` takes the small one for images below 64 pixels.
    """


class RnnModel(Section):
    """A recurrent network: a language model over characters (``text``), or a classifier of labelled lines (``sequences``)."""

    kind: Literal["rnn"]
    """A recurrent network."""
    cell: Literal["linear", "elman", "gru", "lstm"] = "gru"
    """``linear`` is the classic pair of Linear layers, h' = i2h([x, h]), y = log_softmax(i2o([x, h])), without a tanh."""
    hidden_size: Count = 128
    """Width of the hidden state."""
    layers: Annotated[int, Field(ge=1, le=64)] = 1
    """Recurrent layers on top of each other."""
    embedding_size: Count | None = None
    """Width of a learned embedding of characters or words; without it they go in one-hot."""
    dropout: Share = 0.0
    """Part of each layer's outputs that is dropped, in training."""
    bidirectional: bool = False
    """Read each line from both ends. For classification: a language model must not see what comes."""


class ScriptModel(Section):
    """Your own program, in any language and any framework."""

    kind: Literal["script"]
    """A program of your own."""
    command: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
    """A list is started as it stands; a text is run by ``/bin/sh -c``, so that ``$VARIABLES`` expand."""
    directory: str = "."
    """Where the command starts, relative to the job file."""


Model = Annotated[CnnModel | RnnModel | ScriptModel, Field(discriminator="kind")]
