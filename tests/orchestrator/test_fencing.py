"""One writer at a time: attempts that were overtaken, and observers that know less than they think, with real workers on two homes."""

import fcntl
import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud_train import locks
from cloud_train.errors import ConflictError
from cloud_train.orchestrator import resuming, submitting
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.results import fetch_model, manifest_at
from cloud_train.orchestrator.resuming import Elsewhere, resume
from cloud_train.orchestrator.state import read_run
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.submitting import submit
from cloud_train.providers.base import Handle, Observation
from cloud_train.providers.local import LocalProvider
from cloud_train.run import layout
from cloud_train.run.checkpoints import places_in_store
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.manifest import write_manifest
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.streams import open_stream
from cloud_train.run.view import RunView
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.registry import open_store
from tests.stores import server_or_skip, use
from tests.support import accepting, wait_until

ROOT = Path(__file__).parents[2]
QUICK = """
import sys
if "cloud_train.worker" in sys.orig_argv:
    from cloud_train.worker import supervisor
    from cloud_train.worker.context import Timing
    from cloud_train.worker.uploads import attempts
    supervisor.DEFAULT_TIMING = Timing(heartbeat=0.2, look=0.1)
    attempts._LIFE_SIGN_SECONDS, attempts._CANCEL_SECONDS = 0.5, 0.5
"""
"""Runs first in every process: a worker with short intervals."""

SAVES = """
step=0
if [ -n "$CLOUD_TRAIN_RESUME" ]; then step=$(cat "$CLOUD_TRAIN_RESUME/step"); fi
echo "attempt $CLOUD_TRAIN_ATTEMPT from $step"
while [ ! -e "$HOME/finish" ]; do
    step=$((step + 1)); made="$CLOUD_TRAIN_CHECKPOINTS/.step-$step.tmp"
    mkdir "$made"; echo $step > "$made/step"; echo $CLOUD_TRAIN_ATTEMPT > "$made/attempt"
    mv "$made" "$CLOUD_TRAIN_CHECKPOINTS/$(printf step-%08d $step)"
    sleep 0.2
done
echo "attempt $CLOUD_TRAIN_ATTEMPT" > "$CLOUD_TRAIN_MODEL/weights"
"""
"""A program that makes a checkpoint every 0.2 s, with the number of its attempt in it, until the test tells it to finish."""


@dataclass
class Stage:
    """Two machines that share a store."""

    folder: Path
    store_url: str
    patch: pytest.MonkeyPatch

    def home(self, name: str) -> Home:
        """The home of one machine, on which the following commands run."""
        folder = self.folder / name
        self.patch.setenv("CLOUD_TRAIN_HOME", str(folder))
        return Home(folder)

    def start(self, home: Home) -> RunView:
        path = self.folder / "job.yaml"
        model = {"kind": "script", "command": SAVES}
        path.write_text(
            json.dumps({"name": "fenced", "provider": "local", "store": self.store_url, "model": model, "limits": {"grace": "5 s"}})
        )
        run = submit(home, make_plan(home, path))
        wait_until(lambda: self.steps(run, 1) != [], "there is a checkpoint", 60, pace=0.05)
        return run

    @property
    def store(self) -> Store:
        return open_store(self.store_url)

    def status(self, run: RunView, attempt: int) -> AttemptStatus | None:
        key = f"{run.run_id}/{layout.status(attempt)}"
        try:
            return AttemptStatus.from_json(self.store.get(key), key)
        except ObjectMissingError:
            return None

    def is_running(self, run: RunView, attempt: int) -> bool:
        status = self.status(run, attempt)
        return status is not None and status.state is State.RUNNING

    def steps(self, run: RunView, attempt: int) -> list[int]:
        """The steps of the complete checkpoints in the store that this attempt's program made."""
        return [step for step, made_by, _ in self.checkpoints(run) if made_by == attempt]

    def checkpoints(self, run: RunView) -> list[tuple[int, int, int | None]]:
        """Each complete checkpoint in the store: its step, and the attempt that made it as its program and as its manifest say."""
        found = []
        for step, folder, name in places_in_store(self.store, run.run_id):
            prefix = f"{run.run_id}/{layout.checkpoints(folder)}/{name}"
            with suppress(ObjectMissingError):  # moved or pruned meanwhile
                made_by = int(self.store.get(f"{prefix}/attempt"))
                found.append((step, made_by, manifest_at(self.store, prefix).attempt))
        return found

    def worker_log(self, run: RunView, attempt: int) -> str:
        return open_stream(self.store, f"{run.run_id}/{layout.worker_log(attempt)}").read(0).decode()

    def finish(self) -> None:
        """Let every program end."""
        (self.folder / "finish").touch()


@pytest.fixture(params=["folder", "s3"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    if request.param == "folder":
        url = str(tmp_path / "store")
    else:
        server = server_or_skip(request.param)
        use(server, monkeypatch)
        url = f"{server.new_url()}/runs"
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(QUICK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "patch"), str(ROOT)]))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield Stage(tmp_path, url, monkeypatch)
    for name in ("a", "b"):
        kill_everything(tmp_path / name)


def test_of_two_resumes_at_the_same_moment_one_says_that_the_other_was_faster(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    a = stage.home("a")
    run = stage.start(a)
    cancel(a, run.run_id)
    b = stage.home("b")
    adopt(b, run.run_directory)
    launch, won = submitting.launch, []

    def launched_after_another(*arguments: Any) -> Handle:
        monkeypatch.setattr(resuming, "launch", launch)
        stage.home("a")
        won.append(resume(a, run.run_id))
        stage.home("b")
        return launch(*arguments)

    monkeypatch.setattr(resuming, "launch", launched_after_another)
    with pytest.raises(ConflictError, match=r"another command resumed .* at the same moment: its attempt 2 is running") as caught:
        resume(b, run.run_id, ask=accepting)
    assert caught.value.exit_code == 9
    assert (won[0].attempt, won[0].is_unmanaged, bool(won[0].host)) == (2, False, True)
    stage.home("a")
    stage.finish()
    wait_until(lambda: update_run(a, run.run_id).state is State.SUCCEEDED, "the other's attempt succeeds", 60)
    wait_until(lambda: not processes_of(b.folder), "the slower worker has left", 60)
    assert [path.name for path in (b.folder / "work").glob("*")] == []


def suspend(process: psutil.Process, run: Path) -> None:
    """Stop a process while it holds no lock of the run directory, in which it does so for an instant: others would wait for it."""
    for _ in range(1000):
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped", 10, pace=0.001)
        if not any(is_locked(path) for path in run.rglob(locks.FOLDER_LOCK)):
            return
        process.send_signal(signal.SIGCONT)
    raise AssertionError("it always holds a lock")


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def processes_of(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("CLOUD_TRAIN_HOME") == str(home) and process.pid != os.getpid():
                found.append(process)
    return found


def kill_everything(home: Path) -> None:
    """SIGKILL for every process of a machine at once, so that none has time to react."""
    found = processes_of(home)
    for process in found:
        with suppress(psutil.Error):
            process.suspend()
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, 10)


def resume_at_once(home: Home, run: RunView, elsewhere: Elsewhere | None = None) -> RunView:
    """As ``resume``, with a clock on which waiting for a heartbeat takes no time."""
    seconds = itertools.count(0, 20)
    return resume(home, run.run_id, elsewhere=elsewhere, ask=accepting, sleep=lambda _: None, clock=lambda: float(next(seconds)))


def overtake(home: Home, run: RunView, elsewhere: Elsewhere | None = None) -> RunView:
    """Resume a run whose worker is suspended. What it wrote just before may still arrive in the store, as a sign of life."""
    resumed: list[RunView] = []

    def is_let_in() -> bool:
        with suppress(ConflictError):
            resumed.append(resume_at_once(home, run, elsewhere))
        return bool(resumed)

    wait_until(is_let_in, "a silent attempt is overtaken", 60, pace=0.5)
    return resumed[0]


def program_of(worker: psutil.Process) -> psutil.Process:
    """The program of a worker: of its children, the one that is another executable."""
    return next(child for child in worker.children() if child.exe() != worker.exe())


def worker_of(home: Home, run: RunView) -> psutil.Process:
    """The worker that this home launched."""
    with LedgerReader(home.ledger_path) as ledger:
        entry = ledger.get(run.run_id)
    assert entry is not None
    assert entry.reference is not None
    return psutil.Process(entry.reference["pid"])


def test_a_look_from_the_first_machine_leaves_the_attempt_of_another_alone(stage: Stage) -> None:
    a = stage.home("a")
    run = stage.start(a)
    kill_everything(a.folder)
    b = stage.home("b")
    adopt(b, run.run_directory)
    assert resume_at_once(b, run).attempt == 2
    wait_until(lambda: stage.is_running(run, 2), "attempt 2 runs", 60, pace=0.05)

    stage.home("a")
    for _ in range(2):
        seen = update_run(a, run.run_id)
        assert (seen.attempt, seen.state, seen.cause) == (2, State.RUNNING, None)
    assert stage.is_running(run, 2)

    stage.home("b")
    seen = update_run(b, run.run_id)
    assert (seen.attempt, seen.state) == (2, State.RUNNING)
    assert cancel(b, run.run_id).state is State.CANCELLED
    assert update_run(a, run.run_id).state is State.CANCELLED
    assert stage.status(run, 3) is None


def test_the_first_machine_can_cancel_the_attempt_of_another(stage: Stage) -> None:
    a = stage.home("a")
    run = stage.start(a)
    kill_everything(a.folder)
    b = stage.home("b")
    adopt(b, run.run_directory)
    resume_at_once(b, run)
    wait_until(lambda: stage.is_running(run, 2), "attempt 2 runs", 60, pace=0.05)
    stage.home("a")
    assert update_run(a, run.run_id).state is State.RUNNING
    assert cancel(a, run.run_id).state is State.CANCELLED
    ended = stage.status(run, 2)
    assert ended is not None
    assert ended.cause is Cause.CANCELLED


def test_a_slow_look_beside_a_resume_leaves_the_new_attempt_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    home = stage.home("a")
    run = stage.start(home)
    kill_everything(home.folder)
    observed, overtaken = threading.Event(), threading.Event()
    plain = LocalProvider.observe

    def slow(self: LocalProvider, handle: Handle) -> Observation:
        seen = plain(self, handle)
        if threading.current_thread() is looker:
            observed.set()
            assert overtaken.wait(60)
        return seen

    monkeypatch.setattr(LocalProvider, "observe", slow)
    views: list[RunView] = []
    looker = threading.Thread(target=lambda: views.append(update_run(home, run.run_id)))
    looker.start()
    assert observed.wait(60)
    assert resume(home, run.run_id).attempt == 2
    wait_until(lambda: stage.is_running(run, 2), "attempt 2 runs", 60, pace=0.05)
    overtaken.set()
    looker.join(60)

    assert [(view.attempt, view.state) for view in views] == [(2, State.RUNNING)]
    seen = update_run(home, run.run_id)
    assert (seen.attempt, seen.state, seen.is_unmanaged) == (2, State.RUNNING, False)
    stage.finish()
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "it has ended", 60, pace=0.05)
    assert update_run(home, run.run_id).state is State.SUCCEEDED
    assert stage.status(run, 3) is None


def test_a_stalled_worker_that_was_overtaken_stops_and_ships_nothing(stage: Stage) -> None:
    a = stage.home("a")
    run = stage.start(a)
    stalled = worker_of(a, run)
    suspend(stalled, stage.folder / "store" / run.run_id)
    b = stage.home("b")
    adopt(b, run.run_directory)
    assert overtake(b, run).attempt == 2
    wait_until(lambda: stage.is_running(run, 2), "attempt 2 runs", 60, pace=0.05)
    resumed = stage.status(run, 2)
    assert resumed is not None
    assert resumed.resumed_step is not None
    before = stage.steps(run, 1)

    stalled.send_signal(signal.SIGCONT)
    wait_until(lambda: processes_of(a.folder) == [], "nothing of the first attempt is left", 60, pace=0.05)
    wait_until(lambda: max(stage.steps(run, 2), default=0) > (resumed.resumed_step or 0) + 3, "attempt 2 makes checkpoints", 60, pace=0.05)
    assert set(stage.steps(run, 1)) <= {step for step in before if step <= resumed.resumed_step}
    assert "superseded by attempt 2" in stage.worker_log(run, 1)
    first = stage.status(run, 1)
    assert first is not None
    assert first.cause is Cause.INFRASTRUCTURE
    assert read_run(b, run.run_id).attempt == 2

    stage.finish()
    wait_until(lambda: update_run(b, run.run_id).state.is_end, "it has ended", 60, pace=0.05)
    assert update_run(b, run.run_id).state is State.SUCCEEDED
    assert update_run(a, run.run_id).state is State.SUCCEEDED
    assert stage.store.get(f"{run.run_id}/{layout.MODEL}/weights") == b"attempt 2\n"


def test_a_program_that_lost_its_worker_and_its_guard_is_ended_by_the_next_look_after_another_machine_has_resumed(stage: Stage) -> None:
    a = stage.home("a")
    run = stage.start(a)
    worker = worker_of(a, run)
    program, everything = program_of(worker), [worker, *worker.children()]
    for process in everything:
        if process != program:
            process.suspend()  # so that none has time to react
    for process in everything:
        if process != program:
            process.kill()
    b = stage.home("b")
    adopt(b, run.run_directory)
    assert resume_at_once(b, run).attempt == 2
    wait_until(lambda: stage.is_running(run, 2), "attempt 2 runs", 60, pace=0.05)
    assert program.is_running()

    stage.home("a")
    assert update_run(a, run.run_id).attempt == 2
    wait_until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE, "the first program has ended", 60, pace=0.05)
    assert stage.is_running(run, 2)


def test_the_program_of_a_stalled_worker_is_ended_after_its_run_has_moved(stage: Stage) -> None:
    a = stage.home("a")
    run = stage.start(a)
    worker = worker_of(a, run)
    program = program_of(worker)
    suspend(worker, stage.folder / "store" / run.run_id)
    b = stage.home("b")
    adopt(b, run.run_directory)
    elsewhere = Elsewhere(store=str(stage.folder / "elsewhere"))
    there = overtake(b, run, elsewhere)
    assert (there.attempt, there.store) == (2, elsewhere.store)
    wait_until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE, "the first program has ended", 60, pace=0.05)
    worker.send_signal(signal.SIGCONT)
    wait_until(lambda: processes_of(a.folder) == [], "nothing of the first attempt is left", 60, pace=0.05)
    assert "superseded by attempt 2" in stage.worker_log(run, 1)
    assert update_run(a, run.run_id).message.startswith("moved to ")


def test_what_the_program_of_an_overtaken_attempt_still_writes_is_never_taken_for_the_next_ones(stage: Stage) -> None:
    a = stage.home("a")
    run = stage.start(a)
    worker = worker_of(a, run)
    program = program_of(worker)
    environment = program.environ()
    suspend(worker, stage.folder / "store" / run.run_id)
    for helper in worker.children():  # its guard too, so that nothing ends the program
        with suppress(psutil.NoSuchProcess):
            if helper != program:
                helper.suspend()
    b = stage.home("b")
    adopt(b, run.run_directory)
    assert overtake(b, run).attempt == 2
    wait_until(lambda: stage.is_running(run, 2), "attempt 2 runs", 60, pace=0.05)
    resumed = stage.status(run, 2)
    assert resumed is not None
    assert resumed.resumed_step is not None
    assert program.is_running()

    def save(step: int) -> Path:
        """As the first attempt's program does."""
        folder = Path(environment["CLOUD_TRAIN_CHECKPOINTS"], layout.step_folder(step))
        folder.mkdir(parents=True)
        (folder / "step").write_text(f"{step}\n")
        (folder / "attempt").write_text("1\n")
        return folder

    save(900_000)
    write_manifest(save(900_001), 900_001)  # by itself, without an attempt
    begun = max(stage.steps(run, 2), default=0)
    wait_until(lambda: max(stage.steps(run, 2), default=0) > begun + 3, "attempt 2 makes checkpoints", 60, pace=0.05)
    for step, made_by, sealed_for in stage.checkpoints(run):
        assert made_by == 2 or step <= resumed.resumed_step or step == 900_001, (step, made_by)
        assert sealed_for in (made_by, None)

    kill_everything(b.folder)
    resume_at_once(b, run)
    wait_until(lambda: stage.is_running(run, 3), "attempt 3 runs", 60, pace=0.05)
    third = stage.status(run, 3)
    assert third is not None
    assert third.origin == 2
    assert third.resumed_step is not None
    assert resumed.resumed_step < third.resumed_step < 900_000
    stage.finish()
    wait_until(lambda: update_run(b, run.run_id).state.is_end, "it has ended", 60, pace=0.05)
    assert update_run(b, run.run_id).state is State.SUCCEEDED
    last = fetch_model(b, run.run_id, stage.folder / "last", checkpoint="last")
    assert last.step is not None
    assert third.resumed_step <= last.step < 900_000
    wait_until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE, "the first program has ended", 60, pace=0.05)
    assert stage.store.get(f"{run.run_id}/{layout.MODEL}/weights") == b"attempt 3\n"
