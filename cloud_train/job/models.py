"""The job file as types: one immutable ``JobSpec``, whose fields carry their own default, unit and description.

The published JSON Schema and the tables in docs/job-file.md are generated from here, the descriptions from the docstrings below the fields.
Importing this module is part of every command, so it builds nothing: sections are built when they are used, and defaults are made by
factories.

Its sections are in ``networks`` (``model``), ``data`` and ``job.training`` (``train``, ``checkpoint``); here are the image, the place and
its limits. ``model``, ``data``, the optimizer and the schedule are read by the section of the component that they name.

Unknown keys are errors. What a single field cannot decide (a CNN needs images, say) is in ``job.checks``.
"""

from typing import Annotated, Literal

from pydantic import Field

from cloud_train.data.registry import Data
from cloud_train.job.training import CheckpointSpec, TrainSpec
from cloud_train.networks.registry import Model
from cloud_train.spec.section import Count, Name, PathText, Section, VariableName
from cloud_train.spec.types import Accelerator, ByteSize, Duration

RetryableCause = Literal["failed", "out-of-memory", "preempted", "infrastructure", "timed-out"]


class ImageSpec(Section):
    """What the container is made of; your code and cloud-train's worker are laid on top of it."""

    base: PathText | None = None
    """Image with Python 3.10 or later as python3; by default cloud-train's own, which has what the built-in trainers need."""
    dockerfile: PathText | None = None
    """A Dockerfile of your own instead of ``base``, relative to the job file; it sees the folder ``model.directory``."""
    requirements: PathText | None = None
    """A requirements file, relative to the job file, whose packages pip installs on top."""


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
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Training processes on each machine: one a GPU. They share each step's batch and average their gradients."""
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
    """Where it runs: ``local``, ``docker``, or the name of an installed provider."""
    store: Annotated[str, Field(min_length=1)] = "~/.cloud-train/runs"
    """Where the run directory is kept: a folder, ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://account/container/prefix``."""
    image: ImageSpec = Field(default_factory=ImageSpec)
    """What the container is made of, where the provider runs one."""
    env: dict[VariableName, str] = Field(default_factory=dict)
    """Environment variables of the training program."""
    secrets: tuple[VariableName, ...] = ()
    """Names of environment variables whose values are passed on and never written down."""
    retry: Retry = Field(default_factory=Retry)
    """When an attempt that ended badly is followed by another."""
    limits: Limits = Field(default_factory=Limits)
    """Where a run is stopped."""
