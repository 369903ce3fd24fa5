"""Sealing: the worker writes the manifests of checkpoints and models for programs that do not write them themselves.

The parent of these folders, the run's own folder, is trusted. Below it no link is followed: the program may create one at any time, and
the worker must not write or delete anything outside the run.

Sealing runs in a subprocess with its own imports, which saves a worker without checkpoints 4 ms at its start.
"""

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from cloud_train import beneath
from cloud_train.beneath import IrregularError
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.layout import MANIFEST, MODEL, checkpoints_of, step_of, unfinished_model, unfinished_model_of
from cloud_train.run.succession import Branch
from cloud_train.worker.attempts.helpers import Helpers
from cloud_train.worker.attempts.script_code import with_code
from cloud_train.worker.attempts.watch import Watch
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.processes.subprocesses import Subprocess

if TYPE_CHECKING:
    from cloud_train.worker.attempts.foreign import Found, Signature

_REMOVE = "have the program create an ordinary folder there, or keep the existing one"

_SHOWN = 3
_NAME_IT = "a checkpoint is a folder step-<number>, written under a name that begins with a dot and then renamed"

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


def other_names(checkpoints: Path) -> list[str]:
    """What the program has put beside its checkpoints under names that are not those of checkpoints, sorted; hidden names do not count."""
    with (
        suppress(OSError),
        beneath.held(checkpoints.parent, (checkpoints.name,), listed=True) as directory,
        os.scandir(directory) as entries,
    ):
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and (step_of(entry.name) is None or not entry.is_dir(follow_symlinks=False))
        )
    return []


def has_none(checkpoints: Path) -> bool:
    """Whether there is nothing that an attempt could continue from: its own folder of checkpoints is empty, and there is no other one."""
    if not is_empty(checkpoints):
        return False
    with os.scandir(checkpoints.parent) as entries:
        return not any(checkpoints_of(entry.name) and entry.name != checkpoints.name for entry in entries)


def prepare(
    checkpoints: Path, note: Note, attempt: int | None = None, branch: Branch | None = None, makers: Mapping[str, int | None] | None = None
) -> str:
    """Prepare an attempt's own folder; returns the name of the newest valid checkpoint of its ``branch``, the attempt that made it (0 if
    that is unknown) and the SHA-256 of its manifest, with spaces between them; an empty string if there is none.

    Unfinished files are deleted. Checkpoints newer than the valid one are renamed: the program will reach these steps again, and a shell's
    ``mv`` onto an existing folder would move *into* it. So are those of another branch and those that are not complete, which could be
    taken for new ones of the program. ``makers``: the attempts that made those whose manifests do not say it.
    """
    from cloud_train.run.checkpoints import is_unfinished, manifest_digest, newest_valid, opened
    from cloud_train.run.manifest import read_manifest
    from cloud_train.run.succession import publishing

    with publishing(checkpoints.parent, attempt), opened(checkpoints) as directory, os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries)
    with opened(checkpoints) as directory:
        for name in filter(is_unfinished, names):
            with suppress(OSError):
                beneath.remove(name, directory)
        resume = newest_valid(checkpoints, note, branch)
        newest = -1 if resume is None else step_of(resume.name) or 0
        with publishing(checkpoints.parent, attempt):
            for name in names:
                step = step_of(name)
                if step is not None and (step > newest or not _is_of(branch, checkpoints / name, step)):
                    _put_aside(name, directory, note)
    discard_models(checkpoints.parent, before=attempt or 0)
    if resume is None:
        return ""
    made_by = read_manifest(resume, checkpoints.parent).attempt or (makers or {}).get(resume.name) or 0
    return f"{resume.name} {made_by} {manifest_digest(resume)}"


def _is_of(branch: Branch | None, checkpoint: Path, step: int) -> bool:
    from cloud_train.run.manifest import read_manifest

    try:
        made_by = read_manifest(checkpoint, checkpoint.parent.parent).attempt
        return branch is None or branch.holds(made_by, step, checkpoints_of(checkpoint.parent.name) or 1)
    except CorruptError:  # not complete, or damaged
        return False


def seal_checkpoints(
    checkpoints: Path, names: set[str], keep: int, note: Note, attempt: int | None = None, *, code: Mapping[str, Any] | None = None
) -> str:
    """Write the manifests of these checkpoint folders, then prune. Folders that cannot be sealed are noted and left unchanged.

    ``code`` identifies the program's code.
    """
    from cloud_train.run.checkpoints import prune
    from cloud_train.run.manifest import write_manifest

    for name in sorted(names, key=lambda name: step_of(name) or 0):
        try:
            write_manifest(checkpoints / name, step_of(name), fingerprint=with_code(code), root=checkpoints.parent, attempt=attempt)
        except StoreError as error:
            note(f"ignored checkpoint {name}: {error.message}")
            continue
        note(f"sealed checkpoint {name}")
        try:
            prune(checkpoints, keep, trusted=checkpoints / name, attempt=attempt)
        except StoreError as error:
            note(error.message)
    return ""


def has_model(unfinished: Path) -> bool:
    """Whether the program left a model, or put a link there, which sealing then refuses."""
    try:
        return not is_empty(unfinished)
    except IrregularError:
        return True
    except OSError:
        return False


def seal_model(unfinished: Path, attempt: int | None = None, code: Mapping[str, Any] | None = None) -> str:
    """Write the manifest of the model in ``unfinished``, unless it has a valid one, and make it the run's final model.

    Raises StoreError, SupersededError if a newer attempt has begun.
    """
    from cloud_train.run.manifest import write_manifest
    from cloud_train.run.succession import publishing

    run = unfinished.parent
    if not _has_manifest(unfinished, attempt):
        write_manifest(unfinished, step=None, fingerprint=with_code(code), root=run, attempt=attempt)
    try:
        with beneath.held(run, (unfinished.name,)), beneath.held(run, listed=True) as directory:
            earlier = f".{MODEL}-before-{attempt}"
            with suppress(FileNotFoundError):
                beneath.remove(earlier, directory)
            with publishing(run, attempt):
                with suppress(FileNotFoundError):
                    os.rename(MODEL, earlier, src_dir_fd=directory, dst_dir_fd=directory)
                os.rename(unfinished.name, MODEL, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            with suppress(FileNotFoundError):
                beneath.remove(earlier, directory)
        discard_models(run, before=attempt or 0, keep=0)
    except IrregularError as error:
        raise StoreError(f"cannot seal {unfinished}: {error.path} is {error.what}", hint=_REMOVE) from error
    except OSError as error:
        raise StoreError(f"cannot rename {unfinished} to {run / MODEL}: {os.strerror(error.errno or 0).lower()}") from error
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


def earlier_model(run: Path, branch: Branch, attempt: int) -> Path | None:
    """What the newest earlier attempt of the ``branch`` left of a model without recording its success.

    An attempt that finds nothing left to do leaves no model of its own, and succeeds with that one.
    """
    try:
        with beneath.held(run, listed=True) as directory, os.scandir(directory) as entries:
            found = [unfinished_model_of(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return None
    earlier = sorted((number for number in found if number is not None and number < attempt and branch.holds(number, 0)), reverse=True)
    return next((run / unfinished_model(number) for number in earlier if has_model(run / unfinished_model(number))), None)


def discard_models(run: Path, before: int, keep: int = 1) -> None:
    """Delete what programs of attempts ``before`` this one left of a model without success, but for the newest ``keep`` of them."""
    with suppress(OSError), beneath.held(run, listed=True) as directory, os.scandir(directory) as entries:
        found = sorted(attempt for entry in entries if (attempt := unfinished_model_of(entry.name)) is not None and attempt < before)
        for attempt in found[: len(found) - keep]:
            with suppress(OSError):
                beneath.remove(unfinished_model(attempt), directory)


def discard_empty(unfinished: Path) -> None:
    """After an attempt: remove the folder for its model if nothing is in it."""
    with suppress(OSError), beneath.held(unfinished.parent) as directory:
        os.rmdir(unfinished.name, dir_fd=directory)


def _put_aside(name: str, directory: int, note: Note) -> None:
    from cloud_train.run.checkpoints import PASSED_OVER

    aside = PASSED_OVER + name
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

    def __init__(self, at: AttemptContext, number: int, helpers: Helpers, watch: Watch, code: Mapping[str, Any] | None) -> None:
        """``code`` identifies the program's code (``script_code``)."""
        self._at, self._number, self._helpers, self._watch, self._code = at, number, helpers, watch, code
        self._checkpoints = at.workspace.checkpoints
        self._tried: set[str] = set()
        self._subprocess: Subprocess | None = None
        self._of_program = _OfProgram(at, number, code)

    def look(self) -> None:
        """Seal new checkpoints in a subprocess, without waiting for it."""
        if self._subprocess and self._helpers.is_done(self._subprocess):
            self._of_program.record(*self._helpers.result(self._subprocess))
            self._subprocess = None
        if self._subprocess is not None:
            return
        if names := unsealed(self._checkpoints) - self._tried:
            self._tried |= names
            self._subprocess = self._helpers.begin(self._sealing(names))
        elif work := self._of_program.look():
            self._subprocess = self._helpers.begin(work)

    def finish(self, *, was_killed: bool = False) -> None:
        """After the program's end: seal all remaining checkpoints. ``was_killed`` is whether it may have been writing one."""
        while self._subprocess:
            self._watch.turn()
            self.look()
        # Folders that could not be sealed before, perhaps because they were still being written, get another chance.
        if names := unsealed(self._checkpoints):
            self._watch.do(self._sealing(names))
        if work := self._of_program.rest(trusts_the_unknown=not was_killed):
            self._of_program.record(*self._watch.do(work))
        recognised = self._of_program.recognised()
        if others := [name for name in other_names(self._checkpoints) if name not in recognised]:
            shown = ", ".join(map(repr, others[:_SHOWN])) + (", …" if len(others) > _SHOWN else "")
            several = "a name" if len(others) == 1 else f"{len(others):,} names"
            self._at.worker_log.note(f"not kept as checkpoints, because of {several}: {shown}; {_NAME_IT}")

    def _sealing(self, names: set[str]) -> Callable[[], str]:
        keep = self._at.record.program.keep_checkpoints
        return partial(seal_checkpoints, self._checkpoints, names, keep, self._at.worker_log.note, self._number, code=self._code)


class _OfProgram:
    """What a program saves under the names of other frameworks (``foreign``), for the Sealer. Create it before the program starts."""

    def __init__(self, at: AttemptContext, number: int, code: Mapping[str, Any] | None) -> None:
        self._at, self._number, self._code = at, number, code
        self._checkpoints = at.workspace.checkpoints
        self._seen: dict[str, Found] = {}
        self._sealed: dict[str, Signature] = {}
        self._tried: dict[str, Signature] = {}
        self._groups: list[list[Found]] = []
        self._is_ignored = False
        self._next = 0.0
        for item in self._found():  # what was put back from the checkpoint that the attempt resumes from
            self._sealed.update(item.files)

    def look(self) -> Callable[[], str] | None:
        """The work of sealing what has been at rest since the look before; None if there is nothing."""
        if monotonic() < self._next:
            return None
        self._next = monotonic() + self._at.timing.look
        found, before = self._found(), self._seen
        self._seen = {item.name: item for item in found}
        if not found:
            return None
        from cloud_train.worker.attempts import foreign

        return self._work(foreign.at_rest(found, before), {**self._sealed, **self._tried}, trusts_the_unknown=True)

    def rest(self, *, trusts_the_unknown: bool) -> Callable[[], str] | None:
        """After the program's end: the work of sealing what has not been sealed."""
        return self._work(self._found(), self._sealed, trusts_the_unknown=trusts_the_unknown)

    def record(self, went_well: bool, result: str) -> None:
        """Note the result of the work."""
        for number in result.split() if went_well and self._groups else ():
            for item in self._groups[int(number)]:
                self._sealed.update(item.files)
        self._groups = []

    def recognised(self) -> set[str]:
        """The names in the folder of checkpoints that were sealed, or contain what was."""
        return set() if self._is_ignored else {name.split("/")[0] for name in self._sealed}

    def _found(self) -> "list[Found]":
        if self._is_ignored or not other_names(self._checkpoints):
            return []
        from cloud_train.worker.attempts import foreign  # not needed by programs without such names

        with suppress(OSError):
            if foreign.are_own(self._checkpoints):
                self._is_ignored = True
                return []
            return foreign.found_in(self._checkpoints)
        return []

    def _work(self, found: "list[Found]", sealed: "Mapping[str, Signature]", *, trusts_the_unknown: bool) -> Callable[[], str] | None:
        if not found:
            return None
        from cloud_train.worker.attempts import foreign

        self._groups = foreign.in_order(found, sealed)
        if not self._groups:
            return None
        for group in self._groups:
            for item in group:
                self._tried.update(item.files)
        at = self._at
        return partial(
            foreign.seal_all,
            self._checkpoints,
            self._groups,
            at.workspace.metrics,
            at.record.program.keep_checkpoints,
            at.worker_log.note,
            attempt=self._number,
            code=self._code,
            trusts_the_unknown=trusts_the_unknown,
        )
