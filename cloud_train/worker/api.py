"""The API for training programs: find the run's folders, log metrics, save checkpoints, report the reason for a failure.

Example::

    from cloud_train.worker.api import Run

    run = Run.from_environment()
    start = load(run.resume_from) if run.resume_from else 0
    for step in range(start, 1000):
        ...
        run.log(step=step, loss=loss)
        if run.stop_requested or step % 100 == 0:
            with run.checkpoint(step, {"loss": loss}) as folder:
                save(folder / "weights.bin")
        if run.stop_requested:
            run.exit_stopped()

The same program also runs outside cloud-train: ``from_environment`` then uses folders under ``./cloud-train-output``.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import atexit
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from cloud_train import beneath
from cloud_train.errors import StoreError, UsageError
from cloud_train.run.checkpoints import newest_valid, opened, prune, publish
from cloud_train.run.layout import step_folder
from cloud_train.run.manifest import REMOVE_LINK, write_manifest
from cloud_train.run.ranking import USUAL, Ranking
from cloud_train.worker import contract
from cloud_train.worker.metrics import MetricsWriter

if TYPE_CHECKING:
    from typing_extensions import Self  # noqa: UP035 -- typing has it from Python 3.11 on

_ALONE = "standalone"
STANDALONE = "cloud-train-output"
"""Folder for the checkpoints, model and metrics of a program that runs outside cloud-train."""


@dataclass
class Run:
    """One attempt, as its program sees it. Create it with ``from_environment``."""

    run_id: str
    """The run's id; ``standalone`` outside cloud-train."""
    attempt: int
    """From 1."""
    checkpoints: Path
    """Folder of the checkpoints, which ``checkpoint`` writes."""
    model: Path
    """Folder for the final model."""
    metrics: Path
    """File of the metrics, to which ``log`` appends."""
    data: Path | None
    """The job's data, or a folder for downloads."""
    resume_from: Path | None
    """Folder of the newest valid checkpoint; None on a fresh start."""
    failure: Path | None = None
    """File for the reason of a failure, which ``fail`` writes."""
    node_rank: int = 0
    """Rank of this node, from 0."""
    nodes: int = 1
    """Number of nodes."""
    grace_seconds: float = 30.0
    """Seconds between SIGTERM and SIGKILL."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints to keep, in addition to the best ones."""
    ranking: Ranking = USUAL
    """Which checkpoints are the best, and how many of them are kept."""
    _writer: MetricsWriter = field(init=False, repr=False)
    _stop: bool = field(init=False, default=False, repr=False)

    def __post_init__(self) -> None:
        self._writer = MetricsWriter(self.metrics, root=self.root_of(self.metrics))
        atexit.register(self._writer.flush_quietly)

    @classmethod
    def from_environment(cls) -> Self:
        """The attempt that this process belongs to; installs a SIGTERM handler that sets ``stop_requested``.

        Call it from the main thread, before anything that takes long. Raises UsageError if only a part of the contract's variables is set,
        StoreError if the folders cannot be created.
        """
        run = cls._inside(os.environ) if os.environ.get(contract.RUN_ID) else cls._standalone()
        try:
            for folder in (run.checkpoints, run.model, run.metrics.parent):
                root = run.root_of(folder)
                os.close(beneath.open_folder(root, folder.relative_to(root).parts, make=True))
        except beneath.IrregularError as error:
            raise StoreError(f"cannot create {folder}: {error.path} is {error.what}", hint=REMOVE_LINK) from error
        except OSError as error:
            raise StoreError(f"cannot create {error.filename}: {os.strerror(error.errno or 0).lower()}") from error
        signal.signal(signal.SIGTERM, run._on_sigterm)
        return run

    def root_of(self, path: Path) -> Path:
        """The trusted folder above ``path``, below which no link is followed: the run's own folder, which contains the checkpoints."""
        run = self.checkpoints.parent
        return run if path.is_relative_to(run) else path.parent

    @property
    def _made_by(self) -> int | None:
        """The attempt that results belong to; None outside cloud-train."""
        return None if self.run_id == _ALONE else self.attempt

    def _with_code(self, fingerprint: Mapping[str, Any] | None) -> dict[str, Any]:
        """The fingerprint with the identity of a script's code, as the worker found it when the attempt began."""
        given = os.environ.get(contract.CODE) if self._made_by is not None else None
        return {**({"code": json.loads(given)} if given else {}), **(fingerprint or {})}

    @property
    def stop_requested(self) -> bool:
        """Whether the run was asked to stop: save a checkpoint and end with ``exit_stopped``. A second SIGTERM ends the process
        immediately.
        """
        return self._stop

    def log(self, *, step: int, epoch: float | None = None, split: str = "train", **values: float) -> None:
        """Append metrics of one step. Lines are buffered and written at most every half second; ``flush`` writes them now.

        A value that is not finite is written as null, because JSON cannot represent it. Raises StoreError if the file cannot be written.
        """
        self._writer.add(step, epoch, split, values)

    def flush(self) -> None:
        """Write buffered metrics; raises StoreError if the file cannot be written."""
        self._writer.flush()

    @contextmanager
    def checkpoint(
        self, step: int, metrics: Mapping[str, float] | None = None, fingerprint: Mapping[str, Any] | None = None
    ) -> Iterator[Path]:
        """A temporary folder to fill; leaving the block publishes it (synced, renamed, manifest last) and prunes old ones.

        ``metrics``, such as ``{"validation/accuracy": 0.98}``, decide which checkpoints are the best. ``fingerprint`` records what
        bit-identical results depend on (device, versions, threads). An exception inside the block leaves no checkpoint. Raises StoreError,
        such as for a full disk; older checkpoints are then unchanged.
        """
        self.flush()
        temporary = self.checkpoints / f".{step_folder(step)}.{os.getpid()}.tmp"
        try:
            with beneath.held(self.checkpoints.parent, (self.checkpoints.name,), make=True) as directory:
                _remove_if_there(temporary.name, directory)
                os.mkdir(temporary.name, dir_fd=directory)
        except beneath.IrregularError as error:
            raise StoreError(f"cannot save {temporary}: {error.path} is {error.what}", hint=REMOVE_LINK) from error
        try:
            yield temporary
            published = publish(temporary, self.checkpoints, step, metrics, self._with_code(fingerprint), attempt=self._made_by)
        finally:
            with suppress(FileNotFoundError, beneath.IrregularError), opened(self.checkpoints) as directory:
                _remove_if_there(temporary.name, directory)
        prune(self.checkpoints, self.keep_checkpoints, trusted=published, ranking=self.ranking, attempt=self._made_by)

    def publish_model(
        self, step: int | None = None, metrics: Mapping[str, float] | None = None, fingerprint: Mapping[str, Any] | None = None
    ) -> None:
        """Complete the final model by writing its manifest. Raises StoreError if ``model`` is empty or cannot be written.

        ``step`` is the step whose weights it has, and ``metrics``, such as ``{"validation/accuracy": 0.98}``, say how good it is;
        ``fetch-model`` shows both. ``fingerprint`` records what the model was made from.
        """
        self.flush()
        fingerprint = self._with_code(fingerprint)
        write_manifest(self.model, step, metrics, fingerprint, self.root_of(self.model), attempt=self._made_by)

    def fail(self, message: str, cause: str = "failed", *, is_consequence: bool = False) -> None:
        """Report why the program is about to end; the run's status shows the first 1,024 characters.

        ``cause`` is ``failed``, ``out-of-memory``, ``infrastructure`` or ``no-accelerator``, and decides about retries. ``is_consequence``
        means that this node ends because another one did, whose reason counts. Does not end the program and never raises: if the file
        cannot be written, the message goes to stderr, whose last line the status shows as well.
        """
        if self.failure is not None:
            try:
                said = {"message": message, "cause": cause, **({"is_consequence": True} if is_consequence else {})}
                beneath.write_file(self.failure, self.root_of(self.failure), json.dumps(said).encode())
                return
            except OSError:  # such as a full disk, which may be the reason to report
                with suppress(OSError):
                    beneath.unlink_within(self.failure, self.root_of(self.failure))
        print(f"{cause}: {message}", file=sys.stderr, flush=True)

    def exit_stopped(self) -> NoReturn:
        """Flush and end with the exit status of a program that was asked to stop and saved its work."""
        self.flush()
        sys.exit(contract.STOPPED)

    @classmethod
    def _inside(cls, environment: Mapping[str, str]) -> Self:
        try:
            return cls(
                run_id=environment[contract.RUN_ID],
                attempt=int(environment[contract.ATTEMPT]),
                checkpoints=Path(environment[contract.CHECKPOINTS]),
                model=Path(environment[contract.MODEL]),
                metrics=Path(environment[contract.METRICS]),
                data=_path(environment.get(contract.DATA)),
                resume_from=_path(environment.get(contract.RESUME)),
                failure=_path(environment.get(contract.FAILURE)),
                node_rank=int(environment.get(contract.NODE_RANK) or 0),
                nodes=int(environment.get(contract.NODES) or 1),
                grace_seconds=float(environment.get(contract.GRACE_SECONDS) or 30),
                keep_checkpoints=int(environment.get(contract.KEEP_CHECKPOINTS) or 3),
                ranking=Ranking.from_text(environment.get(contract.BEST) or "1"),
            )
        except KeyError as error:
            raise UsageError(
                f"{contract.RUN_ID} is set, but {error} is not", hint=f"unset {contract.RUN_ID} to run outside cloud-train"
            ) from error
        except ValueError as error:
            raise UsageError(f"a CLOUD_TRAIN_… variable is invalid: {error}") from error

    @classmethod
    def _standalone(cls) -> Self:
        folder = Path(STANDALONE).absolute()
        checkpoints = (folder / "checkpoints").resolve()  # may be the user's own link, such as to a larger disk
        resume_from = newest_valid(checkpoints, lambda line: print(line, file=sys.stderr))
        return cls(_ALONE, 1, checkpoints, (folder / "model").resolve(), folder / "metrics.jsonl", data=None, resume_from=resume_from)

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _remove_if_there(name: str, directory: int) -> None:
    if stat.S_ISDIR(beneath.mode_of(name, directory)):
        beneath.remove(name, directory)
