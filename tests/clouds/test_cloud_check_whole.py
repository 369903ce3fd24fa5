"""cloud-check as a whole, on each simulated cloud: real SDKs, a real registry, a store, and the jobs' real containers."""

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud_train.storage.registry import open_store
from tests.clouds import aws_job, evidence, kit
from tests.clouds.aws_job import Timing, TrainingJob
from tests.clouds.aws_platform import ACCOUNT, LOGIN
from tests.clouds.aws_simulator import AwsCloud, aws_cloud
from tests.clouds.azure_cloud import azure_cloud
from tests.clouds.check_desk import CheckDesk, Checked
from tests.clouds.gcp_simulator import gcp_cloud
from tests.clouds.machine import Machines
from tests.clouds.server import Server
from tests.support import wait_until
from tools.cloud_check.answers import read_back
from tools.cloud_check.checks.catalogue import NAMES

ALL = ("--yes", "--costly", "--spot-seconds", "1")
NO_GPU = ["a job that asks for 1 × T4 succeeds"]
"""The simulated machines have none."""


@pytest.fixture(scope="module")
def aws(shared_clouds: Path, small_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsCloud]:
    with (
        kit.registry(shared_clouds, tmp_path_factory.mktemp("registry") / "aws", LOGIN) as registry,
        Machines("sagemaker") as machines,
        aws_cloud(machines, registry.repository, timing=Timing(interrupted=0.5)) as running,
    ):
        yield running


@pytest.fixture
def desk(aws: AwsCloud, small_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckDesk:
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    return CheckDesk.made(tmp_path, "aws", {**aws.settings, "base": small_base}, aws.new_store(), aws.environment)


def test_on_aws_every_check_is_carried_out_and_nothing_is_left(aws: AwsCloud, desk: CheckDesk) -> None:
    process = desk.start("--yes", "--costly", "--spot-seconds", "60")
    with ThreadPoolExecutor(1) as watching:
        ended = watching.submit(process.communicate)
        wait_until(lambda: ended.done() or _has_spot_checkpoint(aws, desk), "the spot job has a checkpoint", 90, 0.2)
        for name in _spot_jobs(aws):
            aws.simulator.interrupt(name)
        printed, told = ended.result()
    checked = Checked(process.returncode, printed, told, desk.session)
    _judge(checked, {"accelerator": NO_GPU})
    assert "after a preemption the job continues on another machine, from its checkpoint" in checked.facts("spot", "holds")
    assert list(open_store(desk.store).list()) == []
    assert not [name for name in aws.simulator.jobs("cloud-check") if not aws.simulator.job(name).has_ended]
    assert aws.secrets() == {}
    assert LOGIN["AWS"].encode() not in checked.everything()
    _holds_no_planted_secret(checked, aws.server)


def test_on_google_cloud_every_check_is_carried_out_and_nothing_is_left(
    shared_clouds: Path, small_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gcp_cloud(shared_clouds, tmp_path / "gcp") as gcp:
        for name, value in gcp.environment.items():
            monkeypatch.setenv(name, value)
        desk = CheckDesk.made(tmp_path, "gcp", {**gcp.settings, "base": small_base}, gcp.new_store(), gcp.environment)
        checked = desk.run(*ALL)
        _judge(checked, {"accelerator": NO_GPU})
        assert list(open_store(desk.store).list()) == []
        assert gcp.google.secrets.names() == []
        assert all(job.is_over for job in gcp.google.jobs.values())
        _holds_no_token(checked, gcp.google.server)


def test_on_azure_every_check_is_carried_out_and_nothing_is_left(
    shared_clouds: Path, small_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with azure_cloud(shared_clouds, tmp_path / "azure") as azure:
        for name, value in azure.environment.items():
            monkeypatch.setenv(name, value)
        desk = CheckDesk.made(tmp_path, "azure", {**azure.settings, "base": small_base}, azure.new_store(), azure.environment)
        checked = desk.run(*ALL)
        # The registry of the tests exchanges no tokens, which doctor tries.
        _judge(checked, {"accelerator": NO_GPU, "permissions": ["doctor finds nothing wrong: azure registry"]})
        assert list(open_store(desk.store).list()) == []
        assert azure.simulator.keys.secrets == {}
        _holds_no_token(checked, azure.simulator.server)
        _holds_no_planted_secret(checked, azure.simulator.server)


def test_a_service_that_behaves_otherwise_is_a_difference_in_the_report(
    aws: AwsCloud, desk: CheckDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_job, "_reason", lambda machine: "AlgorithmError: the container has ended")  # without its exit status
    monkeypatch.setattr(TrainingJob, "stop", lambda job: job.discard() or True)  # SIGKILL without SIGTERM
    checked = desk.run("--yes", "--only", "smallest-job,cancel", "--hide-accounts")
    assert checked.status == 1, checked.told
    assert checked.verdicts() == {"smallest-job": "differs", "cancel": "differs"}
    assert checked.costing() == []
    removed = [each for each in read_back(desk.session / "answers") if each.method == "DELETE" and "/manifests/sha256:" in each.path]
    assert {each.status for each in removed} == {401, 202}, "the images are removed although the account's names are hidden"
    assert checked.facts("smallest-job", "differs") == ["the worker's exit status ends FailureReason"]
    assert "the program had time to save a last checkpoint" in checked.facts("cancel", "differs")
    report = (desk.session / "report.md").read_text(encoding="utf-8")
    differences = report.partition("## Differences")[2].partition("## All checks")[0]
    assert "`sagemaker-exit-code-in-reason`" in differences
    assert "the container has ended" in differences
    assert not [name for name in (ACCOUNT, desk.store.split("/")[2]) if name in checked.sent()], "the account's names are hidden"


def test_ctrl_c_stops_the_job_and_removes_everything(aws: AwsCloud, desk: CheckDesk) -> None:
    process = desk.start("--yes", "--costly", "--only", "spot", "--spot-seconds", "600")
    before = set(aws.simulator.jobs("cloud-check"))
    with ThreadPoolExecutor(1) as watching:
        ended = watching.submit(process.communicate)
        wait_until(lambda: ended.done() or _has_spot_checkpoint(aws, desk), "the job runs", 60, 0.2)
        process.send_signal(signal.SIGINT)
        printed, told = ended.result()
    checked = Checked(process.returncode, printed, told, desk.session)
    assert checked.status == 130, told
    assert checked.report["interrupted"]
    assert checked.costing() == []
    [name] = set(aws.simulator.jobs("cloud-check")) - before
    assert aws.simulator.job(name).has_ended
    assert list(open_store(desk.store).list()) == []


def test_what_a_killed_session_leaves_is_removed_by_the_next_command(aws: AwsCloud, desk: CheckDesk) -> None:
    process = desk.start("--yes", "--costly", "--only", "spot", "--spot-seconds", "600")
    before = set(aws.simulator.jobs("cloud-check"))
    with ThreadPoolExecutor(1) as watching:
        ended = watching.submit(process.communicate)
        wait_until(lambda: ended.done() or _has_spot_checkpoint(aws, desk), "the job runs", 60, 0.2)
        process.kill()
        ended.result()
    checked = desk.run("--clean-up", str(desk.session))
    assert checked.status == 0, checked.told
    assert f"removing the image {aws.repository}@sha256:" in checked.told
    [name] = set(aws.simulator.jobs("cloud-check")) - before
    assert aws.simulator.job(name).has_ended
    assert list(open_store(desk.store).list()) == []


def _judge(checked: Checked, differing: dict[str, list[str]]) -> None:
    """Every check was carried out, nothing but ``differing`` differs, nothing is left, and the rows of the facts name their checks."""
    assert list(checked.verdicts()) == list(NAMES), checked.told
    found = {name: checked.facts(name, "differs") for name in NAMES}
    assert {name: facts for name, facts in found.items() if facts} == differing, checked.printed
    assert "could not be tried" not in checked.verdicts().values()
    assert checked.status == 1
    assert checked.costing() == []
    rows = {row.id: row.check for each in evidence.rows().values() for row in each}
    named = {(row, each["check"]) for each in checked.report["results"] for fact in each["facts"] for row in fact["rows"]}
    assert {row: rows.get(row) for row, _ in named} == dict(named)


def _holds_no_token(checked: Checked, server: Server) -> None:
    """Whether no credential that the simulator saw in a request is in what a user may send."""
    tokens = {value.partition(" ")[2] for each in server.requests if (value := each.request.headers.get("authorization"))}
    assert tokens
    everything = checked.everything()
    assert not [token for token in tokens if token.encode() in everything]


def _holds_no_planted_secret(checked: Checked, server: Server) -> None:
    """Whether the secret that the check ``secrets`` passes to its job is in no file of the session, its ledger included."""
    planted = {match for each in server.requests for match in re.findall(rb"cloud-check-[0-9a-f]{32}", each.request.body)}
    assert len(planted) == 1
    assert planted.pop() not in checked.everything()


def _spot_jobs(aws: AwsCloud) -> list[str]:
    jobs = [(name, aws.simulator.job(name)) for name in aws.simulator.jobs("cloud-check")]
    return [name for name, job in jobs if job.is_spot and not job.has_ended]


def _has_spot_checkpoint(aws: AwsCloud, desk: CheckDesk) -> bool:
    runs = [name.rpartition("-")[0] for name in _spot_jobs(aws)]
    return bool(runs) and any(
        f"{run}/checkpoints/step-00000001/manifest.json" in info.key for info in open_store(desk.store).list() for run in runs
    )
