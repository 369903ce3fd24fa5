"""The job file as types: one immutable ``JobSpec``, whose fields carry their own default, unit and description.

The published JSON Schema and the tables in docs/job-file.md are generated from here, the descriptions from the docstrings below the fields.
Every command imports this module, so it builds nothing: pydantic builds sections when they are first used, and defaults come from
factories.

Its sections are in ``networks`` (``model``), ``data`` and ``job.training`` (``train``, ``checkpoint``); this module has the image, the
resources and the limits. ``model``, ``data``, the optimizer and the schedule are read by the section of the component that they name.

Unknown keys are errors. Checks that involve several fields (a CNN needs images) are in ``job.checks``.
"""

from typing import Annotated, Literal

from pydantic import Field

from cloud_train.data.registry import Data
from cloud_train.job.training import Best, CheckpointSpec, TrainSpec
from cloud_train.networks.registry import Model
from cloud_train.spec.types import Accelerator, ByteSize, Count, Duration, Name, PathText, Section, VariableName

RetryableCause = Literal["failed", "out-of-memory", "preempted", "infrastructure", "timed-out"]


class ImageSpec(Section):
    """What the container is built from; your code and cloud-train's worker are added on top."""

    base: PathText | None = None
    """Image with Python 3.10 or later as python3; by default cloud-train's own, which has what the built-in trainers need."""
    dockerfile: PathText | None = None
    """Your own Dockerfile instead of ``base``, relative to the job file; its build context is the folder ``model.directory``."""
    requirements: PathText | None = None
    """A requirements file, relative to the job file; pip installs its packages on top."""


class Resources(Section):
    """What one run needs; the plan says if the provider cannot supply it."""

    accelerator: Accelerator | None = None
    """Kind and number of accelerators per node, such as ``L4:1``. A run whose program can use fewer GPUs ends in its first seconds."""
    cpus: Count | None = None
    """CPU cores per node, and the threads that the built-in trainers use."""
    memory: ByteSize | None = None
    """Memory per node."""
    nodes: Count = 1
    """Number of machines."""
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Training processes on each node; if left out, one for each ``accelerator`` on a provider that supplies it, otherwise 1. They share
    each step's batch and average their gradients.
    """
    machine: Annotated[str, Field(min_length=1)] | None = None
    """Machine type, by the cloud's own name, such as ``ml.g5.xlarge``; if left out, the smallest one that satisfies the fields above.
    ``machine`` in the cloud's settings overrides it.
    """
    spot: bool = False
    """Use cheaper capacity that the provider may reclaim."""


class Retry(Section):
    """When an unsuccessful attempt is retried."""

    attempts: Annotated[int, Field(ge=1, le=30)] = 1
    """Most launches of the run, including the first."""
    on: tuple[RetryableCause, ...] = ("preempted", "infrastructure")
    """Causes that are retried."""


class Limits(Section):
    """When a run is stopped."""

    duration: Duration | None = None
    """Longest time that one attempt may take; then it is stopped in the same way as a preempted one."""
    grace: Duration = Duration(30)
    """Time that a program has to save a last checkpoint when it is stopped."""


BY_NAME = {("model",): "kind", ("data",): "dataset", ("train", "optimizer"): "name"}
"""Sections that a job may replace by a single name, and the key that the name is for: ``data: digits``."""


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
    """What the container is built from, if the provider runs containers."""
    env: dict[VariableName, str] = Field(default_factory=dict)
    """Environment variables of the training program."""
    secrets: tuple[VariableName, ...] = ()
    """Names of environment variables whose values are passed to the program and never stored."""
    retry: Retry = Field(default_factory=Retry)
    """When an unsuccessful attempt is retried."""
    limits: Limits = Field(default_factory=Limits)
    """When a run is stopped."""

    @property
    def best(self) -> Best:
        """What decides which validation is the best, for checkpoints, early stopping and the model alike.

        The metric of ``checkpoint.best``, otherwise that of ``train.early_stopping``, otherwise the loss of a language model or a
        forecast; without any of these, its metric is None: accuracy decides, and without one the loss.
        """
        best, stopping = self.checkpoint.best, self.train.early_stopping
        if best.metric is not None:
            return best
        if stopping is not None and stopping.metric is not None:
            return Best(metric=stopping.metric, goal=stopping.goal, keep=best.keep)
        is_by_loss = self.data is not None and self.data.sample_kind in ("text", "series")
        return Best(metric="validation/loss" if is_by_loss else None, keep=best.keep)
