"""The weights that a run begins with, brought by real workers: verified in every attempt without a checkpoint, or no program starts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_train.run import layout
from cloud_train.run.record import Program, RunRecord
from cloud_train.run.starting_point import DESCRIPTION, WEIGHTS, StartFile, StartingPoint
from cloud_train.run.states import Cause, State
from cloud_train.storage.base import Store
from cloud_train.worker import contract
from tests.stores import SCHEMES, server_or_skip, use
from tests.web_server import FileServer, serving, sha256
from tests.worker.in_store import Machine
from tests.worker.launching import RUN_ID, Launched

CONTENT = b"some weights" * 1000
DESCRIBED = b'{"format": 2}'
SHOW = f'if [ -n "${contract.START_FROM}" ]; then sha256sum < "${contract.START_FROM}"; else echo none; fi'


def plan_of(**files: StartFile) -> dict[str, Any]:
    return {"start": StartingPoint("tuned-261123-120000-wxyz", files).to_dict()}


COPIED = {WEIGHTS: StartFile("/models/model.safetensors", sha256(CONTENT), len(CONTENT))}
DESCRIPTIONS = {DESCRIPTION: StartFile("/models/model.json", sha256(DESCRIBED), len(DESCRIBED))}


def write(launched: Launched, plan: dict[str, Any], content: bytes | None = CONTENT) -> None:
    program = Program(("/bin/sh", "-c", SHOW), str(launched.work), grace_seconds=20)
    folder = launched.directory / layout.START_FROM
    folder.mkdir(parents=True)
    (launched.directory / layout.RUN).write_bytes(RunRecord(RUN_ID, 0.0, {}, program, plan, {}).to_json())
    if content is not None:
        (folder / WEIGHTS).write_bytes(content)


def test_the_program_gets_the_weights_of_the_run_directory(launched: Launched) -> None:
    write(launched, plan_of(**COPIED))
    assert launched.run().cause is Cause.SUCCEEDED
    assert launched.output() == f"{sha256(CONTENT)}  -\n".encode()
    assert f"starting from the weights of tuned-261123-120000-wxyz, SHA-256 {sha256(CONTENT)}" in launched.worker_log()


@pytest.mark.parametrize("content", [None, b"other", CONTENT[:-1] + b"?"])
def test_weights_that_are_not_those_of_the_plan_end_the_run_before_its_program_starts(launched: Launched, content: bytes | None) -> None:
    write(launched, plan_of(**COPIED), content)
    status = launched.run()
    assert (status.cause, launched.output()) == (Cause.FAILED, b"")
    assert (
        "a copy of /models/model.safetensors, is missing or was changed after the run was submitted (submit the job again)"
        in status.message
    )


def test_the_description_of_the_model_is_verified_too(launched: Launched) -> None:
    write(launched, plan_of(**COPIED, **DESCRIPTIONS))
    (launched.directory / layout.START_FROM / DESCRIPTION).write_bytes(DESCRIBED + b" ")
    status = launched.run()
    assert (status.cause, launched.output()) == (Cause.FAILED, b"")
    assert "a copy of /models/model.json, is missing or was changed" in status.message


def test_an_attempt_with_a_checkpoint_needs_no_weights(launched: Launched) -> None:
    write(launched, plan_of(**COPIED))
    saves = 'mkdir "$CLOUD_TRAIN_CHECKPOINTS/.new"; echo 1 > "$CLOUD_TRAIN_CHECKPOINTS/.new/state"'
    program = Program(
        ("/bin/sh", "-c", f'{SHOW}; {saves}; mv "$CLOUD_TRAIN_CHECKPOINTS/.new" "$CLOUD_TRAIN_CHECKPOINTS/step-1"; exit 7'), "/"
    )
    (launched.directory / layout.RUN).write_bytes(RunRecord(RUN_ID, 0.0, {}, program, plan_of(**COPIED), {}).to_json())
    assert launched.run().cause is Cause.FAILED
    (launched.directory / layout.START_FROM / WEIGHTS).unlink()
    launched.run(attempt=2)
    assert launched.status(2).resumed_step == 1
    assert launched.output(2) == b"none\n"


@pytest.mark.parametrize("wrong", [{}, {"source": "x", "files": {}}, {"source": "x", "files": {WEIGHTS: {"url": "/x", "sha256": "x"}}}])
def test_a_record_with_another_form_starts_nothing(launched: Launched, wrong: dict[str, Any]) -> None:
    write(launched, {"start": wrong})
    launched.start().wait(60)
    assert launched.output() == b""


# On a web server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "*")
    with serving(**{"resnet.pth": CONTENT}) as server:
        yield server


def test_weights_on_a_web_server_are_downloaded_once_and_verified(server: FileServer, launched: Launched) -> None:
    write(launched, plan_of(**{WEIGHTS: StartFile(f"{server.url}/resnet.pth", sha256(CONTENT))}), None)
    assert launched.run().cause is Cause.SUCCEEDED
    assert launched.output() == f"{sha256(CONTENT)}  -\n".encode()
    asked = len(server.requests)
    assert launched.run(attempt=2).cause is Cause.SUCCEEDED
    assert len(server.requests) == asked


def test_a_wrong_checksum_of_a_download_is_the_jobs_fault(server: FileServer, launched: Launched) -> None:
    write(launched, plan_of(**{WEIGHTS: StartFile(f"{server.url}/resnet.pth", sha256(b"other"))}), None)
    status = launched.run()
    assert (status.cause, launched.output()) == (Cause.FAILED, b"")
    assert "SHA-256" in status.message


# In a store


def put(store: Store, plan: dict[str, Any], folder: Path, content: bytes | None) -> None:
    program = Program(("/bin/sh", "-c", SHOW), str(folder), grace_seconds=20)
    store.put(f"{RUN_ID}/{layout.RUN}", RunRecord(RUN_ID, 0.0, {}, program, plan, {}).to_json())
    if content is not None:
        store.put(f"{RUN_ID}/{layout.START_FROM}/{WEIGHTS}", content)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_weights_of_a_run_in_a_store_are_downloaded_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    server = server_or_skip(scheme)
    use(server, monkeypatch)
    machine = Machine(tmp_path / "machine", f"{server.new_url()}/runs")
    try:
        put(machine.store, plan_of(**COPIED), machine.folder, CONTENT)
        assert machine.run() == 0
        assert machine.output() == f"{sha256(CONTENT)}  -\n".encode()
        assert machine.store.get(f"{RUN_ID}/{layout.START_FROM}/{WEIGHTS}") == CONTENT
        assert not machine.workspace.exists()
    finally:
        machine.end()


@pytest.mark.parametrize("content", [None, b"other"])
def test_wrong_weights_in_a_store_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    machine = Machine(tmp_path / "machine", f"{server.new_url()}/runs")
    try:
        put(machine.store, plan_of(**COPIED), machine.folder, content)
        machine.run()
        status = machine.status()
        assert (status.state, status.cause) == (State.FAILED, Cause.FAILED)
        assert ("missing" if content is None else "mismatch") in status.message
    finally:
        machine.end()
