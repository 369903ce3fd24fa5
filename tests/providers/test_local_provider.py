"""The local provider: rendering, launching once, and finding what was launched."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.environment import QUIET_THREADS
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.providers.base import AlreadyLaunchedError
from cloud_train.providers.local import LocalProvider
from cloud_train.run import layout
from cloud_train.run.plan import Plan
from cloud_train.run.record import RunRecord, sha256_of
from cloud_train.run.states import State
from cloud_train.storage.local import LocalStore
from tests.support import wait_until


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    job = tmp_path / "job.yaml"
    job.write_text("name: test\nmodel: {kind: script, command: 'read line < fifo'}\nstore: runs\n")
    os.mkfifo(tmp_path / "fifo")
    plan = make_plan(Home(tmp_path / "home"), job)
    record = RunRecord(plan.run_id, 1.0, plan.job.model_dump(mode="json"), plan.program, plan.facts(), {})
    LocalStore(Path(plan.store)).create(f"{plan.run_id}/{layout.RUN}", record.to_json())
    return replace(plan, record_sha256=sha256_of(record.to_json()))


def release(tmp_path: Path) -> None:
    (tmp_path / "fifo").write_text("go\n")


def test_a_request_is_plain_data_and_holds_no_secret(plan: Plan, tmp_path: Path) -> None:
    request = LocalProvider(tmp_path / "home").render(plan)
    assert json.loads(json.dumps(request)) == request
    assert request["command"] == [
        *(sys.executable, "-m", "cloud_train.worker"),
        *("--store", plan.store, "--run", plan.run_id, "--attempt", "1", "--record", plan.record_sha256),
    ]


def test_the_config_names_the_python(plan: Plan, tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path / "home")
    assert provider.interpreter({"python": "/opt/python"}) == "/opt/python"
    assert provider.check({"command": ["/opt/no/python"]}) == ["local.python: there is no file /opt/no/python"]
    assert provider.check(provider.render(plan)) == []


def test_an_attempt_is_launched_once_and_found_again(plan: Plan, tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path / "home")
    assert provider.find(plan.run_id, 1, plan.store, {}) is None
    handle = provider.launch(provider.render(plan), {})
    with pytest.raises(AlreadyLaunchedError):
        provider.launch(provider.render(plan), {})
    found = provider.find(plan.run_id, 1, plan.store, {})
    assert found is not None
    assert provider.observe(found).state is State.RUNNING
    release(tmp_path)
    wait_until(lambda: provider.observe(handle).state.is_end, "the worker has gone")
    assert provider.find(plan.run_id, 1, plan.store, {}) is not None


def test_a_worker_for_an_attempt_that_ended_changes_nothing(plan: Plan, tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path / "home")
    handle = provider.launch(provider.render(plan), {})
    release(tmp_path)
    wait_until(lambda: provider.observe(handle).state.is_end, "the worker has gone")
    status = Path(plan.store, plan.run_id, layout.status(1))
    before = status.read_bytes()
    handle = provider.launch(provider.render(plan), {})
    wait_until(lambda: provider.observe(handle).state.is_end, "the second worker has gone")
    assert status.read_bytes() == before


def test_what_a_worker_says_before_it_can_keep_a_log_is_kept(plan: Plan, tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path / "home")
    request = provider.render(plan)
    request["command"] = [sys.executable, "-c", "raise SystemExit('no module named cloud_train')"]
    handle = provider.launch(request, {})
    wait_until(lambda: provider.observe(handle).state.is_end, "it has gone")
    assert "no module named cloud_train" in provider.observe(handle).message
    said, cursor = provider.logs(handle, None)
    assert b"no module named cloud_train" in said
    assert provider.logs(handle, cursor)[0] == b""


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": QUIET_THREADS["GOMP_SPINCOUNT"]}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_the_threads_of_a_run_leave_the_cores_to_others_unless_the_user_says_how_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    job = tmp_path / "job.yaml"
    job.write_text("name: test\nmodel: {kind: script, command: 'env > seen'}\nstore: runs\n")
    plan = make_plan(Home(tmp_path / "home"), job)
    record = RunRecord(plan.run_id, 1.0, plan.job.model_dump(mode="json"), plan.program, plan.facts(), {})
    LocalStore(Path(plan.store)).create(f"{plan.run_id}/{layout.RUN}", record.to_json())
    provider = LocalProvider(tmp_path / "home")
    handle = provider.launch(provider.render(replace(plan, record_sha256=sha256_of(record.to_json()))), {})
    wait_until(lambda: provider.observe(handle).state.is_end, "the worker has gone")
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "seen").read_text().splitlines())
    assert {name: seen[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in seen} == expected
