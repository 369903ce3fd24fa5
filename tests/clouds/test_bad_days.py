"""Bad days of a cloud: storms of throttling, connections that say nothing, something else that answers, pages that come again, clocks.

None of it ends a run that goes on, or raises anything but an error with words.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import ProviderError
from cloud_train.providers.azure import client as azure_client
from cloud_train.providers.base import Diagnosed, Handle, ManyObserved, RegistryLogin
from cloud_train.run.states import Cause, State
from tests.clouds.clock import VirtualClock
from tests.clouds.faults import ANY, Fault
from tests.clouds.paper import CLOUDS, RUN, Cloud, paper_cloud
from tests.clouds.server import Answer, Request

MOST_TRIES = 5
PORTAL = Answer(200, {"Content-Type": "text/html"}, b"<html>Welcome to the hotel: log in</html>")
"""What a network answers that wants to be logged in at."""


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cloud]:
    with paper_cloud(request.param, VirtualClock(time.time()), tmp_path) as running:
        yield running


def answering(cloud: Cloud, answer: Callable[[Request], Answer | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``answer`` answer in the cloud's place, where it does."""
    simulator = cloud.server.simulator
    handle = simulator.handle

    def answered(request: Request) -> Answer:
        return answer(request) or handle(request)

    monkeypatch.setattr(simulator, "handle", answered)


def instead(cloud: Cloud, answer: Answer, request: Request) -> Answer | None:
    """``answer`` to whatever does not ask for a token."""
    return None if cloud.server.simulator.operation_of(request) in ("token", "metadata") else answer


def everything(cloud: Cloud, handle: Handle) -> list[tuple[str, Callable[[], Any]]]:
    """What may be asked of a provider after a launch, beside ``observe``."""
    provider = cloud.provider
    return [
        ("find", lambda: provider.find(RUN, 1, handle.store, cloud.plan.provider_settings)),
        ("logs", lambda: provider.logs(handle, None)),
        ("launch", lambda: provider.launch(provider.render(cloud.plan), {})),
    ]


def seen(cloud: Cloud, handle: Handle) -> set[tuple[State, Cause | None]]:
    """What one question and a listing say of the attempt."""
    provider = cloud.provider
    assert isinstance(provider, ManyObserved)
    return {(each.state, each.cause) for each in [provider.observe(handle), *provider.observe_all([handle] * 3)]}


def test_a_storm_of_throttling_is_said_and_ends_nothing(cloud: Cloud) -> None:
    handle = cloud.launched()
    cloud.server.faults.add(ANY, Fault.THROTTLE, times=1000)
    assert seen(cloud, handle) == {(State.RUNNING, Cause.UNKNOWN)}
    for name, ask in [*everything(cloud, handle), ("cancel", lambda: cloud.provider.cancel(handle))]:
        cloud.server.requests.clear()
        with pytest.raises(ProviderError, match=r"(?i)throttle|too many requests"):
            ask()
        assert len(cloud.server.requests) <= MOST_TRIES, name
    cloud.server.faults.clear()
    assert seen(cloud, handle) == {(State.QUEUED, None)}


def test_a_hotel_s_network_is_not_taken_for_the_cloud(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    handle, settings = cloud.launched(), cloud.plan.provider_settings
    provider = cloud.provider
    assert isinstance(provider, Diagnosed)
    assert isinstance(provider, RegistryLogin)
    for answer in (PORTAL, *map(Answer.json, ({}, [], None, "log in"))):
        with monkeypatch.context() as patch:
            answering(cloud, partial(instead, cloud, answer), patch)
            assert all(not state.is_end for state, _ in seen(cloud, handle))
            for _, ask in everything(cloud, handle):
                with suppress(ProviderError):
                    ask()
            if cloud.name != "azure":  # whose registry has a name of its own, and is never on this machine
                with suppress(ProviderError):
                    provider.registry_login(settings)
            assert any(found.status != "ok" for found in provider.diagnose(settings, handle.store))
            provider.clean_up(handle)
            if answer.body != b"{}":
                with pytest.raises(ProviderError):
                    provider.find(RUN, 1, handle.store, settings)
    assert seen(cloud, handle) == {(State.QUEUED, None)}


@pytest.mark.parametrize("cloud", ["azure"], indirect=True)  # the others' timeouts are tested with their providers
def test_a_connection_that_stays_open_without_an_answer_is_given_up(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = cloud.launched()
    monkeypatch.setattr(azure_client, "_TIMEOUT_SECONDS", 0.2)
    azure_client._client.cache_clear()
    cloud.server.faults.add("jobs/read", Fault.HALF_OPEN, times=4)
    observation = cloud.provider.observe(handle)
    azure_client._client.cache_clear()
    assert (observation.state, observation.cause) == (State.RUNNING, Cause.UNKNOWN)


@pytest.mark.parametrize("cloud", ["aws"], indirect=True)  # those of the others are tested with their providers
def test_pages_of_a_log_that_come_again_and_again_end(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    handle, tokens = cloud.launched(), cycle("AB")
    stream = {"logStreamName": f"{RUN}-1/algo-1-1"}
    pages: dict[str, Callable[[], dict[str, Any]]] = {
        "DescribeLogStreams": lambda: {"logStreams": [stream], "nextToken": next(tokens)},
        "GetLogEvents": lambda: {"events": [], "nextForwardToken": next(tokens), "nextBackwardToken": "0"},
    }

    def paged(request: Request) -> Answer | None:
        page = pages.get(cloud.server.simulator.operation_of(request))
        return Answer.json(page(), headers={"Content-Type": "application/x-amz-json-1.1"}) if page else None

    answering(cloud, paged, monkeypatch)
    assert cloud.provider.logs(handle, None)[0] == b""


@pytest.mark.parametrize(
    ("cloud", "operation", "answer"),
    [
        ("aws", "DescribeTrainingJob", Answer.json({"__type": "InvalidSignatureException", "message": "Signature expired: 1 < 2"}, 403)),
        (
            "gcp",
            "token",
            Answer.json(
                {
                    "error": "invalid_grant",
                    "error_description": "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.",
                },
                400,
            ),
        ),
        (
            "azure",
            "jobs/read",
            Answer.json({"error": {"code": "InvalidAuthenticationToken", "message": "The access token is not yet valid."}}, 401),
        ),
    ],
    indirect=["cloud"],
)
def test_a_clock_that_is_an_hour_off_is_named(cloud: Cloud, operation: str, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(request: Request) -> Answer | None:
        return answer if cloud.server.simulator.operation_of(request) == operation else None

    answering(cloud, refused, monkeypatch)
    with pytest.raises(ProviderError) as raised:
        cloud.provider.find(RUN, 1, cloud.plan.store, cloud.plan.provider_settings)
    assert "correct this machine's clock" in (raised.value.hint or "")
