"""The life of runs on the aws provider: the unmodified SDK, the simulator of SageMaker, moto, a registry, and the job's real containers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.errors import ProviderError
from cloud_train.orchestrator.console import url_of_run
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reading import read_metrics
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.results import fetch_model
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.submitting import submit
from cloud_train.providers.aws.provider import SageMakerProvider
from cloud_train.run import layout
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from tests.clouds import aws_platform, kit
from tests.clouds.aws_job import Timing
from tests.clouds.aws_platform import LOGIN
from tests.clouds.aws_simulator import AwsCloud, aws_cloud
from tests.clouds.faults import Fault
from tests.clouds.machine import Machines
from tests.conformance.bench import READY, Bench, saving
from tests.conformance.places import DOCKER
from tests.support import wait_until

SAVED = f'{saving(1)}; if [ -n "$CLOUD_TRAIN_RESUME" ]; then echo "from ${{CLOUD_TRAIN_RESUME##*/}}"; exit 0; fi; {READY}'
"""A first attempt saves a checkpoint and goes on with what follows; a second one ends well."""


@pytest.fixture(scope="module")
def cloud(shared_clouds: Path, small_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsCloud]:
    timing = Timing(interrupted=0.5)
    with (
        kit.registry(shared_clouds, tmp_path_factory.mktemp("registry") / "aws", LOGIN) as registry,
        Machines("sagemaker") as machines,
        aws_cloud(machines, registry.repository, timing=timing) as running,
    ):
        yield running


@pytest.fixture
def bench(cloud: AwsCloud, small_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Makes jobs for AWS, and ends what a test left running."""
    for name, value in {**cloud.environment, "CLOUD_TRAIN_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "code").mkdir()
    config = tmp_path / "aws.yaml"
    config.write_text(json.dumps({"provider": "aws", "aws": cloud.settings}))
    base = {"image": {"base": small_base}, "provider": "aws"}
    place = type("AwsPlace", (type(DOCKER),), {"name": "aws", "job": base})()
    cloud.server.requests.clear()
    made = Bench(place, Home(tmp_path / "home"), tmp_path, cloud.new_store(), config)
    yield made
    cloud.server.faults.clear()
    for run in update_runs(made.home):
        if not run.state.is_end:
            cancel(made.home, run.run_id)


def job_of(run: RunView) -> str:
    return f"{run.run_id}-1"


def test_a_run_from_its_submission_to_its_model(bench: Bench, cloud: AwsCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "a-canary-of-the-tests")
    point = json.dumps({"step": 1, "split": "train", "name": "loss", "value": 0.5})
    command = (
        f'echo \'{point}\' >> "$CLOUD_TRAIN_METRICS"; echo weights > "$CLOUD_TRAIN_MODEL/weights.txt";'
        ' echo "hello, ${#API_KEY} characters"'
    )
    run = bench.start(command, secrets=["API_KEY"])
    asked = [logged.operation for logged in cloud.server.requests]
    assert len(asked) <= 6, asked
    page = url_of_run(bench.home, run.run_id)
    assert page == f"https://us-east-1.console.aws.amazon.com/sagemaker/home?region=us-east-1#/jobs/{job_of(run)}"
    end = bench.end_of(run)
    assert (end.state, end.attempt) == (State.SUCCEEDED, 1), end
    assert bench.words(run) == ["hello, 21 characters"]
    assert [(point.step, point.key, point.value) for point in read_metrics(bench.home, run.run_id)] == [(1, "train/loss", 0.5)]
    fetch_model(bench.home, run.run_id, bench.folder / "model")
    assert (bench.folder / "model" / "weights.txt").read_text() == "weights\n"
    assert f"cloud-train/{job_of(run)}" not in cloud.secrets(), "it was taken away with the end"
    sent = [logged.request.body for logged in cloud.server.requests if logged.operation != "CreateSecret"]
    kept = [bench.store.get(info.key) for info in bench.store.list(run.run_id)]
    assert not [text for text in (*sent, *kept) if b"a-canary-of-the-tests" in text]


def test_a_program_is_not_root_and_can_write_where_sagemaker_lets_only_root(bench: Bench) -> None:
    folders = "/tmp /opt/ml/model /opt/ml/output $HOME $CLOUD_TRAIN_HOME"
    run = bench.run(
        f'id -u; id -G; for folder in {folders}; do touch "$folder/x" || exit 1; done; python3 -c "import tempfile; tempfile.mkstemp()"'
    )
    assert run.state is State.SUCCEEDED, run
    assert bench.words(run) == ["65532", "65532"]


def test_an_image_that_does_not_start_as_root_runs_on_the_containers_own_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SageMakerProvider, "capabilities", replace(SageMakerProvider.capabilities, starts_as_root=False))
    run = bench.run('touch /tmp/x 2>&1; for folder in "$HOME" "$TMPDIR" "$CLOUD_TRAIN_HOME"; do touch "$folder/y" && echo "$folder"; done')
    assert run.state is State.SUCCEEDED, run
    denied, *folders = bench.words(run)
    assert "Permission denied" in denied
    assert folders == ["/var/tmp/cloud-train", "/var/tmp/cloud-train/tmp", "/var/tmp/cloud-train"]


def test_a_worker_that_can_write_nowhere_says_so_and_does_not_blame_the_store(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SageMakerProvider, "capabilities", replace(SageMakerProvider.capabilities, starts_as_root=False))
    monkeypatch.setattr(aws_platform, "ROOTS_FOLDERS", (*aws_platform.ROOTS_FOLDERS, "/var/tmp/", "/workspace/"))
    end = bench.run("true")
    assert (end.state, end.cause) == (State.INTERRUPTED, Cause.INFRASTRUCTURE)
    assert "cannot write to any folder of its machine" in end.message
    assert "store" not in end.message


def test_a_cancelled_run_saves_its_last_checkpoint(bench: Bench, cloud: AwsCloud) -> None:
    run = bench.start_until_ready(f"trap '{saving(7)}; exit 0' TERM; {READY}; while true; do sleep 0.1; done")
    assert cancel(bench.home, run.run_id).state is State.CANCELLED
    assert _is_sealed(bench, run, 7)
    wait_until(lambda: cloud.simulator.job(job_of(run)).has_ended, "SageMaker has stopped the job")
    assert cloud.simulator.job(job_of(run)).snapshot()["SecondaryStatus"] == "Stopped"


def test_a_program_that_fails_has_its_cause_there_and_here(bench: Bench, cloud: AwsCloud) -> None:
    end = bench.run("echo oh no; exit 4")
    assert (end.state, end.cause) == (State.FAILED, Cause.FAILED)
    wait_until(lambda: cloud.simulator.job(job_of(end)).has_ended, "SageMaker knows it too")
    assert "exit code: 10" in cloud.simulator.job(job_of(end)).snapshot()["FailureReason"]


def test_an_image_that_cannot_be_pulled_ends_the_attempt_with_what_to_do(bench: Bench, cloud: AwsCloud) -> None:
    provider = SageMakerProvider(bench.home.folder)
    plan = replace(bench.plan("true"), image=f"{cloud.repository}@sha256:{'0' * 64}")
    handle = provider.launch(provider.render(plan), {})
    wait_until(lambda: provider.observe(handle).state.is_end, "the pull has failed")
    seen = provider.observe(handle)
    assert seen.cause is Cause.REJECTED
    assert "aws.repository" in seen.message


def test_a_machine_that_is_taken_back_is_followed_by_another_that_continues(bench: Bench, cloud: AwsCloud) -> None:
    run = bench.start_until_ready(f"{SAVED}; sleep 600", resources={"spot": True}, retry={"attempts": 3})
    wait_until(lambda: _is_sealed(bench, run, 1), "the checkpoint counts")
    cloud.simulator.interrupt(job_of(run))
    end = bench.end_of(run)
    assert (end.state, end.attempt, end.resumed_step) == (State.SUCCEEDED, 2, 1), end
    assert bench.words(run) == [f"from {layout.step_folder(1)}"]
    wait_until(lambda: len(cloud.simulator.job(job_of(run)).past) == 2, "the second machine of the one job has left too")
    assert cloud.server.count("CreateTrainingJob") == 1


def test_a_lost_answer_leaves_one_job_that_the_list_shows(bench: Bench, cloud: AwsCloud) -> None:
    cloud.server.faults.add("CreateTrainingJob", Fault.LOST_ANSWER)
    end = bench.run("true")
    assert end.state is State.SUCCEEDED
    assert cloud.simulator.jobs(end.run_id) == [job_of(end)]
    assert [run.run_id for run in update_runs(bench.home)] == [end.run_id]


def test_a_submission_that_never_heard_of_its_job_finds_it(bench: Bench, cloud: AwsCloud) -> None:
    cloud.server.faults.add("CreateTrainingJob", Fault.LOST_ANSWER)
    cloud.server.faults.add("DescribeTrainingJob", Fault.EXPIRED_TOKEN)
    with pytest.raises(ProviderError, match=r"it is unknown whether the training job .* was launched"):
        submit(bench.home, bench.plan("true"))
    [run] = update_runs(bench.home)
    assert bench.end_of(run).state is State.SUCCEEDED
    assert cloud.simulator.jobs(run.run_id) == [job_of(run)]


def test_a_container_finds_what_sagemaker_gives_it_and_its_words_are_in_the_log_service(
    bench: Bench, cloud: AwsCloud, small_base: str, shared_clouds: Path
) -> None:
    provider = SageMakerProvider(bench.home.folder)
    plan = replace(bench.plan("true"), image=f"{cloud.repository}@{kit.base_in_registry(shared_clouds, small_base)}")
    request = provider.render(plan)
    words = ["cd /opt/ml/input/config", "cat resourceconfig.json hyperparameters.json inputdataconfig.json", "echo", "env", "exit 9"]
    request["body"]["AlgorithmSpecification"] |= {"ContainerEntrypoint": ["/bin/sh", "-c"], "ContainerArguments": ["; ".join(words)]}
    handle = provider.launch(request, {})
    wait_until(lambda: provider.observe(handle).state.is_end, "the container has ended")
    assert "exit code: 9" in provider.observe(handle).message
    said, _ = provider.logs(handle, None)
    config, *variables = said.decode().splitlines()
    assert '"current_host": "algo-1"' in config
    assert {f"TRAINING_JOB_NAME={plan.run_id}-1", "AWS_REGION=us-east-1", "CLOUD_TRAIN_HOME=/tmp/cloud-train"} <= set(variables)


def test_a_power_cut_is_nobodys_fault(bench: Bench, cloud: AwsCloud) -> None:
    run = bench.start_until_ready(f"{READY}; sleep 600")
    cloud.simulator.lose(job_of(run))
    end = bench.end_of(run)
    assert (end.state, end.cause) == (State.INTERRUPTED, Cause.INFRASTRUCTURE)
    assert cloud.leftovers(run.run_id) == []


def test_several_nodes_know_each_other(bench: Bench) -> None:
    command = 'echo "node $CLOUD_TRAIN_NODE_RANK of $CLOUD_TRAIN_NODES, node 0 is $MASTER_ADDR"'
    end = bench.run(command, resources={"nodes": 2})
    assert end.state is State.SUCCEEDED, end
    assert bench.words(end) == ["node 0 of 2, node 0 is algo-1"]
    assert update_run(bench.home, end.run_id).state is State.SUCCEEDED


def _is_sealed(bench: Bench, run: RunView, step: int) -> bool:
    return any(info.key == bench.checkpoint(run, step, layout.MANIFEST) for info in bench.store.list(f"{run.run_id}/{layout.CHECKPOINTS}"))
