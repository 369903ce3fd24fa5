"""Creating a job once, although responses get lost."""

from collections.abc import Callable
from typing import TypeVar

from cloud_train.providers.base import AlreadyLaunchedError, LaunchUnknownError
from cloud_train.providers.cloud.errors import TRANSIENT, CloudError, ExistsError, UnansweredError
from cloud_train.retry import RetryPolicy

Job = TypeVar("Job")


def create_once(
    create: Callable[[], Job], look: Callable[[], Job | None], policy: RetryPolicy, *, job: str, can_repeat: bool = True
) -> Job | None:
    """Create a job, and return what ``create`` or ``look`` returned; None for a job that exists and does not show yet.

    ``create`` sends the request once; it raises ExistsError where the cloud has this job already. After a lost response, ``look`` tells
    whether the job was created; it returns None if it finds none. ``can_repeat`` says whether the request may be sent again then, because
    the cloud itself does not create a job twice. ``job`` names the job in messages.

    Raises AlreadyLaunchedError for a job that existed before, LaunchUnknownError where that cannot be settled, CloudError where certainly
    nothing was created.
    """
    left, is_lost = policy.attempts_left(), False
    while True:
        try:
            return create()
        except ExistsError as error:
            if not is_lost:
                raise AlreadyLaunchedError(f"{job} was launched before", hint="see its state with: cloud-train status") from error
            return _looked(look, job)
        except TRANSIENT as error:
            if isinstance(error, UnansweredError):
                is_lost = True
                if (found := _looked(look, job)) is not None:
                    return found
            if not (is_lost and not can_repeat) and left.wait(error.retry_after):
                continue
            if is_lost:
                raise _unknown(job, error) from error
            raise


def _looked(look: Callable[[], Job | None], job: str) -> Job | None:
    try:
        return look()
    except CloudError as error:
        raise _unknown(job, error) from error


def _unknown(job: str, error: CloudError) -> LaunchUnknownError:
    return LaunchUnknownError(f"it is unknown whether {job} was launched: {error.message}", hint="see later with: cloud-train list")
