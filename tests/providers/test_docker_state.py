"""From the states of containers to the state of an attempt."""

from typing import Any

import pytest

from cloud_train.providers.base import TAKEN
from cloud_train.providers.docker.state import Seen, verdict
from cloud_train.run.states import Cause, State

RUNNING = Seen(0, "ct-a", "running")


def exited(rank: int = 0, code: int = 0, at: str = "2026-11-24T12:00:00Z", **more: Any) -> Seen:
    return Seen(rank, f"ct-{rank}", "exited", exit_code=code, finished=at, **more)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.REJECTED])
def test_a_worker_s_exit_status_says_why(cause: Cause) -> None:
    seen = verdict([exited(code=cause.exit_code)]).observation
    assert (seen.state, seen.cause) == (cause.state, cause)


@pytest.mark.parametrize(
    ("node", "cause", "words"),
    [
        (exited(code=137), Cause.INFRASTRUCTURE, "was killed"),
        (exited(code=143), Cause.INFRASTRUCTURE, "before its worker handled signals"),
        (exited(code=255, error="shim died"), Cause.INFRASTRUCTURE, "restarted while the container ran (shim died)"),
        (exited(code=137, out_of_memory=True, memory_limit=64_000_000), Cause.OUT_OF_MEMORY, "64 MB (resources.memory)"),
        (exited(code=137, out_of_memory=True), Cause.OUT_OF_MEMORY, "all of the machine's memory"),
        (exited(code=6), Cause.INFRASTRUCTURE, "exit status 6"),
        (exited(code=1), Cause.FAILED, "exit status 1"),
        (Seen(0, "ct-a", "created"), Cause.INFRASTRUCTURE, "never started; the submission was interrupted"),
        (Seen(0, "ct-a", "created", error="no python3"), Cause.INFRASTRUCTURE, "never started: no python3"),
        (Seen(0, "ct-a", "dead"), Cause.INFRASTRUCTURE, "it is dead"),
        (Seen(0, "ct-a", "removing"), Cause.INFRASTRUCTURE, "was removed"),
        (Seen.of(0, "ct-a", None), Cause.INFRASTRUCTURE, "was removed"),
    ],
)
def test_an_end_without_the_worker_s_word_has_a_cause_and_words(node: Seen, cause: Cause, words: str) -> None:
    seen = verdict([node]).observation
    assert (seen.state, seen.cause) == (cause.state, cause)
    assert words in seen.message


def test_what_lives_is_not_ended() -> None:
    assert verdict([RUNNING]).observation.state is State.RUNNING
    assert "docker unpause ct-a" in verdict([Seen(0, "ct-a", "paused")]).observation.message
    unknown = verdict([Seen(0, "ct-a", "levitating")]).observation
    assert (unknown.state, unknown.cause) == (State.RUNNING, Cause.UNKNOWN)


def test_a_node_that_ended_by_its_own_word_leaves_the_end_to_node_0() -> None:
    for cause in (Cause.SUCCEEDED, Cause.FAILED, Cause.CANCELLED):
        assert verdict([RUNNING, exited(1, cause.exit_code)]).observation.state is State.RUNNING
    assert verdict([exited(0, 0), Seen(1, "ct-1", "running")]).observation.cause is Cause.SUCCEEDED
    assert verdict([exited(0, 10), exited(1, 13)]).observation.cause is Cause.FAILED


def test_the_first_node_that_ended_without_a_word_ends_the_attempt() -> None:
    found = verdict([RUNNING, exited(1, 137, "2026-11-24T12:00:09Z"), exited(2, 255, "2026-11-24T12:00:05Z")])
    assert found.rank == 2
    assert found.observation.message.startswith("node 2: the engine or the machine was restarted")
    gone = verdict([RUNNING, Seen(1, "ct-1", "missing"), exited(2, 137)])
    assert gone.rank == 2


def test_running_out_of_memory_explains_what_broke_beside_it() -> None:
    later = exited(1, 137, "2026-11-24T12:00:09Z", out_of_memory=True, memory_limit=10**9)
    found = verdict([exited(0, 137, "2026-11-24T12:00:05Z"), later])
    assert (found.rank, found.observation.cause) == (1, Cause.OUT_OF_MEMORY)


def test_an_attempt_without_containers_was_cut_off() -> None:
    found = verdict([])
    assert (found.rank, found.observation.cause) == (None, Cause.INFRASTRUCTURE)


def test_a_worker_that_found_its_attempt_taken_says_nothing_of_the_attempt() -> None:
    assert verdict([exited(code=3), Seen(1, "ct-1", "running")]).observation == TAKEN
    assert not verdict([RUNNING]).observation.is_elsewhere
