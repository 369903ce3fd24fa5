"""Findings of a provider's doctor: what cannot be looked at is a finding too, and no exception."""

from collections.abc import Callable

from cloud_train.errors import CloudTrainError
from cloud_train.providers.base import Diagnosis


def looked(name: str, look: Callable[[], Diagnosis], remedy: str = "") -> Diagnosis:
    """What ``look`` finds, or why it could not look; ``remedy`` is for errors that come without one."""
    try:
        return look()
    except CloudTrainError as error:
        return wrong(name, error, remedy)


def wrong(name: str, error: CloudTrainError, remedy: str = "") -> Diagnosis:
    """The finding for an error."""
    return Diagnosis(name, "error", error.message, error.hint or remedy)


def unasked(name: str, error: CloudTrainError, remedy: str = "") -> Diagnosis:
    """The finding for what a submission does without, and nobody says."""
    return Diagnosis(name, "warning", f"cannot be asked for: {error.message}", remedy or error.hint or "")
