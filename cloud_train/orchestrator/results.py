"""Downloading a run's model: the final one, or a checkpoint's. Every file is verified."""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from cloud_train.beneath import open_file
from cloud_train.errors import ConflictError, CorruptError, NotFoundError, StoreError, UsageError
from cloud_train.orchestrator.connections import store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.run_directory import check_there, is_there, read_record
from cloud_train.orchestrator.state import read_run
from cloud_train.run import documents, layout
from cloud_train.run.checkpoints import places_in_store
from cloud_train.run.fencing import ancestor_in
from cloud_train.run.manifest import LARGEST, Manifest, parse_manifest, read_manifest, verify, write_manifest
from cloud_train.run.states import State
from cloud_train.run.succession import Branch
from cloud_train.run.view import RunView
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.engine import Identity, Options
from cloud_train.storage.transfer.progress import Progress
from cloud_train.storage.transfer.remembered import Memory

Report = Callable[[Progress], None]
"""Called a few times per second, and at the end."""

_TRAINING_STATE = "state.pt"
ANOTHER_FOLDER = "name another folder with --to"


@dataclass(frozen=True)
class FetchedModel:
    """A model on this machine, verified."""

    run_id: str
    folder: Path
    source: str
    """``model`` for the final one, or the checkpoint's folder."""
    files: tuple[str, ...]
    bytes: int
    step: int | None
    metrics: Mapping[str, float]
    attempt: int | None = None
    """The attempt that made it; None if an earlier version of cloud-train did, or a program outside it."""


def fetch_model(
    home: Home,
    run_id: str,
    to: Path | None = None,
    checkpoint: str | None = None,
    report: Report | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> FetchedModel:
    """Copy the final model, or a checkpoint's (``best``, ``last`` or a step), into the folder ``to``.

    By default that is ``./<run id>-model``, ``-best``, ``-last`` or ``-step-<step>``. The folder appears complete or not at all, and it
    replaces only one that was fetched before and has not been changed. ``note`` is told if the model is not the result of an attempt that
    succeeded. Raises NotFoundError if there is no such model (yet), ConflictError if the folder has other content or an overtaken attempt
    made the model, CorruptError if a file differs from the manifest.
    """
    run = read_run(home, run_id)
    store = store_at(run.store)
    prefix, manifest = _chosen(store, run, checkpoint, note)
    files = {name: entry for name, entry in manifest.files.items() if name != _TRAINING_STATE}
    target = (to or Path(_usual_name(run_id, checkpoint))).absolute()
    is_far = store.local_path(prefix) is None
    with _folder_that_appears_whole(target, kept_when_cut=is_far) as temporary:
        wanted = {name: entry for name, entry in files.items() if identity_of(temporary, name, entry.sha256) is None}
        files_here = [Download(f"{prefix}/{name}", temporary / name, entry.size, entry.sha256) for name, entry in wanted.items()]
        download_verified(store, files_here, Options(report=report))
        write_manifest(temporary, manifest.step, manifest.metrics, manifest.fingerprint)
    source, total = prefix.removeprefix(f"{run_id}/"), sum(entry.size for entry in files.values())
    return FetchedModel(run_id, target, source, tuple(files), total, manifest.step, manifest.metrics, manifest.attempt)


@dataclass(frozen=True)
class Artifacts:
    """The results that a run has saved, which can be fetched or continued from."""

    model: bool
    """Whether there is a final model."""
    checkpoint: bool
    """Whether there is a complete checkpoint of the newest attempt or of one that it continued."""
    directory: bool = True
    """Whether there is a run directory at all."""
    model_step: int | None = None
    """The step whose weights the final model has; None if there is none, or its program did not say."""
    model_metrics: Mapping[str, float] = field(default_factory=dict)
    """How good the final model is, as its program said."""


def artifacts(run: RunView) -> Artifacts:
    """Look up what the run has saved: a few requests, however many checkpoints there are. Raises StoreError."""
    store = store_at(run.store)
    has_model, manifest = True, None
    try:
        manifest = manifest_at(store, f"{run.run_id}/{layout.MODEL}")
    except ObjectMissingError:
        has_model = False
    except CorruptError:
        pass  # fetch-model says what is wrong with it
    has_checkpoint = any(_complete(store, run, reversed(_places(store, run.run_id))))
    is_somewhere = has_model or has_checkpoint or is_there(store, run.run_id)
    step, metrics = (manifest.step, manifest.metrics) if manifest else (None, {})
    return Artifacts(has_model, has_checkpoint, is_somewhere, step, metrics)


def model_folder(home: Home, run_id: str, checkpoint: str | None = None, *, note: Callable[[str], None] = lambda _: None) -> Path | None:
    """The model's folder if the store is a local folder, so that the model can be used in place; None otherwise.

    Tells ``note`` and raises ConflictError like ``fetch_model``.
    """
    run = read_run(home, run_id)
    store = store_at(run.store)
    prefix, _ = _chosen(store, run, checkpoint, note)
    return store.local_path(prefix)


def chosen_model(store: Store, run: RunView) -> tuple[str, Manifest]:
    """Key of the folder of the run's final model, and its manifest. Raises NotFoundError and ConflictError like ``fetch_model``."""
    return _chosen(store, run, None, lambda _: None)


def _chosen(store: Store, run: RunView, checkpoint: str | None, note: Callable[[str], None]) -> tuple[str, Manifest]:
    """Key of the chosen folder, and its manifest."""
    if checkpoint is None:
        prefix = f"{run.run_id}/{layout.MODEL}"
        with suppress(ObjectMissingError):
            manifest = manifest_at(store, prefix)
            _check_maker(store, run, manifest.attempt, note)
            return prefix, manifest
        check_there(store, run.run_id)
        hint = f"fetch the last checkpoint with: cloud-train fetch-model {run.run_id} --checkpoint last"
        state = f"attempt {run.attempt}: {run.state_text}"
        raise NotFoundError(
            f"{run.run_id} has no final model ({state})",
            hint=hint if any(_complete(store, run, reversed(_places(store, run.run_id)))) else None,
        )
    if checkpoint not in ("best", "last") and not checkpoint.isdecimal():
        raise UsageError(
            f"--checkpoint takes 'best', 'last' or a step, not {checkpoint!r}", hint=f"available steps: {_shown_steps(store, run)}"
        )
    if checkpoint == "best":
        found = _checkpoints(store, run)
        step = _best_step(store, run, found) if found else None
    else:
        places = reversed(_places(store, run.run_id))
        wanted = places if checkpoint == "last" else [place for place in places if place[0] == int(checkpoint)]
        found = dict(islice(_complete(store, run, wanted), 1))
        step = next(iter(found), None)
    if step is None:
        check_there(store, run.run_id)
        if checkpoint in ("best", "last") or (complete := _shown_steps(store, run)) == "none yet":
            raise NotFoundError(f"{run.run_id} has no checkpoint yet")
        raise NotFoundError(f"{run.run_id} has no checkpoint of step {checkpoint}", hint=f"available steps: {complete}")
    return found[step]


def _check_maker(store: Store, run: RunView, maker: int | None, note: Callable[[str], None]) -> None:
    """Compare the attempt that made the final model with the one that succeeded; ``maker`` None: an earlier version made it.

    If the attempt that succeeded continued from the maker, the model is its result too: an attempt with nothing left to do keeps the model.
    A model of another branch is not, since a request of an overtaken worker may arrive late. Raises ConflictError for that.
    """
    if maker is None:
        return
    if run.state is not State.SUCCEEDED:
        note(f"{run.run_id} has not succeeded (attempt {run.attempt}: {run.state_text}); its model was made by attempt {maker}")
    elif maker != run.attempt:
        made = f"the model of {run.run_id} was made by attempt {maker}"
        if maker > run.attempt or not _branch(store, run).holds(maker, 0):
            raise ConflictError(
                f"{made}, but attempt {run.attempt} succeeded and did not continue from that one",
                hint=f"fetch the last checkpoint instead: cloud-train fetch-model {run.run_id} --checkpoint last",
            )
        note(f"{made}; attempt {run.attempt} continued from it, succeeded, and made no model itself")


def _branch(store: Store, run: RunView) -> Branch:
    """The checkpoints that count for the run's newest attempt: its own, and those that it continued from."""
    return Branch(run.attempt + 1, ancestor_in(store, run.run_id))


def _best_step(store: Store, run: RunView, found: Mapping[int, tuple[str, Manifest]]) -> int:
    ranking = read_record(store, run.run_id).program.ranking
    return max(found, key=lambda step: ranking.quality(found[step][1].metrics, step))


def _checkpoints(store: Store, run: RunView) -> dict[int, tuple[str, Manifest]]:
    """The key and the manifest of each complete checkpoint, in the order of the steps: one request for each."""
    return dict(_complete(store, run, _places(store, run.run_id)))


def _complete(store: Store, run: RunView, places: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, tuple[str, Manifest]]]:
    """The steps of those ``places`` that have a complete checkpoint, each with its key and manifest, read as they are needed.

    What an overtaken attempt made after that is left out.
    """
    branch = _branch(store, run)
    for step, attempt, name in places:
        prefix = f"{run.run_id}/{layout.checkpoints(attempt)}/{name}"
        with suppress(ObjectMissingError, CorruptError):
            manifest = manifest_at(store, prefix)
            if branch.holds(manifest.attempt, step, attempt):
                yield step, (prefix, manifest)


def _places(store: Store, run_id: str) -> list[tuple[int, int, str]]:
    """All checkpoint folders, complete or not, in the order of their steps: the step, the attempt in whose folder it is, and the name.

    A script may have named its folder with any number of zeros before the step. Of several names for one step, the usual one comes last.
    """
    places = places_in_store(store, run_id)
    return sorted(places, key=lambda place: (place[0], place[1], place[2] == layout.step_folder(place[0]), place[2]))


def newest_step(store: Store, run: RunView) -> int | None:
    """The step of the newest complete checkpoint that the next attempt continues; None if there is none. Raises StoreError."""
    return next((step for step, _ in _complete(store, run, reversed(_places(store, run.run_id)))), None)


def _shown_steps(store: Store, run: RunView) -> str:
    """The steps of the complete checkpoints, for a message."""
    return ", ".join(str(step) for step in _checkpoints(store, run)) or "none yet"


def manifest_at(store: Store, prefix: str) -> Manifest:
    """The manifest of the folder ``prefix`` in the store. Raises ObjectMissingError and CorruptError."""
    key = f"{prefix}/{layout.MANIFEST}"
    return parse_manifest(documents.read(store, key, LARGEST), f"{store.url}/{key}")


def download_verified(store: Store, files: list[Download], options: Options, memory: Memory | None = None) -> tuple[tuple[str, str], ...]:
    """Fetch the files; returns those that were skipped, each with the reason."""
    try:
        return download(store, files, options, memory).skipped
    except CorruptError as error:
        hint = "choose another checkpoint with --checkpoint, or resume the run, which skips this one"
        raise CorruptError(error.message, hint=hint) from error


def identity_of(folder: Path, name: str, sha256: str) -> Identity | None:
    """The identity of the file, if it has this SHA-256; None otherwise."""
    try:
        descriptor = open_file(folder, name.split("/"))
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        identity = Identity.of(os.fstat(descriptor))
        return identity if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else None


def _usual_name(run_id: str, checkpoint: str | None) -> str:
    """The name of the folder for a model, another one for each kind of checkpoint."""
    kind = "model" if checkpoint is None else f"step-{checkpoint}" if checkpoint.isdecimal() else checkpoint
    return f"{run_id}-{kind}"


def _check_replaceable(target: Path) -> None:
    """Raise ConflictError unless the folder is missing, empty, or as it was fetched."""
    if target.is_symlink():
        raise ConflictError(f"{target} is a link", hint="name the folder itself with --to")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        listed = read_manifest(target).files
    except CorruptError as error:
        raise ConflictError(f"{target} exists and is not a fetched model", hint=ANOTHER_FOLDER) from error
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if name != layout.MANIFEST and name not in listed:
            raise ConflictError(f"{path} is not a file of the model that was fetched before", hint=f"move it away, or {ANOTHER_FOLDER}")
        if name in listed and identity_of(target, name, listed[name].sha256) is None:
            raise ConflictError(f"{path} was changed after it was fetched", hint=f"move it away, or {ANOTHER_FOLDER}")


def _exchange(temporary: Path, target: Path) -> None:
    """Give a folder its name. An earlier one is deleted only after that; what a crash leaves of it, ``_settle`` puts back or deletes."""
    if not target.exists():
        temporary.rename(target)
        return
    aside = _aside(target)
    target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        with suppress(OSError):  # another fetch-model may have put it back
            aside.rename(target)
        raise
    with suppress(OSError):
        _delete_model(aside)


def _aside(target: Path) -> Path:
    """Where the earlier model is while the new one gets its name."""
    return target.with_name(f".{target.name}.before")


def _settle(target: Path) -> None:
    """Finish what a call that was killed in ``_exchange`` left: put the earlier model back, or delete it if the new one has its name.

    Raises ConflictError if something else is there.
    """
    aside = _aside(target)
    if not aside.is_symlink() and not aside.exists():
        return
    _check_is_ours(aside)
    _check_replaceable(aside)
    if not target.is_symlink() and not target.exists() and _is_whole(aside):
        aside.rename(target)
    else:
        _delete_model(aside)


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except CorruptError:
        return False
    return True


def _delete_model(folder: Path) -> None:
    """Delete a model, its manifest last: without it, what is left could not be told from a folder of the user."""
    for path in folder.iterdir():
        if path.name != layout.MANIFEST:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(folder)


@contextmanager
def _folder_that_appears_whole(target: Path, *, kept_when_cut: bool) -> Iterator[Path]:
    """A temporary folder that is renamed to ``target`` at the end. It replaces an earlier model, but nothing else.

    ``kept_when_cut``: the files downloaded so far are kept for the next call if a store fails, on Ctrl-C, and if the earlier model was
    changed meanwhile.
    """
    try:
        _settle(target)
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if kept_when_cut:
            temporary = target.with_name(f".{target.name}.arriving")
            temporary.mkdir(exist_ok=True)
            _check_is_ours(temporary)
        else:
            temporary = target.with_name(f".{target.name}-{secrets.token_hex(8)}")
            temporary.mkdir()
    except OSError as error:
        raise unwritable(target, error) from error
    is_cut = False
    try:
        yield temporary
        _check_replaceable(target)  # the download may have taken hours
        _exchange(temporary, target)
    except OSError as error:
        raise unwritable(target, error) from error
    except (StoreError, ConflictError, KeyboardInterrupt):
        is_cut = kept_when_cut
        raise
    finally:
        if not is_cut:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_is_ours(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise ConflictError(f"{folder} is a link or belongs to another user", hint="move it away, or name another folder with --to")


def unwritable(path: Path, error: OSError) -> StoreError:
    """The error for a path on this machine that cannot be written."""
    return StoreError(f"cannot write {path}: {error.strerror}", hint="free some space, or name another folder with --to")
