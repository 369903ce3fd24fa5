"""A worker's workspace on its machine, for a run in a cloud's store: one folder for each worker, named after the run and its first attempt.

A worker removes its own workspace, and those of earlier workers of the run that no process uses any more. A workspace that stays behind may
contain checkpoints that never reached the store; the next attempt on the same machine continues from them if they belong to its branch.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloud_train import beneath
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import documents, layout
from cloud_train.run.succession import Branch
from cloud_train.storage.local import LocalStore
from cloud_train.worker.machine_folders import WorkspaceError

_IN_USE = ".in-use"
_DEEPEST = 100
_descriptors: dict[Path, int] = {}
"""Of the workspaces that this process uses."""


def open_workspace(above: Path, run_id: str, attempt: int) -> LocalStore:
    """The workspace of the worker that begins with ``attempt``, made if necessary, below the folder ``above``. Raises WorkspaceError.

    It counts as in use until this process and every process forked from it have ended.
    """
    folder = above / f"{run_id}.{attempt}"
    try:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103 -- pathlib's differs only in its arguments
        descriptor = beneath.open_plain(folder / _IN_USE, os.O_RDWR | os.O_CREAT, 0o600)
        _descriptors[folder] = descriptor
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # closed by the end of the process alone, and in programs, which are other executables
    except OSError as error:
        raise WorkspaceError(
            f"cannot make the workspace {folder}: {os.strerror(error.errno or 0).lower()}", hint="make its folder writable"
        ) from error
    return LocalStore(folder)


def earlier_runs(workspace: LocalStore, run_id: str) -> list[Path]:
    """The run directories that earlier workers of this run left in their workspaces beside this one, the newest first."""
    found = []
    for folder in workspace.folder.parent.glob(f"{run_id}.*"):
        number = documents.attempt_number(folder.name.removeprefix(f"{run_id}."))
        if number is not None and folder != workspace.folder and (folder / run_id).is_dir():
            found.append((number, folder / run_id))
    of_earlier_version = workspace.folder.parent / run_id  # one workspace for all attempts
    return [path for _, path in sorted(found, reverse=True)] + [of_earlier_version] * of_earlier_version.is_dir()


def remove(workspace: LocalStore, run_id: str) -> None:
    """Remove a workspace whose run directory is gone, or has only what this worker brought before another one began the attempt; and those
    of earlier workers that are not in use. Never raises OSError.
    """
    import shutil  # takes 3 ms, which a worker with a local store can save

    run = workspace.folder / run_id
    if run.exists() and _is_as_brought(run) and _is_ours_alone(workspace.folder):
        shutil.rmtree(run, ignore_errors=True)
    if run.exists():  # not everything could be uploaded
        return
    with suppress(OSError):
        (workspace.folder / _IN_USE).unlink(missing_ok=True)
        workspace.folder.rmdir()
    for run in earlier_runs(workspace, run_id):
        folder = run if run.parent == workspace.folder.parent else run.parent
        with suppress(OSError), _unused(folder):
            shutil.rmtree(folder)


def _is_as_brought(run: Path) -> bool:
    """Whether nothing but ``run.json`` and marks of cancellation is in a run directory."""
    above = {entry.name for entry in run.iterdir()}
    marks = [path for path in (run / layout.ATTEMPTS).rglob("*") if path.is_symlink() or not path.is_dir()]
    return above <= {layout.RUN, layout.ATTEMPTS} and all(path.name == "cancel" for path in marks)


def _is_ours_alone(folder: Path) -> bool:
    """Whether no other process uses a workspace of this one; from then on, none can begin to while this one lives."""
    try:
        fcntl.flock(_descriptors[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, KeyError):
        return False
    return True


def take_over_newest(earlier: Path, checkpoints: Path, note: Callable[[str], None], branch: Branch) -> dict[str, int | None]:
    """Link the newest valid checkpoint of the ``branch`` from the run directory ``earlier`` into ``checkpoints``, unless it is there.

    Both share its files, so neither workspace depends on the other. Its checkpoints are verified again before use. Returns the attempt that
    made it, by its name.
    """
    from cloud_train.run.checkpoints import newest_valid_of_run
    from cloud_train.run.manifest import read_manifest

    try:
        found = newest_valid_of_run(earlier, lambda _: None, branch)
        if found is None:
            return {}
        temporary = f".{found.name}-taken-over"
        with (
            beneath.held(earlier, (found.parent.name,), listed=True) as source,
            beneath.held(checkpoints.parent, (checkpoints.name,), listed=True) as target,
        ):
            if not beneath.mode_of(found.name, target):
                with suppress(FileNotFoundError):
                    beneath.remove(temporary, target)
                _link_all(source, found.name, target, temporary)
                os.rename(temporary, found.name, src_dir_fd=target, dst_dir_fd=target)
                note(f"took over checkpoint {found.name} from {earlier}")
                made_by = read_manifest(found, earlier).attempt
                return {found.name: branch.maker(made_by, layout.checkpoints_of(found.parent.name) or 1)}
    except (OSError, StoreError, CorruptError) as error:
        note(f"cannot take over a checkpoint from {earlier}: {error}")
    return {}


def _link_all(source: int, name: str, target: int, as_name: str, depth: int = 0) -> None:
    """Link the files below the folder ``name`` in ``source`` into a new folder of ``target``; a link stays a link. Raises OSError."""
    if depth == _DEEPEST:
        raise OSError(f"{name} has more than {_DEEPEST} folders below each other")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    os.mkdir(as_name, dir_fd=target)
    from_folder = os.open(name, flags, dir_fd=source)
    try:
        to_folder = os.open(as_name, flags, dir_fd=target)
        try:
            with os.scandir(from_folder) as entries:
                inside = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for inner, is_folder in inside:
                if is_folder:
                    _link_all(from_folder, inner, to_folder, inner, depth + 1)
                else:
                    os.link(inner, inner, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)
        finally:
            os.close(to_folder)
    finally:
        os.close(from_folder)


@contextmanager
def _unused(workspace: Path) -> Iterator[None]:
    """Raise BlockingIOError if a process uses this workspace. One of an earlier version has no mark, and is left alone."""
    descriptor = beneath.open_plain(workspace / _IN_USE, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
