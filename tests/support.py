"""What many tests share."""

import time
from collections.abc import Callable

from cloud_train.orchestrator.consent import Question


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0, pace: float = 0.01) -> None:
    """Return as soon as ``condition`` holds; fail, naming ``what``, if it does not within ``seconds``.

    ``pace`` is the seconds between two looks. A look that costs much, such as a request, is better taken less often: it takes its time from
    what is waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s, and still not: {what}")
        time.sleep(pace)  # no guess at how long it takes


def accepting(question: Question) -> bool:
    """What a caller answers who accepts everything; a question without facts is a mistake of whoever asks."""
    assert question.facts, question
    return True
