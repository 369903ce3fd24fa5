"""Checkpoints in a local folder: publish them with the manifest last, find the newest valid one, prune old ones.

A checkpoint is a folder ``step-<n>`` with a valid manifest (``run.manifest``); everything else is ignored. Each attempt has its own folder
of checkpoints in the run's folder (``layout.checkpoints``), so that one that was overtaken writes and prunes nothing of the next. The
parent of the checkpoints folder, the run's own folder, is trusted; below it no link is followed.
"""

import errno
import os
import stat
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cloud_train import beneath
from cloud_train.beneath import IrregularError
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import layout
from cloud_train.run.layout import step_folder, step_of
from cloud_train.run.manifest import REMOVE_LINK, Manifest, check_sizes, manifest_bytes, read_manifest, verify, write_manifest
from cloud_train.run.ranking import USUAL, Ranking
from cloud_train.run.succession import Branch, publishing

Place = TypeVar("Place", bound=Hashable)
"""A checkpoint's location: a folder, or a name in a store."""

PASSED_OVER = ".passed-over-"
"""Prefix of the names of checkpoints that an attempt did not continue from."""
_PIECE_BYTES = 1 << 20
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
        with opened(checkpoints) as directory:
            _remove(_second_name(step), directory)
            with publishing(checkpoints.parent, attempt):
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
    return _newest_valid(_candidates(checkpoints), checkpoints.parent, note, branch)


def newest_valid_of_run(run: Path, note: Callable[[str], None], branch: Branch | None = None) -> Path | None:
    """As ``newest_valid``, among the checkpoints of all attempts in the run's folder ``run``."""
    found = [(step, attempt, folder) for attempt in attempts_in(run) for step, folder in _candidates(run / layout.checkpoints(attempt))]
    return _newest_valid([(step, folder) for step, _, folder in sorted(found, reverse=True)], run, note, branch)


def attempts_in(run: Path) -> list[int]:
    """The attempts that have a folder of checkpoints in the run's folder, the newest first."""
    try:
        with beneath.held(run, listed=True) as directory, os.scandir(directory) as entries:
            found = [layout.checkpoints_of(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unusable(f"list {run}", error) from error
    return sorted((attempt for attempt in found if attempt is not None), reverse=True)


class Listable(Protocol):
    """The part of ``storage.base.Store`` that finding checkpoints needs."""

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under ``prefix``."""


def places_in_store(store: Listable, run_id: str) -> list[tuple[int, int, str]]:
    """Every folder in a store that is named like a checkpoint: its step, the attempt in whose folder it is, and its name, newest first.

    Of two for one step, that of the later attempt comes first. Raises StoreError.
    """
    found = []
    for folder in store.folders(f"{run_id}/"):
        if (attempt := layout.checkpoints_of(folder)) is not None:
            names = store.folders(f"{run_id}/{folder}/")
            found += [(step, attempt, name) for name in names if (step := step_of(name)) is not None]
    return sorted(found, reverse=True)


def check_branch(branch: Branch | None, manifest: Manifest, folder: int) -> None:
    """Raise CorruptError for a checkpoint, in the folder of the attempt ``folder``, that does not belong to the branch."""
    if branch is not None and not branch.holds(manifest.attempt, manifest.step or 0, folder):
        raise CorruptError(f"attempt {branch.maker(manifest.attempt, folder)} made it after another attempt had taken over")


def take_over(checkpoints: Path, note: Callable[[str], None], branch: Branch, *, attempt: int | None = None) -> dict[str, int | None]:
    """Move the complete checkpoints that earlier attempts of the ``branch`` left in their folders into ``checkpoints``; returns the attempt
    that made each of them, None if unknown. What these attempts had not completed is deleted, and everything else stays where it is.

    Each is moved by one rename, so no file is copied, and a kill at any point leaves it in one folder or the other. Only where a rename is
    impossible, because the folder is on another disk or belongs to another user, the newest valid one is copied. Raises StoreError, also if
    a part of the run directory is a link, and SupersededError if a newer attempt than ``attempt`` has begun.
    """
    run, own = checkpoints.parent, layout.checkpoints_of(checkpoints.name) or 1
    makers: dict[str, int | None] = {}
    for earlier in attempts_in(run):
        if earlier >= own:
            continue
        folder = run / layout.checkpoints(earlier)
        try:
            with opened(folder) as source, opened(checkpoints) as target:
                for name in filter(is_unfinished, _names_in(source)):
                    with suppress(OSError):
                        beneath.remove(name, source)
                found = _of_branch(folder, note, branch)
                wanted = {name: manifest for name, manifest in found.items() if not beneath.mode_of(name, target)}
                if not _is_movable(wanted, source, target, run=run, attempt=attempt):
                    wanted = _copied_newest(folder, wanted, checkpoints)
                    note(f"copied {', '.join(wanted) or 'nothing'} from {folder}, since it cannot be moved")
                os.fsync(target)
            makers |= {name: branch.maker(manifest.attempt, earlier) for name, manifest in wanted.items()}
            with beneath.held(run, listed=True) as directory, suppress(OSError):  # not if anything is left in it
                os.rmdir(folder.name, dir_fd=directory)
        except OSError as error:
            raise _unusable(f"take over the checkpoints in {folder}", error) from error
    return makers


def _of_branch(folder: Path, note: Callable[[str], None], branch: Branch) -> dict[str, Manifest]:
    """The checkpoints in another attempt's folder that have a manifest and belong to the branch, the newest first."""
    found, earlier = {}, layout.checkpoints_of(folder.name) or 1
    for step, checkpoint in _candidates(folder):
        try:
            manifest = _check_step(checkpoint, step, read_manifest(checkpoint, folder.parent))
            check_branch(branch, manifest, earlier)
        except CorruptError as error:
            note(f"skipped checkpoint {checkpoint.name} of attempt {earlier}: {error.message}")
        else:
            found[checkpoint.name] = manifest
    return found


def _is_movable(names: Iterable[str], source: int, target: int, *, run: Path, attempt: int | None) -> bool:
    """Move these folders from one open folder to another; False if that is impossible there."""
    for name in names:
        try:
            with publishing(run, attempt):
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EACCES, errno.EPERM):
                return False
            raise
    return True


def _copied_newest(folder: Path, found: Mapping[str, Manifest], checkpoints: Path) -> dict[str, Manifest]:
    """Copy the newest valid one of these checkpoints of ``folder``, and return it."""
    run = folder.parent
    for name, manifest in found.items():
        if _is_valid(folder / name, run):
            temporary = checkpoints / f".{name}-copied"
            for file in [*manifest.files, layout.MANIFEST]:
                path = temporary / file
                above = path.parent.relative_to(run).parts
                os.close(beneath.open_folder(run, above, make=True))
                with (
                    FileIO(beneath.open_file(run, (folder / name / file).relative_to(run).parts), "rb") as original,
                    FileIO(beneath.open_within(path, run, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as copy,
                ):
                    while piece := original.read(_PIECE_BYTES):
                        beneath.write_all(copy.fileno(), piece)
                    os.fsync(copy.fileno())
            put_in_place(temporary.name, checkpoints, name)
            return {name: manifest}
    return {}


def manifest_digest(checkpoint: Path) -> str:
    """The SHA-256 of a checkpoint's manifest, in hexadecimal, which tells it from any other one. Raises CorruptError."""
    import hashlib  # takes 2 ms

    return hashlib.sha256(manifest_bytes(checkpoint, checkpoint.parent.parent)).hexdigest()


def take_over_one(checkpoints: Path, name: str, digest: str) -> bool:
    """Whether the checkpoint ``name`` whose manifest has this ``digest`` is in ``checkpoints``, or was in the folder of an earlier attempt
    and has been moved from there. Raises OSError; IrregularError if a folder is a link.
    """
    run, own = checkpoints.parent, layout.checkpoints_of(checkpoints.name) or 1
    with opened(checkpoints) as target:
        for attempt in [own, *(number for number in attempts_in(run) if number < own)]:
            folder = run / layout.checkpoints(attempt)
            with suppress(CorruptError, FileNotFoundError):
                if manifest_digest(folder / name) == digest:
                    if attempt != own:
                        with opened(folder) as source:
                            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
                    return True
    return False


def is_unfinished(name: str) -> bool:
    """Whether a name in a folder of checkpoints is that of something unfinished, which the next attempt deletes."""
    return name.startswith(".") and not name.startswith(PASSED_OVER)


def _newest_valid(found: Sequence[tuple[int, Path]], run: Path, note: Callable[[str], None], branch: Branch | None) -> Path | None:
    for step, folder in found:
        try:
            manifest = _check_step(folder, step, read_manifest(folder, run))
            check_branch(branch, manifest, layout.checkpoints_of(folder.parent.name) or 1)
            _check_step(folder, step, verify(folder, run))
        except CorruptError as error:
            note(f"skipped checkpoint {folder.name}: {error.message}")
        else:
            return folder
    return None


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
        with opened(checkpoints) as directory:
            with publishing(checkpoints.parent, attempt):
                hidden = [_hide(folder.name, directory) for folder in old]
            for name in filter(None, hidden):
                beneath.remove(name, directory)
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
    if hidden := _hide(name, directory):
        beneath.remove(hidden, directory)


def _hide(name: str, directory: int) -> str:
    """Rename a folder before it is deleted: half-deleted, it must not look like a checkpoint that a script has just finished. Returns the
    new name, empty if there is no such folder.
    """
    if not stat.S_ISDIR(beneath.mode_of(name, directory)):
        return ""
    hidden = f".deleted-{name}-{os.getpid()}"
    os.rename(name, hidden, src_dir_fd=directory, dst_dir_fd=directory)
    return hidden


def _names_in(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) or entry.name.startswith("."))


def _unusable(action: str, error: OSError) -> StoreError:
    if isinstance(error, IrregularError):
        return StoreError(f"cannot {action}: {error.path} is {error.what}", hint=REMOVE_LINK)
    return StoreError(f"cannot {action}: {os.strerror(error.errno or 0).lower()}")
