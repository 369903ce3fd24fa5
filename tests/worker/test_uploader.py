"""The process that ships: what happens when it is killed, when the worker is, and when the store is away for a while or for good."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus, Program, RunRecord
from cloud_train.run.states import Cause, State
from cloud_train.storage.local import LocalStore
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.uploads import uploader
from cloud_train.worker.uploads.attempts import AttemptUploads
from tests.answers import Request
from tests.faults import Fault, FaultProxy, Refuse
from tests.stores import StoreServer, server_or_skip, use
from tests.support import wait_until
from tests.worker.in_store import QUICK, RUN_ID, Machine

COUNTS = "echo $$; for n in $(seq 1 40); do echo $n; sleep 0.05; done; echo model > $CLOUD_TRAIN_MODEL/weights"
COUNTED = "".join(f"{number}\n" for number in range(1, 41)).encode()
SAVES = (
    "mkdir $CLOUD_TRAIN_CHECKPOINTS/.new; echo state > $CLOUD_TRAIN_CHECKPOINTS/.new/state;"
    " mv $CLOUD_TRAIN_CHECKPOINTS/.new $CLOUD_TRAIN_CHECKPOINTS/step-00000007;"
)
WAITS = "while :; do sleep 0.05; done"


class Gate:
    """A plan for the proxy: refuses what it is told to, for as long as it is told to."""

    def __init__(self) -> None:
        self.refuses: Callable[[Request], bool] = lambda request: False

    def __call__(self, request: Request) -> Fault | None:
        return Refuse("busy") if self.refuses(request) else None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> StoreServer:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    return server


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def proxy(server: StoreServer, gate: Gate) -> Iterator[FaultProxy]:
    with FaultProxy(server, gate) as proxy:
        yield proxy


@pytest.fixture
def machine(tmp_path: Path, server: StoreServer, monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy) -> Iterator[Machine]:
    """A machine that reaches the store through the proxy; the test itself does not."""
    found = Machine(tmp_path / "machine", f"{server.new_url()}/runs")
    list(found.store.list("nothing"))  # the client is made, for the server itself
    use(server, monkeypatch, proxy.endpoint)
    yield found
    found.end()


def everything(request: Request) -> bool:
    return True


def test_what_lay_there_when_the_worker_was_killed_is_shipped_and_no_end_is_made_up(machine: Machine) -> None:
    machine.shell(f"{SAVES} echo ready; {WAITS}")
    worker = machine.start()
    machine.says(b"ready")
    wait_until(lambda: machine.is_in(State.RUNNING), "the run runs")
    log = machine.workspace / layout.worker_log(1)
    wait_until(lambda: b"sealed checkpoint step-00000007" in log.read_bytes(), "what is sealed by a process of its own is sealed")
    worker.kill()
    worker.wait()
    machine.is_quiet()
    assert machine.status().state is State.RUNNING
    assert machine.output() == b"ready\n"
    assert machine.worker_log().encode() == log.read_bytes()
    assert machine.steps() == [7]


def test_a_ferry_that_is_killed_in_the_middle_of_a_run_is_replaced_at_once_and_nothing_is_doubled(machine: Machine) -> None:
    machine.shell(f"{COUNTS}; until [ -e go ]; do sleep 0.05; done")
    worker = machine.start()
    machine.says(b"\n3\n")
    uploader = machine.uploader(worker)
    uploader.kill()
    wait_until(lambda: not uploader.is_running() and machine.uploader(worker).pid != uploader.pid, "there is another one")
    wait_until(lambda: machine.output().endswith(b"\n40\n"), "it ships while the program runs")
    assert machine.is_in(State.RUNNING)
    (machine.folder / "go").touch()
    assert worker.wait(60) == 0
    assert machine.output().partition(b"\n")[2] == COUNTED
    assert "starting another one" in machine.worker_log()
    assert machine.status().cause is Cause.SUCCEEDED
    assert not machine.living()


def test_a_program_does_not_outlive_a_worker_that_was_killed_after_its_ferry_was_replaced(machine: Machine, gate: Gate) -> None:
    machine.shell(f"echo ready; {WAITS}")
    worker = machine.start()
    machine.says(b"ready")
    uploader = machine.uploader(worker)
    uploader.kill()
    wait_until(lambda: not uploader.is_running() and machine.uploader(worker).pid != uploader.pid, "there is another one")
    another = machine.uploader(worker)
    gate.refuses = everything  # so that the uploader lives on
    worker.kill()
    worker.wait()
    wait_until(lambda: [process.pid for process in machine.living()] == [another.pid], "only the uploader is left")
    gate.refuses = lambda request: False
    machine.is_quiet()


def test_a_ferry_that_is_killed_while_it_ships_the_rest_is_replaced(machine: Machine, gate: Gate) -> None:
    gate.refuses = lambda request: request.method == "PUT" and "/model/" in request.path
    machine.shell("echo done; echo model > $CLOUD_TRAIN_MODEL/weights")
    worker = machine.start()
    wait_until(lambda: b"succeeded" in local_status(machine), "the program has ended")
    wait_until(lambda: len(psutil.Process(worker.pid).children()) == 1, "only the uploader is waited for")
    machine.uploader(worker).kill()
    gate.refuses = lambda request: False
    assert worker.wait(60) == 0
    assert machine.output() == b"done\n"
    assert "starting another one" in machine.worker_log()
    assert machine.store.get(f"{RUN_ID}/{layout.MODEL}/weights") == b"model\n"
    assert machine.status().cause is Cause.SUCCEEDED
    assert not machine.workspace.exists()


def test_a_store_that_is_away_for_a_while_delays_and_loses_nothing(machine: Machine, gate: Gate) -> None:
    machine.shell(COUNTS)
    worker = machine.start()
    machine.says(b"\n3\n")
    gate.refuses = everything
    machine.says(b"\n20\n")
    wait_until(lambda: b"cannot upload" in (machine.workspace / layout.worker_log(1)).read_bytes(), "it is said")
    gate.refuses = lambda request: False
    assert worker.wait(60) == 0
    assert machine.output().partition(b"\n")[2] == COUNTED
    assert machine.store.get(f"{RUN_ID}/{layout.MODEL}/weights") == b"model\n"
    assert machine.status().cause is Cause.SUCCEEDED
    said = [line for line in machine.worker_log().splitlines() if "cannot upload" in line]
    assert 1 <= len(said) <= 2, "once for the streams, and perhaps once for the folders, whichever file it was"
    assert "(the service is unavailable; retry later)" in said[0]


def test_a_store_that_stays_away_is_given_up_after_a_while_and_the_workspace_is_kept(machine: Machine, gate: Gate) -> None:
    machine.shell(f"{SAVES} echo ready; sleep 0.2")
    worker = machine.start(timing=replace(QUICK, uploading=1))
    machine.says(b"ready")
    gate.refuses = everything
    began = time.monotonic()
    assert worker.wait(60) == Cause.INFRASTRUCTURE.exit_code
    assert time.monotonic() - began >= 1
    assert worker.stderr
    said = worker.stderr.read().decode()
    assert said == f"not everything could be uploaded to {machine.url}; the rest is in {machine.workspace}\n"
    assert machine.printed() == b"ready\n"
    assert (machine.workspace / layout.CHECKPOINTS / "step-00000007" / layout.MANIFEST).exists()
    assert not machine.status().state.is_end
    assert not machine.living()


def test_a_store_that_refuses_one_thing_for_good_is_given_up_too_and_no_end_is_written(machine: Machine, gate: Gate) -> None:
    gate.refuses = lambda request: request.method == "PUT" and "/model/" in request.path
    machine.shell("echo model > $CLOUD_TRAIN_MODEL/weights")
    assert machine.run(timing=replace(QUICK, uploading=1)) == Cause.INFRASTRUCTURE.exit_code
    assert not machine.status().state.is_end


def test_another_attempt_that_cannot_be_claimed_does_not_keep_the_first_one_from_arriving(machine: Machine, gate: Gate) -> None:
    machine.shell("echo failing; exit 1", attempts=2, retry_on=(Cause.FAILED,))
    gate.refuses = lambda request: request.path.endswith(f"/{layout.status(2)}")
    worker = machine.start()
    wait_until(lambda: machine.is_in(State.FAILED), "the first attempt has ended")
    os.kill(worker.pid, signal.SIGTERM)
    worker.wait(60)
    assert machine.output() == b"failing\n"
    assert machine.status().state is State.FAILED
    assert not machine.living()
    assert not machine.workspace.exists()


def test_what_a_worker_writes_during_a_look_just_before_it_leaves_is_shipped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, bucket = LocalStore(tmp_path / "work"), LocalStore(tmp_path / "bucket")
    status, key = AttemptStatus(State.STARTING, started=1.0, heartbeat=1.0, host="here", pid=7), f"{RUN_ID}/{layout.status(1)}"
    workspace.put(key, status.ended_with(Cause.FAILED, "", 2.0).to_json())
    called_off = status.ended_with(Cause.CANCELLED, "", 3.0).to_json()
    reading, writing = os.pipe()
    look = AttemptUploads.look

    def look_while_the_worker_calls_it_off(uploads: AttemptUploads) -> bool:
        is_done = look(uploads)
        if is_done and workspace.get(key) != called_off:
            workspace.put(key, called_off)
            os.write(writing, uploader._FINISH)
            next(thread for thread in threading.enumerate() if "_listen" in thread.name).join()
        return is_done

    monkeypatch.setattr(AttemptUploads, "look", look_while_the_worker_calls_it_off)
    record = RunRecord(RUN_ID, 0.0, {}, Program(("false",), "/"), {}, {})
    upload = uploader.WorkspaceUpload(workspace, str(bucket.path_of("")), record, 1, NodeContext(), "token", 60.0)
    try:
        assert uploader._upload_all(upload, reading, lambda attempt: print, again=False)
    finally:
        os.close(reading)
        os.close(writing)
    assert bucket.get(key) == called_off


def test_neither_program_nor_guard_holds_the_ferrys_pipe(machine: Machine) -> None:
    machine.shell("echo $$ ready; exec sleep 100")  # one process, while others come and go as the test looks at them
    worker = machine.start()
    machine.says(b"ready")
    uploader = machine.uploader(worker)
    program = int(machine.printed().split()[0])
    held = (pipes(uploader.pid) & pipes(worker.pid)) - {str(Path(f"/proc/{worker.pid}/fd/2").readlink())}
    assert held
    others = [process.pid for process in machine.living() if process.pid not in (uploader.pid, worker.pid)]
    assert program in others
    for pid in others:
        assert not held & pipes(pid)


def pipes(pid: int) -> set[str]:
    """The pipes that a process has open."""
    found = set()
    for place in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = str(place.readlink())
            if target.startswith("pipe:"):
                found.add(target)
    return found


def local_status(machine: Machine) -> bytes:
    path = machine.workspace / layout.status(1)
    return path.read_bytes() if path.exists() else b""
