"""An attempt and its fetcher: the program starts before the shards are there, and the fetcher lives as long as it is needed."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest

from cloud_train.orchestrator.packing import pack
from cloud_train.run import layout
from cloud_train.run.record import Program, RunRecord
from cloud_train.run.states import Cause, State
from tests.answers import Request
from tests.faults import FaultProxy
from tests.stores import server_or_skip, use
from tests.support import wait_until
from tests.worker.launching import RUN_ID, Launched, living

SEES = """
import os, pathlib, signal, sys, time
place = pathlib.Path(os.environ["CLOUD_TRAIN_DATA"])

def stop(*_):
    while not list(place.glob(".cloud-train-stop-*")):
        time.sleep(0.02)
    print("told", flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
print("here", flush=True)
while len(list(place.glob("*.tar"))) < int(sys.argv[1]):
    time.sleep(0.02)
print("done", flush=True)
"""


class Gate:
    """A plan for the fault proxy that keeps the second shard back until it is opened."""

    def __init__(self) -> None:
        self.opened, self.asked = threading.Event(), 0

    def __call__(self, request: Request) -> None:
        if request.method == "GET" and unquote(request.path).endswith("train-00001.tar"):
            self.asked += 1
            self.opened.wait(60)

    def was_asked(self, times: int) -> bool:
        return self.asked == times


@pytest.fixture
def gate(launched: Launched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Closed; the run in ``launched`` has its data behind it: four shards."""
    server = server_or_skip("s3")
    use(server, monkeypatch)
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "other-home"))
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    url, gate = f"{server.new_url()}/photos", Gate()
    pack(tmp_path / "images", url, 1)
    write_job(launched, url)
    with FaultProxy(server, gate) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        yield gate
        launched.end()
        gate.opened.set()


def write_job(launched: Launched, url: str) -> None:
    """A job of the built-in trainer."""
    program = Program((sys.executable, "-m", "cloud_train.training"), str(launched.work), grace_seconds=20, data=url)
    job = {"model": {"kind": "cnn"}, "data": {"dataset": "images", "path": url}}
    launched.directory.mkdir(parents=True, exist_ok=True)
    (launched.directory / layout.RUN).write_bytes(RunRecord(RUN_ID, 0.0, job, program, {}, {}).to_json())


def start(launched: Launched, shards: int = 4) -> subprocess.Popen[bytes]:
    """A worker with a program of this test's in the trainer's place, which waits for so many shards."""
    return launched.start(before=f"from cloud_train.worker.attempts import program\nprogram.TRAINER = {('-c', SEES, str(shards))!r}\n")


def of_this_home(process: psutil.Process, launched: Launched) -> bool:
    with suppress(psutil.Error):
        return process.environ().get("CLOUD_TRAIN_HOME") == str(launched.home)
    return False


def fetcher(worker_pid: int) -> psutil.Process:
    """The child of the worker that has threads."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [child for child in psutil.Process(worker_pid).children() if child.num_threads() > 1]
        return bool(found)

    wait_until(look, "there is a process that fetches")
    return found[0]


def test_the_program_starts_before_the_shards_are_there_and_ends_well(launched: Launched, gate: Gate) -> None:
    worker = start(launched)
    launched.says(b"here")
    assert launched.is_in(State.RUNNING)
    assert b"done" not in launched.output()
    gate.opened.set()
    assert worker.wait(30) == 0
    assert launched.status().cause is Cause.SUCCEEDED
    assert b"done" in launched.output()  # the fetcher's last line may come after the program's end, and is then not written


def test_a_fetcher_that_is_killed_is_replaced_and_the_program_notices_nothing(launched: Launched, gate: Gate) -> None:
    worker = start(launched)
    launched.says(b"here")
    wait_until(lambda: gate.asked == 1, "the second shard is asked for")
    first = fetcher(worker.pid)
    first.kill()
    wait_until(lambda: gate.asked == 2, "another one asks for it")
    assert fetcher(worker.pid).pid != first.pid
    gate.opened.set()
    assert worker.wait(30) == 0
    assert "starting another one" in launched.worker_log()


def test_a_fetcher_that_is_killed_again_and_again_is_said_to_whoever_waits(launched: Launched, gate: Gate) -> None:
    worker = start(launched)
    launched.says(b"here")
    for times in (1, 2, 3):
        wait_until(partial(gate.was_asked, times), "the second shard is asked for")
        fetcher(worker.pid).kill()
    failed = f"*/*/.cloud-train-failed-{RUN_ID}-0"
    wait_until(lambda: bool(list((launched.home / "data/stores").glob(failed))), "it is said")
    (said,) = (launched.home / "data/stores").glob(failed)
    assert "was killed 3 times (exit status -9)" in said.read_text()


def test_a_fetcher_ends_with_a_program_that_needs_no_more_shards(launched: Launched, gate: Gate) -> None:
    worker = start(launched, shards=1)
    launched.says(b"here")
    assert worker.wait(30) == 0
    assert not living(launched.work)
    assert not [process for process in psutil.process_iter() if of_this_home(process, launched)]


def test_a_fetcher_goes_with_a_worker_that_is_killed(launched: Launched, gate: Gate) -> None:
    worker = start(launched)
    launched.says(b"here")
    wait_until(lambda: gate.asked == 1, "the second shard is asked for")
    left = fetcher(worker.pid)
    worker.kill()
    psutil.wait_procs([left], 10)
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
    wait_until(lambda: not living(launched.work), "the program is gone too")


def test_a_worker_that_is_told_to_stop_tells_whoever_waits(launched: Launched, gate: Gate) -> None:
    worker = start(launched)
    launched.says(b"here")
    worker.terminate()
    worker.wait(30)
    assert launched.status().cause is Cause.PREEMPTED
    assert b"told" in launched.output()
    assert not list((launched.home / "data/stores").glob("*/*/.cloud-train-stop-*"))
