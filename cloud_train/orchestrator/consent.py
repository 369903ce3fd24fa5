"""Asking the caller to accept what somebody else decided: the question, and the error where it is not accepted."""

from collections.abc import Callable
from dataclasses import dataclass

from cloud_train.errors import UsageError


@dataclass(frozen=True)
class Question:
    """What somebody else decided, for the caller to accept or not."""

    subject: str
    """What it is about, in one line."""
    facts: tuple[tuple[str, str], ...]
    """Name and value of each thing that would be acted on."""
    question: str


Ask = Callable[[Question], bool]
"""Shows a question to the caller; True if everything in it is accepted."""


def refuse(_: Question) -> bool:
    """Accept nothing: for callers that can ask nobody."""
    return False


class NotTrustedError(UsageError):
    """Something that another person may have written was neither accepted before nor now."""

    code = "not-trusted"
