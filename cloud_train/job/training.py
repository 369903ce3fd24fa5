"""The ``train`` and ``checkpoint`` sections: how long, how, and what is kept of it."""

from typing import Annotated, Literal

from pydantic import Field

from cloud_train.spec.section import Count, Fraction, MetricName, Section, Share
from cloud_train.spec.types import Cadence

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Optimizer(Section):
    """How weights follow from gradients."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """``adam`` (Kingma and Ba, 2015), ``adamw`` with its decoupled weight decay (Loshchilov and Hutter, 2019), or stochastic gradient
    descent.
    """
    lr: Positive = 1e-3
    """Learning rate."""
    momentum: Share = 0.0
    """Momentum, for ``sgd``."""
    nesterov: bool = False
    """Nesterov's momentum (Sutskever et al., 2013), for ``sgd``."""
    weight_decay: NonNegative = 0.0
    """Weight decay: added to the gradient as an L2 penalty, except for ``adamw``, which takes it off the weights directly."""
    no_decay: tuple[Literal["bias", "norm", "embedding"], ...] = ()
    """Weights that are spared the decay: biases, the scales of normalizations, embeddings."""


class Schedule(Section):
    """The learning rate over the run. ``schedule: cosine`` is short for ``schedule: {name: cosine}``."""

    name: Literal["constant", "cosine", "step", "one-cycle"] = "constant"
    """Always the same; falling to 0 along half a cosine wave; multiplied by ``factor`` every so often; or up and down again along two
    cosine waves (Smith and Topin, 2018), with ``lr`` at the top.
    """
    warmup: Cadence | None = None
    """Rise linearly from 0 over so many steps or epochs first, such as ``500 steps``. Not for ``one-cycle``, which rises by itself."""
    every: Cadence = Cadence(30, "epoch")
    """``step``: how often the rate is multiplied, in steps or epochs."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """``step``: what the rate is multiplied by."""
    peak_at: Fraction = 0.3
    """``one-cycle``: the part of the run after which the rate is highest."""


class EarlyStopping(Section):
    """End the training when a metric has stopped getting better."""

    metric: MetricName | None = None
    """The metric, such as ``validation/loss``; the one that decides which checkpoint is best, if left out."""
    goal: Literal["min", "max"] | None = None
    """Whether less or more is better; told from the metric's name if left out."""
    patience: Count = 3
    """Validations in a row that may pass without getting better."""
    min_delta: NonNegative = 0.0
    """By how much a metric has to change to count as better."""


class TrainSpec(Section):
    """How long and how to train the built-in models."""

    epochs: Count | None = None
    """Passes over the training data; 5 unless ``steps`` is given."""
    steps: Count | None = None
    """Optimizer steps, instead of ``epochs``."""
    batch_size: Count = 64
    """Samples, lines or sequences of text in one step, over all processes together."""
    accumulate: Count = 1
    """Work through each step's batch in so many parts, one after another: the same step in a fraction of the memory."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """The optimizer and its settings."""
    schedule: Literal["constant", "cosine", "step", "one-cycle"] | Schedule = "constant"
    """The learning rate over the run: a name, or a section."""
    clip_norm: NonNegative | None = None
    """Scale gradients down to this global L2 norm where they exceed it; 0 never does. 1 for an RNN and 0 for a CNN if left out."""
    label_smoothing: Share = 0.0
    """Part of a target's probability that is spread over all classes (Szegedy et al., 2016); validation is without it."""
    class_weights: Literal["balanced"] | Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """Factor of each class in the training loss, in the order of the classes; ``balanced`` makes rare classes count as much as frequent
    ones.
    """
    ema: Fraction | None = None
    """Keep an exponential moving average of the weights with this decay, such as 0.999; it is what is validated and delivered."""
    early_stopping: EarlyStopping | None = None
    """End the training when it has stopped getting better."""
    evaluate: Cadence = Cadence(1, "epoch")
    """How often to validate, in epochs or steps; the end of the run is always validated."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the arithmetic: the weights stay in fp32, and fp16 comes with a gradient scaler."""
    channels_last: bool = True
    """Keep images with their channels innermost in memory: faster on CPUs and with tensor cores."""
    compile: bool = False
    """Compile the network with ``torch.compile``, which takes a minute. A resumed run then has the same data order, not the same bits."""
    carry_state: bool = False
    """Text: carry the hidden state from each sequence into the one that follows it in the text (truncated back-propagation through time),
    instead of shuffling the sequences and starting each from zeros.
    """
    fast_dev_run: bool = False
    """Two steps, two batches of validation, a checkpoint and the model: does the job work at all?"""
    tensorboard: bool = True
    """Write TensorBoard's event files beside the metrics."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """From which every random choice is derived."""


class Best(Section):
    """Which checkpoints are the best."""

    metric: MetricName | None = None
    """The metric that decides, such as ``validation/loss``; ``validation/accuracy``, or else ``validation/loss``, if left out."""
    goal: Literal["min", "max"] | None = None
    """Whether less or more is better; told from the metric's name if left out."""
    keep: Count = 1
    """How many of the best are kept beside the newest."""


class CheckpointSpec(Section):
    """When to save, and how much to keep."""

    every: Cadence = Cadence(1, "epoch")
    """How often a checkpoint is written."""
    keep: Count = 3
    """Newest checkpoints kept."""
    best: Best = Field(default_factory=Best)
    """The best checkpoints are kept as well."""
