"""The ``train`` and ``checkpoint`` sections: how long and how to train, and which checkpoints are kept."""

from math import ceil
from typing import Annotated, Literal, overload

from pydantic import Field

from cloud_train.job.optimizers import OPTIMIZERS, NonNegative, Optimizer, OptimizerSection, Positive
from cloud_train.job.schedules import SCHEDULES, Schedule, ScheduleSection
from cloud_train.spec.types import Cadence, Count, Fraction, Interval, MetricName, PathText, Section, Seed, Sha256, Share, Url

_FAST_DEV_STEPS = 2


class EarlyStopping(Section):
    """Stop training when a metric no longer improves."""

    metric: MetricName | None = None
    """The metric, such as ``validation/loss``; it also decides which checkpoint is the best. If left out, ``checkpoint.best`` decides."""
    goal: Literal["min", "max"] | None = None
    """Whether lower or higher is better; inferred from the metric's name if left out."""
    patience: Count = 3
    """Consecutive validations without improvement after which training stops."""
    min_delta: NonNegative = 0.0
    """Smallest change of the metric that counts as an improvement."""


class WebWeights(Section):
    """A file of weights on a web server, downloaded when the run starts unless it is cached."""

    url: Url
    """Its URL."""
    sha256: Sha256
    """Its SHA-256, in hexadecimal."""


class TrainSpec(Section):
    """How long and how to train the built-in models."""

    start_from: PathText | WebWeights | None = None
    """Begin with weights that were trained before, instead of random ones: a run, by its id or the URL of its directory; a fetched model's
    folder, or a file of weights (safetensors, or a ``state_dict`` saved by torch), relative to the job file; or ``url`` and ``sha256`` of
    such a file on a web server, also written ``https://…#sha256=…``. Layers of another shape, such as those for other classes, begin with
    random weights.
    """
    epochs: Count | None = None
    """Passes over the training data; 5 unless ``steps`` is given."""
    steps: Count | None = None
    """Optimizer steps, instead of ``epochs``."""
    batch_size: Count = 64
    """Samples, lines or sequences of text in one step, across all processes; at most, because an epoch is divided evenly."""
    accumulate: Count = 1
    """Process each step's batch in this many parts, one after another: the same step in a fraction of the memory."""
    optimizer: Annotated[OptimizerSection, OPTIMIZERS] = Field(default_factory=Optimizer)
    """The optimizer and its settings."""
    schedule: Annotated[str | ScheduleSection, SCHEDULES] = "constant"
    """The learning rate over the run: a name, or a section."""
    clip_norm: NonNegative | None = None
    """Scale gradients down to this global L2 norm where they exceed it; 0 never does. 1 for an RNN and 0 for a CNN if left out."""
    label_smoothing: Share = 0.0
    """Fraction of a target's probability that is spread over all classes (Szegedy et al., 2016); not used in validation."""
    class_weights: Literal["balanced"] | Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """Weight of each class in the training loss, in the order of the classes; ``balanced`` makes rare classes count as much as frequent
    ones.
    """
    ema: Fraction | None = None
    """Keep an exponential moving average of the weights with this decay, such as 0.999; the average is validated and saved as the model."""
    early_stopping: EarlyStopping | None = None
    """Stop training when it no longer improves."""
    deliver: Literal["best", "last"] | None = None
    """The model of the run: that of the best validation, or the last one; if left out, ``best`` with early stopping, otherwise ``last``."""
    evaluate: Interval = Interval(1, "epoch")
    """How often to validate, in epochs or steps; the end of the run is always validated."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the arithmetic: the weights stay in fp32, and fp16 uses a gradient scaler."""
    channels_last: bool = True
    """Store images with their channels innermost in memory: faster on CPUs and with tensor cores."""
    compile: bool = False
    """Compile the network with ``torch.compile``, which takes a minute. A resumed run then keeps its data order, but not its bits."""
    carry_state: bool = False
    """Text: carry the hidden state from each sequence into the one that follows it in the text (truncated back-propagation through time),
    instead of shuffling the sequences and starting each from zeros.
    """
    fast_dev_run: bool = False
    """Two steps, two batches of validation, a checkpoint and the model: a quick test of the whole job."""
    tensorboard: bool = True
    """Write TensorBoard event files in addition to the metrics."""
    seed: Seed = 0
    """Seed of every random choice in the training. The samples that are held out for validation are chosen by ``data.seed``."""

    @property
    def delivers_best(self) -> bool:
        """Whether the model of the run is that of the best validation."""
        return (self.deliver or ("best" if self.early_stopping else "last")) == "best"

    @property
    def schedule_section(self) -> ScheduleSection:
        """The schedule, written out where the job gives only its name."""
        return self.schedule if isinstance(self.schedule, ScheduleSection) else Schedule.model_validate({"name": self.schedule})

    def steps_per_epoch(self, train_samples: int | None) -> int | None:
        """Optimizer steps in one pass over the training samples; None if their number is unknown.

        With ``carry_state`` every batch is full, and the remaining samples are left out.
        """
        if train_samples is None:
            return None
        return train_samples // self.batch_size if self.carry_state else ceil(train_samples / self.batch_size)

    @overload
    def total_steps(self, per_epoch: int) -> int: ...
    @overload
    def total_steps(self, per_epoch: int | None) -> int | None: ...
    def total_steps(self, per_epoch: int | None) -> int | None:
        """Optimizer steps of the whole job, with ``per_epoch`` steps in each epoch; None if that is unknown and needed."""
        steps = self.steps
        if steps is None and per_epoch is not None:
            steps = (self.epochs or 0) * per_epoch
        if not self.fast_dev_run:
            return steps
        return _FAST_DEV_STEPS if steps is None else min(steps, _FAST_DEV_STEPS)


class Best(Section):
    """Which checkpoints are the best."""

    metric: MetricName | None = None
    """The metric that ranks them, such as ``validation/loss``; if left out, that of ``train.early_stopping``; otherwise the loss of a
    language model or a forecast, and the accuracy of others.
    """
    goal: Literal["min", "max"] | None = None
    """Whether lower or higher is better; inferred from the metric's name if left out."""
    keep: Count = 1
    """How many of the best are kept in addition to the newest."""


class CheckpointSpec(Section):
    """When to save, and how much to keep."""

    every: Cadence = Cadence(1, "epoch")
    """How often a checkpoint is written; the built-in trainers also write one after each validation that is the best so far."""
    keep: Count = 3
    """Newest checkpoints kept."""
    best: Best = Field(default_factory=Best)
    """Which of the best checkpoints are kept too."""
