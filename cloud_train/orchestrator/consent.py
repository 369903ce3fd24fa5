"""Asking the caller to accept what another person decided: the question, and the error if it is not accepted."""

from collections.abc import Callable
from dataclasses import dataclass

from cloud_train.errors import UsageError


@dataclass(frozen=True)
class Question:
    """What another person decided, for the caller to accept or not."""

    subject: str
    """The subject, in one line."""
    facts: tuple[tuple[str, str], ...]
    """Name and value of each thing that would be acted on."""
    question: str


Ask = Callable[[Question], bool]
"""Shows a question to the caller; True if everything in it is accepted."""


def refuse(_: Question) -> bool:
    """Accept nothing: for callers that cannot ask anyone."""
    return False


class NotTrustedError(UsageError):
    """Something that another person may have written was neither accepted before nor now."""

    code = "not-trusted"
