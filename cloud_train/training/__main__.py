"""The built-in trainer as a program: ``python -m cloud_train.training``, started by the worker like any script (``worker.contract``).

For a job with several processes or nodes, this process becomes the launcher of its node and starts the program again for each process.
"""

import errno
import gc
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.beneath import IrregularError, write_file
from cloud_train.errors import CloudTrainError, CorruptError, JobError, MissingDependencyError, StoreError, UsageError
from cloud_train.private import make_folder
from cloud_train.run.record import sha256_of
from cloud_train.run.starting_point import StartingPoint
from cloud_train.spec.paths import home_folder
from cloud_train.training.processes import LastWords, is_launched, own_rank, words_file
from cloud_train.worker import contract
from cloud_train.worker.api import Run

if TYPE_CHECKING:
    from cloud_train.job.models import JobSpec

LEAST_TORCH = (2, 10)
"""The oldest version of torch whose ``weights_only`` is safe, as in pyproject.toml."""
_NEEDED = ("torch", "numpy", "safetensors", "pydantic")
_CAUSES = {"ArrivalError": "infrastructure", "AcceleratorMissingError": "no-accelerator"}
"""By name, because their modules need packages that may be missing here; so do those of the next."""
_KEEP_TRACEBACK = ("BrokenComponentError",)
"""Errors in a plugin's code, which its authors need to find."""
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "Connection was likely closed",  # torch's store, which node 0 keeps
    "NCCL",
)


def main() -> int:
    """Train the job of ``CLOUD_TRAIN_JOB``; returns the exit status. An error is in the log and in the run's status."""
    run = Run.from_environment()  # first: from here on SIGTERM means "save and stop"
    try:
        return _run(run)
    except Exception as error:  # noqa: BLE001 -- any error becomes the run's cause; an unexpected one keeps its traceback
        words = _explained(error, run)
        if words is None or type(error).__name__ in _KEEP_TRACEBACK:
            traceback.print_exc()
        if words is None:
            words = LastWords(f"{type(error).__name__}: {error}")
        _tell(words, run)
        return 1


def _run(run: Run) -> int:
    job, origin = _read_job()
    if (job.resources.processes > 1 or run.nodes > 1) and not is_launched():
        from cloud_train.training.launch import launch

        return launch(run, job.resources.processes, ("-m", "cloud_train.training"))
    _train(job, run, origin)
    return 0


def _train(job: "JobSpec", run: Run, origin: StartingPoint | None) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: makes its matrix products reproducible
    try:
        with _without_collecting():
            import torch

            from cloud_train.training.data.dataset import load
            from cloud_train.training.description import ModelDescription
            from cloud_train.training.device import check_accelerators, prepare_device
            from cloud_train.training.distributed import connected
            from cloud_train.training.loop import train
            from cloud_train.training.starting import read_start
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        raise MissingDependencyError(
            f"the built-in trainers need {error.name}: {error}", hint="install it with: pip install 'cloud-train[train]'"
        ) from error

    _check_version(torch.__version__)
    if job.train.compile:
        keep_compiled_code_private()
    if job.resources.accelerator is not None:
        check_accelerators(job.resources.accelerator.kind, job.resources.accelerator.count)
    device = prepare_device(job.resources.cpus)
    with _ended_by_sigterm(run):
        data = load(job, run.data or Path.cwd()).to(device)
    description = ModelDescription.of(job, data)
    start = read_start(origin)
    with connected(device) as world:
        if world.is_main:
            parameters = sum(layer.parameters for layer in description.layers)
            processes = f"in {world.size} processes, each " if world.size > 1 else ""
            where = f"{processes}on {device} with {_counted(torch.get_num_threads(), 'thread')}"
            samples = f"{len(data.train):,} training samples, {len(data.validation):,} validation samples"
            tested = f", {len(data.test):,} test samples" if data.test is not None else ""
            print(f"{job.name}: {job.model.kind} with {parameters:,} parameters {where}; {samples}{tested}", flush=True)
            for remark in data.remarks:
                print(f"data: {remark}", flush=True)
        metrics = train(job, data, description, run, world, start=start)
        if world.is_main:
            shown = (f"validation {name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())
            print("done: " + ", ".join(shown), flush=True)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _check_version(torch: str) -> None:
    """Refuse a version of torch in which a checkpoint, which comes from a store, can run code."""
    found = re.match(r"(\d+)\.(\d+)", torch)
    if found and (int(found[1]), int(found[2])) < LEAST_TORCH:
        least = ".".join(map(str, LEAST_TORCH))
        raise MissingDependencyError(
            f"torch {torch} is too old: before {least}, a manipulated checkpoint can run code (CVE-2026-24747)",
            hint=f"install a newer one with: pip install 'torch>={least}'",
        )


def keep_compiled_code_private() -> None:
    """Make torch keep compiled code in the user's own folder. By default it uses a folder in /tmp with a predictable name, and runs and
    unpickles what is there: on a shared machine, another user could create that folder first.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    with suppress(OSError, RuntimeError):  # in a container without a writable home, /tmp is private
        folder = home_folder() / "compiled"
        make_folder(folder)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Collect no garbage: importing produces almost none, and imported objects stay. Otherwise each collection, including the one at exit,
    scans all of torch: a sixth of the processor time of a training with few steps (measured).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _ended_by_sigterm(run: Run) -> Iterator[None]:
    """End immediately on SIGTERM while there is nothing to save yet."""
    listening = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if run.stop_requested:
        run.exit_stopped()
    yield
    signal.signal(signal.SIGTERM, listening)


def _read_job() -> "tuple[JobSpec, StartingPoint | None]":
    try:
        from pydantic import ValidationError

        from cloud_train.job.models import JobSpec
        from cloud_train.job.validation_errors import in_words
    except ImportError as error:
        raise MissingDependencyError(
            f"the built-in trainers need {error.name}: {error}", hint="install it with: pip install 'cloud-train[train]'"
        ) from error

    if not os.environ.get(contract.JOB):
        raise UsageError(f"{contract.JOB} is not set", hint="the worker starts this program; to train, use cloud-train submit")
    path = Path(os.environ[contract.JOB])
    try:
        written = path.read_bytes()
        if os.environ.get(contract.JOB_SHA256, sha256_of(written)) != sha256_of(written):
            raise CorruptError(f"{path} was changed after this attempt was submitted")
        record = json.loads(written)
        job = JobSpec.model_validate_json(json.dumps(record["job"]))
        origin = StartingPoint.from_plan(record.get("plan") or {})
    except ValidationError as error:
        raise JobError(
            f"{path} does not hold a valid job: {in_words(error, JobSpec, json.loads(written)['job'])}",
            hint="a package that adds a data set, model, optimizer or schedule must also be installed where the job trains:"
            " add it to image.requirements",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path} is not a valid run record: {error}") from error
    if job.model.kind == "script":
        raise JobError("model.kind: a script is started by the worker itself")
    return job, origin


def _explained(error: Exception, run: Run) -> LastWords | None:
    """Message and cause of an error that is expected in use; None for any other."""
    if isinstance(error, CloudTrainError):
        cause = _CAUSES.get(type(error).__name__, "failed")
        return LastWords(error.message + (f" ({error.hint})" if error.hint else ""), cause)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return LastWords("out of memory: try a smaller train.batch_size, or a smaller model", "out-of-memory")
    if isinstance(error, IrregularError):
        return LastWords(f"{error.path} is {error.what}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LastWords(f"the disk is full ({error.filename or run.checkpoints}): free some space, then resume the run")
    if is_launched() and isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST_PEER):
        return LastWords("another process of this training has ended", "infrastructure", is_consequence=True)
    return None


def _tell(words: LastWords, run: Run) -> None:
    with suppress(StoreError):  # the failure is what matters now
        run.flush()
    if not is_launched():
        print(f"error: {words.message}", file=sys.stderr, flush=True)
        run.fail(words.message, words.cause)
        return
    print(f"error: rank {own_rank()}: {words.message}", file=sys.stderr, flush=True)
    if run.failure is not None:
        place = words_file(run.failure, own_rank())
        write_file(place, run.root_of(place), json.dumps(asdict(words)).encode())


def _end_at_once() -> None:
    """End one of several processes without the interpreter's shutdown, which sometimes fails in torch's own threads: once in twenty
    trainings with three processes, "terminate called without an active exception" after everything was done and saved.
    """
    try:
        status: object = main()
    except SystemExit as told_to_stop:
        status = told_to_stop.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    if is_launched():
        _end_at_once()
    sys.exit(main())
