"""A launch from its secrets to its handle, and many jobs observed by listings: what each place shows, lacks, or cannot say."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from cloud_train.errors import ProviderError
from cloud_train.providers.base import AlreadyLaunchedError, Handle, LaunchUnknownError, Observation, Request
from cloud_train.providers.cloud.errors import MissingError, RefusedError
from cloud_train.providers.cloud.provider import CloudProvider, is_young
from cloud_train.run.states import Cause, State

RUNNING, QUEUED = Observation(State.RUNNING), Observation(State.QUEUED)


class Cloud(CloudProvider[None]):
    """A cloud that creates jobs, or raises ``refusal``; it writes down what it is asked for."""

    name = "cloud"

    def __init__(self, refusal: ProviderError | None = None, *, owns_secrets: bool = True) -> None:
        self._refusal, self._owns_secrets = refusal, owns_secrets
        self.did: list[str] = []

    def _client(self, about: Mapping[str, Any]) -> AbstractContextManager[None]:
        return nullcontext()

    def _prepare(self, client: None, request: Request) -> None:
        self.did.append("prepare")

    def _put_secrets(self, client: None, request: Request, secrets: Mapping[str, str]) -> bool:
        self.did.append("put secrets")
        return self._owns_secrets

    def _create(self, client: None, request: Request) -> dict[str, Any]:
        self.did.append("create")
        if self._refusal is not None:
            raise self._refusal
        return {"job": "a", "secret": request["secret"]}

    def _withdraw(self, client: None, request: Request) -> None:
        self.did.append("withdraw")

    def _delete_secrets(self, client: None, about: Mapping[str, Any]) -> None:
        self.did.append("delete secrets")
        raise MissingError("there are none")

    def _observed(self, handle: Handle) -> Observation:
        return QUEUED

    def _place(self, handle: Handle) -> str:
        return "here"

    def _listed(self, handles: Sequence[Handle]) -> Iterator[tuple[str, Observation]]:
        yield from ()


class Listings(Cloud):
    """A cloud that lists the jobs of ``shown`` by place, and then fails in the places of ``broken``. Asked alone, a job is queued."""

    def __init__(self, shown: dict[str, list[str]], broken: Sequence[str] = ()) -> None:
        super().__init__()
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


REQUEST: Request = {"run_id": "run", "attempt": 1, "store": "s3://bucket", "secret": "name"}


def test_a_launch_stores_the_secrets_before_it_creates_the_job() -> None:
    cloud = Cloud()
    before = time.time()
    handle = cloud.launch(REQUEST, {"KEY": "value"})
    assert cloud.did == ["prepare", "put secrets", "create"]
    assert before <= handle.reference["launched"] <= time.time()
    assert (handle.run_id, handle.attempt, handle.provider, handle.store) == ("run", 1, "cloud", "s3://bucket")


def test_a_job_without_secrets_stores_none() -> None:
    without: tuple[tuple[Request, dict[str, str]], ...] = ((REQUEST, {}), ({**REQUEST, "secret": None}, {"KEY": "value"}))
    for request, secrets in without:
        cloud = Cloud()
        cloud.launch(request, secrets)
        assert cloud.did == ["prepare", "create"]


@pytest.mark.parametrize(
    ("refusal", "then"),
    [
        (RefusedError("no quota"), ["delete secrets"]),
        (ProviderError("something else"), ["delete secrets"]),
        (LaunchUnknownError("lost"), []),
        (AlreadyLaunchedError("another was faster"), ["withdraw"]),
    ],
)
def test_a_launch_that_fails_deletes_its_own_secrets_unless_a_job_may_read_them(refusal: ProviderError, then: list[str]) -> None:
    for owns_secrets in (True, False):
        cloud = Cloud(refusal, owns_secrets=owns_secrets)
        with pytest.raises(type(refusal)) as caught:
            cloud.launch(REQUEST, {"KEY": "value"})
        assert caught.value is refusal
        assert cloud.did == ["prepare", "put secrets", "create", *(then if owns_secrets else [])]


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
