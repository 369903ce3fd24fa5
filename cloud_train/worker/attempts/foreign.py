"""Checkpoints as other frameworks name them: Lightning, Keras, TensorFlow, the Hugging Face Trainer, and plain torch.

A program that writes such files into the folder of checkpoints needs nothing of ours: what is complete and at rest is copied into a
checkpoint ``step-<number>``, under its own name, and the next attempt finds it in its own folder under that name again. The originals are
the program's, and are never changed or deleted. Nothing is unpickled: only the frame of a file is looked at, to recognise a torn one.

A program that makes checkpoints ``step-<number>`` itself decides for itself what is one; then nothing else is recognised.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from cloud_train import beneath
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import documents
from cloud_train.run.layout import step_of
from cloud_train.worker.attempts.script_code import with_code

Note = Callable[[str], None]
Signature = tuple[int, int, int]
"""Size, time of change and inode of a file."""

FOUND = "found"
"""The field of a manifest's ``fingerprint`` that lists what a checkpoint holds of a program's own files and folders."""

_ENDINGS = (".ckpt", ".pt", ".pth", ".pth.tar", ".pt.tar", ".keras", ".weights.h5")
_TRAINER_FOLDER = re.compile(r"checkpoint-([0-9]{1,15})")
_TRAINER_STATE = "trainer_state.json"
_TENSORFLOW = re.compile(r"(.+)\.(index|data-[0-9]{5}-of-[0-9]{5})")
_TENSORFLOW_STATE = "checkpoint"
_HALF = re.compile(r"(^|[._-])(tmp|temp|part|partial|incomplete|lock)([._-]|$)", re.IGNORECASE)
_NOT_A_STEP = re.compile(r"(rank|fold|part|shard|seed|version|v)[=_-]?[0-9]+", re.IGNORECASE)
_STEP = re.compile(r"(?:step|iter|iteration|ckpt|checkpoint)s?[=_.-]?([0-9]{1,15})(?![0-9])", re.IGNORECASE)
_EPOCH = re.compile(r"(?:epoch|ep)[=_.-]?([0-9]{1,15})(?![0-9])", re.IGNORECASE)
_NUMBER = re.compile(r"(?:^|[._=-])([0-9]{1,15})(?![0-9]|\.[0-9])")
_DEEPEST = 5
_MOST_NAMES = 5_000
_PIECE_BYTES = 1 << 20
_TAIL_BYTES = 1 << 16
_TEMPORARY = ".found"


@dataclass(frozen=True)
class Found:
    """One checkpoint of a program's own: a file, a folder, or the files that belong together."""

    name: str
    """Relative to the folder of checkpoints, with ``/``."""
    number: int | None
    """The step in the name, or else the epoch."""
    files: Mapping[str, Signature] = field(default_factory=dict)
    """Every file of it, relative to the folder of checkpoints."""


def number_in(name: str) -> int | None:
    """The step in the name of a checkpoint, or else its epoch, or else a number that stands alone; None without one."""
    ending = next((ending for ending in sorted(_ENDINGS, key=len, reverse=True) if name.lower().endswith(ending)), "")
    stem = _NOT_A_STEP.sub("", name[: len(name) - len(ending)])
    match = _STEP.search(stem) or _EPOCH.search(stem) or _NUMBER.search(stem)
    return int(match[1]) if match else None


def is_named_like_one(name: str) -> bool:
    """Whether a file's name is that of a checkpoint, and not one that frameworks use while they write it."""
    return name.lower().endswith(_ENDINGS) and not name.startswith(".") and not _HALF.search(name)


def found_in(checkpoints: Path) -> list[Found]:
    """The program's own checkpoints in the folder and below it; links are not followed. Raises OSError."""
    found: list[Found] = []
    left = [_MOST_NAMES]
    with beneath.held(checkpoints.parent, (checkpoints.name,), listed=True) as directory:
        _look(directory, "", 0, found, left)
    return sorted(found, key=lambda item: item.name)


def _look(directory: int, above: str, depth: int, found: list[Found], left: list[int]) -> None:
    files: dict[str, Signature] = {}
    folders = []
    with os.scandir(directory) as entries:
        for entry in entries:
            left[0] -= 1
            if left[0] < 0:
                return
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    files[entry.name] = _signature(entry.stat(follow_symlinks=False))
    found += _of_files(files, above)
    for name in sorted(folders):
        if (above or step_of(name) is None) and depth < _DEEPEST:
            with suppress(OSError), _inner(name, directory) as inner:
                if match := _TRAINER_FOLDER.fullmatch(name):
                    if stat.S_ISREG(beneath.mode_of(_TRAINER_STATE, inner)):
                        found.append(Found(above + name, int(match[1]), dict(_all_in(inner, f"{above}{name}/"))))
                else:
                    _look(inner, f"{above}{name}/", depth + 1, found, left)


def _of_files(files: Mapping[str, Signature], above: str) -> Iterator[Found]:
    together: dict[str, dict[str, Signature]] = {}
    for name, signature in files.items():
        if match := _TENSORFLOW.fullmatch(name):
            together.setdefault(match[1], {})[above + name] = signature
        elif is_named_like_one(name):
            yield Found(above + name, number_in(name), {above + name: signature})
    for name, parts in together.items():
        if f"{above}{name}.index" in parts and len(parts) > 1 and not _HALF.search(name):
            state = {above + _TENSORFLOW_STATE: files[_TENSORFLOW_STATE]} if _TENSORFLOW_STATE in files else {}
            yield Found(above + name, number_in(name), {**parts, **state})


@contextmanager
def _inner(name: str, directory: int) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _all_in(directory: int, above: str, depth: int = 0) -> Iterator[tuple[str, Signature]]:
    with os.scandir(directory) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        if entry.is_dir(follow_symlinks=False) and depth < _DEEPEST:
            with _inner(entry.name, directory) as inner:
                yield from _all_in(inner, f"{above}{entry.name}/", depth + 1)
        elif entry.is_file(follow_symlinks=False):
            yield above + entry.name, _signature(entry.stat(follow_symlinks=False))


def _signature(status: os.stat_result) -> Signature:
    return status.st_size, status.st_mtime_ns, status.st_ino


def at_rest(found: list[Found], before: Mapping[str, Found]) -> list[Found]:
    """Those that are as they were ``before``. Of those that belong together, with one number or without any, all are, or none counts."""
    moving = {item.number for item in found if before.get(item.name) != item}
    return [item for item in found if item.number not in moving]


def in_order(found: list[Found], sealed: Mapping[str, Signature]) -> list[list[Found]]:
    """What to seal: the groups that belong to one checkpoint each, the oldest first; ``sealed`` are the files that are in one already.

    Files with the same number belong together. Those without a number are in the last group, since they are written over: all of them,
    as a program that saves its model and its optimizer in two files needs both of the same moment.
    """
    changed = [item for item in found if any(sealed.get(name) != signature for name, signature in item.files.items())]
    numbers = sorted({item.number for item in changed if item.number is not None})
    groups = [[item for item in found if item.number == number] for number in numbers]
    loose = [item for item in found if item.number is None]
    if groups and loose:
        groups[-1] += loose
    elif any(item.number is None for item in changed):
        groups.append(loose)
    return groups


def seal(
    checkpoints: Path,
    group: list[Found],
    step: int | None,
    note: Note,
    *,
    attempt: int | None = None,
    code: Mapping[str, Any] | None = None,
    trusts_the_unknown: bool = True,
) -> str:
    """Copy a group into a checkpoint of its own; returns its name, or an empty string if it cannot be sealed now.

    ``step``: of the program's newest metrics. A checkpoint is newer than those before it, so its step is higher than theirs if theirs come
    from other numbers. ``trusts_the_unknown`` is whether files count whose form does not show that they are complete.
    """
    from cloud_train.run.checkpoints import opened, publish

    run = checkpoints.parent
    temporary = checkpoints / f"{_TEMPORARY}-{os.getpid()}"
    names = ", ".join(item.name for item in group[:3]) + (", …" if len(group) > 3 else "")
    try:
        with opened(checkpoints) as directory:
            with suppress(FileNotFoundError):
                beneath.remove(temporary.name, directory)
            os.mkdir(temporary.name, dir_fd=directory)
        for item in group:
            for name, signature in item.files.items():
                if not _copied(run, checkpoints, name, temporary, signature):
                    _discard(temporary, checkpoints)
                    return ""
                if reason := _torn(temporary, name, run, trusts_the_unknown):
                    note(f"not kept as a checkpoint: {name} {reason}")
                    _discard(temporary, checkpoints)
                    return ""
        if not _are_unchanged(checkpoints, group):
            _discard(temporary, checkpoints)
            return ""
        chosen = _step_for(checkpoints, group, step)
        marked = with_code(code, {FOUND: sorted(item.name for item in group)})
        final = publish(temporary, checkpoints, chosen, None, marked, attempt=attempt)
    except (OSError, StoreError) as error:
        reason = error.message if isinstance(error, StoreError) else os.strerror(error.errno or 0).lower()
        note(f"cannot keep {names} as a checkpoint: {reason}")
        _discard(temporary, checkpoints)
        return ""
    note(f"sealed checkpoint {final.name}: {names}")
    return final.name


def _discard(temporary: Path, checkpoints: Path) -> None:
    from cloud_train.run.checkpoints import opened

    with suppress(OSError), opened(checkpoints) as directory:
        beneath.remove(temporary.name, directory)


def _copied(run: Path, checkpoints: Path, name: str, temporary: Path, signature: Signature) -> bool:
    """Copy a file; False if it is not as it was when it was found."""
    try:
        original = FileIO(beneath.open_file(run, (checkpoints / name).relative_to(run).parts), "rb")
    except FileNotFoundError:
        return False
    with original:
        before = _signature(os.fstat(original.fileno()))
        if before != signature:
            return False
        _copy(original, temporary / name, run)
        return _signature(os.fstat(original.fileno())) == before


def _copy(original: FileIO, path: Path, run: Path) -> None:
    os.close(beneath.open_folder(run, path.parent.relative_to(run).parts, make=True))
    with FileIO(beneath.open_within(path, run, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as copy:
        while piece := original.read(_PIECE_BYTES):
            beneath.write_all(copy.fileno(), piece)


def _are_unchanged(checkpoints: Path, group: list[Found]) -> bool:
    now = {item.name: item for item in found_in(checkpoints)}
    return all(now.get(item.name) == item for item in group)


def _step_for(checkpoints: Path, group: list[Found], step: int | None) -> int:
    from cloud_train.run.checkpoints import opened

    with opened(checkpoints) as directory, os.scandir(directory) as entries:
        sealed = {number: entry.name for entry in entries if (number := step_of(entry.name)) is not None}
    newest = max(sealed, default=-1)
    numbered = [item for item in group if item.number is not None]
    if numbered:
        number = numbered[0].number
    else:
        number = max(1, newest + 1) if step is None else step
    if number is None or number < newest:
        return newest + 1
    if number == newest and not (numbered and {item.name for item in numbered} <= set(found_of(checkpoints / sealed[newest]))):
        return newest + 1
    return number


def found_of(checkpoint: Path) -> list[str]:
    """What a sealed checkpoint holds of a program's own files and folders; empty for a checkpoint of another kind."""
    from cloud_train.run.manifest import read_manifest

    try:
        names = read_manifest(checkpoint, checkpoint.parent.parent).fingerprint.get(FOUND)
    except CorruptError:
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def restore(checkpoints: Path, name: str, note: Note) -> None:
    """Put the files of the checkpoint ``name`` back where the program wrote them, unless something is there. Raises StoreError."""
    from cloud_train.run.checkpoints import opened
    from cloud_train.run.manifest import read_manifest

    checkpoint, run = checkpoints / name, checkpoints.parent
    if not found_of(checkpoint):
        return
    put_back = []
    try:
        for file in read_manifest(checkpoint, run).files:
            parts = (checkpoints.name, *file.split("/"))
            with suppress(FileNotFoundError), beneath.held(run, parts[:-1]) as directory:
                if beneath.mode_of(parts[-1], directory):
                    continue
            half = checkpoints / f"{_TEMPORARY}-{os.getpid()}"
            with FileIO(beneath.open_file(run, (checkpoint / file).relative_to(run).parts), "rb") as original:
                with opened(checkpoints) as directory, suppress(FileNotFoundError):
                    os.unlink(half.name, dir_fd=directory)
                _copy(original, half, run)
            with opened(checkpoints) as source, beneath.held(run, parts[:-1], make=True) as target:
                os.rename(half.name, parts[-1], src_dir_fd=source, dst_dir_fd=target)
            put_back.append(file)
    except OSError as error:
        raise StoreError(f"cannot put back the files of {name}: {os.strerror(error.errno or 0).lower()}") from error
    if put_back:
        note(f"put back {', '.join(put_back[:3])}{', …' if len(put_back) > 3 else ''} from checkpoint {name}")


def are_own(checkpoints: Path) -> bool:
    """Whether a program makes its checkpoints itself: one that has its manifest does not come from here."""
    with suppress(OSError), beneath.held(checkpoints.parent, (checkpoints.name,), listed=True) as directory:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if step_of(entry.name) is not None and entry.is_dir(follow_symlinks=False)]
        return any(not found_of(checkpoints / name) for name in names)
    return False


def newest_step(metrics: Path, root: Path) -> int | None:
    """The step of the newest line of metrics; None if there is none."""
    with suppress(OSError), os.fdopen(beneath.open_within(metrics, root), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        tail = beneath.read_all(file.fileno(), max(0, size - _TAIL_BYTES), size)
        for line in reversed(tail[: tail.rfind(b"\n") + 1].splitlines()):
            with suppress(ValueError, RecursionError):
                step = json.loads(line).get("step") if line.lstrip().startswith(b"{") else None
                if type(step) is int and 0 <= step <= documents.LARGEST_STEP:
                    return step
    return None


def _torn(temporary: Path, name: str, run: Path, trusts_the_unknown: bool) -> str:
    """Why a copied file is not complete; empty if it is, or if its form does not show it and unknown forms are trusted."""
    path = temporary / name
    with FileIO(beneath.open_file(run, path.relative_to(run).parts), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(64)
        if not size:
            return "is empty" if is_named_like_one(name.rpartition("/")[2]) else ""
        if name.endswith(f"/{_TRAINER_STATE}"):
            file.seek(0)
            return "" if _is_json(file.read()) else "is not complete"
        whole = _is_whole(file, head, size)
    if whole is None:
        return "" if trusts_the_unknown else "may not be complete, since the program was killed"
    return "" if whole else "is not complete"


def _is_whole(file: FileIO, head: bytes, size: int) -> bool | None:
    """Whether a file in the form of a zip archive or of HDF5 has its end; None for other forms."""
    if head.startswith(b"PK\x03\x04"):
        import zipfile

        try:
            with zipfile.ZipFile(file) as archive:
                return bool(archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return False
    if head.startswith(b"\x89HDF\r\n\x1a\n") and head[8] in (2, 3) and head[9] == 8:
        return size >= int.from_bytes(head[28:36], "little")
    if head.startswith(b"\x89HDF\r\n\x1a\n") and head[8] == 0 and head[13] == 8:
        return size >= int.from_bytes(head[40:48], "little")
    return None


def _is_json(data: bytes | None) -> bool:
    try:
        json.loads(data or b"")
    except (ValueError, RecursionError):
        return False
    return True


def seal_all(
    checkpoints: Path,
    groups: list[list[Found]],
    metrics: Path,
    keep: int,
    note: Note,
    *,
    attempt: int | None = None,
    code: Mapping[str, Any] | None = None,
    trusts_the_unknown: bool = True,
) -> str:
    """Seal these groups one after another, and prune; returns the numbers of those that were sealed, with spaces between them."""
    from cloud_train.run.checkpoints import prune

    done = []
    for number, group in enumerate(groups):
        step = newest_step(metrics, checkpoints.parent)
        name = seal(checkpoints, group, step, note, attempt=attempt, code=code, trusts_the_unknown=trusts_the_unknown)
        if name:
            done.append(str(number))
            try:
                prune(checkpoints, keep, trusted=checkpoints / name, attempt=attempt)
            except StoreError as error:
                note(error.message)
    return " ".join(done)
