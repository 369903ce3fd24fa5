"""Runs on the simulated Azure, from a job file to their end: real containers, through the functions that the command line uses."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_train.orchestrator.following import follow
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.submitting import submit
from cloud_train.providers.registry import load_provider
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.registry import open_store
from tests.clouds.azure_cloud import AzureCloud, azure_cloud
from tests.clouds.azure_jobs import START
from tests.clouds.azure_simulator import CLUSTER, VM
from tests.clouds.faults import Fault
from tests.support import wait_until

SAVE = 'd="$CLOUD_TRAIN_CHECKPOINTS/.step-{0}.tmp"; mkdir "$d"; echo {0} > "$d/weights"; mv "$d" "$CLOUD_TRAIN_CHECKPOINTS/step-{0:08d}"'
"""Shell that saves a checkpoint of a step."""
SECONDS = 120.0


@pytest.fixture
def cloud(shared_clouds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureCloud]:
    with azure_cloud(shared_clouds, tmp_path / "cloud") as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@dataclass
class Desk:
    """What somebody has who submits jobs to the cloud: a folder, a config file, a home."""

    cloud: AzureCloud
    folder: Path
    home: Home
    base: str
    store: str

    def submit(self, command: str, settings: dict[str, Any] | None = None, **job: Any) -> RunView:
        (self.folder / "code").mkdir(exist_ok=True)
        (self.folder / "code" / "readme.txt").write_text("the user's code\n")
        config = self.folder / "azure.yaml"
        chosen = {name: value for name, value in {**self.cloud.settings, **(settings or {})}.items() if value is not None}
        config.write_text(json.dumps({"provider": "azure", "azure": chosen}))
        model = {"kind": "script", "command": command, "directory": "code"}
        fields = {"name": "life", "model": model, "store": self.store, "image": {"base": self.base}, **job}
        file = self.folder / "job.yaml"
        file.write_text(json.dumps(fields))
        return submit(self.home, make_plan(self.home, file, config=str(config)))

    def end_of(self, run: RunView) -> RunView:
        return list(follow(self.home, run.run_id))[-1].view

    def output(self, run: RunView, attempt: int | None = None) -> str:
        return b"".join(read_logs(self.home, run.run_id, attempt)).decode()

    def wait_for(self, run: RunView, text: str) -> None:
        def printed() -> bool:
            found = text in self.output(run)
            seen = update_run(self.home, run.run_id)
            assert found or not seen.state.is_end, f"{seen}\n{self.cloud.simulator.jobs}\n{self.platform_log(run)}"
            return found

        wait_until(printed, f"{run.run_id} has printed {text!r}", SECONDS)

    def has_checkpoint(self, run: RunView, step: int) -> bool:
        return any(f"step-{step:08d}/manifest.json" in info.key for info in open_store(self.store).list(run.run_id))

    def platform_log(self, run: RunView) -> str:
        return "\n".join(f"{name}: {text.decode()}" for name, text in self.cloud.simulator.jobs[f"{run.run_id}-1"].printed().items())


@pytest.fixture
def desk(cloud: AzureCloud, tmp_path: Path, small_base: str) -> Desk:
    return Desk(cloud, tmp_path, Home(tmp_path / "home"), small_base, cloud.new_store())


def test_a_run_trains_logs_and_ends_well_with_its_secrets(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "canary-1234")
    report = """python3 -c "import os; print('token', len(os.environ['TOKEN']), os.environ['AZUREML_RUN_ID'])" """
    run = desk.submit(f"{report} && {SAVE.format(3)}", secrets=["TOKEN"])
    ended = desk.end_of(run)
    assert ended.cause is Cause.SUCCEEDED, desk.platform_log(run)
    assert f"token 11 {run.run_id}-1" in desk.output(run)
    assert "canary-1234" not in desk.platform_log(run)
    job = desk.cloud.simulator.jobs[f"{run.run_id}-1"]
    wait_until(lambda: job.status == "Completed", "Azure ML has heard of the end", SECONDS)
    assert "canary-1234" not in json.dumps(job.properties)


def test_a_cluster_s_own_identity_reads_the_job_s_secrets_without_a_setting(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "canary-1234")
    settings = {"compute": CLUSTER, "identity": None}
    run = desk.submit("""python3 -c "import os; print('token', len(os.environ['TOKEN']))" """, settings, secrets=["TOKEN"])
    ended = desk.end_of(run)
    assert ended.cause is Cause.SUCCEEDED, desk.platform_log(run)
    assert "token 11" in desk.output(run)


def test_a_cancelled_run_keeps_its_last_checkpoint(desk: Desk) -> None:
    run = desk.submit(f"trap '{SAVE.format(7)}; exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    desk.wait_for(run, "ready")
    ended = cancel(desk.home, run.run_id)
    assert ended.cause is Cause.CANCELLED
    assert desk.has_checkpoint(run, 7)


def test_what_was_preempted_goes_on_by_itself_as_the_next_attempt(desk: Desk) -> None:
    resumed = 'if [ -n "$CLOUD_TRAIN_RESUME" ]; then echo resumed from $(cat "$CLOUD_TRAIN_RESUME/weights"); exit 0; fi'
    run = desk.submit(f"{resumed}; {SAVE.format(5)}; sleep 600", resources={"spot": True}, retry={"attempts": 2})
    wait_until(lambda: desk.has_checkpoint(run, 5), "the checkpoint is in the store", SECONDS)
    desk.cloud.simulator.preempt(f"{run.run_id}-1")
    ended = desk.end_of(run)
    assert (ended.attempt, ended.cause) == (2, Cause.SUCCEEDED), desk.platform_log(run)
    assert "resumed from 5" in desk.output(run, 2)
    assert desk.cloud.simulator.jobs[f"{run.run_id}-1"].starts == 2
    assert len(desk.cloud.simulator.jobs) == 1


def test_what_is_announced_saves_a_last_checkpoint_before_the_machine_is_gone(desk: Desk) -> None:
    simulator = desk.cloud.simulator
    resumed = 'if [ -n "$CLOUD_TRAIN_RESUME" ]; then echo resumed from $(cat "$CLOUD_TRAIN_RESUME/weights"); exit 0; fi'
    saving = f"trap '{SAVE.format(9)}; exit 143' TERM; echo ready; while :; do sleep 0.1; done"
    run = desk.submit(f"{resumed}; {saving}", resources={"spot": True}, retry={"attempts": 2})
    desk.wait_for(run, "ready")
    simulator.events = [{"EventType": "Preempt", "Resources": [VM], "NotBefore": "Mon, 30 Nov 2026 18:29:47 GMT"}]
    wait_until(lambda: desk.has_checkpoint(run, 9), "the last checkpoint is in the store", SECONDS)
    simulator.events = []
    simulator.preempt(f"{run.run_id}-1")
    ended = desk.end_of(run)
    assert (ended.attempt, ended.cause) == (2, Cause.SUCCEEDED), desk.platform_log(run)
    assert "resumed from 9" in desk.output(run, 2)
    assert simulator.jobs[f"{run.run_id}-1"].starts == 2


def test_several_nodes_know_their_places(desk: Desk) -> None:
    run = desk.submit('echo "node $CLOUD_TRAIN_NODE_RANK of $CLOUD_TRAIN_NODES at $MASTER_ADDR"', resources={"nodes": 2})
    ended = desk.end_of(run)
    assert ended.cause is Cause.SUCCEEDED, desk.platform_log(run)
    assert "node 0 of 2" in desk.output(run)
    assert len(desk.cloud.simulator.jobs[f"{run.run_id}-1"].machines) == 2


def test_a_lost_answer_leaves_exactly_one_job_that_fails_with_its_cause(desk: Desk) -> None:
    desk.cloud.simulator.faults.add("jobs/write", Fault.LOST_ANSWER)
    run = desk.submit("echo broken >&2; exit 5")
    ended = desk.end_of(run)
    assert len(desk.cloud.simulator.jobs) == 1
    assert (ended.state, ended.cause) == (State.FAILED, Cause.FAILED)
    assert "broken" in desk.output(run)


def test_a_run_waits_for_capacity(desk: Desk) -> None:
    simulator = desk.cloud.simulator
    simulator.pace.capacity = 3600
    simulator.faults.add(START, Fault.NO_CAPACITY)
    run = desk.submit("true")
    assert run.state is State.QUEUED
    waiting = load_provider("azure", desk.home.folder).find(run.run_id, 1, desk.store, desk.cloud.settings)
    assert waiting is not None
    assert "waiting for machines" in load_provider("azure", desk.home.folder).observe(waiting).message
    simulator.pace.capacity = 0
    assert desk.end_of(run).cause is Cause.SUCCEEDED


def test_an_image_that_the_machines_cannot_pull_ends_the_run_with_a_reason(desk: Desk) -> None:
    simulator = desk.cloud.simulator
    simulator.pace.queued = 3600
    run = desk.submit("true")
    assert run.state is State.QUEUED
    for environment in simulator.environments.values():
        environment["properties"]["image"] = f"{desk.cloud.registry.repository}@sha256:{'0' * 64}"  # somebody deleted it meanwhile
    simulator.pace.queued = 0
    ended = desk.end_of(run)
    assert ended.cause is Cause.REJECTED
    assert "FailedPullingImage" in ended.message
