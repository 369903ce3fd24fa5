"""Several workers as the nodes of one attempt: they begin together, end together, and the first one that goes wrong says why."""

import signal
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cloud_train.exit_status import TAKEN
from cloud_train.run import layout
from cloud_train.run.manifest import write_manifest
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.worker.context import Timing
from cloud_train.worker.ending import Ending
from cloud_train.worker.nodes import verdict
from cloud_train.worker.status import NodeStatus
from tests.support import wait_until
from tests.worker.launching import QUICK, Launched

pytestmark = pytest.mark.slow

NODES = replace(QUICK, join_look=0.02, join=20, silence=20, lost=1, farewell=5)
WAITS = "trap 'exit 143' TERM; echo ready; while :; do sleep 0.05; done"


class Cluster:
    """The workers of one attempt, one a node."""

    def __init__(self, launched: Launched, count: int, timing: Timing = NODES) -> None:
        self.launched, self.count, self.timing = launched, count, timing
        self.workers: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *ranks: int, attempt: int = 1) -> None:
        """Start the workers of these nodes; of all of them, the last one first, if none is named."""
        for rank in ranks or range(self.count - 1, -1, -1):
            place = {"CLOUD_TRAIN_NODE_RANK": str(rank), "CLOUD_TRAIN_NODES": str(self.count), "CLOUD_TRAIN_MASTER_PORT": "29511"}
            self.workers[rank] = self.launched.start(attempt, self.timing, place)

    def exit_codes(self) -> dict[int, int]:
        """Wait for the end of every worker; their exit statuses by rank."""
        return {rank: worker.wait(60) for rank, worker in sorted(self.workers.items())}

    def run(self) -> dict[int, int]:
        self.start()
        return self.exit_codes()

    def output(self, rank: int, attempt: int = 1) -> str:
        path = self.launched.directory / layout.output_log(attempt, rank)
        return path.read_text() if path.exists() else ""

    def worker_log(self, rank: int, attempt: int = 1) -> str:
        return (self.launched.directory / layout.worker_log(attempt, rank)).read_text()

    def all_say(self, word: str, attempt: int = 1) -> None:
        wait_until(lambda: all(word in self.output(rank, attempt) for rank in range(self.count)), f"every node's program says {word!r}")

    def message(self, attempt: int = 1) -> str:
        return self.launched.status(attempt).message


def test_every_node_runs_the_program_which_learns_its_place(launched: Launched) -> None:
    launched.shell('echo "node $CLOUD_TRAIN_NODE_RANK of $CLOUD_TRAIN_NODES, node 0 is at $MASTER_ADDR:$MASTER_PORT"')
    cluster = Cluster(launched, 3)
    assert cluster.run() == {0: 0, 1: 0, 2: 0}
    assert [cluster.output(rank) for rank in range(3)] == [f"node {rank} of 3, node 0 is at 127.0.0.1:29511\n" for rank in range(3)]
    assert launched.ended_with(Cause.SUCCEEDED)


def test_the_program_starts_nowhere_before_every_node_is_there(launched: Launched) -> None:
    launched.shell("echo started")
    cluster = Cluster(launched, 2)
    cluster.start(0)
    wait_until(lambda: launched.is_in(State.STARTING), "node 0 is there")
    assert cluster.output(0) == ""
    cluster.start(1)
    assert cluster.exit_codes() == {0: 0, 1: 0}
    assert [cluster.output(rank) for rank in range(2)] == ["started\n", "started\n"]


@pytest.mark.parametrize("missing", [0, 2])
def test_a_node_that_never_comes_is_named(launched: Launched, missing: int) -> None:
    launched.shell("echo started")
    cluster = Cluster(launched, 3, replace(NODES, join=0.6, lost=0.1))
    cluster.start(*({0, 1, 2} - {missing}))
    assert set(cluster.exit_codes().values()) == {Cause.INFRASTRUCTURE.exit_code}
    said = f"node {missing} of 3 did not join within 0.01 min"
    if missing:
        assert launched.ended_with(Cause.INFRASTRUCTURE)
        assert cluster.message() == said
    else:
        assert said in cluster.worker_log(1)
    assert [cluster.output(rank) for rank in range(3)] == ["", "", ""]


def test_a_second_worker_for_the_same_node_goes_away(launched: Launched) -> None:
    launched.shell(WAITS)
    cluster = Cluster(launched, 2)
    cluster.start()
    cluster.all_say("ready")
    first = dict(cluster.workers)
    cluster.start(1)
    assert cluster.workers[1].wait(20) == TAKEN
    first[0].terminate()
    assert first[0].wait(20) == first[1].wait(20) == Cause.PREEMPTED.exit_code


def test_all_nodes_start_from_the_checkpoint_that_node_0_found_valid(launched: Launched) -> None:
    launched.shell('echo "$CLOUD_TRAIN_RESUME"')
    for step in (3, 6):
        _checkpoint(launched.directory / layout.CHECKPOINTS, step)
    (launched.directory / layout.CHECKPOINTS / layout.step_folder(6) / "weights").write_text("damaged")
    cluster = Cluster(launched, 2)
    assert cluster.run() == {0: 0, 1: 0}
    valid = launched.directory / layout.CHECKPOINTS / layout.step_folder(3)
    assert [cluster.output(rank) for rank in range(2)] == [f"{valid}\n", f"{valid}\n"]
    assert "renamed step-00000006 to" in cluster.worker_log(0)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_whichever_node_fails_the_attempt_ends_with_its_reason_and_the_others_are_stopped(launched: Launched, failing: int) -> None:
    launched.shell(f'test "$CLOUD_TRAIN_NODE_RANK" = {failing} && {{ echo "no such file: picture.png"; exit 3; }}; {WAITS}')
    cluster = Cluster(launched, 3)
    assert set(cluster.run().values()) == {Cause.FAILED.exit_code}
    assert launched.ended_with(Cause.FAILED)
    assert cluster.message() == (f"node {failing}: " if failing else "") + "exit status 3: no such file: picture.png"


def test_the_cause_that_a_node_gives_is_that_of_the_attempt_on_every_node(launched: Launched) -> None:
    said = '{"message": "no memory left", "cause": "out-of-memory"}'
    launched.shell(f'test "$CLOUD_TRAIN_NODE_RANK" = 1 && {{ echo \'{said}\' > "$CLOUD_TRAIN_FAILURE"; exit 1; }}; {WAITS}')
    cluster = Cluster(launched, 2)
    assert cluster.run() == {0: Cause.OUT_OF_MEMORY.exit_code, 1: Cause.OUT_OF_MEMORY.exit_code}
    assert cluster.message() == "node 1: no memory left"


def test_a_failure_that_follows_from_another_node_does_not_hide_that_nodes_own(launched: Launched) -> None:
    said = '{"message": "another process is gone", "cause": "infrastructure", "is_consequence": true}'
    launched.shell(
        'if test "$CLOUD_TRAIN_NODE_RANK" = 0; then while ! test -e begun; do sleep 0.02; done;'  # not before the other program runs
        f" echo '{said}' > \"$CLOUD_TRAIN_FAILURE\"; exit 1; fi;"
        " trap '' TERM; touch begun; while ! test -e go; do sleep 0.02; done; echo boom > \"$CLOUD_TRAIN_FAILURE\"; exit 4"
    )
    cluster = Cluster(launched, 2)
    cluster.start()
    wait_until(lambda: launched.is_in(State.STOPPING), "node 0 waits for what the other one says")
    (launched.work / "go").touch()
    assert cluster.exit_codes() == {0: Cause.FAILED.exit_code, 1: Cause.FAILED.exit_code}
    assert cluster.message() == "node 1: boom"


@pytest.mark.parametrize("killed", [1, 2])
def test_a_node_whose_worker_is_killed_ends_the_attempt_and_is_named(launched: Launched, killed: int) -> None:
    launched.shell(WAITS)
    cluster = Cluster(launched, 3, replace(NODES, silence=0.6, lost=0.6))
    cluster.start()
    cluster.all_say("ready")
    cluster.workers[killed].send_signal(signal.SIGKILL)
    codes = cluster.exit_codes()
    assert {codes[rank] for rank in {0, 1, 2} - {killed}} == {Cause.INFRASTRUCTURE.exit_code}
    assert cluster.message() == f"lost contact with node {killed}"


def test_nodes_leave_when_node_0_is_gone(launched: Launched) -> None:
    launched.shell(WAITS)
    cluster = Cluster(launched, 3, replace(NODES, silence=0.6, lost=0.6))
    cluster.start()
    cluster.all_say("ready")
    cluster.workers[0].send_signal(signal.SIGKILL)
    assert cluster.exit_codes() == {0: -signal.SIGKILL, 1: Cause.INFRASTRUCTURE.exit_code, 2: Cause.INFRASTRUCTURE.exit_code}


@pytest.mark.parametrize("told", [(0,), (1,), (0, 1, 2)], ids=["node 0", "node 1", "all"])
def test_told_to_stop_anywhere_all_nodes_save_and_stop(launched: Launched, told: tuple[int, ...]) -> None:
    launched.shell(WAITS.replace("exit 143", "echo saved; exit 143"))
    cluster = Cluster(launched, 3)
    cluster.start()
    cluster.all_say("ready")
    for rank in told:
        cluster.workers[rank].terminate()
    assert set(cluster.exit_codes().values()) == {Cause.PREEMPTED.exit_code}
    assert cluster.message() == ("told to stop" if 0 in told else "node 1: told to stop")
    assert all("saved" in cluster.output(rank) for rank in range(3))


def test_a_cancelled_run_is_cancelled_on_every_node(launched: Launched) -> None:
    launched.shell(WAITS)
    cluster = Cluster(launched, 3)
    cluster.start()
    cluster.all_say("ready")
    launched.cancel()
    assert set(cluster.exit_codes().values()) == {Cause.CANCELLED.exit_code}
    assert launched.ended_with(Cause.CANCELLED)
    assert cluster.message() == "cancelled"


def test_an_attempt_goes_on_until_its_last_node_has_ended_and_the_time_limit_counts_for_all(launched: Launched) -> None:
    launched.shell(f'test "$CLOUD_TRAIN_NODE_RANK" = 0 && exit 0; {WAITS}', duration_seconds=0.5)
    cluster = Cluster(launched, 2)
    assert cluster.run() == {0: Cause.TIMED_OUT.exit_code, 1: Cause.TIMED_OUT.exit_code}
    assert cluster.message() == "reached its time limit of 0.5 s"


def test_a_model_counts_once_the_last_node_has_ended(launched: Launched) -> None:
    launched.shell(
        'if test "$CLOUD_TRAIN_NODE_RANK" = 0; then echo early > "$CLOUD_TRAIN_MODEL/a"; exit 0; fi;'
        ' while ! test -e "$CLOUD_TRAIN_MODEL/a"; do sleep 0.02; done; echo late > "$CLOUD_TRAIN_MODEL/b"'
    )
    assert Cluster(launched, 2).run() == {0: 0, 1: 0}
    manifest = (launched.directory / layout.MODEL / layout.MANIFEST).read_text()
    assert '"a"' in manifest
    assert '"b"' in manifest


def test_all_nodes_follow_node_0_into_another_attempt(launched: Launched) -> None:
    launched.shell(
        'echo "attempt $CLOUD_TRAIN_ATTEMPT"; test "$CLOUD_TRAIN_NODE_RANK$CLOUD_TRAIN_ATTEMPT" != 11',
        attempts=3,
        retry_on=(Cause.FAILED,),
    )
    cluster = Cluster(launched, 3)
    assert cluster.run() == {0: 0, 1: 0, 2: 0}
    assert [cluster.output(rank, attempt=2) for rank in range(3)] == ["attempt 2\n"] * 3
    assert launched.ended_with(Cause.FAILED, 1)
    assert launched.ended_with(Cause.SUCCEEDED, 2)


@pytest.mark.parametrize("how", ["cancelled", "told", "killed"])
def test_nodes_that_wait_for_another_attempt_leave_when_there_is_none(launched: Launched, how: str) -> None:
    launched.shell("exit 1", attempts=2, retry_on=(Cause.FAILED,))
    cluster = Cluster(launched, 2, replace(NODES, retry=(600.0,), silence=0.6, farewell=1))
    cluster.start()
    wait_until((launched.directory / layout.following(1)).exists, "node 0 waits to begin another attempt")
    if how == "cancelled":
        launched.cancel()
    else:
        cluster.workers[0].send_signal(signal.SIGTERM if how == "told" else signal.SIGKILL)
    expected = Cause.CANCELLED if how == "cancelled" else Cause.FAILED
    assert cluster.exit_codes()[1] == expected.exit_code
    assert not (launched.directory / layout.status(2)).exists()


def _ended(cause: Cause, message: str, time: float, is_consequence: bool = False) -> NodeStatus:
    status = NodeStatus(cause.state, started=0, heartbeat=time, host="", pid=1, cause=cause, message=message, ended=time)
    return replace(status, is_consequence=is_consequence)


LIVES = NodeStatus(State.RUNNING, started=0, heartbeat=0, host="", pid=1)
GONE = Ending(Cause.INFRASTRUCTURE, "another process is gone", is_consequence=True, time=5)


@pytest.mark.parametrize(
    ("own", "others", "lost", "cause", "message"),
    [
        (Ending(Cause.FAILED, "mine", time=2), {1: _ended(Cause.FAILED, "its", 1)}, [], Cause.FAILED, "node 1: its"),
        (Ending(Cause.FAILED, "mine", time=1), {1: _ended(Cause.FAILED, "its", 2)}, [], Cause.FAILED, "mine"),
        (GONE, {1: _ended(Cause.SUCCEEDED, "", 1), 2: _ended(Cause.FAILED, "its", 9)}, [], Cause.FAILED, "node 2: its"),
        (GONE, {1: LIVES}, [1], Cause.INFRASTRUCTURE, "lost contact with node 1"),
        (GONE, {1: _ended(Cause.PREEMPTED, "stopped", 4, is_consequence=True), 2: LIVES}, [2], Cause.PREEMPTED, "node 1: stopped"),
        (Ending(Cause.PREEMPTED, "told", time=3), {1: _ended(Cause.PREEMPTED, "told", 2)}, [], Cause.PREEMPTED, "told"),
        (GONE, {1: _ended(Cause.INFRASTRUCTURE, "lost it", 4, is_consequence=True)}, [], Cause.INFRASTRUCTURE, "node 1: lost it"),
    ],
    ids=["the earliest", "node 0", "no consequence", "lost", "stopped together", "all told", "nobody's fault"],
)
def test_one_end_of_several_is_the_attempts(
    own: Ending, others: Mapping[int, NodeStatus], lost: list[int], cause: Cause, message: str
) -> None:
    end = verdict(own, others, lost)
    assert (end.cause, end.message) == (cause, message)


def test_the_status_of_node_0_reads_as_that_of_any_node() -> None:
    written = AttemptStatus(State.RUNNING, started=1, heartbeat=2, host="a", pid=3).to_json()
    assert NodeStatus.from_json(written, "status.json").is_consequence is False


def _checkpoint(checkpoints: Path, step: int) -> None:
    folder = checkpoints / layout.step_folder(step)
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"{step}")
    write_manifest(folder, step)


def test_when_node_0_is_suspended_and_overtaken_the_other_nodes_end_by_themselves(launched: Launched) -> None:
    launched.shell(WAITS)
    cluster = Cluster(launched, 2, replace(NODES, silence=300, lost=300))
    cluster.start()
    cluster.all_say("ready")
    of_node_0 = [psutil.Process(cluster.workers[0].pid), *psutil.Process(cluster.workers[0].pid).children(recursive=True)]
    for process in of_node_0:  # its program too: as if its machine had stalled
        process.suspend()
    begun = AttemptStatus(State.STARTING, started=1.0, heartbeat=1.0, host="elsewhere", pid=1, token="of another launch")
    (launched.directory / layout.attempt(2)).mkdir()
    (launched.directory / layout.status(2)).write_bytes(begun.to_json())
    assert cluster.workers[1].wait(30) == TAKEN
    assert "superseded by attempt 2" in cluster.worker_log(1)
    for process in of_node_0:
        process.resume()
    assert cluster.workers[0].wait(30) == TAKEN
