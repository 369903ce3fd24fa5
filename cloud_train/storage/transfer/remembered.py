"""Remembering the state of a folder and its copy in a store, so that unchanged files need not be read again.

A file counts as unchanged only if both sides are exactly as remembered: the object by its version, the file by its size, inode and both
timestamps. All others are compared by SHA-256. The memory only saves work: without it, or if it is damaged, more files are compared.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from cloud_train.beneath import open_plain
from cloud_train.private import make_folder, write_text
from cloud_train.storage.transfer.engine import Identity, Known
from cloud_train.storage.transfer.local_files import name_for
from cloud_train.storage.transfer.paths import TEMPORARY, explained

_FORMAT = 1
_MOST_BYTES = 256 << 20


class Memory:
    """The memory for one folder and one prefix of a store. ``write`` replaces it with the files found to be identical since."""

    def __init__(self, path: Path, source: str = "") -> None:
        """``path`` is the file to read and write; ``source`` identifies the copied prefix if the file's name does not."""
        self._path, self._source = path, source
        self._known: dict[str, Known] = {}
        self._same: dict[str, Known] = {}
        try:
            with os.fdopen(open_plain(path), "rb") as file:
                content = json.loads(file.read(_MOST_BYTES))
            if content["format"] == _FORMAT and content.get("source", "") == source:
                for key, (sha256, version, identity, looked) in content["files"].items():
                    self._known[key] = Known(key, sha256, version, Identity(*identity), looked)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self._known = {}

    @classmethod
    def in_state(cls, state: Path, url: str, prefix: str, folder: Path) -> "Memory":
        """A memory in a private folder, which is created if missing. Raises StoreError."""
        with explained(f"write into {state}"):
            make_folder(state)
        return cls(state / f"folder-{name_for(url, prefix, str(folder.absolute()))}.json")

    @classmethod
    def in_copy(cls, folder: Path, url: str, prefix: str) -> "Memory":
        """A memory in the folder itself, with which it can be moved."""
        return cls(folder / f"{TEMPORARY}copy.json", f"{url}/{prefix}")

    def is_unchanged(self, key: str, version: str, identity: Identity) -> bool:
        """Whether object and file are unchanged since they were found to be identical."""
        known = self._known.get(key)
        if known is None or known.version != version or not version or not _is_same_file(known, identity):
            return False
        self._same[key] = known
        return True

    def sha256_of_object(self, key: str, version: str) -> str | None:
        """The remembered SHA-256 of an object, or None."""
        known = self._known.get(key)
        return known.sha256 if known is not None and known.version == version != "" else None

    def sha256_of_file(self, key: str, identity: Identity) -> str | None:
        """The remembered SHA-256 of a file, or None."""
        known = self._known.get(key)
        return known.sha256 if known is not None and _is_same_file(known, identity) else None

    def learn(self, found: Iterable[Known]) -> None:
        """Remember files and objects found to be identical."""
        self._same.update({one.key: one for one in found if one.version})

    def write(self, is_complete: bool = True) -> None:
        """Write the identical files and objects to disk. Raises StoreError.

        Unless the pass over them ``is_complete``, those that it has not reached are kept.
        """
        if not is_complete:
            self._same = {**self._known, **self._same}
        if self._same != self._known:
            files = {key: (one.sha256, one.version, tuple(vars(one.identity).values()), one.looked_ns) for key, one in self._same.items()}
            source = {"source": self._source} if self._source else {}
            with explained(f"write {self._path}"):
                write_text(self._path, json.dumps({"format": _FORMAT, **source, "files": files}, separators=(",", ":")))
            self._known = dict(self._same)


def _is_same_file(known: Known, identity: Identity) -> bool:
    return known.identity == identity and identity.is_settled(known.looked_ns)
