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
from cloud_train.orchestrator.stores import store_at
from cloud_train.run import layout
from cloud_train.run.manifest import FileEntry, Manifest, parse_manifest, write_manifest
from cloud_train.run.streams import SegmentedStream, stream_of
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.transfer.files import Download, Options, Progress, download
from cloud_train.storage.transfer.paths import ignores_case, place

Report = Callable[[Progress], None]
"""Called a few times a second, and at the end."""

_TRAINING_STATE = "state.pt"
_PIECE_BYTES = 8 << 20


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
    skipped: tuple[tuple[str, str], ...] = ()
    """Objects that cannot safely be files here, and logs of which a part is missing, each with the reason."""


def fetch_model(
    home: Home, run_id: str, to: Path | None = None, checkpoint: str | None = None, report: Report | None = None
) -> FetchedModel:
    """Copy the final model, or that of a checkpoint (``best``, ``last`` or a step), into the folder ``to``; by default ``./<run
    id>-model``.

    The folder appears whole or not at all. Raises NotFoundError where there is no such model (yet), ConflictError if the folder holds
    something else, CorruptError if a byte differs from the manifest.
    """
    run = view(home, run_id)
    store = store_at(run.store)
    prefix, manifest = _chosen(store, run, checkpoint)
    files = {name: entry for name, entry in manifest.files.items() if name != _TRAINING_STATE}
    target = (to or Path(f"{run_id}-model")).absolute()
    is_far = store.local_path(prefix) is None
    with _folder_that_appears_whole(target, kept_when_cut=is_far) as temporary:
        wanted = {name: entry for name, entry in files.items() if not _lies_here(temporary / name, entry.sha256)}
        files_here = [Download(f"{prefix}/{name}", temporary / name, entry.size, entry.sha256) for name, entry in wanted.items()]
        _download(store, files_here, Options(report=report))
        write_manifest(temporary, manifest.step, manifest.metrics, manifest.fingerprint)
    source, total = prefix.removeprefix(f"{run_id}/"), sum(entry.size for entry in files.values())
    return FetchedModel(run_id, target, source, tuple(files), total, manifest.step, manifest.metrics)


def sync(home: Home, run_id: str, to: Path | None = None, report: Report | None = None) -> SyncResult:
    """Copy the run directory into ``to`` (by default ``./<run id>``); what lies there already with the same SHA-256 is left alone.

    Every file that a manifest lists is checked against it. Nothing here is deleted.
    """
    run = view(home, run_id)
    store = store_at(run.store)
    target = (to or Path(run_id)).absolute()
    if store.local_path(run_id) == target:
        raise UsageError(f"{target} is the run directory itself", hint="name another folder with --to")
    infos = list(store.list(f"{run_id}/"))
    if not infos:
        raise NotFoundError(f"the run directory {run.run_directory} is gone")
    placed = place([info.key for info in infos], f"{run_id}/", ignores_case=ignores_case(_existing(target)))
    attempts = f"{run_id}/{layout.ATTEMPTS}/"  # elsewhere a program may name its files as it likes
    streams = {found[0] for key in placed.paths if key.startswith(attempts) and (found := stream_of(key))}
    files = {path: key for key, path in placed.paths.items() if not key.startswith(attempts) or stream_of(key) is None}
    expected = _entries_of_manifests(store, run_id)
    sizes = {info.key: info.size for info in infos}
    changed = [path for path, key in files.items() if not _is_here(store, key, target / path, expected.get(path), sizes[key])]
    skipped = tuple(placed.skipped)
    # A manifest comes last here too: a copy that was cut off must not look complete.
    for is_manifest in (False, True):
        part = {path: files[path] for path in changed if path.endswith(f"/{layout.MANIFEST}") is is_manifest}
        copies = [_copy(key, target, path, expected.get(path), sizes[key]) for path, key in part.items()]
        skipped += _download(store, copies, Options(report=report, durable=False))
    assembled, gaps = [], []
    for key in sorted(streams):
        stream, path = SegmentedStream(store, key), key.removeprefix(f"{run_id}/")
        if _assemble(stream, target / path):
            assembled.append(key)
        if (gap := stream.missing()) is not None:
            gaps.append((path, f"what follows byte {gap[0]:,} is left out, because the bytes up to {gap[1]:,} are not in the store"))
    copied = (*changed, *(key.removeprefix(f"{run_id}/") for key in assembled))
    moved = sum(sizes[files[path]] for path in changed)
    moved += sum(size for key, size in sizes.items() if (found := stream_of(key)) and found[0] in assembled)
    return SyncResult(run_id, target, copied, len(files) + len(streams) - len(copied), moved, (*skipped, *gaps))


def model_folder(home: Home, run_id: str, checkpoint: str | None = None) -> Path | None:
    """Where the model lies if its store is a local folder, so that it can be used in place; None otherwise."""
    run = view(home, run_id)
    store = store_at(run.store)
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


def _download(store: Store, files: list[Download], options: Options) -> tuple[tuple[str, str], ...]:
    """Fetch the files; returns what was passed over, each with the reason."""
    try:
        return download(store, files, options).skipped
    except CorruptError as error:
        hint = "choose another checkpoint with --checkpoint, or resume the run, which passes this one over"
        raise CorruptError(error.message, hint=hint) from error


def _copy(key: str, target: Path, path: str, entry: FileEntry | None, size: int) -> Download:
    # ``below``: what a store lists is not trusted, and may be gone by now.
    return Download(key, target / path, entry.size if entry else size, entry.sha256 if entry else None, below=target)


def _is_here(store: Store, key: str, path: Path, entry: FileEntry | None, size: int) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
        return False
    if entry is None:
        sha256 = store.stat(key).sha256 or hashlib.sha256(store.get(key)).hexdigest()
    return _lies_here(path, entry.sha256 if entry else sha256)


def _lies_here(path: Path, sha256: str) -> bool:
    return path.is_file() and not path.is_symlink() and _sha256(path) == sha256


def _assemble(stream: SegmentedStream, path: Path) -> bool:
    """Write a stream that lies in segments as the one file that it was; False if it lies here already."""
    temporary, sha256 = path.with_name(f".{path.name}.arriving"), hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            while piece := stream.read(file.tell(), file.tell() + _PIECE_BYTES):
                file.write(piece)
                sha256.update(piece)
        if _lies_here(path, sha256.hexdigest()):
            return False
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _existing(folder: Path) -> Path:
    """The folder, or the first one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _folder_that_appears_whole(target: Path, *, kept_when_cut: bool) -> Iterator[Path]:
    """A folder beside ``target`` that takes its place at the end; an earlier model there is replaced, anything else is not.

    ``kept_when_cut``: what has arrived when a store fails, or when somebody presses Ctrl-C, stays for the next try to go on with.
    """
    try:
        if target.exists() and not (target / layout.MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
            raise ConflictError(f"{target} exists and is not a fetched model", hint="name another folder with --to")
        target.parent.mkdir(parents=True, exist_ok=True)
        if kept_when_cut:
            temporary = target.with_name(f".{target.name}.arriving")
            temporary.mkdir(exist_ok=True)
        else:
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _unwritable(target, error) from error
    is_cut = False
    try:
        temporary.chmod(0o755)
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    except (StoreError, KeyboardInterrupt):
        is_cut = kept_when_cut
        raise
    finally:
        if not is_cut:
            shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write {path}: {error.strerror}", hint="free some space, or name another folder with --to")
