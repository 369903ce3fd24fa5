"""The aws provider with the unmodified SDK, against the simulator of SageMaker and moto. No container runs."""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import MissingDependencyError, ProviderError
from cloud_train.orchestrator.doctor import examine
from cloud_train.orchestrator.home import Home
from cloud_train.providers.aws import diagnosis
from cloud_train.providers.aws.client import POLICY
from cloud_train.providers.aws.jobs import LOG_GROUP
from cloud_train.providers.aws.provider import SageMakerProvider
from cloud_train.providers.base import AlreadyLaunchedError, Diagnosed, Handle, LaunchUnknownError, ManyObserved, RegistryLogin
from cloud_train.run.plan import Plan, new_run_id
from cloud_train.run.states import Cause, State
from tests.clouds.aws_job import CAPACITY, Imaginary, Timing
from tests.clouds.aws_simulator import AwsCloud, aws_cloud
from tests.clouds.clock import VirtualClock
from tests.clouds.faults import Fault
from tests.providers.aws_plans import plan_of

AT_ONCE = replace(POLICY, sleep=lambda _: None)
TRIES = 5
KEYS = {"API_KEY": "a-canary"}
_EXPIRE = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 200}
LIFECYCLE = json.dumps({"rules": [{"rulePriority": 1, "selection": _EXPIRE, "action": {"type": "expire"}}]})


@pytest.fixture(scope="module")
def clock() -> VirtualClock:
    return VirtualClock(time.time())  # run ids are drawn by the real one


@pytest.fixture(scope="module")
def running(clock: VirtualClock) -> Iterator[AwsCloud]:
    timing = Timing(starting=60, downloading=30, interrupted=10, uploading=20, logs=5)
    with aws_cloud(clock=clock, timing=timing) as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        yield cloud


@pytest.fixture
def cloud(running: AwsCloud) -> AwsCloud:
    """AWS without faults and without a memory of what was asked before; its jobs stay, as they do."""
    running.simulator.forget_orders()
    running.server.faults.clear()
    running.server.requests.clear()
    return running


@pytest.fixture(scope="module")
def provider(running: AwsCloud, tmp_path_factory: pytest.TempPathFactory) -> SageMakerProvider:
    """One for all tests: its clients take a while to make."""
    return SageMakerProvider(tmp_path_factory.mktemp("home"), AT_ONCE, answer_seconds=1.0)


def plan_for(cloud: AwsCloud, settings: dict[str, Any] | None = None, **job: Any) -> Plan:
    plan = plan_of({**cloud.settings, **(settings or {})}, run_id=new_run_id("test"), **job)
    return replace(plan, image=f"{cloud.repository}@sha256:{'4' * 64}")


def launched(cloud: AwsCloud, provider: SageMakerProvider, settings: dict[str, Any] | None = None, **job: Any) -> Handle:
    return provider.launch(provider.render(plan_for(cloud, settings, **job)), {})


def training(cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider, **job: Any) -> Handle:
    """A job whose machines run."""
    handle = launched(cloud, provider, **job)
    clock.advance(60)
    provider.observe(handle)
    clock.advance(30)
    assert provider.observe(handle).state is State.RUNNING
    return handle


def many(cloud: AwsCloud, provider: SageMakerProvider, number: int) -> list[Handle]:
    """So many jobs that wait for a machine."""
    first = launched(cloud, provider)
    request = dict(cloud.simulator.job(name_of(first)).request)
    names = [f"m{number}-{first.run_id[:-4]}{each:04d}-1" for each in range(number)]
    for name in names:
        cloud.simulator.create({**request, "TrainingJobName": name})
    return [replace(first, run_id=name[:-2], reference={**first.reference, "job": name}) for name in names]


def name_of(handle: Handle) -> str:
    return str(handle.reference["job"])


def test_it_can_what_a_cloud_may(provider: SageMakerProvider) -> None:
    assert isinstance(provider, ManyObserved)
    assert isinstance(provider, RegistryLogin)
    assert isinstance(provider, Diagnosed)


def test_a_job_goes_through_the_states_of_sagemaker(cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider) -> None:
    handle = launched(cloud, provider)
    seen = [provider.observe(handle)]
    for seconds in (60, 30):
        clock.advance(seconds)
        seen.append(provider.observe(handle))
    [machine] = cloud.simulator.machines(name_of(handle))
    machine.status = 0
    seen.append(provider.observe(handle))
    clock.advance(20)
    seen.append(provider.observe(handle))
    states = [each.state for each in seen]
    assert states == [State.QUEUED, State.STARTING, State.RUNNING, State.RUNNING, State.SUCCEEDED]
    assert seen[1].message == "Downloading the training image"
    assert machine.told[-1] == "removed"


def test_a_launch_asks_sagemaker_once_and_its_handle_is_plain_data(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    handle = launched(cloud, provider)
    assert [logged.operation for logged in cloud.server.requests] == ["CreateTrainingJob"]
    assert json.loads(json.dumps(handle.reference)) == handle.reference
    assert handle.reference["arn"] == f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{handle.run_id}-1"


def test_a_second_launch_is_refused_and_starts_nothing(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    plan = plan_for(cloud)
    provider.launch(provider.render(plan), {})
    with pytest.raises(AlreadyLaunchedError, match=f"the training job {plan.run_id}-1 in us-east-1 was already launched"):
        provider.launch(provider.render(plan), {})
    assert cloud.simulator.jobs(plan.run_id) == [f"{plan.run_id}-1"]


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.HALF_OPEN, Fault.SERVER_ERROR, Fault.THROTTLE])
def test_whatever_befalls_a_launch_there_is_one_job_and_its_handle(cloud: AwsCloud, provider: SageMakerProvider, fault: Fault) -> None:
    cloud.server.faults.add("CreateTrainingJob", fault)
    handle = launched(cloud, provider)
    assert cloud.simulator.jobs(handle.run_id) == [name_of(handle)]
    assert handle.reference["arn"] == cloud.simulator.job(name_of(handle)).arn


def test_a_lost_answer_is_settled_although_the_job_does_not_show_yet(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    cloud.server.faults.add("CreateTrainingJob", Fault.LOST_ANSWER)
    cloud.server.faults.hide("jobs", requests=2)
    handle = launched(cloud, provider)
    assert handle.reference["arn"] == cloud.simulator.job(name_of(handle)).arn


def test_a_launch_that_nobody_answers_is_unknown_and_found_later(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    plan = plan_for(cloud)
    cloud.server.faults.add("CreateTrainingJob", Fault.LOST_ANSWER, times=1)
    cloud.server.faults.add("CreateTrainingJob", Fault.SERVER_ERROR, times=TRIES)
    cloud.server.faults.hide("jobs", requests=TRIES * TRIES)
    with pytest.raises(LaunchUnknownError, match=f"it is unknown whether the training job {plan.run_id}-1 in us-east-1 was launched"):
        provider.launch(provider.render(plan), KEYS)
    cloud.server.faults.clear()
    found = provider.find(plan.run_id, 1, plan.store, plan.provider_settings)
    assert found is not None
    assert found.reference["secret"] in cloud.secrets(), "its worker will need it"


def test_a_throttled_launch_gives_up_without_a_job(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    cloud.server.faults.add("CreateTrainingJob", Fault.THROTTLE, times=TRIES)
    plan = plan_for(cloud)
    with pytest.raises(ProviderError, match="AWS throttled CreateTrainingJob in us-east-1") as refusal:
        provider.launch(provider.render(plan), {})
    assert not isinstance(refusal.value, LaunchUnknownError)
    assert cloud.simulator.jobs(plan.run_id) == []


def test_an_attempt_is_found_by_whoever_knows_its_run_and_only_in_its_store(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    plan = plan_for(cloud)
    assert provider.find(plan.run_id, 1, plan.store, plan.provider_settings) is None
    handle = provider.launch(provider.render(plan), KEYS)
    found = provider.find(plan.run_id, 1, plan.store, plan.provider_settings)
    assert found is not None
    assert {**found.reference, "launched": 0} == {**handle.reference, "launched": 0}
    assert provider.find(plan.run_id, 2, plan.store, plan.provider_settings) is None
    assert provider.find(plan.run_id, 1, "s3://elsewhere", plan.provider_settings) is None


def test_a_job_that_does_not_show_at_once_is_found(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    cloud.server.faults.hide("jobs", requests=2)
    plan = plan_for(cloud)
    provider.launch(provider.render(plan), {})
    assert provider.find(plan.run_id, 1, plan.store, plan.provider_settings) is not None


def test_secrets_lie_with_aws_until_the_run_has_ended_and_in_no_request_of_the_job(
    cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider
) -> None:
    plan = plan_for(cloud, secrets=["API_KEY"])
    handle = provider.launch(provider.render(plan), KEYS)
    name = f"cloud-train/{name_of(handle)}"
    assert json.loads(cloud.secrets()[name]) == KEYS
    said = [logged.request.body for logged in cloud.server.requests if logged.operation != "CreateSecret"]
    assert all(b"a-canary" not in body for body in said)
    assert "a-canary" not in json.dumps(handle.reference)
    provider.clean_up(handle)
    assert name in cloud.secrets(), "the job waits for a machine, and its worker has not read them"
    clock.advance(60)
    provider.observe(handle)
    clock.advance(30)
    for _ in range(2):
        provider.clean_up(handle)
        assert name not in cloud.secrets()


def test_a_launch_that_fails_takes_its_secret_away(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    plan = plan_for(cloud, {"role": "arn:aws:iam::123456789012:role/nobody"}, secrets=["API_KEY"])
    with pytest.raises(ProviderError, match="SageMaker cannot use the role: Could not assume role") as refusal:
        provider.launch(provider.render(plan), KEYS)
    assert "aws.role" in str(refusal.value.hint)
    assert cloud.secrets().keys().isdisjoint({f"cloud-train/{plan.run_id}-1"})


def test_a_second_launch_leaves_the_first_ones_secret_alone(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    plan = plan_for(cloud, secrets=["API_KEY"])
    provider.launch(provider.render(plan), KEYS)
    with pytest.raises(AlreadyLaunchedError):
        provider.launch(provider.render(plan), KEYS)
    assert f"cloud-train/{plan.run_id}-1" in cloud.secrets()


def test_cancelling_stops_the_job_with_its_grace(cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider) -> None:
    handle = training(cloud, clock, provider)
    [machine] = cloud.simulator.machines(name_of(handle))
    provider.cancel(handle)
    assert machine.told == ["SIGTERM"]
    assert provider.observe(handle).state is State.STOPPING
    clock.advance(119)
    assert provider.observe(handle).state is State.STOPPING
    clock.advance(1)
    assert provider.observe(handle).cause is Cause.CANCELLED
    assert "SIGKILL" in machine.told
    for force in (False, True):
        provider.cancel(handle, force=force)  # it has ended: nothing changes
    assert provider.observe(handle).cause is Cause.CANCELLED


def test_a_spot_job_that_is_interrupted_waits_for_another_machine(
    cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider
) -> None:
    handle = training(cloud, clock, provider, resources={"spot": True})
    [first] = cloud.simulator.machines(name_of(handle))
    cloud.simulator.interrupt(name_of(handle))
    seen = provider.observe(handle)
    assert (seen.state, seen.cause) == (State.QUEUED, None)
    assert "reclaimed" in seen.message
    for seconds in (10, 60, 30):
        clock.advance(seconds)
        seen = provider.observe(handle)
    assert seen.state is State.RUNNING
    [second] = cloud.simulator.machines(name_of(handle))
    assert second is not first
    assert first.told == ["SIGKILL", "removed"]


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (Imaginary(10), Cause.FAILED),
        (Imaginary(14), Cause.TIMED_OUT),
        (Imaginary(1, files={"/opt/ml/output/failure": b"no module named torch"}), Cause.FAILED),
        (Imaginary(137, lacked_memory=True), Cause.OUT_OF_MEMORY),
    ],
)
def test_an_exit_status_becomes_a_cause(
    cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider, end: Imaginary, cause: Cause
) -> None:
    handle = training(cloud, clock, provider)
    [machine] = cloud.simulator.machines(name_of(handle))
    machine.status, machine.files, machine.lacked_memory = end.status, end.files, end.lacked_memory
    seen = provider.observe(handle)
    assert seen.cause is cause
    assert all(content.decode() in seen.message for content in end.files.values())


def test_the_clouds_own_limit_ends_a_job(cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider) -> None:
    handle = training(cloud, clock, provider, limits={"duration": "1h"})
    clock.advance(3600 + 30 + 900)
    provider.observe(handle)
    clock.advance(120)
    assert provider.observe(handle).cause is Cause.TIMED_OUT


def test_no_capacity_ends_a_job_and_a_spot_job_waits_for_it(cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider) -> None:
    cloud.server.faults.add(CAPACITY, Fault.NO_CAPACITY, times=2)
    plain, spot = launched(cloud, provider), launched(cloud, provider, resources={"spot": True})
    clock.advance(60)
    seen = provider.observe(plain)
    assert seen.cause is Cause.INFRASTRUCTURE
    assert "retry later, or choose another aws.machine" in seen.message
    seen = provider.observe(spot)
    assert (seen.state, seen.cause) == (State.QUEUED, None)
    assert "Insufficient capacity" in seen.message
    clock.advance(2 * 86400)
    provider.observe(spot)
    assert "aws.max_wait" in provider.observe(spot).message


def test_a_quota_that_is_used_up_is_named(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    cloud.simulator.quotas["ml.g5.xlarge"] = 0
    with pytest.raises(ProviderError, match=r"quota 'ml\.g5\.xlarge for training job usage' in us-east-1") as refusal:
        launched(cloud, provider, {"machine": "ml.g5.xlarge"})
    assert "Service Quotas" in str(refusal.value.hint)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("The requested resource training-job/ml.t3.medium is not available in this region", "choose another aws.machine or aws.region"),
        ("Unsupported manifest media type application/vnd.oci.image.manifest.v1+json", "Docker's own format"),
        ("The repository of your image does not grant ecr:GetDownloadUrlForLayer, ecr:BatchGetImage permission", "let aws.role pull"),
        ("", "AWS gave no reason; a known cause is an aws.volume that is larger than the machine's disk"),
    ],
)
def test_a_refusal_of_sagemakers_comes_first_and_what_to_do_second(
    cloud: AwsCloud, provider: SageMakerProvider, words: str, hint: str
) -> None:
    cloud.simulator.refusal = words
    with pytest.raises(ProviderError, match=re.escape(f"AWS refused CreateTrainingJob in us-east-1: {words}")) as refusal:
        launched(cloud, provider)
    assert hint in str(refusal.value.hint)


def test_a_permission_that_is_missing_is_named(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    cloud.simulator.denied.add("sagemaker:CreateTrainingJob")
    with pytest.raises(ProviderError, match="lack the permission sagemaker:CreateTrainingJob") as refusal:
        launched(cloud, provider)
    assert "allow sagemaker:CreateTrainingJob" in str(refusal.value.hint)


def test_credentials_that_have_expired_say_so_and_end_nothing(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    handle = launched(cloud, provider)
    cloud.server.faults.add("DescribeTrainingJob", Fault.EXPIRED_TOKEN)
    seen = provider.observe(handle)
    assert (seen.state, seen.cause) == (State.RUNNING, Cause.UNKNOWN)
    assert "the AWS credentials have expired" in seen.message
    cloud.server.faults.add("CreateTrainingJob", Fault.EXPIRED_TOKEN)
    with pytest.raises(ProviderError, match="have expired") as refusal:
        launched(cloud, provider)
    assert "aws sso login" in str(refusal.value.hint)


def test_missing_credentials_are_one_message(cloud: AwsCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = SageMakerProvider(tmp_path, AT_ONCE, answer_seconds=1.0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(ProviderError, match="the AWS SDK found no usable credentials") as refusal:
        launched(cloud, provider)
    assert "AWS_PROFILE" in str(refusal.value.hint)


def test_without_the_sdk_the_extra_is_named(provider: SageMakerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    with pytest.raises(MissingDependencyError) as refusal:
        provider.find("a-261124-120000-abcd", 1, "s3://bucket", {"region": "us-east-1"})
    assert refusal.value.hint == "install it with: pip install 'cloud-train[aws]'"


def test_failures_that_pass_are_tried_again_and_a_storm_ends_nothing(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    handle = launched(cloud, provider)
    cloud.server.faults.add("DescribeTrainingJob", Fault.THROTTLE, times=2)
    cloud.server.faults.add("DescribeTrainingJob", Fault.SERVER_ERROR, times=2)
    assert provider.observe(handle).state is State.QUEUED
    cloud.server.faults.add("DescribeTrainingJob", Fault.THROTTLE, times=100)
    assert provider.observe(handle).cause is Cause.UNKNOWN
    assert cloud.server.count("DescribeTrainingJob") == 5 + TRIES


def test_a_young_job_that_does_not_show_has_not_ended_and_an_old_one_was_deleted(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    handle = launched(cloud, provider)
    lost = replace(handle, reference={**handle.reference, "job": "nothing"})
    seen = provider.observe(lost)
    assert (seen.state, seen.cause) == (State.QUEUED, Cause.UNKNOWN)
    old = replace(lost, reference={**lost.reference, "launched": 0.0})
    assert provider.observe(old).cause is Cause.INFRASTRUCTURE
    arn = str(handle.reference["arn"]).replace("123456789012", "210987654321")
    elsewhere = replace(old, reference={**old.reference, "arn": arn})
    seen = provider.observe(elsewhere)
    assert (seen.state, seen.cause) == (State.RUNNING, Cause.UNKNOWN)
    assert "these credentials belong to account 123456789012" in seen.message


def test_a_thousand_runs_cost_a_listing_for_each_hundred(cloud: AwsCloud, provider: SageMakerProvider, tmp_path: Path) -> None:
    handles = many(cloud, provider, 1000)
    cloud.server.requests.clear()
    # A page takes the simulator a while where much else runs.
    seen = SageMakerProvider(tmp_path, AT_ONCE, answer_seconds=30.0).observe_all(handles)
    assert [each.state for each in seen] == [State.QUEUED] * 1000
    assert [logged.operation for logged in cloud.server.requests] == ["ListTrainingJobs"] * 10


def test_observing_many_says_what_observing_each_says(cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider) -> None:
    handles = [training(cloud, clock, provider) for _ in range(4)]
    for handle, code in zip(handles, (0, 10, 11, None), strict=True):
        cloud.simulator.machines(name_of(handle))[0].status = code
    unknown = replace(handles[0], reference={**handles[0].reference, "job": "nothing"})
    elsewhere = replace(handles[0], reference={**handles[0].reference, "region": "eu-west-1", "launched": 0.0, "arn": None})
    all_of_them = [*handles, unknown, elsewhere]
    assert [each.cause for each in provider.observe_all(all_of_them)] == [provider.observe(each).cause for each in all_of_them]


def test_pages_that_repeat_come_to_an_end(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    handles = many(cloud, provider, 210)
    cloud.simulator.repeats_pages = True
    seen = provider.observe_all(handles)
    assert [each.state for each in seen] == [State.QUEUED] * 210
    assert cloud.server.count("ListTrainingJobs") == 2, "and whoever was not on them was asked for alone"


def test_a_listing_that_fails_ends_nothing(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    handles = [launched(cloud, provider) for _ in range(3)]
    cloud.server.faults.add("ListTrainingJobs", Fault.EXPIRED_TOKEN)
    seen = provider.observe_all(handles)
    assert {(each.state, each.cause) for each in seen} == {(State.RUNNING, Cause.UNKNOWN)}
    assert cloud.server.count("DescribeTrainingJob") == 0


def test_the_log_service_is_read_in_pieces_without_loss_or_doubles(
    cloud: AwsCloud, clock: VirtualClock, provider: SageMakerProvider
) -> None:
    handle = training(cloud, clock, provider, resources={"spot": True})
    assert provider.logs(handle, None) == (b"", None)
    [machine] = cloud.simulator.machines(name_of(handle))
    machine.printed = b"one\ntwo\nhal"
    clock.advance(5)
    provider.observe(handle)
    first, cursor = provider.logs(handle, None)
    assert first == b"one\ntwo\n"
    machine.printed += b"f\n"
    clock.advance(5)
    provider.observe(handle)
    second, cursor = provider.logs(handle, cursor)
    assert second == b"half\n"
    assert provider.logs(handle, cursor) == (b"", cursor)
    cloud.simulator.interrupt(name_of(handle))
    for seconds in (10, 60, 30):
        clock.advance(seconds)
        provider.observe(handle)
    cloud.simulator.machines(name_of(handle))[0].printed = b"again\n"
    clock.advance(5)
    provider.observe(handle)
    third, cursor = provider.logs(handle, cursor)
    assert third == b"again\n"
    assert provider.logs(handle, None)[0] == first + second + third


def test_ecr_gives_a_login_and_a_repository_with_immutable_tags(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    name = new_run_id("test")
    settings = {"repository": f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{name}", "create_repository": True}
    for _ in range(2):
        assert provider.registry_login(settings) == ("AWS", "123456789012-auth-token")
    [made] = cloud.simulator.client("ecr").describe_repositories(repositoryNames=[name])["repositories"]
    assert made["imageTagMutability"] == "IMMUTABLE"


def test_a_registry_that_is_not_amazons_has_dockers_own_login(provider: SageMakerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_ECR", raising=False)
    assert provider.registry_login({"repository": "ghcr.io/me/jobs", "region": "us-east-1"}) is None


def test_a_submission_takes_at_most_six_questions(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    plan = plan_for(cloud, {"create_repository": True}, secrets=["API_KEY"])
    provider.registry_login(plan.provider_settings)
    provider.observe(provider.launch(provider.render(plan), KEYS))
    asked = [logged.operation for logged in cloud.server.requests]
    assert asked == ["CreateRepository", "GetAuthorizationToken", "CreateSecret", "CreateTrainingJob", "DescribeTrainingJob"]


def test_the_doctor_finds_all_well_where_all_is_there(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    name = new_run_id("test")
    ecr, logs = cloud.simulator.client("ecr"), cloud.simulator.client("logs")
    ecr.create_repository(repositoryName=name)
    ecr.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=LIFECYCLE)
    with suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=LOG_GROUP)
    logs.put_retention_policy(logGroupName=LOG_GROUP, retentionInDays=30)
    settings = {**cloud.settings, "repository": f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{name}", "machine": "ml.g5.xlarge"}
    found = list(provider.diagnose(settings, cloud.new_store()))
    assert {each.status for each in found} == {"ok"}, found
    assert [each.name for each in found] == [
        "credentials",
        "SageMaker",
        "logs",
        "role",
        "store",
        "repository",
        "log retention",
        "image lifecycle",
        "secrets",
        "machine",
    ]


def test_the_doctor_warns_of_what_costs_money_between_runs(
    cloud: AwsCloud, provider: SageMakerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_run_id("test")
    ecr, logs = cloud.simulator.client("ecr"), cloud.simulator.client("logs")
    ecr.create_repository(repositoryName=name)
    with suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=LOG_GROUP)
    logs.delete_retention_policy(logGroupName=LOG_GROUP)
    secret = f"cloud-train/{name}-1"
    cloud.simulator.client("secretsmanager").create_secret(Name=secret, SecretString="{}")
    monkeypatch.setattr(diagnosis, "_LONGEST_JOB_DAYS", -1)  # as if it were older
    settings = {**cloud.settings, "repository": f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{name}"}
    found = {each.name: each for each in provider.diagnose(settings, None) if each.status == "warning"}
    cloud.clear(name)
    assert set(found) == {"log retention", "image lifecycle", "secrets"}
    assert "aws logs put-retention-policy" in found["log retention"].remedy
    assert "aws secretsmanager delete-secret" in found["secrets"].remedy
    assert "What costs money between runs" in found["image lifecycle"].remedy


@pytest.mark.parametrize(
    ("resources", "status", "said"),
    [
        ({"nodes": 2}, "ok", "the quota in us-east-1 is 2, and the job needs 2 × ml.g5.xlarge on demand"),
        ({"nodes": 3}, "error", "the job needs 3 × ml.g5.xlarge on demand, but the quota in us-east-1 is 2"),
        ({"spot": True}, "error", "the job needs 1 × ml.g5.xlarge spot, but the quota in us-east-1 is 0"),
    ],
)
def test_the_doctor_compares_the_quota_of_the_very_machine_with_what_a_job_needs(
    cloud: AwsCloud, provider: SageMakerProvider, resources: dict[str, Any], status: str, said: str
) -> None:
    cloud.simulator.quotas |= {"ml.g5.xlarge": 2, "ml.g5.xlarge spot": 0}
    (found,) = provider.diagnose_job(plan_for(cloud, resources={"accelerator": "A10G", **resources}))
    assert (found.name, found.status, found.detail) == ("quota", status, said)
    if status == "error":
        assert f"ml.g5.xlarge for {'spot ' if 'spot' in resources else ''}training job usage" in found.remedy


def test_the_doctor_of_a_job_says_what_it_would_pay_for_and_checks_its_quota(
    cloud: AwsCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cloud.simulator.quotas |= {"ml.p4d.24xlarge": 0}
    (tmp_path / "aws.yaml").write_text(json.dumps({"provider": "aws", "aws": cloud.settings}))
    job = {"name": "x", "model": {"kind": "script", "command": ["true"]}, "store": cloud.new_store(), "resources": {"accelerator": "A100"}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    found = examine(Home(tmp_path / "home"), config=str(tmp_path / "aws.yaml"), job=tmp_path / "job.yaml")
    said = {(each.name, each.status): each.detail for each in found if each.name.startswith("aws ")}
    assert said["aws job", "warning"] == "ml.p4d.24xlarge: 8 × A100; you asked for 1"
    assert said["aws job", "ok"].endswith("job.yaml can be submitted, as far as can be known here")
    assert said["aws quota", "error"] == "the job needs 1 × ml.p4d.24xlarge on demand, but the quota in us-east-1 is 0"
    assert said["aws role", "ok"]


def test_the_doctor_names_each_thing_that_is_missing(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    cloud.simulator.denied |= {"sagemaker:ListTrainingJobs", "logs:DescribeLogStreams"}
    cloud.simulator.quotas |= {"ml.g5.xlarge": 0, "ml.g5.xlarge spot": 0}
    settings = {
        "region": "us-east-1",
        "role": "arn:aws:iam::123456789012:role/nobody",
        "repository": "123456789012.dkr.ecr.us-east-1.amazonaws.com/none",
        "machine": "ml.g5.xlarge",
    }
    found = {each.name: each for each in provider.diagnose(settings, "s3://no-such-bucket-of-mine")}
    assert {name for name, each in found.items() if each.status == "error"} == {
        *("SageMaker", "logs", "role", "store", "repository", "machine")
    }
    assert "sagemaker:ListTrainingJobs" in found["SageMaker"].remedy
    assert "logs:DescribeLogStreams" in found["logs"].remedy
    assert "the role nobody does not exist" in found["role"].detail
    assert "the bucket no-such-bucket-of-mine does not exist" in found["store"].detail
    assert "aws ecr create-repository --repository-name none" in found["repository"].remedy
    assert "ml.g5.xlarge for training job usage" in found["machine"].remedy


def test_the_doctor_does_without_what_a_submission_does_without(cloud: AwsCloud, provider: SageMakerProvider) -> None:
    may_be_missing = {"ecr:DescribeRepositories", "ecr:GetLifecyclePolicy", "logs:DescribeLogGroups", "secretsmanager:ListSecrets"}
    cloud.simulator.denied |= {*may_be_missing, "iam:GetRole", "servicequotas:ListServiceQuotas"}
    settings = {**cloud.settings, "repository": "123456789012.dkr.ecr.us-east-1.amazonaws.com/none", "machine": "ml.g5.xlarge"}
    found = {each.name: each for each in provider.diagnose(settings, None) if each.status != "ok"}
    assert {name: each.status for name, each in found.items()} == dict.fromkeys(
        ("role", "repository", "log retention", "image lifecycle", "secrets", "machine"), "warning"
    )
    assert "ecr:DescribeRepositories" in found["repository"].remedy


def test_a_region_in_which_nobody_answers_is_named_and_leaves_nothing_open(
    cloud: AwsCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:9")
    waits: list[float] = []
    elsewhere = SageMakerProvider(tmp_path, replace(POLICY, sleep=waits.append))
    with pytest.raises(ProviderError, match="AWS \\(sagemaker in us-east-1\\) cannot be reached") as caught:
        launched(cloud, elsewhere)
    assert not isinstance(caught.value, LaunchUnknownError), "it certainly was not created"
    assert "aws.region" in (caught.value.hint or "")
    assert len(waits) == TRIES - 1
