"""What a folder and its copy in a store looked like when they were last the same: then nothing has to be read to see that nothing changed.

A file counts as unchanged only if both sides are exactly as remembered: the object by its version, the file by its size, inode and both
of its times. Anything else is compared by SHA-256. What is remembered only saves work: without it, or if it is damaged, more is compared.
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
    """What is remembered of one folder and one prefix of a store. ``write`` replaces it by what was found to be the same since."""

    def __init__(self, path: Path, source: str = "") -> None:
        """``path`` is the file with what is remembered; ``source`` says of what, where the file's name does not."""
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
        """In a private folder, which is made if need be. Raises StoreError."""
        with explained(f"write into {state}"):
            make_folder(state)
        return cls(state / f"folder-{name_for(url, prefix, str(folder.absolute()))}.json")

    @classmethod
    def in_copy(cls, folder: Path, url: str, prefix: str) -> "Memory":
        """In the folder itself, where it goes wherever the folder goes."""
        return cls(folder / f"{TEMPORARY}copy.json", f"{url}/{prefix}")

    def is_unchanged(self, key: str, version: str, identity: Identity) -> bool:
        """Whether object and file are the ones that were found to be the same."""
        known = self._known.get(key)
        if known is None or known.version != version or not version or not _is_same_file(known, identity):
            return False
        self._same[key] = known
        return True

    def sha256_of_object(self, key: str, version: str) -> str | None:
        """The SHA-256 of an object that was looked at before."""
        known = self._known.get(key)
        return known.sha256 if known is not None and known.version == version != "" else None

    def sha256_of_file(self, key: str, identity: Identity) -> str | None:
        """The SHA-256 of a file that was read before."""
        known = self._known.get(key)
        return known.sha256 if known is not None and _is_same_file(known, identity) else None

    def learn(self, found: Iterable[Known]) -> None:
        """Remember files and objects that were found to be the same."""
        self._same.update({one.key: one for one in found if one.looked_at and one.version})

    def write(self) -> None:
        """Write down what is the same now. Raises StoreError."""
        if self._same != self._known:
            files = {key: (one.sha256, one.version, tuple(vars(one.identity).values()), one.looked_ns) for key, one in self._same.items()}
            source = {"source": self._source} if self._source else {}
            with explained(f"write {self._path}"):
                write_text(self._path, json.dumps({"format": _FORMAT, **source, "files": files}, separators=(",", ":")))
            self._known = dict(self._same)


def _is_same_file(known: Known, identity: Identity) -> bool:
    return known.identity == identity and identity.is_settled(known.looked_ns)
