"""The built-in models by arithmetic: their layers with output shapes and parameter counts, and how many steps a job takes.

The names are those of the modules in ``training.models``; a test there holds the two together. Shapes leave out the batch axis; images are
channels × height × width, and ``T`` stands for the characters or words of a sequence. The scaling of pixels (``data.normalize``) learns
nothing and is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import overload

from cloud_train.job.models import CnnModel, ConvBlock, RnnModel, TrainSpec
from cloud_train.spec.facts import DataFacts, LayerFacts
from cloud_train.spec.problems import FieldError

_GATES = {"elman": 1, "gru": 3, "lstm": 4}
_SMALL_IMAGE = 64
_FAST_DEV_STEPS = 2


@dataclass(frozen=True)
class ResidualNet:
    """What tells one residual net of He et al. (2016) from another."""

    blocks: tuple[int, int, int, int]
    """Residual blocks of each stage; the stages have 64, 128, 256 and 512 channels inside, and halve the image but for the first."""
    expansion: int
    """Channels that come out of a block for each one inside: 1 for two 3×3 convolutions, 4 for a bottleneck of 1×1, 3×3 and 1×1."""


RESIDUAL_NETS = {"resnet18": ResidualNet((2, 2, 2, 2), 1), "resnet50": ResidualNet((3, 4, 6, 3), 4)}
RESIDUAL_WIDTHS = (64, 128, 256, 512)


def layers(model: CnnModel | RnnModel, data: DataFacts) -> tuple[LayerFacts, ...]:
    """The layers of ``model`` on ``data``, in the order in which the data passes.

    Raises FieldError where a block finds too small an image, and where a network would have to read in a direction that it cannot.
    """
    if isinstance(model, CnnModel):
        height, width, channels = data.sample_shape
        net = RESIDUAL_NETS.get(model.network)
        body = _blocks(model, height, width, channels) if net is None else _residual(model, net, height, width, channels)
        return tuple(_classifier(model, [*body], data.classes))
    _check_directions(model, is_language_model=data.tokens is None)
    return tuple(_language_model(model, data.classes) if data.tokens is None else _line_classifier(model, data.tokens, data.classes))


def has_small_stem(model: CnnModel, height: int, width: int) -> bool:
    """Whether a residual net begins with 3×3 pixels and stride 1, rather than with 7×7, stride 2 and a max-pooling."""
    return min(height, width) < _SMALL_IMAGE if model.stem == "auto" else model.stem == "small"


def steps_per_epoch(data: DataFacts, batch_size: int, *, carry_state: bool = False) -> int | None:
    """Optimizer steps in one pass over the training samples, None where their number is not known.

    The last batch may be smaller; where a state is carried from batch to batch, every batch is whole and the rest is left out.
    """
    if data.train_samples is None:
        return None
    return data.train_samples // batch_size if carry_state else ceil(data.train_samples / batch_size)


@overload
def total_steps(train: TrainSpec, per_epoch: int) -> int: ...
@overload
def total_steps(train: TrainSpec, per_epoch: int | None) -> int | None: ...
def total_steps(train: TrainSpec, per_epoch: int | None) -> int | None:
    """Optimizer steps of the whole job, ``per_epoch`` of them in an epoch; None where that is not known and decides it."""
    steps = train.steps
    if steps is None and per_epoch is not None:
        steps = (train.epochs or 0) * per_epoch
    if not train.fast_dev_run:
        return steps
    return _FAST_DEV_STEPS if steps is None else min(steps, _FAST_DEV_STEPS)


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
            hint="take a block away, or give data.size more pixels",
        )


def _residual(model: CnnModel, net: ResidualNet, height: int, width: int, channels: int) -> Iterator[LayerFacts]:
    small = has_small_stem(model, height, width)
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
    """Of one block: its convolutions, two numbers a channel for the normalization after each, and the shortcut if it is a convolution."""
    outer = inner * expansion
    if expansion == 1:
        parameters = 9 * (channels + inner) * inner + 4 * inner
    else:
        parameters = (channels + 9 * inner + outer) * inner + 4 * inner + 2 * outer
    has_convolution = stride > 1 or channels != outer
    return parameters + (channels * outer + 2 * outer if has_convolution else 0)


def _classifier(model: CnnModel, body: list[LayerFacts], classes: int) -> Iterator[LayerFacts]:
    """The body, and what makes scores of the channels that come out of it."""
    yield from body
    channels, height, width = (int(side) for side in body[-1].output_shape)
    is_average = model.network != "blocks" or model.head == "average"
    features = channels if is_average else channels * height * width
    yield LayerFacts("average", "Average", (features,), 0) if is_average else LayerFacts("flatten", "Flatten", (features,), 0)
    if model.dropout:
        yield LayerFacts("dropout", f"Dropout {model.dropout:g}", (features,), 0)
    yield LayerFacts("classifier", "Linear", (classes,), (features + 1) * classes)


def _convolution(kernel: int, stride: int) -> str:
    return f"Conv2d {kernel}×{kernel}" + (f", stride {stride}" if stride > 1 else "")


def _check_directions(model: RnnModel, is_language_model: bool) -> None:
    if not model.bidirectional:
        return
    if model.cell == "linear":
        raise FieldError(
            ("model", "bidirectional"), "the linear cell reads in one direction", "cell: elman, gru or lstm, or no bidirectional"
        )
    if is_language_model:
        raise FieldError(
            ("model", "bidirectional"), "a language model must not see what comes", "data: {dataset: sequences}, or no bidirectional"
        )


def _language_model(model: RnnModel, vocabulary: int) -> Iterator[LayerFacts]:
    yield from _recurrent(model, vocabulary)
    if model.dropout:
        yield _last_dropout(model, ("T", model.hidden_size))
    features = model.hidden_size
    if model.cell == "linear":  # i2o reads what the last layer reads: its input, and the state before it
        features += _input_widths(model, vocabulary)[-1]
    yield LayerFacts("i2o" if model.cell == "linear" else "decoder", "Linear", ("T", vocabulary), (features + 1) * vocabulary)


def _line_classifier(model: RnnModel, tokens: int, classes: int) -> Iterator[LayerFacts]:
    yield from _recurrent(model, tokens)
    features = model.hidden_size * _directions(model)
    if model.dropout:
        yield _last_dropout(model, (features,))
    yield LayerFacts("decoder", "Linear", (classes,), (features + 1) * classes)


def _recurrent(model: RnnModel, inputs: int) -> Iterator[LayerFacts]:
    """Embedding and recurrent layers, with the dropout between them."""
    if model.embedding_size:
        yield LayerFacts("embedding", "Embedding", ("T", model.embedding_size), inputs * model.embedding_size)
    hidden, directions = model.hidden_size, _directions(model)
    for number, width in enumerate(_input_widths(model, inputs)):
        if number and model.dropout:
            yield LayerFacts(f"dropout.{number - 1}", f"Dropout {model.dropout:g}", ("T", hidden * directions), 0)
        if model.cell == "linear":
            yield LayerFacts(f"rnn.{number}.i2h", "Linear", ("T", hidden), (width + hidden + 1) * hidden)
            continue
        # Each gate has a matrix for the input and one for the hidden state, and, as in torch, a bias for each of them.
        parameters = directions * _GATES[model.cell] * hidden * (width + hidden + 2)
        kind = model.cell + (", both ways" if model.bidirectional else "")
        yield LayerFacts(f"rnn.{number}", kind, ("T", hidden * directions), parameters)


def _last_dropout(model: RnnModel, shape: tuple[int | str, ...]) -> LayerFacts:
    return LayerFacts(f"dropout.{model.layers - 1}", f"Dropout {model.dropout:g}", shape, 0)


def _input_widths(model: RnnModel, inputs: int) -> list[int]:
    """What each layer reads at a time."""
    return [model.embedding_size or inputs] + [model.hidden_size * _directions(model)] * (model.layers - 1)


def _directions(model: RnnModel) -> int:
    return 2 if model.bidirectional else 1
