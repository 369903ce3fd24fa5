"""The worker's own log, and the redaction of text that is shown or kept. Logging never stops the worker."""

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from cloud_train.beneath import open_within
from cloud_train.spec.secret_names import without_credentials

LONGEST = 1024
"""Maximum length of a message, in characters."""

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
"""A terminal's escape sequences: the control sequences of ECMA-48, and xterm's titles."""
_SHORTEST_SECRET = 4  # hiding every "1" or "on" would make messages unreadable and protect nothing
_KEPT_LINES = 200


class Redactor:
    """Makes text fit to be shown and kept: one line, without control characters, secrets or the credentials in URLs."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The last line that a program prints may be one line of a multi-line key, so each line counts as a secret.
        lines = {part.strip() for secret in secrets for part in (secret, *secret.splitlines())}
        self._secrets = sorted((line for line in lines if len(line) >= _SHORTEST_SECRET), key=len, reverse=True)

    def clean(self, text: str) -> str:
        """``text`` redacted, cut to ``LONGEST`` characters."""
        # Twice: escape sequences may split a secret, and a secret with control characters is only recognised before they are removed.
        text = self._without_secrets(ESCAPES.sub("", self._without_secrets(text)))
        text = without_credentials(" ".join("".join(character if character.isprintable() else " " for character in text).split()))
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class WorkerLog:
    """Appends lines such as ``2026-11-23T12:00:00Z resuming from step 1200``."""

    def __init__(self, path: Path, redactor: Redactor, wall_clock: Callable[[], float] = time.time, root: Path | None = None) -> None:
        """``root``: an ancestor folder, below which no link is followed."""
        self._path, self._root = path, root
        self._redactor = redactor
        self._wall_clock = wall_clock
        self._waiting: deque[str] = deque(maxlen=_KEPT_LINES)

    def note(self, text: str) -> None:
        """Write one line; if that fails, for example because the disk is full, it is written together with the next one."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall_clock()))
        self._waiting.append(f"{stamp} {self._redactor.clean(text)}\n")
        try:
            _append(self._path, self._root, "".join(self._waiting).encode(errors="replace"))
        except OSError:
            return
        self._waiting.clear()


def _append(path: Path, root: Path | None, data: bytes) -> None:
    descriptor = open_within(path, root, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, size)  # leave no torn line when the disk fills up
            raise OSError(f"only part of a line was written to {path}")
    finally:
        os.close(descriptor)
