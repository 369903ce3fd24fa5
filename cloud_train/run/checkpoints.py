"""Checkpoints in a local folder: publish them with the manifest last, find the newest valid one, prune old ones.

A checkpoint is a folder ``step-<n>`` with a valid manifest (``run.manifest``); everything else is ignored. The parent of the checkpoints
folder, the run's own folder, is trusted; below it no link is followed.
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
from cloud_train.run.manifest import REMOVE_LINK, Manifest, check_sizes, read_manifest, verify, write_manifest
from cloud_train.run.ranking import USUAL, Ranking
from cloud_train.run.succession import Branch, publishing

Place = TypeVar("Place", bound=Hashable)
"""A checkpoint's location: a folder, or a name in a store."""

_LONGEST = 18  # the most digits that layout.step_of accepts: they make a second, equally valid name for the same step


def publish(
    temporary: Path,
    checkpoints: Path,
    step: int,
    metrics: Mapping[str, float] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    *,
    attempt: int | None = None,
) -> Path:
    """Turn a filled temporary folder directly inside ``checkpoints`` into the checkpoint of ``step``, replacing an existing one.

    ``attempt`` is the one that made it; raises SupersededError if a newer one has begun in this run directory.

    Raises StoreError, such as for a full disk; the temporary folder and all other checkpoints are then unchanged. Raises ValueError for
    a step that is negative or has more than 17 digits.
    """
    if not 0 <= step < 10 ** (_LONGEST - 1):
        raise ValueError(f"a step is a number from 0 to 10^{_LONGEST - 1}, not {step}")
    # The manifest is written into the temporary folder before the folder is renamed. A rename is atomic, so a kill at any point leaves
    # either a temporary folder or a complete checkpoint. In the other order, a kill could leave a named folder without a manifest, which
    # is what a script's finished checkpoint looks like.
    write_manifest(temporary, step, metrics, fingerprint, root=checkpoints.parent, attempt=attempt)
    final = checkpoints / step_folder(step)
    try:
        with publishing(checkpoints.parent, attempt), opened(checkpoints) as directory:
            _make_way(final.name, step, directory)
            os.rename(temporary.name, final.name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            _remove(_second_name(step), directory)
    except OSError as error:
        raise _unusable(f"save {final}", error) from error
    return final


def put_in_place(temporary: str, checkpoints: Path, name: str) -> None:
    """Rename the folder ``temporary`` in ``checkpoints`` to ``name``, replacing an existing folder. Raises OSError."""
    with opened(checkpoints) as directory:
        if stat.S_ISDIR(beneath.mode_of(name, directory)):
            beneath.remove(name, directory)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def newest_valid(checkpoints: Path, note: Callable[[str], None], branch: Branch | None = None) -> Path | None:
    """The newest checkpoint that verifies completely; ``note`` receives a line, with the reason, for each one that is skipped.

    With ``branch``, those that do not belong to it are skipped too.

    Raises StoreError if ``checkpoints`` is a link.
    """
    for step, folder in _candidates(checkpoints):
        try:
            check_branch(branch, _check_step(folder, step, read_manifest(folder, checkpoints.parent)))
            _check_step(folder, step, verify(folder, checkpoints.parent))
        except CorruptError as error:
            note(f"skipped checkpoint {folder.name}: {error.message}")
        else:
            return folder
    return None


def check_branch(branch: Branch | None, manifest: Manifest) -> None:
    """Raise CorruptError for a checkpoint that does not belong to the branch."""
    if branch is not None and not branch.holds(manifest.attempt, manifest.step or 0):
        raise CorruptError(f"attempt {manifest.attempt} made it after another attempt had taken over")


def best(checkpoints: Path, ranking: Ranking = USUAL) -> Path | None:
    """The best checkpoint by ``ranking``. Only sizes are checked: ``verify`` a checkpoint before using it."""
    found = _complete(checkpoints)
    return _ranked(found, ranking)[0] if found else None


def prune(checkpoints: Path, keep: int, trusted: Path | None = None, ranking: Ranking = USUAL, *, attempt: int | None = None) -> list[Path]:
    """Delete all complete checkpoints but the newest ``keep`` and the best; returns the deleted ones. Incomplete ones are ignored.

    The last valid checkpoint is never deleted: one that stays must verify byte for byte, or be ``trusted`` (just published, so known to be
    valid); otherwise nothing is deleted. Raises StoreError, also if ``checkpoints`` is a link, and SupersededError if a newer attempt than
    ``attempt`` has begun.
    """
    found = _complete(checkpoints)
    stay = kept(found, keep, ranking)
    old = [folder for folder, _ in found if folder not in stay]
    if not old or not (trusted in stay or any(_is_valid(folder, checkpoints.parent) for folder in stay)):
        return []
    try:
        with publishing(checkpoints.parent, attempt), opened(checkpoints) as directory:
            for folder in old:
                _remove(folder.name, directory)
    except OSError as error:
        raise _unusable(f"delete old checkpoints in {checkpoints}", error) from error
    return old


def kept(found: Sequence[tuple[Place, Manifest]], keep: int, ranking: Ranking = USUAL) -> set[Place]:
    """The checkpoints to keep, out of complete ones sorted newest first: the newest ``keep``, at least one, and the best."""
    return {place for place, _ in found[: max(1, keep)]} | set(_ranked(found, ranking)[: ranking.keep])


def opened(checkpoints: Path) -> AbstractContextManager[int]:
    """A descriptor of the folder, for ``dir_fd``, ``os.scandir`` and ``os.fsync``. Raises OSError; IrregularError for a link."""
    return beneath.held(checkpoints.parent, (checkpoints.name,), listed=True)


def _candidates(checkpoints: Path) -> list[tuple[int, Path]]:
    """Steps and folders, newest first; if a step has two names, the usual one comes first."""
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
        raise CorruptError(f"the manifest of {folder} is for step {manifest.step}")
    return manifest


def _is_valid(folder: Path, root: Path) -> bool:
    try:
        verify(folder, root)
    except CorruptError:
        return False
    return True


def _make_way(final: str, step: int, directory: int) -> None:
    # A rename cannot replace a folder with files in it. The old one first gets the step's second name, under which it stays valid, so that
    # a kill between the two renames does not lose it.
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
    # Hidden first: a half-deleted checkpoint must not look like one that a script has just finished.
    if stat.S_ISDIR(beneath.mode_of(name, directory)):
        hidden = f".deleted-{name}-{os.getpid()}"
        os.rename(name, hidden, src_dir_fd=directory, dst_dir_fd=directory)
        beneath.remove(hidden, directory)


def _unusable(action: str, error: OSError) -> StoreError:
    if isinstance(error, IrregularError):
        return StoreError(f"cannot {action}: {error.path} is {error.what}", hint=REMOVE_LINK)
    return StoreError(f"cannot {action}: {os.strerror(error.errno or 0).lower()}")
