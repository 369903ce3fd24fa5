"""Workers that a cloud starts anew after it took the machine back: real processes, a real store."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_train.exit_status import TAKEN
from cloud_train.run import layout
from cloud_train.run.states import Cause, State
from tests.stores import server_or_skip, use
from tests.worker.in_store import RUN_ID, Machine

STEPS = 'echo ready; until [ -e go ]; do sleep 0.02; done; echo "from $CLOUD_TRAIN_RESUME"'
RETRIED = {"attempts": 3, "retry_on": (Cause.PREEMPTED,)}


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> str:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    return f"{server.new_url()}/runs"


@pytest.fixture
def machines(url: str, tmp_path: Path) -> Iterator[list[Machine]]:
    found = [Machine(tmp_path / name, url) for name in ("first", "second")]
    yield found
    for machine in found:
        machine.end()


def platform(job: str = "job-1") -> dict[str, str]:
    return {"AZUREML_RUN_ID": job}


def killed_after_ready(machine: Machine, attempt: int = 1) -> None:
    machine.start(environment=platform())
    machine.says(b"ready", attempt)
    machine.store.stat(f"{RUN_ID}/{layout.status(attempt)}")
    machine.kill()


def test_the_next_attempt_follows_one_without_a_last_word(machines: list[Machine]) -> None:
    first, second = machines
    first.shell(STEPS, **RETRIED)
    killed_after_ready(first)
    (second.folder / "go").touch()
    second.store.put(f"{RUN_ID}/run.json", replace_directory(second))
    assert second.start(environment=platform()).wait(60) == 0
    assert (second.status(1).cause, second.status(1).state) == (Cause.PREEMPTED, State.INTERRUPTED)
    assert second.status(1).message == "the machine was preempted, and the worker restarted"
    assert second.status(2).state is State.SUCCEEDED
    assert second.output(2) == b"ready\nfrom \n"


def test_without_a_retry_that_says_so_nothing_follows(machines: list[Machine]) -> None:
    first, second = machines
    first.shell(STEPS)
    killed_after_ready(first)
    assert second.start(environment=platform()).wait(60) == Cause.PREEMPTED.exit_code
    assert second.status(1).cause is Cause.PREEMPTED
    assert not second.is_in(State.STARTING, 2)


def test_somebody_who_cancelled_gets_a_cancelled_run(machines: list[Machine]) -> None:
    first, second = machines
    first.shell(STEPS, **RETRIED)
    killed_after_ready(first)
    first.store.put(f"{RUN_ID}/{layout.cancel(1)}", b"")
    assert second.start(environment=platform()).wait(60) == Cause.CANCELLED.exit_code
    assert second.status(1).cause is Cause.CANCELLED


def test_an_attempt_of_another_job_is_left_alone(machines: list[Machine]) -> None:
    first, second = machines
    first.shell(STEPS, **RETRIED)
    killed_after_ready(first)
    before = first.status(1)
    assert second.start(environment=platform("job-2")).wait(60) == TAKEN
    assert second.status(1) == before


def test_what_has_ended_for_good_is_not_begun_again(machines: list[Machine]) -> None:
    first, second = machines
    first.shell("exit 7", **RETRIED)
    assert first.start(environment=platform()).wait(60) == Cause.FAILED.exit_code
    before = first.status(1)
    assert second.start(environment=platform()).wait(60) == Cause.FAILED.exit_code
    assert second.status(1) == before
    assert not second.is_in(State.SUCCEEDED, 2)


def replace_directory(machine: Machine) -> bytes:
    """run.json with the program in this machine's own folder."""
    document = json.loads(machine.store.get(f"{RUN_ID}/run.json"))
    document["program"]["directory"] = str(machine.folder)
    return json.dumps(document).encode()
