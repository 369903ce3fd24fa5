"""Ends that come from outside the program: cancelled, out of time, out of memory, the machine gone."""

from dataclasses import replace

import pytest

from cloud_train.errors import ConflictError
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.results import fetch_model
from cloud_train.orchestrator.stopping import cancel
from cloud_train.providers.base import Provider
from cloud_train.run.states import Cause, State
from tests.conformance.bench import READY, Bench, saving

FOREVER = f"{READY}; sleep 600"
DEAF = f"trap '' TERM; {READY}; sleep 600"


def test_a_cancelled_program_is_told_to_stop_and_saves_its_last_checkpoint(bench: Bench) -> None:
    run = bench.start_until_ready(f"trap '{saving(9)}; echo saved; exit 143' TERM; {READY}; sleep 600 & wait")
    end = cancel(bench.home, run.run_id)
    assert (end.state, end.cause) == (State.CANCELLED, Cause.CANCELLED)
    assert bench.words(run) == ["ready", "saved"]
    assert fetch_model(bench.home, run.run_id, bench.folder / "model", checkpoint="last").step == 9


def test_a_program_that_does_not_stop_is_killed_after_the_grace_period(bench: Bench) -> None:
    run = bench.start_until_ready(f"{DEAF}; echo survived", limits={"grace": "0.3 s"})
    end = cancel(bench.home, run.run_id)
    assert (end.state, end.cause) == (State.CANCELLED, Cause.CANCELLED)
    assert "killed after the grace period of 0.3 s" in end.message
    assert bench.words(run) == ["ready"]


def test_force_ends_a_program_without_its_grace_period(bench: Bench) -> None:
    run = bench.start_until_ready(DEAF, limits={"grace": "20 s"})
    end = cancel(bench.home, run.run_id, force=True)
    assert (end.state, end.cause) == (State.CANCELLED, Cause.CANCELLED)
    assert "grace" not in end.message
    bench.wait_until(lambda: not bench.place.leftovers(bench.home.folder, run.run_id), "nothing of it is left")


def test_cancelling_without_waiting_returns_while_the_program_is_stopping(bench: Bench) -> None:
    run = bench.start_until_ready(DEAF, limits={"grace": "20 s"})
    bench.wait_until(
        lambda: update_run(bench.home, run.run_id).state is State.RUNNING, "its state has come too, which is shipped after its output"
    )
    assert cancel(bench.home, run.run_id, wait=False).state in (State.RUNNING, State.STOPPING)
    bench.wait_until(lambda: update_run(bench.home, run.run_id).state is State.STOPPING, "the program is stopping")
    assert cancel(bench.home, run.run_id, force=True).cause is Cause.CANCELLED


def test_cancelling_twice_changes_nothing(bench: Bench) -> None:
    run = bench.start_until_ready(FOREVER)
    first = cancel(bench.home, run.run_id)
    assert first.state is State.CANCELLED
    assert cancel(bench.home, run.run_id) == replace(first, heartbeat=None), "what has ended gives no signs of life"


def test_a_run_that_is_only_just_launched_can_be_cancelled(bench: Bench) -> None:
    run = bench.start(FOREVER)
    assert cancel(bench.home, run.run_id).state is State.CANCELLED


def test_a_run_that_has_succeeded_cannot_be_cancelled(bench: Bench) -> None:
    run = bench.run("true")
    with pytest.raises(ConflictError, match="succeeded"):
        cancel(bench.home, run.run_id)


def test_what_a_program_leaves_behind_ends_with_the_run(bench: Bench) -> None:
    run = bench.run("setsid sleep 600 & echo on its own")
    assert run.state is State.SUCCEEDED
    bench.wait_until(lambda: not bench.place.leftovers(bench.home.folder, run.run_id), "nothing of it is left")


def test_the_time_limit_ends_a_run_as_timed_out(bench: Bench) -> None:
    end = bench.run(f"trap '{saving(4)}; exit 143' TERM; sleep 600 & wait", limits={"duration": "0.5 s"})
    assert (end.state, end.cause) == (State.FAILED, Cause.TIMED_OUT)
    assert fetch_model(bench.home, end.run_id, bench.folder / "model", checkpoint="last").step == 4


def test_a_machine_that_dies_interrupts_the_run(bench: Bench) -> None:
    run = bench.start_until_ready(FOREVER)
    end = bench.kill(run)
    # Vertex AI restarts the worker on another machine, whatever the job's retries: it finds an attempt that was cut off, and ends it.
    assert (end.state, end.cause) == (State.INTERRUPTED, Cause.PREEMPTED if bench.place.name == "gcp" else Cause.INFRASTRUCTURE)
    assert end.message
    bench.wait_until(lambda: not bench.place.leftovers(bench.home.folder, run.run_id), "nothing of it is left")


def test_a_machine_that_dies_while_the_run_is_being_cancelled_leaves_it_cancelled(bench: Bench) -> None:
    run = bench.start_until_ready(DEAF, limits={"grace": "20 s"})
    cancel(bench.home, run.run_id, wait=False)
    assert bench.kill(run).cause is Cause.CANCELLED


def test_a_program_that_needs_more_memory_than_it_may_have_is_out_of_memory(bench: Bench, provider: Provider) -> None:
    if "memory" not in provider.capabilities.enforces:
        pytest.skip(f"{provider.name} does not enforce memory")
    end = bench.run("head -c 600000000 /dev/zero | tail -c 600000000 > /dev/null; exit 137", resources={"memory": "128MB"})
    assert end.cause is Cause.OUT_OF_MEMORY
