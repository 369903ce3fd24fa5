"""Asking the caller to accept another person's decisions: the question, and the error if they are not accepted."""

from collections.abc import Callable
from dataclasses import dataclass

from cloud_train.errors import UsageError


@dataclass(frozen=True)
class Question:
    """Another person's decisions, for the caller to accept or refuse."""

    subject: str
    """One line about the decision."""
    facts: tuple[tuple[str, str], ...]
    """Name and value of each setting that would take effect."""
    question: str


Ask = Callable[[Question], bool]
"""Shows a question to the caller; True if everything in it is accepted."""


def refuse(_: Question) -> bool:
    """Accept nothing: for callers that cannot ask."""
    return False


class NotTrustedError(UsageError):
    """Another person may have written this, and it was not accepted."""

    code = "not-trusted"
