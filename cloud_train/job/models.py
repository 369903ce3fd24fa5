"""The job file as types: one immutable ``JobSpec``, whose fields carry their own default, unit and description.

The published JSON Schema and the tables in docs/job-file.md are generated from here, the descriptions from the docstrings below the fields.
Importing this module is part of every command, so it builds nothing: sections are built when they are used, and defaults are made by
factories.

Unknown keys are errors. What a single field cannot decide (a CNN needs images, say) is in ``job.checks``.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from cloud_train.job.types import Accelerator, ByteSize, Cadence, Duration


class Section(BaseModel):
    """A mapping in the job file: immutable once read, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, strict=True, allow_inf_nan=False)


NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
VariableName = Annotated[str, StringConstraints(pattern=VARIABLE_PATTERN)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
RetryableCause = Literal["failed", "out-of-memory", "preempted", "infrastructure", "timed-out"]


class ConvBlock(Section):
    """One block of a CNN: convolution, ReLU, max-pooling."""

    filters: Count
    """Output channels of the convolution."""
    kernel: Count = 3
    """Side of the square kernel, in pixels; no padding, stride 1."""
    pool: Count = 2
    """Side and stride of the max-pooling window, in pixels; 1 pools nothing."""


class CnnModel(Section):
    """A convolutional image classifier: blocks of conv → ReLU → max-pool, then flatten and one dense layer of class scores."""

    kind: Literal["cnn"]
    """A convolutional network."""
    blocks: tuple[ConvBlock, ...] = Field(default_factory=lambda: (ConvBlock(filters=32), ConvBlock(filters=64)), min_length=1)
    """The blocks, from the image inwards. The default is two of 32 and 64 filters: on 28×28×1 and 10 classes the classic net of 34,826
    parameters.
    """


class RnnModel(Section):
    """A recurrent language model over characters."""

    kind: Literal["rnn"]
    """A recurrent network."""
    cell: Literal["linear", "elman", "gru", "lstm"] = "gru"
    """``linear`` is the classic pair of Linear layers, h' = i2h([x, h]), y = log_softmax(i2o([x, h])), without a tanh."""
    hidden_size: Count = 128
    """Width of the hidden state."""
    layers: Annotated[int, Field(ge=1, le=64)] = 1
    """Recurrent layers on top of each other; ``linear`` has one."""
    embedding_size: Count | None = None
    """Width of a learned character embedding; without it a character goes in one-hot. Not for ``linear``."""


class ScriptModel(Section):
    """Your own program, in any language and any framework."""

    kind: Literal["script"]
    """A program of your own."""
    command: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
    """A list is started as it stands; a text is run by ``/bin/sh -c``, so that ``$VARIABLES`` expand."""
    directory: str = "."
    """Where the command starts, relative to the job file."""


class DigitsData(Section):
    """1,797 handwritten digits of 8×8 grey pixels in 10 classes (the UCI optical digits that scikit-learn carries)."""

    dataset: Literal["digits"]
    """scikit-learn's handwritten digits; nothing is downloaded."""
    size: Annotated[int, Field(ge=8, le=256)] = 28
    """Side to which the images are resized, in pixels."""
    validation: Fraction = 0.2
    """Fraction of the samples that is kept for validation."""


class PythonDocsData(Section):
    """The Python language documentation inside CPython (``pydoc_data.topics``): about half a megabyte of English."""

    dataset: Literal["python-docs"]
    """CPython's own documentation text; nothing is downloaded."""
    sequence_length: Count = 128
    """Characters in one training sequence."""
    validation: Fraction = 0.1
    """Fraction of the text, from its end, that is kept for validation."""


class TextData(Section):
    """Text of your own, UTF-8."""

    dataset: Literal["text"]
    """Your own text files."""
    path: Annotated[str, Field(min_length=1)]
    """A file, or a folder whose ``*.txt`` files are read in the order of their names; relative to the job file."""
    sequence_length: Count = 128
    """Characters in one training sequence."""
    validation: Fraction = 0.1
    """Fraction of the text, from its end, that is kept for validation."""


class FilesData(Section):
    """Files for a script: handed to it, unread, as ``CLOUD_TRAIN_DATA``."""

    dataset: Literal["files"]
    """Any files, for a script."""
    path: Annotated[str, Field(min_length=1)]
    """A file or a folder, relative to the job file."""


class Optimizer(Section):
    """How weights follow from gradients."""

    name: Literal["adam", "sgd"] = "adam"
    """``adam`` (Kingma and Ba, 2015) or plain stochastic gradient descent."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum, for ``sgd``."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 penalty, added to the gradient."""


class TrainSpec(Section):
    """How long and how to train the built-in models."""

    epochs: Count | None = None
    """Passes over the training data; 5 unless ``steps`` is given."""
    steps: Count | None = None
    """Optimizer steps, instead of ``epochs``."""
    batch_size: Count = 64
    """Samples, or sequences of text, in one step."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """The optimizer and its settings."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate over the run: always the same, or falling to 0 along half a cosine wave."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Scale gradients down to this global L2 norm where they exceed it."""
    precision: Literal["fp32"] = "fp32"
    """Number format of the arithmetic."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """From which every random choice is derived."""


class CheckpointSpec(Section):
    """When to save, and how much to keep."""

    every: Cadence = Cadence(1, "epoch")
    """How often a checkpoint is written."""
    keep: Count = 3
    """Newest checkpoints kept; the best one is kept as well."""


class Resources(Section):
    """What one run needs; a provider that cannot give it says so in the plan."""

    accelerator: Accelerator | None = None
    """Kind and number of accelerators per node, such as ``L4:1``."""
    cpus: Count | None = None
    """CPU cores per node, and the threads that the built-in trainers use."""
    memory: ByteSize | None = None
    """Memory per node."""
    nodes: Count = 1
    """Machines."""
    spot: bool = False
    """Take cheaper capacity that the provider may take back."""


class Retry(Section):
    """When an attempt that ended badly is followed by another."""

    attempts: Annotated[int, Field(ge=1, le=30)] = 1
    """Launches at most, the first one counted."""
    on: tuple[RetryableCause, ...] = ("preempted", "infrastructure")
    """The causes that are worth another attempt."""


class Limits(Section):
    """Where a run is stopped."""

    duration: Duration | None = None
    """Longest time that one attempt may take; then it is stopped like a preempted one."""
    grace: Duration = Duration(30)
    """Time that a program which was told to stop has for its last checkpoint."""


Model = Annotated[CnnModel | RnnModel | ScriptModel, Field(discriminator="kind")]
Data = Annotated[DigitsData | PythonDocsData | TextData | FilesData, Field(discriminator="dataset")]


class JobSpec(Section):
    """A training job: what to train, on what, how, and where."""

    name: Name
    """a-z, 0-9 and '-', at most 40 characters; begins every run id of this job."""
    model: Model
    """What is trained."""
    data: Data | None = None
    """What it is trained on."""
    train: TrainSpec = Field(default_factory=TrainSpec)
    """How it is trained; a script decides for itself."""
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    """When to save, and how much to keep."""
    resources: Resources = Field(default_factory=Resources)
    """What one run needs."""
    provider: Name = "local"
    """Where it runs: ``local``, or the name of an installed provider."""
    store: Annotated[str, Field(min_length=1)] = "~/.cloud-train/runs"
    """Where the run directory is kept: a folder."""
    env: dict[VariableName, str] = {}
    """Environment variables of the training program."""
    secrets: tuple[VariableName, ...] = ()
    """Names of environment variables whose values are passed on and never written down."""
    retry: Retry = Field(default_factory=Retry)
    """When an attempt that ended badly is followed by another."""
    limits: Limits = Field(default_factory=Limits)
    """Where a run is stopped."""
