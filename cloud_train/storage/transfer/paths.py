"""Safe paths for objects below a local folder: keys are untrusted and must not lead anywhere else.

A key may be refused because of its form (``unsafe``) or a conflict with another key (``place``). When it is written, folders are opened one
component at a time and never through a symbolic link (``open_folder``).
"""

import errno
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloud_train import beneath
from cloud_train.errors import StoreError
from cloud_train.storage.base import InvalidKeyError

TEMPORARY = ".cloud-train-"
"""Prefix of the names of unfinished files and of files that only this package reads; they are never transferred."""

_LONGEST_NAME = 255  # bytes, on every usual file system
_PLAIN = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9 ._-]{0,200}/)*[A-Za-z0-9_-][A-Za-z0-9 ._-]{0,200}")
"""Matches nearly all keys that satisfy the rules, in a tenth of the time."""


@dataclass(frozen=True)
class Placed:
    """The files for keys, and the keys that are skipped."""

    paths: dict[str, str]
    """Key → path below the folder, with '/'."""
    skipped: list[tuple[str, str]]
    """Key and reason."""


def unsafe(key: str) -> str | None:
    """The reason why a key is unsafe as a path below a folder; None if it is safe."""
    if _PLAIN.fullmatch(key):
        return None
    parts = key.split("/")
    rules = (
        (key.endswith("/") or not key, "it is only a folder marker"),
        (key.startswith("/"), "it is an absolute path"),
        ("" in parts, "it has an empty component"),
        ("." in parts or ".." in parts, "it leads outside the folder"),
        ("\\" in key, "it has a backslash"),
        (any(unicodedata.category(character) in ("Cc", "Cs") for character in key), "it has control characters"),
        (
            any(len(part.encode(errors="surrogatepass")) > _LONGEST_NAME for part in parts),
            f"a component is longer than {_LONGEST_NAME} bytes",
        ),
        (any(part.startswith(TEMPORARY) for part in parts), f"a component begins with {TEMPORARY}, which is reserved for temporary files"),
    )
    return next((reason for broken, reason in rules if broken), None)


def place(keys: Iterable[str], prefix: str, *, ignores_case: bool) -> Placed:
    """Conflict-free paths for keys, which all begin with ``prefix``.

    If one key is a file and another needs a folder of that name, the folder wins. If the file system treats two keys as the same name
    (``ignores_case``), the first one wins.
    """
    paths: dict[str, str] = {}
    skipped: list[tuple[str, str]] = []
    folders: dict[str, str] = {}
    for key in keys:
        path = key[len(prefix) :]
        if (reason := unsafe(path)) is None:
            paths[key] = path
            above = path
            while (above := above.rpartition("/")[0]) and (folded := _folded(above, ignores_case)) not in folders:
                folders[folded] = above
        else:
            skipped.append((key, reason))
    taken: dict[str, str] = {}
    for key, path in list(paths.items()):
        folded = _folded(path, ignores_case)
        other = taken.setdefault(folded, key)
        if folded in folders:
            reason = "other objects are in a folder of this name"
        elif other != key:
            reason = f"on this file system it is the same file as {other}"
        elif ignores_case and (reason := _other_folder(path, folders)):
            pass
        else:
            continue
        del paths[key]
        skipped.append((key, reason))
    return Placed(paths, skipped)


def _other_folder(path: str, folders: dict[str, str]) -> str:
    """The reason if the folder of ``path`` is spelt differently elsewhere, or empty: after ``A/x``, ``a/y`` would end up in ``A``."""
    above = path.rpartition("/")[0]
    spelt = folders.get(_folded(above, True), above)
    return "" if spelt == above else f"on this file system its folder is the same as {spelt}/"


def _folded(path: str, ignores_case: bool) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold()) if ignores_case else path


def ignores_case(folder: Path) -> bool:
    """Whether the file system of an existing folder ignores case in names."""
    name = f"{TEMPORARY}case-{os.urandom(8).hex()}"
    with explained(f"write into {folder}"):
        probe = folder / name
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        try:
            return (folder / name.upper()).exists()
        finally:
            probe.unlink(missing_ok=True)


def open_folder(folder: Path, below: Sequence[str] = ()) -> int:
    """A descriptor of the folder ``below`` a trusted one, both created if missing; no link below the trusted one is followed.

    Raises StoreError; InvalidKeyError if a link or a file is in the way.
    """
    try:
        return beneath.open_folder(folder, below, make=True)
    except beneath.IrregularError as error:
        message = f"{error.path} is {error.what.partition(',')[0]}, where a folder is needed"
        raise InvalidKeyError(message, hint="move it away") from error
    except OSError as error:
        raise explain(error, f"write into {folder}") from error


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Turn an OSError into a StoreError for the failed action."""
    try:
        yield
    except OSError as error:
        raise explain(error, action) from error


def explain(error: OSError, action: str) -> StoreError:
    """The StoreError for a failed action, with the reason and a hint."""
    if isinstance(error, beneath.IrregularError):
        return StoreError(f"cannot {action}: {error.path} is {error.what}")
    hints = {
        errno.ENOSPC: "free some space on that disk; what has arrived is kept; rerun to resume",
        errno.EDQUOT: "your disk quota is used up; what has arrived is kept; rerun to resume",
        errno.EACCES: "choose a folder with write permission",
        errno.EROFS: "choose a folder on another disk",
    }
    return StoreError(f"cannot {action}: {os.strerror(error.errno or 0).lower()}", hint=hints.get(error.errno or 0))
