"""Sealing: the worker writes the manifests of checkpoints and models for programs that do not write them themselves.

The parent of these folders, the run's own folder, is trusted. Below it no link is followed: the program may create one at any time, and
the worker must not write or delete anything outside the run.

Sealing runs in a subprocess with its own imports, which saves a worker without checkpoints 4 ms at its start.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from cloud_train import beneath
from cloud_train.beneath import IrregularError
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.layout import MANIFEST, step_of
from cloud_train.run.succession import Branch
from cloud_train.worker.attempts.helpers import Helpers
from cloud_train.worker.attempts.watch import Watch
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.processes.subprocesses import Subprocess

_PASSED_OVER = ".passed-over-"
_REMOVE = "have the program create an ordinary folder there, or keep the existing one"

Note = Callable[[str], None]


def is_empty(folder: Path) -> bool:
    """Whether a folder is empty; raises OSError."""
    with beneath.held(folder.parent, (folder.name,), listed=True) as directory, os.scandir(directory) as entries:
        return next(entries, None) is None


def unsealed(checkpoints: Path) -> set[str]:
    """The names of checkpoint folders without a manifest. Raises StoreError if ``checkpoints`` is a link or not a folder."""
    try:
        with beneath.held(checkpoints.parent, (checkpoints.name,), listed=True) as directory:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries if step_of(entry.name) is not None and entry.is_dir(follow_symlinks=False)]
            return {name for name in names if not beneath.mode_of(f"{name}/{MANIFEST}", directory)}
    except IrregularError as error:
        raise StoreError(f"the checkpoints cannot be kept: {error.path} is {error.what}", hint=_REMOVE) from error
    except OSError:
        return set()


def prepare(checkpoints: Path, note: Note, attempt: int | None = None, branch: Branch | None = None) -> str:
    """Prepare the folder for ``attempt``; returns the name of the newest valid checkpoint of its ``branch``, followed by a space and the
    number of the attempt that made it if that is known, or an empty string.

    Unfinished files of an earlier attempt are deleted. Checkpoints newer than the valid one are renamed: the program will reach these steps
    again, and a shell's ``mv`` onto an existing folder would move *into* it. So are those of another branch.
    """
    from cloud_train.run.checkpoints import newest_valid, opened
    from cloud_train.run.succession import publishing

    with opened(checkpoints) as directory:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
        with publishing(checkpoints.parent, attempt):
            for name in names:
                if name.startswith(".") and not name.startswith(_PASSED_OVER):
                    with suppress(OSError):
                        beneath.remove(name, directory)
        resume = newest_valid(checkpoints, note, branch)
        newest = -1 if resume is None else step_of(resume.name) or 0
        with publishing(checkpoints.parent, attempt):
            for name in names:
                step = step_of(name)
                if step is not None and (step > newest or not _is_of(branch, checkpoints / name, step)):
                    _put_aside(name, directory, note)
    made_by = _maker_of(resume) if resume else None
    return "" if resume is None else resume.name if made_by is None else f"{resume.name} {made_by}"


def _maker_of(checkpoint: Path) -> int | None:
    from cloud_train.run.manifest import read_manifest

    return read_manifest(checkpoint, checkpoint.parent.parent).attempt


def _is_of(branch: Branch | None, checkpoint: Path, step: int) -> bool:
    try:
        return branch is None or branch.holds(_maker_of(checkpoint), step)
    except CorruptError:  # not sealed, or damaged: it is ignored anyway
        return True


def seal_checkpoints(checkpoints: Path, names: set[str], keep: int, note: Note, attempt: int | None = None) -> str:
    """Write the manifests of these checkpoint folders, then prune. Folders that cannot be sealed are noted and left unchanged."""
    from cloud_train.run.checkpoints import prune
    from cloud_train.run.manifest import write_manifest

    for name in sorted(names, key=lambda name: step_of(name) or 0):
        try:
            write_manifest(checkpoints / name, step_of(name), root=checkpoints.parent, attempt=attempt)
        except StoreError as error:
            note(f"ignored checkpoint {name}: {error.message}")
            continue
        note(f"sealed checkpoint {name}")
        try:
            prune(checkpoints, keep, trusted=checkpoints / name, attempt=attempt)
        except StoreError as error:
            note(error.message)
    return ""


def model_needs_seal(model: Path, attempt: int) -> bool:
    """Whether the model has files but no manifest, or one that may be of an earlier attempt, or is a link, which sealing then refuses."""
    try:
        with beneath.held(model.parent, (model.name,)) as directory:
            return (attempt > 1 or not beneath.mode_of(MANIFEST, directory)) and not is_empty(model)
    except IrregularError:
        return True
    except OSError:
        return False


def seal_model(model: Path, attempt: int | None = None) -> str:
    """Write the final model's manifest, unless it has one that is valid; raises StoreError, SupersededError if a newer attempt has begun.

    One of an earlier attempt, which was lost before it could end, is replaced if the files are other ones by now.
    """
    from cloud_train.run.manifest import write_manifest

    if not _has_manifest(model, attempt):
        write_manifest(model, step=None, root=model.parent, attempt=attempt)
    return ""


def _has_manifest(model: Path, attempt: int | None) -> bool:
    """Whether the program of this attempt wrote the manifest, or an earlier one did and all files are still the same."""
    from cloud_train.run.manifest import read_manifest, verify

    try:
        with beneath.held(model.parent, (model.name,)) as directory:
            if not beneath.mode_of(MANIFEST, directory):
                return False
    except OSError:  # writing one names the reason
        return False
    try:
        if read_manifest(model, model.parent).attempt in (None, attempt):
            return True
    except CorruptError:  # the program's own, which is its own matter
        return True
    try:
        verify(model, model.parent)
    except CorruptError:
        return False
    return True


def _put_aside(name: str, directory: int, note: Note) -> None:
    aside = _PASSED_OVER + name
    try:
        if stat.S_ISDIR(beneath.mode_of(aside, directory)):
            beneath.remove(aside, directory)
        os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        note(f"cannot rename {name} to {aside}: {error.strerror}")
    else:
        note(f"renamed {name} to {aside}")


class Sealer:
    """Seals the checkpoints of one attempt. Create it before the program starts; it runs at most one subprocess at a time."""

    def __init__(self, at: AttemptContext, number: int, helpers: Helpers, watch: Watch) -> None:
        self._at, self._number, self._helpers, self._watch = at, number, helpers, watch
        self._checkpoints = at.workspace.checkpoints
        # A folder that an earlier attempt left unsealed was never synced, so it may be damaged if the machine crashed.
        self._foreign = unsealed(self._checkpoints)
        self._tried: set[str] = set()
        self._subprocess: Subprocess | None = None

    def look(self) -> None:
        """Seal new checkpoints in a subprocess, without waiting for it."""
        if self._subprocess and self._helpers.is_done(self._subprocess):
            self._helpers.result(self._subprocess)
            self._subprocess = None
        if self._subprocess is None and (names := unsealed(self._checkpoints) - self._foreign - self._tried):
            self._tried |= names
            self._subprocess = self._helpers.begin(self._sealing(names))

    def finish(self) -> None:
        """After the program's end: seal all remaining checkpoints."""
        while self._subprocess:
            self._watch.turn()
            self.look()
        # Folders that could not be sealed before, perhaps because they were still being written, get another chance.
        if names := unsealed(self._checkpoints) - self._foreign:
            self._watch.do(self._sealing(names))

    def _sealing(self, names: set[str]) -> Callable[[], str]:
        keep = self._at.record.program.keep_checkpoints
        return partial(seal_checkpoints, self._checkpoints, names, keep, self._at.worker_log.note, self._number)
