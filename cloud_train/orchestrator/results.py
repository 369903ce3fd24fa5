"""Bringing a run's results here: the final model or a checkpoint's, and whole run directories. Everything that arrives is verified."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_train.errors import ConflictError, CorruptError, NotFoundError, StoreError, UsageError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.observing import RunView, read_record, view
from cloud_train.run import layout
from cloud_train.run.manifest import FileEntry, Manifest, parse_manifest, write_manifest
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.registry import open_store

Report = Callable[[str, int, int], None]
"""Called after each file: its name, bytes so far, bytes in all."""

_TRAINING_STATE = "state.pt"


@dataclass(frozen=True)
class FetchedModel:
    """A model that lies here, verified."""

    run_id: str
    folder: Path
    source: str
    """``model`` for the final one, or the checkpoint's folder."""
    files: tuple[str, ...]
    bytes: int
    step: int | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class SyncResult:
    """A run directory's copy that lies here."""

    run_id: str
    folder: Path
    copied: tuple[str, ...]
    unchanged: int
    bytes: int
    """Bytes that were copied."""


def fetch_model(
    home: Home, run_id: str, to: Path | None = None, checkpoint: str | None = None, report: Report | None = None
) -> FetchedModel:
    """Copy the final model, or that of a checkpoint (``best``, ``last`` or a step), into the folder ``to``; by default ``./<run
    id>-model``.

    The folder appears whole or not at all. Raises NotFoundError where there is no such model (yet), ConflictError if the folder holds
    something else, CorruptError if a byte differs from the manifest.
    """
    run = view(home, run_id)
    store = open_store(run.store)
    prefix, manifest = _chosen(store, run, checkpoint)
    files = {name: entry for name, entry in manifest.files.items() if name != _TRAINING_STATE}
    target = (to or Path(f"{run_id}-model")).absolute()
    with _folder_that_appears_whole(target) as temporary:
        done, total = 0, sum(entry.size for entry in files.values())
        for name, entry in files.items():
            _fetch_verified(store, f"{prefix}/{name}", temporary / name, entry)
            done += entry.size
            if report:
                report(name, done, total)
        write_manifest(temporary, manifest.step, manifest.metrics, manifest.fingerprint)
    source = prefix.removeprefix(f"{run_id}/")
    return FetchedModel(run_id, target, source, tuple(files), total, manifest.step, manifest.metrics)


def sync(home: Home, run_id: str, to: Path | None = None, report: Report | None = None) -> SyncResult:
    """Copy the run directory into ``to`` (by default ``./<run id>``); what lies there already with the same SHA-256 is left alone.

    Every file that a manifest lists is checked against it. Nothing here is deleted.
    """
    run = view(home, run_id)
    store = open_store(run.store)
    target = (to or Path(run_id)).absolute()
    if store.local_path(run_id) == target:
        raise UsageError(f"{target} is the run directory itself", hint="name another folder with --to")
    infos = list(store.list(f"{run_id}/"))
    if not infos:
        raise NotFoundError(f"the run directory {run.run_directory} is gone")
    expected = _entries_of_manifests(store, run_id)
    # A manifest comes last here too: a copy that was cut off must not look complete.
    infos.sort(key=lambda info: info.key.endswith(f"/{layout.MANIFEST}"))
    done, total = 0, sum(info.size for info in infos)
    copied, copied_bytes = [], 0
    for info in infos:
        name = info.key.removeprefix(f"{run_id}/")
        if not _lies_here(store, info.key, info.size, target / name, expected.get(name)):
            _fetch(store, info.key, target / name, expected.get(name))
            copied.append(name)
            copied_bytes += info.size
        done += info.size
        if report:
            report(name, done, total)
    return SyncResult(run_id, target, tuple(copied), len(infos) - len(copied), copied_bytes)


def model_folder(home: Home, run_id: str, checkpoint: str | None = None) -> Path | None:
    """Where the model lies if its store is a local folder, so that it can be used in place; None otherwise."""
    run = view(home, run_id)
    store = open_store(run.store)
    prefix, _ = _chosen(store, run, checkpoint)
    return store.local_path(prefix)


def _chosen(store: Store, run: RunView, checkpoint: str | None) -> tuple[str, Manifest]:
    """The folder that was asked for, and its manifest."""
    if checkpoint is None:
        prefix = f"{run.run_id}/{layout.MODEL}"
        with suppress(ObjectMissingError):
            return prefix, _manifest(store, prefix)
        hint = f"take what there is with: cloud-train fetch-model {run.run_id} --checkpoint last"
        state = f"attempt {run.attempt} is {run.state}"
        raise NotFoundError(f"{run.run_id} has no final model; {state}", hint=hint if _checkpoints(store, run.run_id) else None)
    found = _checkpoints(store, run.run_id)
    steps = ", ".join(str(step) for step in found) or "none yet"
    if checkpoint not in ("best", "last") and not checkpoint.isdecimal():
        raise UsageError(f"--checkpoint takes 'best', 'last' or a step, not {checkpoint!r}", hint=f"steps that are kept: {steps}")
    if not found:
        raise NotFoundError(f"{run.run_id} has no checkpoint yet")
    step = _best_step(store, run, found) if checkpoint == "best" else max(found) if checkpoint == "last" else int(checkpoint)
    if step not in found:
        raise NotFoundError(f"{run.run_id} has no checkpoint of step {checkpoint}", hint=f"steps that are kept: {steps}")
    return f"{run.run_id}/{layout.CHECKPOINTS}/{layout.step_folder(step)}", found[step]


def _best_step(store: Store, run: RunView, found: Mapping[int, Manifest]) -> int:
    ranking = read_record(store, run.run_id).program.ranking
    return max(found, key=lambda step: ranking.quality(found[step].metrics, step))


def _checkpoints(store: Store, run_id: str) -> dict[int, Manifest]:
    """The manifest of each complete checkpoint, in the order of the steps."""
    found = {}
    for name in store.folders(f"{run_id}/{layout.CHECKPOINTS}/"):
        step = layout.step_of(name)
        if step is not None and name == layout.step_folder(step):
            with suppress(ObjectMissingError, CorruptError):
                found[step] = _manifest(store, f"{run_id}/{layout.CHECKPOINTS}/{name}")
    return dict(sorted(found.items()))


def _manifest(store: Store, prefix: str) -> Manifest:
    key = f"{prefix}/{layout.MANIFEST}"
    return parse_manifest(store.get(key), f"{store.url}/{key}")


def _entries_of_manifests(store: Store, run_id: str) -> dict[str, FileEntry]:
    """Every file of the run directory that a manifest vouches for."""
    folders = [layout.MODEL, *(f"{layout.CHECKPOINTS}/{layout.step_folder(step)}" for step in _checkpoints(store, run_id))]
    entries: dict[str, FileEntry] = {}
    for folder in folders:
        with suppress(ObjectMissingError, CorruptError):
            entries |= {f"{folder}/{name}": entry for name, entry in _manifest(store, f"{run_id}/{folder}").files.items()}
    return entries


def _fetch_verified(store: Store, key: str, path: Path, entry: FileEntry) -> None:
    store.get_file(key, path)
    if path.stat().st_size != entry.size or _sha256(path) != entry.sha256:
        path.unlink()
        raise CorruptError(
            f"{store.url}/{key} is not what was written: its size or SHA-256 differs from the manifest's",
            hint="choose another checkpoint with --checkpoint, or resume the run, which passes this one over",
        )


def _fetch(store: Store, key: str, path: Path, entry: FileEntry | None) -> None:
    try:
        if entry is not None:
            _fetch_verified(store, key, path, entry)
        else:
            store.get_file(key, path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _lies_here(store: Store, key: str, size: int, path: Path, entry: FileEntry | None) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
        return False
    return _sha256(path) == (entry.sha256 if entry else hashlib.sha256(store.get(key)).hexdigest())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _folder_that_appears_whole(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place at the end; an earlier model there is replaced, anything else is not."""
    try:
        if target.exists() and not (target / layout.MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
            raise ConflictError(f"{target} exists and is not a fetched model", hint="name another folder with --to")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        temporary.chmod(0o755)
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write {path}: {error.strerror}", hint="free some space, or name another folder with --to")
