"""Findings of a provider's doctor; what cannot be checked is a finding too."""

from collections.abc import Callable

from cloud_train.errors import CloudTrainError
from cloud_train.providers.base import Diagnosis


def looked(name: str, look: Callable[[], Diagnosis], remedy: str = "") -> Diagnosis:
    """The finding of ``look``, or that of the error that it raised; ``remedy`` is for an error without a hint."""
    try:
        return look()
    except CloudTrainError as error:
        return wrong(name, error, remedy)


def wrong(name: str, error: CloudTrainError, remedy: str = "") -> Diagnosis:
    """The finding for an error."""
    return Diagnosis(name, "error", error.message, error.hint or remedy)


def unasked(name: str, error: CloudTrainError, remedy: str = "") -> Diagnosis:
    """The finding for something that cannot be checked and that a submission does not need."""
    return Diagnosis(name, "warning", f"cannot be checked: {error.message}", remedy or error.hint or "")
