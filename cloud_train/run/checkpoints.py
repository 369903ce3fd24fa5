"""Checkpoints in a local folder: publish with a manifest written last, find the newest valid one, prune the old.

A checkpoint is a folder ``step-<n>`` with a valid manifest (``run.manifest``); anything else in the folder does not exist. The folder above
that of the checkpoints is trusted, as a run's own is; from there on no link is followed.
"""

import os
import stat
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, TypeVar

from cloud_train import beneath
from cloud_train.beneath import IrregularError
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.layout import step_folder, step_of
from cloud_train.run.manifest import REMOVE_LINK, Manifest, check_sizes, verify, write_manifest
from cloud_train.run.ranking import USUAL, Ranking

Place = TypeVar("Place", bound=Hashable)
"""Where a checkpoint is: a folder, or a name in a store."""

_LONGEST = 18  # digits that layout.step_of accepts: a second, equally valid name for the same step


def publish(
    temporary: Path, checkpoints: Path, step: int, metrics: Mapping[str, float] | None = None, fingerprint: Mapping[str, Any] | None = None
) -> Path:
    """Turn a filled temporary folder directly inside ``checkpoints`` into the checkpoint of ``step``; one that exists already is replaced.

    Raises StoreError (disk full, say); then the temporary folder is still there and every other checkpoint is as it was. Raises
    ValueError for a step that is negative or has more than 17 digits.
    """
    if not 0 <= step < 10 ** (_LONGEST - 1):
        raise ValueError(f"a step is a number from 0 to 10^{_LONGEST - 1}, not {step}")
    # The manifest is the last file of the temporary folder, and only then does the folder get its name: a rename is all or nothing, so a
    # kill at any point leaves a temporary folder or a complete checkpoint. The other way round, a named folder without a manifest would
    # be left, which is exactly what a script's finished checkpoint looks like.
    write_manifest(temporary, step, metrics, fingerprint, root=checkpoints.parent)
    final = checkpoints / step_folder(step)
    try:
        with opened(checkpoints) as directory:
            _make_way(final.name, step, directory)
            os.rename(temporary.name, final.name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            _remove(_second_name(step), directory)
    except OSError as error:
        raise _unusable(f"save {final}", error) from error
    return final


def put_in_place(temporary: str, checkpoints: Path, name: str) -> None:
    """Give the folder ``temporary`` in ``checkpoints`` this name; a folder that has it already is deleted. Raises OSError."""
    with opened(checkpoints) as directory:
        if stat.S_ISDIR(beneath.mode_of(name, directory)):
            beneath.remove(name, directory)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def newest_valid(checkpoints: Path, note: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose every byte checks; ``note`` gets a line for each one that is skipped, with the reason.

    Raises StoreError if a link is in the place of the folder.
    """
    for step, folder in _candidates(checkpoints):
        try:
            _check_step(folder, step, verify(folder, checkpoints.parent))
        except CorruptError as error:
            note(f"skipped checkpoint {folder.name}: {error.message}")
        else:
            return folder
    return None


def best(checkpoints: Path, ranking: Ranking = USUAL) -> Path | None:
    """The checkpoint that ``ranking`` puts first; of equals, the newest. Sizes are checked, contents are not: ``verify`` what is about to
    be used.
    """
    found = _complete(checkpoints)
    return _ranked(found, ranking)[0] if found else None


def prune(checkpoints: Path, keep: int, trusted: Path | None = None, ranking: Ranking = USUAL) -> list[Path]:
    """Delete all but the newest ``keep`` and the best; what is incomplete is neither counted nor deleted. Returns what was deleted.

    The last valid checkpoint is never deleted: unless ``trusted`` (just published, so valid by construction) is among those that stay,
    one that stays must check byte for byte, or nothing is deleted. Raises StoreError, also if a link is in the place of the folder.
    """
    found = _complete(checkpoints)
    stay = kept(found, keep, ranking)
    old = [folder for folder, _ in found if folder not in stay]
    if not old or not (trusted in stay or any(_is_valid(folder, checkpoints.parent) for folder in stay)):
        return []
    try:
        with opened(checkpoints) as directory:
            for folder in old:
                _remove(folder.name, directory)
    except OSError as error:
        raise _unusable(f"delete old checkpoints in {checkpoints}", error) from error
    return old


def kept(found: Sequence[tuple[Place, Manifest]], keep: int, ranking: Ranking = USUAL) -> set[Place]:
    """Of complete checkpoints, newest first, those that stay: the newest ``keep``, at least one, and the best."""
    return {place for place, _ in found[: max(1, keep)]} | set(_ranked(found, ranking)[: ranking.keep])


def opened(checkpoints: Path) -> AbstractContextManager[int]:
    """A descriptor of the folder, for ``dir_fd``, ``os.scandir`` and ``os.fsync``. Raises OSError; IrregularError where it is a link."""
    return beneath.held(checkpoints.parent, (checkpoints.name,), listed=True)


def _candidates(checkpoints: Path) -> list[tuple[int, Path]]:
    """Steps and folders, newest first; of two names of the same step, the usual one first."""
    try:
        with opened(checkpoints) as directory, os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except IrregularError as error:
        raise _unusable(f"look for checkpoints in {checkpoints}", error) from error
    found = [(step, checkpoints / name) for name in names if (step := step_of(name)) is not None]
    return sorted(found, key=lambda item: (item[0], item[1].name == step_folder(item[0]), item[1].name), reverse=True)


def _complete(checkpoints: Path) -> list[tuple[Path, Manifest]]:
    found: list[tuple[Path, Manifest]] = []
    for step, folder in _candidates(checkpoints):
        with suppress(CorruptError):
            found.append((folder, _check_step(folder, step, check_sizes(folder, checkpoints.parent))))
    return found


def _ranked(found: Sequence[tuple[Place, Manifest]], ranking: Ranking) -> list[Place]:
    """Best first."""
    order = sorted(found, key=lambda item: ranking.quality(item[1].metrics, item[1].step or 0), reverse=True)
    return [place for place, _ in order]


def _check_step(folder: Path, step: int, manifest: Manifest) -> Manifest:
    if manifest.step != step:
        raise CorruptError(f"the manifest of {folder} is that of step {manifest.step}")
    return manifest


def _is_valid(folder: Path, root: Path) -> bool:
    try:
        verify(folder, root)
    except CorruptError:
        return False
    return True


def _make_way(final: str, step: int, directory: int) -> None:
    # A rename cannot replace a folder that has files. The old one first takes the step's second name, under which it is just as valid, so
    # that a kill between the two renames does not lose it.
    mode = beneath.mode_of(final, directory)
    if stat.S_ISDIR(mode):
        second = _second_name(step)
        _remove(second, directory)
        os.rename(final, second, src_dir_fd=directory, dst_dir_fd=directory)
    elif mode:
        os.unlink(final, dir_fd=directory)


def _second_name(step: int) -> str:
    return f"step-{step:0{_LONGEST}d}"


def _remove(name: str, directory: int) -> None:
    # Out of sight first: a checkpoint that is half deleted must not be taken for one that a script has just finished.
    if stat.S_ISDIR(beneath.mode_of(name, directory)):
        hidden = f".deleted-{name}-{os.getpid()}"
        os.rename(name, hidden, src_dir_fd=directory, dst_dir_fd=directory)
        beneath.remove(hidden, directory)


def _unusable(action: str, error: OSError) -> StoreError:
    if isinstance(error, IrregularError):
        return StoreError(f"cannot {action}: {error.path} is {error.what}", hint=REMOVE_LINK)
    return StoreError(f"cannot {action}: {os.strerror(error.errno or 0).lower()}")
