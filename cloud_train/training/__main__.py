"""The built-in trainer as a program: ``python -m cloud_train.training``, started by the worker like any script (``worker.contract``)."""

import errno
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.errors import CloudTrainError, CorruptError, JobError, MissingDependencyError, UsageError
from cloud_train.worker import contract
from cloud_train.worker.api import Run

if TYPE_CHECKING:
    from cloud_train.job.models import JobSpec

_NEEDED = ("torch", "numpy", "safetensors", "pydantic")


def main() -> int:
    """Train the job of ``CLOUD_TRAIN_JOB``; returns the exit status. What went wrong is in the log and in the run's status."""
    run = Run.from_environment()  # first: from here on SIGTERM means "save and stop"
    try:
        _train(run)
    except Exception as error:  # noqa: BLE001 -- whatever it is becomes the run's cause; what nobody foresaw keeps its traceback
        explained = _explain(error, run)
        if explained is None:
            traceback.print_exc()
            explained = f"{type(error).__name__}: {error}", "failed"
        message, cause = explained
        print(f"error: {message}", file=sys.stderr, flush=True)
        run.fail(message, cause)
        return 1
    return 0


def _train(run: Run) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: makes its matrix products repeatable
    try:
        import torch

        from cloud_train.training.data import load
        from cloud_train.training.device import prepare_device
        from cloud_train.training.loop import train
        from cloud_train.training.modelfile import ModelDescription
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        raise MissingDependencyError(
            f"the built-in trainers need {error.name}: {error}", hint="install it with: pip install 'cloud-train[train]'"
        ) from error

    job = _read_job()
    device = prepare_device(job.resources.cpus)
    data = load(job, Path.cwd()).to(device)
    description = ModelDescription.of(job, data)
    print(
        f"{job.name}: {job.model.kind} of {description.parameters():,} parameters on {device} with {torch.get_num_threads()} threads;"
        f" {len(data.train):,} samples to train, {len(data.validation):,} to validate",
        flush=True,
    )
    metrics = train(job, data, description, run, device)
    print("done: " + ", ".join(f"validation {name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items()), flush=True)


def _read_job() -> "JobSpec":
    from pydantic import ValidationError

    from cloud_train.job.models import JobSpec

    if not os.environ.get(contract.JOB):
        raise UsageError(f"{contract.JOB} is not set", hint="the worker starts this program; to train, use cloud-train submit")
    path = Path(os.environ[contract.JOB])
    try:
        job = JobSpec.model_validate_json(json.dumps(json.loads(path.read_bytes())["job"]))
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise CorruptError(f"{path} is not the record of a run: {error}") from error
    if job.model.kind == "script":
        raise JobError("model.kind: a script is started by the worker itself")
    return job


def _explain(error: Exception, run: Run) -> tuple[str, str] | None:
    """Message and cause of what may happen to anybody; None for what is a mistake of this program."""
    if isinstance(error, CloudTrainError):
        return error.message + (f" ({error.hint})" if error.hint else ""), "failed"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "memory is used up: try a smaller train.batch_size, or a smaller model", "out-of-memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.filename or run.checkpoints}): free some space, then resume the run", "failed"
    return None


if __name__ == "__main__":
    sys.exit(main())
