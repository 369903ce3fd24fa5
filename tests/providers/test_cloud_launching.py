"""A job is created once, whatever becomes of the responses."""

from collections.abc import Sequence

import pytest

from cloud_train.providers.base import AlreadyLaunchedError, LaunchUnknownError
from cloud_train.providers.cloud.errors import (
    ExistsError,
    ForbiddenError,
    RefusedError,
    ThrottledError,
    UnansweredError,
    UnreachableError,
    with_field,
)
from cloud_train.providers.cloud.provider import create_once
from cloud_train.retry import RetryPolicy

LOST, BUSY, TAKEN = UnansweredError("no response"), ThrottledError("busy", retry_after=3.0), ExistsError("taken")


class Cloud:
    """Gives these answers to requests and to looks, one after the other; an error is raised."""

    def __init__(self, creations: Sequence[str | Exception], looks: Sequence[str | Exception | None] = ()) -> None:
        self._creations: list[str | Exception | None] = list(creations)
        self._looks = list(looks)
        self.waits: list[float] = []

    def launch(self, *, can_repeat: bool = True) -> str | None:
        policy = RetryPolicy(attempts=3, time_limit=None, sleep=self.waits.append, jitter=lambda: 0.0)
        try:
            return create_once(lambda: given(self._creations), lambda: given(self._looks), policy, job="the job", can_repeat=can_repeat)
        finally:
            assert not self._creations, "not every request was sent"
            assert not self._looks, "not every look was taken"


def given(answers: list[str | Exception | None]) -> str | None:
    answer = answers.pop(0)
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_a_job_that_is_created_at_once_is_not_looked_for() -> None:
    assert Cloud(["job"]).launch() == "job"


def test_a_job_that_exists_before_was_launched_before() -> None:
    with pytest.raises(AlreadyLaunchedError, match="the job was already launched"):
        Cloud([TAKEN]).launch()
    with pytest.raises(AlreadyLaunchedError):
        Cloud([BUSY, TAKEN]).launch()


def test_what_certainly_was_not_carried_out_is_repeated_after_the_wait_that_the_cloud_asks_for() -> None:
    cloud = Cloud([BUSY, UnreachableError("no route"), "job"])
    assert cloud.launch() == "job"
    assert cloud.waits == [3.0, 0.0]
    with pytest.raises(ThrottledError):
        Cloud([BUSY, BUSY, BUSY]).launch()


def test_a_refusal_is_raised_as_it_is() -> None:
    for refusal in (RefusedError("no such machine"), ForbiddenError("no permission")):
        with pytest.raises(type(refusal)) as caught:
            Cloud([refusal]).launch()
        assert caught.value is refusal
        with pytest.raises(type(refusal)):
            Cloud([LOST, refusal], [None]).launch()


def test_after_a_lost_response_a_job_that_is_found_is_this_one() -> None:
    assert Cloud([LOST], ["job"]).launch() == "job"
    assert Cloud([LOST], ["job"]).launch(can_repeat=False) == "job"


def test_after_a_lost_response_a_name_that_is_taken_is_this_job_s() -> None:
    assert Cloud([LOST, TAKEN], [None, "job"]).launch() == "job"
    assert Cloud([LOST, TAKEN], [None, None]).launch() is None, "it exists, and does not show yet"


def test_a_lost_response_that_nothing_settles_leaves_the_launch_unknown() -> None:
    with pytest.raises(LaunchUnknownError, match="it is unknown whether the job was launched: no response") as caught:
        Cloud([LOST, LOST, LOST], [None, None, None]).launch()
    assert caught.value.hint == "check later with: cloud-train list"
    with pytest.raises(LaunchUnknownError):
        Cloud([LOST, BUSY, BUSY], [None]).launch()
    with pytest.raises(LaunchUnknownError, match="no permission"):
        Cloud([LOST], [ForbiddenError("no permission")]).launch()


def test_a_request_that_would_create_a_second_job_is_not_repeated_after_a_lost_response() -> None:
    with pytest.raises(LaunchUnknownError):
        Cloud([LOST], [None]).launch(can_repeat=False)
    assert Cloud([BUSY, "job"]).launch(can_repeat=False) == "job"


def test_a_response_without_the_field_that_all_have_is_none_of_the_cloud_s() -> None:
    assert with_field("AWS", "Arn", {"Arn": "a"}) == {"Arn": "a"}
    others: tuple[object, ...] = ({}, [], None, "<html>")
    for response in others:
        with pytest.raises(UnansweredError, match="unexpected response from AWS: it has no Arn") as caught:
            with_field("AWS", "Arn", response)
        assert caught.value.hint == "check for a proxy or captive portal"
