"""Many jobs observed by listings: what each place shows, lacks, or cannot say."""

import time
from collections.abc import Iterator, Sequence

import pytest

from cloud_train.errors import ProviderError
from cloud_train.providers.base import Handle, Observation
from cloud_train.providers.cloud.provider import CloudProvider, is_young
from cloud_train.run.states import Cause, State

RUNNING, QUEUED = Observation(State.RUNNING), Observation(State.QUEUED)


class Listings(CloudProvider):
    """A cloud that lists the jobs of ``shown`` by place, and then fails in the places of ``broken``. Asked alone, a job is queued."""

    def __init__(self, shown: dict[str, list[str]], broken: Sequence[str] = ()) -> None:
        self._shown, self._broken = shown, broken
        self.alone: list[str] = []

    def _place(self, handle: Handle) -> str:
        return str(handle.reference["place"])

    def _observed(self, handle: Handle) -> Observation:
        self.alone.append(handle.reference["job"])
        if handle.reference["job"] == "secret":
            raise ProviderError("you may not see it")
        return QUEUED

    def _listed(self, handles: Sequence[Handle]) -> Iterator[tuple[str, Observation]]:
        [place] = {self._place(handle) for handle in handles}
        yield from ((job, RUNNING) for job in self._shown.get(place, []))
        if place in self._broken:
            raise ProviderError(f"{place} is closed")


def handle_of(place: str, job: str) -> Handle:
    return Handle("run", 1, "cloud", "s3://bucket", {"place": place, "job": job})


def test_each_job_is_what_the_listing_of_its_own_place_shows_and_the_rest_is_asked_for_alone() -> None:
    cloud = Listings({"here": ["a", "b"], "there": ["b"]})
    handles = [handle_of(*each) for each in (("there", "a"), ("here", "a"), ("here", "b"), ("there", "b"), ("here", "a"))]
    assert cloud.observe_all(handles) == [QUEUED, RUNNING, RUNNING, RUNNING, RUNNING]
    assert cloud.alone == ["a"]


def test_a_listing_that_breaks_off_keeps_what_it_showed_and_nobody_asks_for_the_rest_one_by_one() -> None:
    cloud = Listings({"here": ["a"]}, broken=["here"])
    seen = cloud.observe_all([handle_of("here", "b"), handle_of("here", "a"), handle_of("there", "a")])
    assert seen == [Observation(State.RUNNING, Cause.UNKNOWN, "here is closed"), RUNNING, QUEUED]
    assert cloud.alone == ["a"]


def test_a_job_that_cannot_be_asked_for_goes_on_as_far_as_anybody_knows() -> None:
    seen = Listings({}).observe(handle_of("here", "secret"))
    assert seen == Observation(State.RUNNING, Cause.UNKNOWN, "you may not see it")


@pytest.mark.parametrize(("seconds_ago", "young"), [(0, True), (500, True), (700, False)])
def test_a_job_is_young_for_ten_minutes(seconds_ago: float, young: bool) -> None:
    handle = handle_of("here", "a")
    assert not is_young(handle), "nobody knows when it was launched, so it was long ago"
    handle.reference["launched"] = time.time() - seconds_ago
    assert is_young(handle) is young
