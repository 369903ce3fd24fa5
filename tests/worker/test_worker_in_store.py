"""Whole workers on runs in object stores: what arrives there, in which order, and what a kill at any moment leaves to resume from."""

import hashlib
import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.exit_status import TAKEN
from cloud_train.run import layout
from cloud_train.run.manifest import FileEntry, parse_manifest
from cloud_train.run.states import Cause, State
from cloud_train.storage.base import Store
from tests.faults import FaultProxy
from tests.stores import SCHEMES, StoreServer, server_or_skip, use
from tests.support import wait_until
from tests.worker.in_store import QUICK, RUN_ID, Machine

WAITS = "trap 'echo ended; exit 143' TERM; echo ready; while :; do sleep 0.05; done"

KILLS = 4

COUNTS = """
import hashlib, json, os, time
from pathlib import Path
checkpoints, resume = Path(os.environ["CLOUD_TRAIN_CHECKPOINTS"]), os.environ["CLOUD_TRAIN_RESUME"]
done = json.loads(Path(resume, "state").read_text()) if resume else {"steps": [], "digest": ""}
metrics = open(os.environ["CLOUD_TRAIN_METRICS"], "a", buffering=1)
for step in range(len(done["steps"]) + 1, 61):
    done["steps"].append(step)
    done["digest"] = hashlib.sha256(f"{done['digest']} {step}".encode()).hexdigest()
    print(f"step {step} — {done['digest'][:12]}", flush=True)
    metrics.write(json.dumps({"step": step, "name": "loss", "value": 1 / step}) + "\\n")
    if step % 5 == 0:
        new = checkpoints / f".new-{step}"
        new.mkdir(exist_ok=True)
        (new / "state").write_text(json.dumps(done))
        (new / "weights").write_bytes(done["digest"].encode() * 200)
        new.rename(checkpoints / f"step-{step:08d}")
    time.sleep(0.02)
Path(os.environ["CLOUD_TRAIN_MODEL"], "state").write_text(json.dumps(done))
"""
"""A program that counts to 60 and saves every fifth step; what it prints follows from the step alone."""


def printed_from(step: int) -> bytes:
    """What the program prints if it begins behind ``step``."""
    digest, lines = "", []
    for number in range(1, 61):
        digest = hashlib.sha256(f"{digest} {number}".encode()).hexdigest()
        lines.append(f"step {number} — {digest[:12]}\n")
    return "".join(lines[step:]).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> StoreServer:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    return server


@pytest.fixture
def url(server: StoreServer) -> str:
    return f"{server.new_url()}/runs"


@pytest.fixture
def machine(tmp_path: Path, url: str) -> Iterator[Machine]:
    found = Machine(tmp_path / "machine", url)
    yield found
    found.end()


def folder_of(store: Store, name: str) -> dict[str, bytes]:
    """A folder of the run as its manifest describes it; every byte is checked."""
    prefix = f"{RUN_ID}/{name}"
    manifest = parse_manifest(store.get(f"{prefix}/{layout.MANIFEST}"), prefix)
    found = {file: store.get(f"{prefix}/{file}") for file in manifest.files}
    assert {file: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for file, data in found.items()} == manifest.files
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_run_in_a_store_ends_with_everything_there_and_nothing_left_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    server = server_or_skip(scheme)
    use(server, monkeypatch)
    machine = Machine(tmp_path / "machine", f"{server.new_url()}/runs")
    try:
        machine.python(COUNTS, keep_checkpoints=2)
        assert machine.run() == 0
        assert not machine.living()
    finally:
        machine.end()
    status = machine.status()
    assert (status.state, status.cause) == (State.SUCCEEDED, Cause.SUCCEEDED)
    assert machine.output() == printed_from(0)
    lines = [json.loads(line) for line in machine.stream(layout.metrics(1)).splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert machine.steps() == [55, 60]
    assert json.loads(folder_of(machine.store, layout.MODEL)["state"])["steps"] == list(range(1, 61))
    assert folder_of(machine.store, f"{layout.CHECKPOINTS}/{layout.step_folder(60)}")["weights"]
    assert "uploaded checkpoint step-00000060" in machine.worker_log()
    assert not machine.workspace.exists()


def test_of_two_workers_for_one_attempt_one_goes_away_quietly(machine: Machine) -> None:
    machine.shell("echo once; sleep 0.3")
    codes = [worker.wait(60) for worker in (machine.start(), machine.start())]
    assert sorted(codes) == [0, TAKEN]
    assert machine.output() == b"once\n"


def test_a_program_that_fails_is_failed_in_the_store_and_the_workspace_is_gone(machine: Machine) -> None:
    machine.shell("echo it broke; exit 7")
    assert machine.run() == Cause.FAILED.exit_code
    assert machine.status().cause is Cause.FAILED
    assert "it broke" in machine.status().message
    assert machine.output() == b"it broke\n"
    assert not machine.workspace.exists()


def test_a_further_attempt_of_the_same_worker_goes_on_and_both_are_whole(machine: Machine) -> None:
    fails_once = COUNTS.replace("    time.sleep(0.02)", "    if step == 33 and not resume: raise SystemExit(5)")
    machine.python(fails_once, attempts=2, retry_on=(Cause.FAILED,))
    assert machine.run() == 0
    assert (machine.status(1).cause, machine.status(2).cause) == (Cause.FAILED, Cause.SUCCEEDED)
    assert machine.output(1) == printed_from(0)[: len(machine.output(1))]
    assert machine.output(1).splitlines()[-1].startswith(b"step 33 ")
    assert machine.status(2).resumed_step == 30
    assert machine.output(2) == printed_from(30)
    assert "attempt 2 of 2 follows" in machine.worker_log(1)
    assert "uploaded checkpoint step-00000060" in machine.worker_log(2)
    assert not machine.workspace.exists()


def test_told_to_stop_a_checkpoint_goes_before_logs_and_logs_before_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: StoreServer, url: str
) -> None:
    saves = (
        "trap 'mkdir $CLOUD_TRAIN_CHECKPOINTS/.new; echo last > $CLOUD_TRAIN_CHECKPOINTS/.new/state;"
        " mv $CLOUD_TRAIN_CHECKPOINTS/.new $CLOUD_TRAIN_CHECKPOINTS/step-00000009; echo saved; exit 143' TERM;"
        " echo ready; while :; do sleep 0.05; done"
    )
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        machine = Machine(tmp_path / "machine", url)
        try:
            machine.shell(saves)
            worker = machine.start()
            machine.says(b"ready")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == Cause.PREEMPTED.exit_code
            written = [record.request.path for record in proxy.records if record.request.method == "PUT"]
            assert machine.status().cause is Cause.PREEMPTED
            assert machine.output().endswith(b"saved\n")
            assert folder_of(machine.store, f"{layout.CHECKPOINTS}/step-00000009") == {"state": b"last\n"}
        finally:
            machine.end()
    of_checkpoint = [place for place, path in enumerate(written) if "/step-00000009/" in path]
    assert written[of_checkpoint[-1]].endswith(f"/{layout.MANIFEST}")
    assert max(place for place, path in enumerate(written) if "/logs/" in path) > of_checkpoint[-1]
    assert written[-1].endswith(f"/{layout.status(1)}")


def test_the_mark_of_somebody_who_cancels_from_afar_ends_the_run_as_cancelled(machine: Machine) -> None:
    machine.shell(WAITS)
    worker = machine.start()
    machine.says(b"ready")
    machine.store.put(f"{RUN_ID}/{layout.cancel(1)}", b"")
    assert worker.wait(60) == Cause.CANCELLED.exit_code
    assert machine.status().cause is Cause.CANCELLED
    assert machine.output().endswith(b"ended\n")


def test_a_mark_that_comes_together_with_the_signal_is_seen(machine: Machine) -> None:
    machine.shell(WAITS)
    worker = machine.start()
    machine.says(b"ready")
    machine.store.put(f"{RUN_ID}/{layout.cancel(1)}", b"")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == Cause.CANCELLED.exit_code
    assert machine.status().cause is Cause.CANCELLED


@pytest.mark.parametrize("how", ["mark", "mark and signal"])
def test_somebody_who_cancels_between_two_attempts_gets_a_cancelled_run(machine: Machine, how: str) -> None:
    machine.shell("exit 1", attempts=2, retry_on=(Cause.FAILED,))
    worker = machine.start(timing=replace(QUICK, retry=(60,)))
    wait_until(lambda: machine.is_in(State.FAILED), "the first attempt has failed")
    machine.store.put(f"{RUN_ID}/{layout.cancel(1)}", b"")
    if how == "mark and signal":
        worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == Cause.CANCELLED.exit_code
    assert machine.status().cause is Cause.CANCELLED
    assert "no further attempt" in machine.worker_log()


def test_several_nodes_meet_in_the_store_begin_together_and_go_on_together(tmp_path: Path, url: str) -> None:
    nodes = [Machine(tmp_path / f"node-{rank}", url) for rank in range(2)]
    leading = nodes[0]
    fails_once = COUNTS.replace("    time.sleep(0.02)", "    if step == 12 and not resume: raise SystemExit(5)")
    not_leading = "if os.environ['CLOUD_TRAIN_NODE_RANK'] != '0':\n    checkpoints = Path('.')\n    os.environ['CLOUD_TRAIN_MODEL'] = '.'\n"
    program = fails_once.replace("done = json", f"{not_leading}done = json", 1)
    try:
        leading.python(program, attempts=2, retry_on=(Cause.FAILED,), keep_checkpoints=20)
        for node in nodes:
            node.folder = leading.folder
        places = [{"CLOUD_TRAIN_NODE_RANK": str(rank), "CLOUD_TRAIN_NODES": "2"} for rank in range(2)]
        workers = [node.start(environment=place, timing=replace(QUICK, join=60)) for node, place in zip(nodes, places, strict=True)]
        assert [worker.wait(120) for worker in workers] == [0, 0]
    finally:
        for node in nodes:
            node.end()
    assert (leading.status(1).cause, leading.status(2).cause) == (Cause.FAILED, Cause.SUCCEEDED)
    for rank in range(2):
        assert leading.stream(layout.output_log(2, rank)) == printed_from(10)
    assert json.loads(folder_of(leading.store, layout.MODEL)["state"])["steps"] == list(range(1, 61))


@pytest.mark.parametrize("seed", range(3))
def test_killed_anywhere_and_resumed_on_an_empty_machine_the_end_is_the_same(tmp_path: Path, url: str, seed: int) -> None:
    dice, kills, attempt = random.Random(seed), 0, 0
    machine = Machine(tmp_path / "first", url)
    machine.python(COUNTS.replace("time.sleep(0.02)", "time.sleep(0.05)"), keep_checkpoints=2)
    is_over = False
    while not is_over:
        attempt += 1
        try:
            worker = machine.start(attempt)
            if kills < KILLS:
                kills += 1
                kill_at_some_moment(dice, machine, worker, attempt)
            is_over = worker.wait(60) == 0
            machine.is_quiet()
        finally:
            machine.end()
        check(machine, attempt)
        attempt -= not has_begun(machine, attempt)
        machine = Machine(tmp_path / f"after-{kills}", url) if not is_over else machine
    assert folder_of(machine.store, layout.MODEL)["state"] == final_state()
    for number in range(1, attempt + 1):
        assert printed_from(machine.status(number).resumed_step or 0).startswith(machine.output(number))
    assert machine.output(attempt) == printed_from(machine.status(attempt).resumed_step or 0)


def kill_at_some_moment(dice: random.Random, machine: Machine, worker: subprocess.Popen[bytes], attempt: int) -> None:
    """SIGKILL for the worker, or for everything as when the machine goes away; nothing if it ends first."""
    first = max(machine.steps(), default=0)
    target, moment = dice.choice(["machine", "machine", "worker"]), dice.choice(["time", "step", "store"])
    delay, steps = dice.uniform(0, 2.5 if moment == "time" else 0.2), dice.randint(1, 25)
    moments: dict[str, Callable[[], bool]] = {
        "time": lambda: True,
        "step": lambda: f"step {first + steps} ".encode() in machine.printed(attempt),
        "store": lambda: max(machine.steps(), default=0) > first,
    }
    wait_until(lambda: moments[moment]() or worker.poll() is not None, f"{moment} of attempt {attempt}")
    until = time.monotonic() + delay
    wait_until(lambda: time.monotonic() >= until or worker.poll() is not None, "the moment has come")
    if target == "machine":
        machine.kill()
    elif worker.poll() is None:
        worker.kill()


def has_begun(machine: Machine, attempt: int) -> bool:
    """Whether the attempt exists: a worker that was killed before its claim has left nothing, and the next one takes its number."""
    return any(info.key.endswith(f"/{layout.status(attempt)}") for info in machine.store.list(f"{RUN_ID}/{layout.attempt(attempt)}/"))


def check(machine: Machine, attempt: int) -> None:
    """What has a manifest is complete, and what is there of the log is what the program printed first."""
    for step, folder in machine.checkpoints().items():
        state: dict[str, Any] = json.loads(folder_of(machine.store, folder)["state"])
        assert state["steps"] == list(range(1, step + 1))
    output = machine.output(attempt)
    begun = re.match(rb"step (\d+) ", output)
    assert printed_from(int(begun[1]) - 1 if begun else 0).startswith(output)


def final_state() -> bytes:
    digest = ""
    for number in range(1, 61):
        digest = hashlib.sha256(f"{digest} {number}".encode()).hexdigest()
    return json.dumps({"steps": list(range(1, 61)), "digest": digest}).encode()


def test_a_checkpoint_of_another_framework_reaches_the_store_and_the_next_machine(tmp_path: Path, url: str, machine: Machine) -> None:
    machine.shell(
        "cd $CLOUD_TRAIN_CHECKPOINTS; mkdir -p a; cat a/epoch_3.pth last.pt $CLOUD_TRAIN_RESUME/last.pt; "
        "echo three > a/epoch_3.pth; echo last > last.pt; exit 1"
    )
    assert machine.run() == Cause.FAILED.exit_code
    assert folder_of(machine.store, "checkpoints/step-00000003") == {"a/epoch_3.pth": b"three\n", "last.pt": b"last\n"}
    assert not machine.workspace.exists()
    other = Machine(tmp_path / "other", url)
    try:
        other.run(2)
        assert other.output(2) == b"three\nlast\nlast\n"
    finally:
        other.end()
