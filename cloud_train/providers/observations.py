"""Observations that are the same for all providers: an end, an unreachable provider, and the exit status of a worker. Pure.

A worker writes into the run directory how its attempt ended, and exits with the status of that cause, which some providers report.
"""

from cloud_train.exit_status import TAKEN as TAKEN_STATUS
from cloud_train.providers.base import TAKEN, Observation
from cloud_train.run.states import Cause, State

_CAUSES = {cause.exit_code: cause for cause in Cause if cause is not Cause.REJECTED}


def ended(cause: Cause, message: str = "") -> Observation:
    """The attempt has ended, with this cause and, unless there is a better message, with the cause's own text."""
    return Observation(cause.state, cause, message or cause.text)


def unknown(message: str) -> Observation:
    """The attempt's state is unknown, so it counts as running."""
    return Observation(State.RUNNING, Cause.UNKNOWN, message)


def said_by(exit_status: int) -> Observation | None:
    """The observation that a worker reports by this exit status; None for a status that no worker chooses."""
    if exit_status == TAKEN_STATUS:
        return TAKEN
    cause = _CAUSES.get(exit_status)
    return None if cause is None else ended(cause)
