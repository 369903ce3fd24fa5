"""Checkpoints and models of programs that write no manifest themselves: the worker seals them.

All but the looks runs in a chore, which imports what it needs itself: a worker whose program has no checkpoints starts 4 ms earlier.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cloud_train.errors import StoreError
from cloud_train.run.layout import MANIFEST, step_of

_PASSED_OVER = ".passed-over-"

Note = Callable[[str], None]


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in a folder."""
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def unsealed(checkpoints: Path) -> set[str]:
    """The names of checkpoint folders without a manifest."""
    try:
        with os.scandir(checkpoints) as entries:
            names = [entry.name for entry in entries if step_of(entry.name) is not None and entry.is_dir(follow_symlinks=False)]
    except OSError:
        return set()
    return {name for name in names if not os.path.lexists(checkpoints / name / MANIFEST)}


def prepare(checkpoints: Path, note: Note) -> str:
    """Make the folder ready for an attempt; returns the name of the newest valid checkpoint, or nothing.

    What an earlier attempt was still writing is deleted. What is newer than the valid one is put aside: the program will come to these
    steps again, and a shell's ``mv`` onto an existing folder would move *into* it.
    """
    from cloud_train.run.checkpoints import newest_valid, remove_folder

    names = sorted(path.name for path in checkpoints.iterdir())
    for name in names:
        if name.startswith(".") and not name.startswith(_PASSED_OVER):
            with suppress(OSError):
                remove_folder(checkpoints / name)
    resume = newest_valid(checkpoints, note)
    newest = -1 if resume is None else step_of(resume.name) or 0
    for name in names:
        if (step_of(name) or 0) > newest and step_of(name) is not None:
            _put_aside(checkpoints / name, note)
    return resume.name if resume else ""


def seal_checkpoints(checkpoints: Path, names: set[str], keep: int, note: Note) -> str:
    """Write the manifests of these checkpoint folders, then prune. What cannot be sealed is noted and left as it is."""
    from cloud_train.run.checkpoints import prune
    from cloud_train.run.manifest import write_manifest

    for name in sorted(names, key=lambda name: step_of(name) or 0):
        try:
            write_manifest(checkpoints / name, step_of(name))
        except StoreError as error:
            note(f"checkpoint {name} does not count: {error.message}")
        else:
            note(f"sealed checkpoint {name}")
            prune(checkpoints, keep, trusted=checkpoints / name)
    return ""


def model_needs_seal(model: Path) -> bool:
    """Whether there are files of a model, and no manifest."""
    try:
        return not is_empty(model) and not os.path.lexists(model / MANIFEST)
    except OSError:
        return False


def seal_model(model: Path) -> str:
    """Write the final model's manifest; raises StoreError."""
    from cloud_train.run.manifest import write_manifest

    write_manifest(model, step=None)
    return ""


def _put_aside(folder: Path, note: Note) -> None:
    from cloud_train.run.checkpoints import remove_folder

    aside = folder.with_name(_PASSED_OVER + folder.name)
    try:
        if aside.is_dir():
            remove_folder(aside)
        folder.rename(aside)
    except OSError as error:
        note(f"cannot put {folder.name} aside: {error.strerror}")
    else:
        note(f"put {folder.name} aside as {aside.name}")
