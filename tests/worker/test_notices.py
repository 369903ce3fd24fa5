"""Notices that a machine is about to be reclaimed: what the metadata services answer, and what a worker does about it."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cloud_train.run.states import Cause, State
from cloud_train.worker import contract, notices
from tests.support import wait_until
from tests.web_server import Answer, FileServer, serving
from tests.worker.launching import QUICK, Launched

EVENTS, NAME, PREEMPTED = "/metadata/scheduledevents", "/metadata/instance/compute/name", "/computeMetadata/v1/instance/preempted"
LOOKS_OFTEN = "from cloud_train.worker import notices; notices._INTERVAL_SECONDS = 0.05\n"
SAVES = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep({seconds})
"""


def event(kind: str = "Preempt", *machines: str, moment: str = "Mon, 30 Nov 2026 18:29:47 GMT") -> dict[str, Any]:
    """One event of the list that Azure documents."""
    return {
        "EventId": "C7061BAC-AFDC-4513-B24B-AA5F13A16123",
        "EventStatus": "Scheduled",
        "EventType": kind,
        "ResourceType": "VirtualMachine",
        "Resources": list(machines),
        "NotBefore": moment,
    }


def listing(*events: dict[str, Any]) -> bytes:
    return json.dumps({"DocumentIncarnation": 1, "Events": events}).encode()


@pytest.fixture
def service() -> Iterator[FileServer]:
    with serving() as server:
        server.files |= {EVENTS: listing(), NAME: b"pool_7", PREEMPTED: b"FALSE"}
        yield server


def address(service: FileServer) -> str:
    return service.url.partition("://")[2]


def azure(service: FileServer) -> str:
    look = notices.look_of("azureml", {notices.AZURE_ADDRESS: address(service)})
    assert look is not None
    return look()


def google(service: FileServer) -> str:
    look = notices.look_of("vertex", {"GCE_METADATA_HOST": address(service)})
    assert look is not None
    return look()


@pytest.mark.parametrize("platform", ["sagemaker", "", "plugin"])
def test_a_platform_without_notices_is_asked_for_none(platform: str) -> None:
    assert notices.look_of(platform) is None


@pytest.mark.parametrize(
    ("listed", "notice"),
    [
        ((), ""),
        ((event("Preempt", "pool_7"),), "Azure announced Preempt, not before Mon, 30 Nov 2026 18:29:47 GMT"),
        ((event("Terminate", "_POOL_7"),), "Azure announced Terminate, not before Mon, 30 Nov 2026 18:29:47 GMT"),
        ((event("Preempt", "pool_8"), event("Preempt", "pool_7", moment="")), "Azure announced Preempt"),
        ((event("Preempt", "pool_7", moment="\x1b[2J"),), "Azure announced Preempt"),
        ((event("Preempt", "pool_8"),), ""),
        ((event("Reboot", "pool_7"), event("Freeze", "pool_7")), ""),
    ],
)
def test_azure_s_scheduled_events_count_if_they_take_this_machine(service: FileServer, listed: tuple[Any, ...], notice: str) -> None:
    service.files[EVENTS] = listing(*listed)
    assert azure(service) == notice
    assert {request["metadata"] for request in service.requests} == {"true"}


def test_without_this_machine_s_name_every_event_counts(service: FileServer) -> None:
    del service.files[NAME]
    service.files[EVENTS] = listing(event("Preempt", "pool_8"))
    assert azure(service).startswith("Azure announced Preempt")


def test_google_says_in_one_word_that_the_machine_is_preempted(service: FileServer) -> None:
    assert google(service) == ""
    service.files[PREEMPTED] = b"TRUE\n"
    assert google(service) == "Google announced the preemption"
    assert {request["metadata-flavor"] for request in service.requests} == {"Google"}


@pytest.mark.parametrize("answer", [Answer(404), Answer(500), Answer(302, (("Location", PREEMPTED),)), Answer(only=1)])
def test_a_service_that_answers_otherwise_is_a_failure_and_not_a_notice(service: FileServer, answer: Answer) -> None:
    service.files |= {EVENTS: listing(event()), PREEMPTED: b"TRUE"}
    for look in (azure, google):
        service.answers.append(answer)
        with pytest.raises((OSError, ValueError)):
            look(service)


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b'{"Events": 7}'])
def test_what_is_no_list_of_events_is_a_failure(service: FileServer, body: bytes) -> None:
    service.files[EVENTS] = body
    with pytest.raises(ValueError, match=r"."):
        azure(service)


def test_a_service_that_never_answers_is_given_up_and_one_that_fails_now_and_then_is_not() -> None:
    slept: list[float] = []
    answers: list[str | None] = [None] * 29 + [""] + [None] * 29 + ["notice"]

    def look() -> str:
        if (answer := answers.pop(0)) is None:
            raise ConnectionRefusedError
        return answer

    assert notices.wait(look, os.getppid(), slept.append) == "notice"
    answers = [None] * 30 + ["too late"]
    assert notices.wait(look, os.getppid(), slept.append) == ""
    assert set(slept) == {5.0}


def test_nobody_is_asked_for_a_worker_that_is_gone() -> None:
    assert notices.wait(lambda: "notice", os.getppid() + 1, lambda _: None) == ""


def started(launched: Launched, service: FileServer, reclaimed: float, **program: Any) -> Any:
    launched.python(SAVES.format(seconds=600), **program)
    place = {contract.PLATFORM: "azureml", notices.AZURE_ADDRESS: address(service)}
    return launched.start(timing=replace(QUICK, reclaimed=reclaimed), environment=place, before=LOOKS_OFTEN)


def test_a_notice_lets_the_program_save_and_the_attempt_is_preempted(launched: Launched, service: FileServer) -> None:
    worker = started(launched, service, reclaimed=0.1)
    launched.says(b"ready")
    service.files[EVENTS] = listing(event("Preempt", "pool_7"))
    assert worker.wait(30) == Cause.PREEMPTED.exit_code
    assert launched.output().endswith(b"saved\n")
    status = launched.status()
    assert (status.cause, status.message) == (Cause.PREEMPTED, "the machine is about to be reclaimed")
    assert "Azure announced Preempt, not before" in launched.worker_log()


def test_a_worker_that_may_go_on_stays_until_its_machine_is_gone_because_no_platform_restarts_one_that_exited(
    launched: Launched, service: FileServer
) -> None:
    worker = started(launched, service, reclaimed=600, attempts=2, retry_on=(Cause.PREEMPTED,))
    launched.says(b"ready")
    service.files[EVENTS] = listing(event("Preempt", "pool_7"))
    wait_until(lambda: "attempt 2 of 2 follows in 600 s" in launched.worker_log(), "the worker waits for the end of its machine")
    assert launched.ended_with(Cause.PREEMPTED)
    assert worker.poll() is None
    worker.kill()


def test_a_machine_that_is_not_reclaimed_after_all_runs_the_next_attempt_and_the_same_event_stops_no_other(
    launched: Launched, service: FileServer
) -> None:
    service.files[EVENTS] = listing(event("Preempt", "pool_7"))
    code = SAVES.format(seconds="600 if __import__('os').environ['CLOUD_TRAIN_ATTEMPT'] == '1' else 0.5")
    launched.python(code, attempts=3, retry_on=(Cause.PREEMPTED,))
    place = {contract.PLATFORM: "azureml", notices.AZURE_ADDRESS: address(service)}
    assert launched.start(timing=replace(QUICK, reclaimed=0.1), environment=place, before=LOOKS_OFTEN).wait(60) == 0
    assert launched.ended_with(Cause.PREEMPTED, 1)
    assert launched.is_in(State.SUCCEEDED, 2)


def test_a_program_ends_as_ever_where_no_service_answers(launched: Launched) -> None:
    launched.job(sys.executable, "-c", "print('done')")
    place = {contract.PLATFORM: "azureml", notices.AZURE_ADDRESS: "127.0.0.1:9"}
    assert launched.start(environment=place, before=LOOKS_OFTEN).wait(30) == 0
    assert launched.ended_with(Cause.SUCCEEDED)
