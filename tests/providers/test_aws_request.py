"""What the aws provider sends, in SageMaker's own words, and what SageMaker would refuse in it. No SDK, no network."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.job.settings import AwsSettings
from cloud_train.providers.aws.provider import SageMakerProvider
from cloud_train.providers.aws.request import registry_of
from cloud_train.providers.base import Handle, Request
from cloud_train.providers.cloud.machines import machines
from tests.clouds.aws_description import FILE, REGIONS, REQUEST, regions_description, requests_description
from tests.providers.aws_plans import IMAGE, REPOSITORY, SETTINGS, plan_of

GOLDEN = Path(__file__).parent / "golden" / "aws"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NETWORK = {"subnets": ["subnet-0123456789abcdef0"], "security_groups": ["sg-0123456789abcdef0"]}
FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:registry-login"
TRAINING_PLAN = "arn:aws:sagemaker:eu-west-1:123456789012:training-plan/november"
GROUPS = [{"InstanceType": "ml.m5.large", "InstanceCount": 1, "InstanceGroupName": "others"}]
PLANS = {
    "plain": plan_of(),
    "not-built": replace(plan_of(), image="python:3.11 + worker, built when submitted"),
    "machine-for-resources": plan_of(resources={"accelerator": "A10G:4", "cpus": 8, "memory": "100GB"}),
    "machine-named": plan_of({"machine": "ml.c7i.xlarge", "volume": "200GiB", "kms_key": KEY}),
    "spot": plan_of({"max_runtime": "2h", "max_wait": "90 min"}, resources={"spot": True}),
    "nodes": plan_of(resources={"nodes": 3, "accelerator": "T4"}),
    "network": plan_of({"subnets": ["subnet-1a", "subnet-1b"], "security_groups": ["sg-2"]}),
    "tags": plan_of({"tags": {"team": "vision", "cost center": "42"}}),
    "limits-and-retries": plan_of(
        attempt=2, limits={"duration": "2h", "grace": "60 s"}, retry={"attempts": 4, "on": ["infrastructure", "preempted"]}
    ),
    "secrets": plan_of(secrets=["API_KEY"]),
    "organisation": plan_of({"output_kms_key": "alias/runs", "encrypt_traffic": True, "keep_alive": "30 min", **NETWORK}),
    "training-plan": plan_of({"machine": "ml.p5.48xlarge", "training_plan": TRAINING_PLAN}, resources={"accelerator": "H100:8"}),
    "private-registry": replace(
        plan_of({"private_registry": True, "registry_credentials": FUNCTION, **NETWORK}),
        image=f"registry.example.com/team/cloud-train@sha256:{'4' * 64}",
    ),
    "settings-by-default": plan_of(AwsSettings().model_dump(mode="json", exclude_none=True)),
}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> SageMakerProvider:
    return SageMakerProvider(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_becomes_the_request_that_was_agreed_on(provider: SageMakerProvider, name: str) -> None:
    request = provider.render(PLANS[name])
    file = GOLDEN / f"{name}.json"
    if os.environ.get("CLOUD_TRAIN_WRITE_GOLDEN"):
        file.write_text(json.dumps(request, indent=2) + "\n")
    assert request == json.loads(file.read_text())
    assert provider.check(request) == []


def test_every_golden_file_is_of_a_plan() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(PLANS)


def test_the_settings_of_a_config_file_and_none_give_the_same_request(provider: SageMakerProvider) -> None:
    assert provider.render(PLANS["settings-by-default"]) == provider.render(PLANS["plain"])


def test_the_region_is_that_of_the_repository_where_none_is_named(provider: SageMakerProvider) -> None:
    request = provider.render(plan_of({"region": None}))
    assert request["region"] == "eu-west-1"
    assert provider.check(request) == []


def test_the_machines_know_the_region_which_the_platform_does_not_tell(provider: SageMakerProvider) -> None:
    environment = provider.render(plan_of())["body"]["Environment"]
    assert (environment["AWS_REGION"], environment["AWS_DEFAULT_REGION"]) == ("eu-west-1", "eu-west-1")


def test_values_of_secrets_are_in_no_request(provider: SageMakerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "a-canary")
    request = provider.render(PLANS["secrets"])
    assert "a-canary" not in json.dumps(request)
    assert (
        "aws-secret:cloud-train/digits-cnn-261124-120000-abcd-1@eu-west-1"
        in request["body"]["AlgorithmSpecification"]["ContainerArguments"]
    )


def test_variables_of_the_job_are_left_to_the_worker(provider: SageMakerProvider) -> None:
    request = provider.render(plan_of(env={"LONG": "x" * 1000}))
    assert "LONG" not in json.dumps(request)
    assert provider.check(request) == []


@pytest.mark.parametrize(
    ("settings", "job", "problem"),
    [
        ({"role": None}, {}, "aws.role: not set"),
        ({"role": "cloud-train"}, {}, 'aws.role: RoleArn: "cloud-train" does not match the pattern'),
        ({"repository": None}, {}, "aws.repository: not set"),
        ({"region": None, "repository": "ghcr.io/me/jobs"}, {}, "aws.region: not set, and aws.repository does not imply one"),
        ({"region": "ireland"}, {}, "aws.region: 'ireland' is not a region"),
        ({"machine": "ml.g5.xlrge"}, {}, "aws.machine: ResourceConfig.InstanceType: .*; did you mean ml.g5.xlarge"),
        ({"machine": "ml.m5.large"}, {"resources": {"accelerator": "A10G"}}, "aws.machine: ml.m5.large: it has no accelerator"),
        ({"machine": "ml.p6e-gb200.36xlarge"}, {}, "aws.machine: ml.p6e-gb200.36xlarge has Arm processors"),
        ({}, {"resources": {"accelerator": "Trainium"}}, "resources.accelerator: Trainium is not supported"),
        ({}, {"resources": {"accelerator": "A10"}}, "resources.accelerator: aws has no known machine with A10; .* did you mean A100?"),
        ({}, {"resources": {"memory": "20TB"}}, "resources: no known aws machine is large enough; the largest is ml"),
        ({"volume": "1B", "kms_key": "a b"}, {}, 'aws.kms_key: ResourceConfig.VolumeKmsKeyId: "a b" does not match'),
        ({"machine": "ml.g5.xlarge", "kms_key": KEY}, {}, "aws.kms_key: ml.g5.xlarge has local disks"),
        (
            {"kms_key": "alias/mine"},
            {},
            "aws.kms_key: 'alias/mine' is neither the ID nor the ARN of a key; SageMaker does not accept an alias here",
        ),
        ({"kms_key": KEY.replace("eu-west-1", "us-east-1")}, {}, "aws.kms_key: the key is in us-east-1, but the machines are in eu-west-1"),
        ({"kms_key": "arn:mine"}, {}, "aws.kms_key: 'arn:mine' is neither the ID nor the ARN of a key"),
        ({"output_kms_key": "alias"}, {}, "aws.output_kms_key: 'alias' is neither the ID, the ARN nor the alias of a key"),
        ({"machine": "ml.g5.xlarge", "volume": "500GB"}, {}, "aws.volume: ml.g5.xlarge has 250 GB of local disks and no other volume"),
        ({"volume": "20TB"}, {}, "aws.volume: ResourceConfig.VolumeSizeInGB: 20000 is not between 1 and 16384"),
        ({"region": "eu-west-9"}, {}, "aws.region: SageMaker is not in eu-west-9, .*; did you mean eu-west-"),
        ({"role": "arn:aws-cn:iam::123456789012:role/x"}, {}, "aws.role: .* belongs to the partition aws-cn, but eu-west-1 to aws"),
        ({"role": "arn:aws:iam::111122223333:role/x"}, {}, "aws.role: '111122223333' in .* is a placeholder; replace it with your own"),
        ({}, {"store": "s3://your-bucket/runs"}, "store: 'your-' in s3://your-bucket/runs is a placeholder"),
        ({"subnets": ["vpc-1"], "security_groups": ["sg-1"]}, {}, "aws.subnets: 'vpc-1' is not an ID that begins with 'subnet-'"),
        ({"network_isolation": True}, {}, "aws.network_isolation: an isolated container has no network, so it reaches neither the store"),
        ({"keep_alive": "7 h"}, {}, "aws.keep_alive: ResourceConfig.KeepAlivePeriodInSeconds: 25200: at most 21600"),
        ({"keep_alive": "1 h"}, {"resources": {"spot": True}}, "aws.keep_alive: a warm pool cannot have spot machines"),
        ({"training_plan": TRAINING_PLAN}, {"resources": {"spot": True}}, "aws.training_plan: .* cannot be spot machines"),
        ({"training_plan": TRAINING_PLAN.replace("eu-west-1", "us-east-1")}, {}, "aws.training_plan: the plan is in us-east-1"),
        ({"kms_key": KEY.replace("arn:aws:", "arn:aws-cn:")}, {}, "aws.kms_key: .* belongs to the partition aws-cn, but eu-west-1 to aws"),
        ({"output_kms_key": KEY.replace("arn:aws:", "arn:aws-cn:")}, {}, "aws.output_kms_key: .* belongs to the partition aws-cn"),
        ({"kms_key": KEY.replace("123456789012", "111122223333")}, {}, "aws.kms_key: '111122223333' in .* is a placeholder"),
        (
            {"private_registry": True, "registry_credentials": FUNCTION.replace("eu-west-1", "us-east-1"), **NETWORK},
            {},
            "aws.registry_cred",
        ),
        ({"registry_credentials": FUNCTION}, {}, "aws.registry_credentials: only for a registry of your own; set aws.private_registry"),
        (
            {"request": {"ResourceConfig": {"InstanceCount": 2}}},
            {},
            "aws.request: ResourceConfig.InstanceCount is a field that cloud-train",
        ),
        ({"request": {"ResourceConfig": {"InstanceGroups": GROUPS}}}, {}, "aws.request: ResourceConfig.InstanceGroups: the nodes of a run"),
        ({"private_registry": True}, {}, "aws.private_registry: the machines reach it through your own network"),
        ({"platform": "linux/arm64"}, {}, "aws.platform: linux/arm64 is not supported"),
        ({}, {"limits": {"grace": "5 min"}}, "limits.grace: 300 s exceeds the 110 s"),
        ({"max_runtime": "29 d"}, {}, "aws.max_runtime: .*28 days"),
        ({}, {"limits": {"duration": "15 d"}, "retry": {"attempts": 2}}, "aws.max_runtime: .*28 days"),
        ({"subnets": ["subnet-1"]}, {}, "aws.security_groups: VpcConfig.SecurityGroupIds: has 0 entries; at least 1"),
        ({"security_groups": ["sg 1"], "subnets": ["s"]}, {}, "aws.security_groups: .*does not match the pattern"),
        ({"tags": {"aws:mine": "x"}}, {}, "aws.tags: 'aws:mine' begins with 'aws:'"),
        ({"tags": {f"k{number}": "x" for number in range(48)}}, {}, "aws.tags: .*50 are allowed"),
        ({"tags": {"key": "x" * 257}}, {}, "aws.tags: Tags.*has 257 characters; at most 256"),
        ({"tags": {"key!": "x"}}, {}, "aws.tags: Tags.*does not match the pattern"),
        ({}, {"store": "s3://bucket/" + "x" * 250}, "ContainerArguments.*characters; at most 256"),
    ],
)
def test_what_sagemaker_would_refuse_is_refused_here_with_the_setting_the_field_and_the_rule(
    provider: SageMakerProvider, settings: dict[str, Any], job: dict[str, Any], problem: str
) -> None:
    plan = plan_of(settings, **job)
    if settings.get("repository", REPOSITORY) != REPOSITORY:
        plan = replace(plan, image="words")
    problems = provider.check(provider.render(plan))
    assert any(re.search(problem, each) for each in problems), problems


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (IMAGE.replace("eu-west-1", "us-east-1"), "aws.repository: in us-east-1"),
        (f"ghcr.io/me/jobs@sha256:{'4' * 64}", "aws.repository: ghcr.io/me/jobs is not in Amazon ECR"),
        (f"{REPOSITORY}/{'x' * 200}@sha256:{'4' * 64}", "aws.repository: .*TrainingImage: .*at most 255"),
    ],
)
def test_an_image_that_sagemaker_cannot_pull_is_refused(provider: SageMakerProvider, image: str, problem: str) -> None:
    problems = provider.check(provider.render(replace(plan_of(), image=image)))
    assert any(re.search(problem, each) for each in problems), problems


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"TrainingJobName": "a_b"}, "TrainingJobName: .*does not match the pattern"),
        ({"TrainingJobName": "a" * 64}, "TrainingJobName: .*64 characters; at most 63"),
        ({"Environment": {"A": "x" * 513}}, "Environment.A: .*at most 512"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 0}}, "aws.max_runtime: .*at least 1 is allowed"),
        ({"EnableManagedSpotTraining": True}, "aws.max_wait: StoppingCondition.MaxWaitTimeInSeconds: must be at least MaxRuntimeInSeconds"),
        ({"RetryStrategy": {"MaximumRetryAttempts": 31}}, "RetryStrategy.MaximumRetryAttempts: 31: at most 30"),
        ({"Nonsense": 1}, "unknown field Nonsense"),
        ({"OutputDataConfig": {}}, "OutputDataConfig: S3OutputPath is missing"),
    ],
)
def test_a_request_is_held_against_sagemakers_own_description(provider: SageMakerProvider, change: dict[str, Any], problem: str) -> None:
    request = provider.render(plan_of())
    assert any(re.search(problem, each) for each in provider.check(changed(request, change)))


def test_a_spot_job_that_waits_for_less_than_it_runs_is_refused(provider: SageMakerProvider) -> None:
    request = provider.render(PLANS["spot"])
    limits = {"StoppingCondition": {"MaxRuntimeInSeconds": 100, "MaxWaitTimeInSeconds": 99}}
    assert any("MaxWaitTimeInSeconds" in problem for problem in provider.check(changed(request, limits)))


def test_the_description_is_that_of_botocore() -> None:
    assert json.loads(FILE.read_text()) == requests_description()


def test_a_plan_says_first_what_would_be_paid_for_nothing(provider: SageMakerProvider) -> None:
    larger = plan_of({"machine": "ml.p4d.24xlarge"}, resources={"accelerator": "A100:1"})
    assert list(provider.remarks(larger)) == ["ml.p4d.24xlarge: 8 × A100; you asked for 1"]
    assert provider.check(provider.render(larger)) == []
    (said,) = provider.remarks(plan_of(resources={"spot": True}))
    assert said.startswith("resources.spot without a retry: if the machine is reclaimed, SageMaker starts and bills another one")
    assert list(provider.remarks(plan_of(resources={"spot": True}, retry={"attempts": 2}))) == []
    assert list(provider.remarks(plan_of(resources={"spot": True}, retry={"attempts": 2, "on": ["infrastructure"]}))) != []


@pytest.mark.parametrize(
    ("region", "url"),
    [
        ("eu-west-1", "https://eu-west-1.console.aws.amazon.com/sagemaker/home?region=eu-west-1#/jobs/run-1"),
        ("cn-north-1", "https://console.amazonaws.cn/sagemaker/home?region=cn-north-1#/jobs/run-1"),
        ("us-gov-west-1", "https://console.amazonaws-us-gov.com/sagemaker/home?region=us-gov-west-1#/jobs/run-1"),
    ],
)
def test_a_job_has_a_page_in_the_console_of_its_partition(provider: SageMakerProvider, region: str, url: str) -> None:
    assert provider.console_url(Handle("run", 1, "aws", "s3://bucket", {"job": "run-1", "region": region})) == url


def test_the_page_is_known_before_the_job_exists_and_needs_a_region(provider: SageMakerProvider) -> None:
    request = provider.render(plan_of())
    assert str(provider.console_url(request)).endswith(f"?region=eu-west-1#/jobs/{request['body']['TrainingJobName']}")
    assert provider.console_url({**request, "region": None}) is None


def test_every_machine_of_the_table_is_one_of_sagemakers() -> None:
    kinds = json.loads(FILE.read_text())["$defs"]["TrainingInstanceType"]["enum"]
    assert [machine.name for machine in machines("aws") if machine.name not in kinds] == []


def test_the_description_has_no_pattern_that_python_cannot_read() -> None:
    patterns = [each["pattern"] for each in json.loads(FILE.read_text())["$defs"].values() if "pattern" in each]
    assert len(patterns) > 30
    for pattern in patterns:
        re.compile(pattern)
        assert r"\p{" not in pattern


def test_rendering_and_checking_need_neither_the_sdk_nor_a_socket() -> None:
    program = f"""
import socket, sys
def refuse(*arguments, **named): raise AssertionError("a socket")
socket.socket.connect = socket.socket.bind = socket.getaddrinfo = refuse
for name in ("boto3", "botocore"): sys.modules[name] = None
from pathlib import Path
from cloud_train.providers.registry import load_provider
from tests.providers.aws_plans import plan_of
provider = load_provider("aws", Path("/nowhere"))
assert provider.check(provider.render(plan_of())) == []
assert provider.check(provider.render(plan_of({{"machine": "m5"}})))
print({REQUEST!r})
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (said.stdout.strip(), said.stderr) == (REQUEST, "")


def test_the_settings_that_the_tests_use_are_settings() -> None:
    AwsSettings.model_validate(SETTINGS)
    AwsSettings.model_validate({"registry_credentials": FUNCTION, "training_plan": TRAINING_PLAN, "keep_alive": "1 h"})


def test_the_regions_are_those_of_botocore() -> None:
    assert json.loads(REGIONS.read_text()) == regions_description()


@pytest.mark.parametrize(("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("eu-west-1", "aws")])
def test_a_role_belongs_to_the_partition_of_the_region(provider: SageMakerProvider, region: str, partition: str) -> None:
    suffix = ".cn" if partition == "aws-cn" else ""
    repository = f"123456789012.dkr.ecr.{region}.amazonaws.com{suffix}/cloud-train"
    settings = {"region": region, "repository": repository, "role": f"arn:{partition}:iam::123456789012:role/machines"}
    plan = replace(plan_of(settings), image=f"{repository}@sha256:{'4' * 64}")
    assert provider.check(provider.render(plan)) == []


def changed(request: Request, change: Mapping[str, Any]) -> Request:
    return {**request, "body": {**request["body"], **change}}


@pytest.mark.parametrize(
    ("region", "domain"),
    [("eu-west-1", "amazonaws.com"), ("us-gov-west-1", "amazonaws.com"), ("cn-north-1", "amazonaws.com.cn")],
)
def test_a_registry_is_in_the_domain_of_its_partition(region: str, domain: str) -> None:
    domains = {"amazonaws.com", "amazonaws.com.cn", "amazonaws.eu"}
    assert registry_of(f"123456789012.dkr.ecr.{region}.{domain}/x") == ("123456789012", region)
    assert [registry_of(f"123456789012.dkr.ecr.{region}.{other}/x") for other in domains - {domain}] == [None, None]
