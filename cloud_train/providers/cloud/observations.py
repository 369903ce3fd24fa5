"""What is observed alike whoever the provider is: an end, a provider that says nothing, and the exit status of a worker. Pure.

A worker says in the run directory how its attempt ended, and again by its exit status, for where that is all that a provider tells.
"""

from cloud_train.exit_status import TAKEN as TAKEN_STATUS
from cloud_train.providers.base import TAKEN, Observation
from cloud_train.run.states import Cause, State

_CAUSES = {cause.exit_code: cause for cause in Cause if cause is not Cause.REJECTED}


def ended(cause: Cause, message: str = "") -> Observation:
    """The attempt has ended, with this cause and, unless there is a better message, with the cause's own text."""
    return Observation(cause.state, cause, message or cause.text)


def unknown(message: str) -> Observation:
    """Nobody can say where the attempt stands, so it is taken to go on."""
    return Observation(State.RUNNING, Cause.UNKNOWN, message)


def said_by(exit_status: int) -> Observation | None:
    """What a worker says of its attempt with this exit status; None for one with which no worker says why it ended."""
    if exit_status == TAKEN_STATUS:
        return TAKEN
    cause = _CAUSES.get(exit_status)
    return None if cause is None else ended(cause)
