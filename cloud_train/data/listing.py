"""The files of a data folder: which of them are data, and which are left out. Imports no torch."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

SHOWN = 3
"""Names, or kinds of files, that a message lists."""

_NO_FOLDER = ("__MACOSX", "@eaDir")
_NO_FILE = ("thumbs.db", "desktop.ini")


def may_be_data(name: str) -> bool:
    """Whether a file or folder can be data: it is not hidden, nor one that macOS (``._*``, ``__MACOSX``), Windows or a Synology adds."""
    return not name.startswith(".") and name not in _NO_FOLDER and name.lower() not in _NO_FILE


def sub_folders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, sorted. Raises OSError."""
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if may_be_data(entry.name) and entry.is_dir()))


class LeftOut:
    """The files of a folder that are not read, counted by their endings."""

    def __init__(self) -> None:
        self._files: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._files)

    def add(self, name: str) -> None:
        """One more file."""
        self._files[os.path.splitext(name)[1].lower() or "without an extension"] += 1  # noqa: PTH122 -- called for a million names

    def sentence(self, what: str, endings: Sequence[str]) -> str:
        """How many files are not read as ``what``, because they have none of these endings (or names)."""
        several = self._files.total()
        most = sorted(self._files.items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in most[:SHOWN]) + (", …" if len(most) > SHOWN else "")
        only = f"only {', '.join(endings)} {'is' if len(endings) == 1 else 'are'}"
        return f"{several:,} {'file is' if several == 1 else 'files are'} not read as {what}: {kinds} ({only})"


def walk(folder: Path, endings: Sequence[str], left_out: LeftOut) -> Iterator[str]:
    """The paths in ``folder`` of the files with one of these endings, in upper or lower case. Raises OSError.

    The folder's own files come first, sorted by name, then those of its sub folders. Links are followed; a broken one counts as a file.
    """
    yield from _walk(folder, "", tuple(endings), left_out, {os.path.realpath(folder)})


def _walk(folder: Path, prefix: str, endings: tuple[str, ...], left_out: LeftOut, seen: set[str]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if may_be_data(entry.name)), key=lambda entry: entry.name)
    folders = []
    for entry in found:
        if entry.is_dir():
            folders.append(entry)
        elif entry.name.lower().endswith(endings) and (entry.is_file() or not os.path.exists(entry.path)):  # noqa: PTH110 -- a million names
            yield prefix + entry.name
        else:
            left_out.add(entry.name)
    for entry in folders:
        if (place := os.path.realpath(entry.path)) in seen:  # a link may lead back
            continue
        seen.add(place)
        yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", endings, left_out, seen)


def links_out_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """The links in ``folder`` that break or change their meaning when the folder is mounted elsewhere, each with its target.

    These are absolute links, and relative ones that leave the folder. Folders that this user may not read are skipped. Raises OSError.
    """
    root = os.path.realpath(folder)
    waiting = [root]
    while waiting:
        place = waiting.pop()
        with suppress(PermissionError), os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_symlink():
                    target = os.readlink(entry.path)  # noqa: PTH115 -- called for a million names
                    leads_to = os.path.normpath(os.path.join(place, target))  # noqa: PTH118 -- called for a million names
                    if target.startswith("/") or not f"{leads_to}/".startswith(f"{root}/"):
                        yield Path(entry.path), target
