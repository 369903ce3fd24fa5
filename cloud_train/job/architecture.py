"""The built-in models by arithmetic: their layers with output shapes and parameter counts, and how many steps a job takes.

The names are those of the modules in ``training.models``; a test there holds the two together. Shapes leave out the batch axis; images are
channels × height × width, and ``T`` stands for the characters of a sequence.
"""

from collections.abc import Iterator
from math import ceil

from cloud_train.job.facts import DataFacts, LayerFacts
from cloud_train.job.models import CnnModel, RnnModel, TrainSpec
from cloud_train.job.problems import FieldError

_GATES = {"elman": 1, "gru": 3, "lstm": 4}


def layers(model: CnnModel | RnnModel, data: DataFacts) -> tuple[LayerFacts, ...]:
    """The layers of ``model`` on ``data``, in the order in which the data passes. Raises FieldError where a block finds too small an
    image.
    """
    if isinstance(model, CnnModel):
        height, width, channels = data.sample_shape
        return tuple(_cnn(model, height, width, channels, data.classes))
    return tuple(_rnn(model, data.classes))


def steps_per_epoch(data: DataFacts, batch_size: int) -> int:
    """Optimizer steps in one pass over the training samples; the last batch may be smaller."""
    return ceil(data.train_samples / batch_size)


def total_steps(train: TrainSpec, per_epoch: int) -> int:
    """Optimizer steps of the whole job."""
    return train.steps if train.steps is not None else (train.epochs or 0) * per_epoch


def _cnn(model: CnnModel, height: int, width: int, channels: int, classes: int) -> Iterator[LayerFacts]:
    for number, block in enumerate(model.blocks):
        name = f"blocks.{number}"
        parameters = (channels * block.kernel**2 + 1) * block.filters
        height, width, channels = height - block.kernel + 1, width - block.kernel + 1, block.filters
        if min(height, width) < block.pool:
            raise FieldError(
                ("model", "blocks", number),
                f"the image is too small for this block:"
                f" {max(height, 0)}×{max(width, 0)} pixels are left after the {block.kernel}×{block.kernel} convolution,"
                f" and pooling needs {block.pool}",
                hint="take a block away, or give data.size more pixels",
            )
        yield LayerFacts(f"{name}.conv", f"Conv2d {block.kernel}×{block.kernel}", (channels, height, width), parameters)
        yield LayerFacts(f"{name}.relu", "ReLU", (channels, height, width), 0)
        height, width = height // block.pool, width // block.pool
        yield LayerFacts(f"{name}.pool", f"MaxPool2d {block.pool}", (channels, height, width), 0)
    features = channels * height * width
    yield LayerFacts("flatten", "Flatten", (features,), 0)
    yield LayerFacts("classifier", "Linear", (classes,), (features + 1) * classes)


def _rnn(model: RnnModel, vocabulary: int) -> Iterator[LayerFacts]:
    hidden = model.hidden_size
    if model.cell == "linear":
        yield LayerFacts("i2h", "Linear", ("T", hidden), (vocabulary + hidden + 1) * hidden)
        yield LayerFacts("i2o", "Linear", ("T", vocabulary), (vocabulary + hidden + 1) * vocabulary)
        return
    width = vocabulary
    if model.embedding_size:
        width = model.embedding_size
        yield LayerFacts("embedding", "Embedding", ("T", width), vocabulary * width)
    for number in range(model.layers):
        # Each gate has a matrix for the input and one for the hidden state, and, as in torch, a bias for each of them.
        yield LayerFacts(f"rnn.{number}", model.cell, ("T", hidden), _GATES[model.cell] * hidden * (width + hidden + 2))
        width = hidden
    yield LayerFacts("decoder", "Linear", ("T", vocabulary), (hidden + 1) * vocabulary)
