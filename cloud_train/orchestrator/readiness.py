"""Checks for what a submission needs on this machine: values of secrets, code that may go into an image, and packages.

A dry run shows everything that is missing; a submission stops at the first problem, before anything is written. Nothing is sent.
"""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from cloud_train.errors import CloudTrainError, MissingDependencyError, UsageError
from cloud_train.job.models import JobSpec
from cloud_train.networks.base import ScriptModel
from cloud_train.providers.base import Provider
from cloud_train.run.plan import Plan
from cloud_train.storage.registry import check_url


def refusals(provider: Provider, plan: Plan) -> Iterator[CloudTrainError]:
    """The errors for which a submission of this plan would stop on this machine."""
    if (error := missing_secrets(plan.job.secrets)) is not None:
        yield error
    yield from missing_here(provider, plan)
    if provider.capabilities.containers:
        yield from _refused_code(plan)


def missing_secrets(names: tuple[str, ...]) -> UsageError | None:
    """The error for secrets that are not set in this process's environment."""
    missing = [name for name in names if name not in os.environ]
    if not missing:
        return None
    several = len(missing) > 1
    return UsageError(
        f"missing {'secrets' if several else 'secret'}: {', '.join(missing)} {'are' if several else 'is'} not set in the environment",
        hint=f"export {missing[0]}=… in this shell, or remove the name from 'secrets'",
    )


def missing_here(provider: Provider, plan: Plan) -> Iterator[CloudTrainError]:
    """The errors for a store's name, and for a folder or a package that a program on this machine needs."""
    try:
        check_url(plan.store)
    except UsageError as refused:
        yield refused
    if provider.capabilities.containers:
        return
    if isinstance(plan.job.model, ScriptModel) and not Path(plan.program.directory).is_dir():
        yield UsageError(f"model.directory: no such folder: {plan.program.directory}")
    if plan.job.image.requirements is not None:
        from cloud_train.orchestrator.requirements import lacking  # few jobs on this machine have some

        if (error := lacking(provider, plan)) is not None:
            yield error
    if isinstance(plan.job.model, ScriptModel) or provider.interpreter(plan.provider_settings) != sys.executable:
        return
    missing = [package for module, package in _needed(plan.job) if find_spec(module) is None]
    if missing:
        alone = missing == ["tensorboardX"]
        yield MissingDependencyError(
            f"training a {plan.job.model.kind} needs {', '.join(missing)}, which {sys.executable} does not have",
            hint="install it with: pip install 'cloud-train[train]'" + ("; or set train.tensorboard=false" if alone else ""),
        )


def _needed(job: JobSpec) -> Iterator[tuple[str, str]]:
    """The modules that a built-in trainer imports for this job, each with the package that provides it."""
    yield from ((name, name) for name in ("torch", "numpy", "safetensors"))
    if job.data is not None:
        yield from job.data.packages.items()
    if job.train.tensorboard:
        yield "tensorboardX", "tensorboardX"


def _refused_code(plan: Plan) -> Iterator[CloudTrainError]:
    """The error for code that may not go into an image: it is too large, has a likely secret, or a link out of its folder."""
    from cloud_train.image.context import check, survey  # only jobs with their own code need it

    model = plan.job.model
    if not isinstance(model, ScriptModel):
        return
    try:
        check(survey((Path(plan.job_file).parent / model.directory).resolve()), lambda _: None)
    except CloudTrainError as error:
        yield error
