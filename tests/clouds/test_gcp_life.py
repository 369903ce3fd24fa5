"""Runs on the simulated Google Cloud from a job file to their end: real containers, through the functions that the command line uses."""

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
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.submitting import submit
from cloud_train.providers.base import Handle
from cloud_train.providers.registry import load_provider
from cloud_train.run import layout
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.registry import open_store
from tests.clouds.faults import Fault
from tests.clouds.gcp_simulator import GcpCloud, gcp_cloud
from tests.support import wait_until

SECONDS = 120.0
SECRET = "sesame-open-4711"


def saving(step: int) -> str:
    """Shell that saves a checkpoint of a step."""
    half = f'"$CLOUD_TRAIN_CHECKPOINTS/.step-{step}.tmp"'
    return f'mkdir {half}; echo {step} > {half}/weights; mv {half} "$CLOUD_TRAIN_CHECKPOINTS/{layout.step_folder(step)}"'


@dataclass
class Desk:
    """What somebody has who submits jobs: a folder, a home, a store, and the cloud."""

    cloud: GcpCloud
    folder: Path
    base: str
    store: str

    @property
    def home(self) -> Home:
        return Home(self.folder / "home")

    def submit(self, command: str, settings: dict[str, Any] | None = None, **job: Any) -> RunView:
        code = self.folder / "code"
        code.mkdir(exist_ok=True)
        code.joinpath("readme.txt").write_text("the user's code\n")
        config = self.folder / "gcp.yaml"
        config.write_text(json.dumps({"provider": "gcp", "gcp": {**self.cloud.settings, **(settings or {})}}))
        file = self.folder / "job.yaml"
        model = {"kind": "script", "command": command, "directory": "code"}
        file.write_text(json.dumps({"name": "life", "model": model, "store": self.store, "image": {"base": self.base}, **job}))
        return submit(self.home, make_plan(self.home, file, config=str(config)))

    def end_of(self, run: RunView) -> RunView:
        return list(follow(self.home, run.run_id))[-1].view

    def output(self, run: RunView, attempt: int | None = None) -> list[str]:
        return b"".join(read_logs(self.home, run.run_id, attempt)).decode().splitlines()

    def wait_for(self, run: RunView, line: str) -> None:
        """Until the newest attempt's program has printed ``line``; fails at once if the run ends without."""

        def printed() -> bool:
            seen = update_run(self.home, run.run_id)
            found = line in self.output(run)
            assert found or not seen.state.is_end, f"{seen}: {self.platform_log(run)}"
            return found

        wait_until(printed, f"{run.run_id} has printed {line!r}", SECONDS)

    def handle(self, run: RunView) -> Handle:
        found = load_provider("gcp", self.home.folder).find(run.run_id, 1, self.store, self.cloud.settings)
        assert found is not None
        return found

    def platform_log(self, run: RunView) -> str:
        return load_provider("gcp", self.home.folder).logs(self.handle(run), None)[0].decode()


@pytest.fixture
def desk(shared_clouds: Path, small_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with gcp_cloud(shared_clouds, tmp_path / "cloud") as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield Desk(cloud, tmp_path, small_base, cloud.new_store())


def test_a_run_goes_from_its_file_to_its_model(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    script = (
        'cat readme.txt; echo "secret ${#MY_TOKEN}"; echo "job $CLOUD_ML_JOB_ID";'
        'echo \'{"step": 1, "name": "loss", "split": "train", "value": 0.5}\' >> "$CLOUD_TRAIN_METRICS";'
        'echo w > "$CLOUD_TRAIN_MODEL/weights"'
    )
    run = desk.submit(script, secrets=["MY_TOKEN"])
    before = desk.cloud.google.count("customJobs.create"), desk.cloud.google.count("customJobs.list")
    assert before == (1, 2), "no more was asked than a launch needs"
    ended = desk.end_of(run)
    assert (ended.state, ended.cause) == (State.SUCCEEDED, Cause.SUCCEEDED), desk.platform_log(run)
    [job] = desk.cloud.google.jobs_of(run.run_id)
    assert desk.output(run) == ["the user's code", "secret 16", f"job {job.identifier}"]
    store = open_store(desk.store)
    assert store.get(f"{run.run_id}/model/weights") == b"w\n"
    assert any(b'"loss"' in store.get(info.key) for info in store.list(f"{run.run_id}/attempts/1/metrics"))
    wait_until(lambda: job.is_over, "Vertex AI has seen the end too")
    load_provider("gcp", desk.home.folder).clean_up(desk.handle(run))
    assert desk.cloud.google.secrets.names() == []
    assert not any(SECRET.encode() in store.get(info.key) for info in store.list(run.run_id) if "checkpoints" not in info.key)


def test_a_run_that_is_cancelled_saves_a_last_checkpoint(desk: Desk) -> None:
    run = desk.submit(f"trap '{saving(7)}; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    desk.wait_for(run, "ready")
    cancel(desk.home, run.run_id)
    ended = desk.end_of(run)
    assert ended.cause is Cause.CANCELLED
    store = open_store(desk.store)
    assert store.get(f"{run.run_id}/{layout.CHECKPOINTS}/{layout.step_folder(7)}/weights") == b"7\n"
    [job] = desk.cloud.google.jobs_of(run.run_id)
    wait_until(lambda: job.is_over, "the job has ended as well")


def test_a_program_that_fails_tells_its_cause_and_is_not_restarted(desk: Desk) -> None:
    run = desk.submit("echo no luck >&2; exit 4")
    ended = desk.end_of(run)
    assert (ended.state, ended.cause) == (State.FAILED, Cause.FAILED)
    assert desk.output(run) == ["no luck"]
    [job] = desk.cloud.google.jobs_of(run.run_id)
    wait_until(lambda: job.is_over, "Vertex AI has seen the end too")
    assert (job.state, job.error) == ("JOB_STATE_SUCCEEDED", None), "Vertex AI restarts what exits with another status than 0"
    assert "non-zero" not in desk.platform_log(run)
    assert update_run(desk.home, run.run_id).cause is Cause.FAILED


def test_an_interrupted_spot_run_goes_on_from_its_checkpoint_in_the_same_job(desk: Desk) -> None:
    script = (
        'if [ -n "$CLOUD_TRAIN_RESUME" ]; then cat "$CLOUD_TRAIN_RESUME/weights"; exit 0; fi;'
        f"{saving(3)}; echo saved; while :; do sleep 0.05; done"
    )
    run = desk.submit(script, resources={"spot": True}, retry={"attempts": 2})
    desk.wait_for(run, "saved")
    manifest = f"{run.run_id}/{layout.CHECKPOINTS}/{layout.step_folder(3)}/manifest.json"
    wait_until(lambda: any(info.key == manifest for info in open_store(desk.store).list(manifest)), "the checkpoint is shipped", SECONDS)
    desk.cloud.google.preempt(run.run_id)
    ended = desk.end_of(run)
    assert (ended.cause, ended.attempt, ended.resumed_step) == (Cause.SUCCEEDED, 2, 3), desk.platform_log(run)
    assert desk.output(run) == ["3"]
    assert len(desk.cloud.google.jobs_of(run.run_id)) == 1


def test_a_preemption_that_is_announced_saves_a_last_checkpoint_first(desk: Desk) -> None:
    script = (
        f"if [ -n \"$CLOUD_TRAIN_RESUME\" ]; then echo resumed; exit 0; fi; trap '{saving(9)}; exit 143' TERM;"
        " echo ready; while :; do sleep 0.1; done"
    )
    run = desk.submit(script, resources={"spot": True}, retry={"attempts": 2})
    desk.wait_for(run, "ready")
    desk.cloud.google.accounts.announces_preemption = True
    manifest = f"{run.run_id}/{layout.CHECKPOINTS}/{layout.step_folder(9)}/manifest.json"
    wait_until(
        lambda: any(info.key == manifest for info in open_store(desk.store).list(manifest)), "the checkpoint is in the store", SECONDS
    )
    desk.cloud.google.accounts.announces_preemption = False
    desk.cloud.google.preempt(run.run_id)
    ended = desk.end_of(run)
    assert (ended.attempt, ended.cause) == (2, Cause.SUCCEEDED), desk.platform_log(run)
    assert desk.output(run, 2) == ["resumed"]


def test_two_nodes_find_each_other(desk: Desk) -> None:
    run = desk.submit('echo "node $CLOUD_TRAIN_NODE_RANK of $CLOUD_TRAIN_NODES"', resources={"nodes": 2})
    assert desk.end_of(run).cause is Cause.SUCCEEDED, desk.platform_log(run)
    assert len(desk.cloud.google.jobs_of(run.run_id)) == 1


def test_a_submission_whose_answer_was_lost_is_one_job(desk: Desk) -> None:
    desk.cloud.google.faults.add("customJobs.create", Fault.LOST_ANSWER)
    run = desk.submit("echo once")
    assert desk.end_of(run).cause is Cause.SUCCEEDED
    assert desk.output(run) == ["once"]
    assert len(desk.cloud.google.jobs) == 1
    assert [each.run_id for each in update_runs(desk.home)] == [run.run_id]


def test_what_happens_before_the_worker_is_read_from_cloud_logging(desk: Desk) -> None:
    desk.cloud.google.machine_environment["PYTHONHOME"] = "/nowhere"  # the image's Python does not get as far as the worker
    run = desk.submit("true")
    ended = desk.end_of(run)
    assert ended.cause is Cause.FAILED
    assert "the worker ended before it could report why" in ended.message
    assert "Fatal Python error" in desk.platform_log(run)


def test_an_image_that_cannot_be_pulled_is_named_as_the_cause(desk: Desk) -> None:
    desk.cloud.google.lost_images.add("jobs@sha256:")
    run = desk.submit("true")
    ended = desk.end_of(run)
    assert ended.cause is Cause.REJECTED
    assert "the machines cannot pull the image: check that it is in gcp.repository" in ended.message
