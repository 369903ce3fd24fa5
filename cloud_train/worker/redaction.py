"""Making text from a program fit to be shown and kept: on one line, without control characters, without secrets and URLs' credentials."""

import re
from collections.abc import Iterable

from cloud_train.spec.secret_names import without_credentials

LONGEST = 1024
"""Characters of a message."""

_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])"
)  # ECMA-48 control sequences, and xterm's titles
_SHORTEST_SECRET = 4  # hiding every "1" or "on" would make messages unreadable, and hides nothing


class Redactor:
    """Knows the values that must not be written down."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # A program that prints a key of several lines prints one of them last, so each line is a secret of its own.
        lines = {part.strip() for secret in secrets for part in (secret, *secret.splitlines())}
        self._secrets = sorted((line for line in lines if len(line) >= _SHORTEST_SECRET), key=len, reverse=True)

    def clean(self, text: str) -> str:
        """At most ``LONGEST`` characters of ``text``."""
        # Twice: a value may be split by an escape sequence, and one that holds control characters is recognised before they are gone.
        text = self._without_secrets(_ESCAPE.sub("", self._without_secrets(text)))
        text = without_credentials(" ".join("".join(character if character.isprintable() else " " for character in text).split()))
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text
