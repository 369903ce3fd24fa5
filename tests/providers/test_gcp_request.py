"""What Vertex AI is sent, and what is refused before. Nothing is asked, and google-auth is not needed."""

import copy
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ruamel.yaml import YAML

from cloud_train.providers.base import Request
from cloud_train.providers.gcp.provider import VertexProvider
from cloud_train.providers.gcp.request import request_of
from cloud_train.providers.gcp.rules import problems_of
from tests.providers.gcp_plans import FEATURES, GOLDEN, plan_of, without

SAMPLE = Path(__file__).parents[2] / "configs" / "gcp.yaml"


def changed(request: Request, path: str, value: Any) -> Request:
    """The request with another value at ``path``, such as ``body.jobSpec.workerPoolSpecs.0.replicaCount``."""
    request = copy.deepcopy(request)
    at: Any = request
    *folders, name = path.split(".")
    for part in folders:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[name] = value
    return request


@pytest.mark.parametrize("feature", FEATURES)
def test_the_request_is_what_the_golden_file_has_and_nothing_is_wrong_with_it(feature: str) -> None:
    request = request_of(plan_of(**FEATURES[feature]))
    assert json.loads(GOLDEN.joinpath(f"{feature}.json").read_text(encoding="utf-8")) == request
    assert list(problems_of(request)) == []


def test_there_is_no_golden_file_without_its_feature() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(FEATURES)


def test_defaults_hold_without_a_config_file_and_what_is_missing_is_named() -> None:
    plan = replace(plan_of(), provider_settings={}, image="built when submitted")
    problems = list(problems_of(request_of(plan)))
    assert [problem.partition(":")[0] for problem in problems] == ["gcp.project", "gcp.region", "gcp.repository"]


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("displayName", 7, "displayName: 7 is not of the type string"),
        ("displayName", "x" * 129, "displayName: has 129 characters; at most 128"),
        ("state", "JOB_STATE_RUNNING", "CustomJob: unknown field state"),
        ("name", "projects/p/locations/l/customJobs/1", "CustomJob: unknown field name"),
        ("jobSpec", {}, "jobSpec: workerPoolSpecs is missing"),
        ("jobSpec.workerPoolSpecs", [], "the first pool has exactly one replica"),
        ("jobSpec.workerPoolSpecs.0.replicaCount", "2", "the first pool has exactly one replica"),
        ("jobSpec.workerPoolSpecs.0.replicaCount", 1, "replicaCount: 1 is not of the type string"),
        ("jobSpec.workerPoolSpecs.0.replicas", "1", "unknown field replicas"),
        ("jobSpec.workerPoolSpecs.0.machineSpec", {}, "machineSpec.machineType: is missing"),
        ("jobSpec.workerPoolSpecs.0.machineSpec.acceleratorType", "NVIDIA_T4", "did you mean NVIDIA_L4 or NVIDIA_TESLA_T4"),
        ("jobSpec.workerPoolSpecs.0.machineSpec.acceleratorType", "NVIDIA_L4", "acceleratorType and acceleratorCount must be set together"),
        ("jobSpec.workerPoolSpecs.0.diskSpec.bootDiskSizeGb", 99, "gcp.disk: 99GB is not between 100 and 64000GB"),
        ("jobSpec.workerPoolSpecs.0.diskSpec.bootDiskSizeGb", 2**31, f"{2**31}: at most {2**31 - 1} is allowed"),
        ("jobSpec.workerPoolSpecs.0.containerSpec.env", [{"name": "1st", "value": ""}], "'1st' is not a valid variable name"),
        ("jobSpec.workerPoolSpecs.0.containerSpec.env", [{"name": "A"}], "env[0]: value is missing"),
        ("jobSpec.workerPoolSpecs.0.containerSpec.env", [{"name": "A", "value": ""}] * 101, "env: has 101 entries; at most 100"),
        ("jobSpec.scheduling.timeout", "1h", 'jobSpec.scheduling.timeout: "1h" does not match the pattern'),
        ("jobSpec.scheduling.strategy", "SPOTTY", "did you mean SPOT"),
        ("jobSpec.network", "default", "gcp.network: 'default' is not a network's full name"),
        ("jobSpec.network", "projects/my-project-123456/global/networks/training", "with the project's number"),
        ("encryptionSpec", {"kmsKeyName": "my-key"}, "gcp.kms_key: 'my-key' is not a key's full name"),
        (
            "encryptionSpec",
            {"kmsKeyName": "projects/my-project-123456/locations/us/keyRings/r/cryptoKeys/k"},
            "not in the region of the job",
        ),
        ("jobSpec.tensorboard", "1234", "gcp.tensorboard: '1234' is not a TensorBoard instance's full name"),
        ("jobSpec.baseOutputDirectory", {"outputUriPrefix": "/tmp"}, "gcp.base_output_directory: '/tmp' is not a folder in a bucket"),
        ("jobSpec.pscInterfaceConfig", {"networkAttachment": "x"}, "gcp.network_attachment: 'x' is not a network attachment's full name"),
        ("jobSpec.persistentResourceId", "My Resource", "gcp.persistent_resource: 'My Resource' is not the ID of a persistent resource"),
        ("jobSpec.workerPoolSpecs.0.diskSpec.bootDiskType", "pd-balanced", "gcp.disk_type: 'pd-balanced' is not available: use pd-ssd, "),
        ("jobSpec.workerPoolSpecs.0.diskSpec.bootDiskType", "hyperdisk-balanced", "e2-highmem-2 takes pd-ssd or pd-standard"),
        ("jobSpec.serviceAccount", "me@example.com", "gcp.service_account: 'me@example.com' is not a service account's email address"),
        ("labels", {"Team": "vision"}, "gcp.labels: 'Team' is not a valid key"),
        ("labels", {"team": "Vision"}, "gcp.labels.team: 'Vision' is not a valid value"),
        ("labels", {"team": "v" * 64}, "gcp.labels.team: "),
        ("labels", {f"l{number}": "" for number in range(65)}, "gcp.labels: 65 labels, including cloud-train's own; at most 64"),
    ],
)
def test_a_mistake_in_the_body_is_found_and_named(path: str, value: Any, problem: str) -> None:
    problems = list(problems_of(changed(request_of(plan_of()), f"body.{path}", value)))
    assert any(problem in each for each in problems), problems
    assert len(problems) == 1, problems


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"project": "My Project"}, "gcp.project: 'My Project' is not a project id"),
        ({"region": "europe-west4-a"}, "gcp.region: 'europe-west4-a' is a zone; its region is europe-west4"),
        ({"region": "eu"}, "gcp.region: 'eu' is not a region of Vertex AI"),
        ({"region": "europe-west44"}, "gcp.region: 'europe-west44' is not a region of Vertex AI; did you mean europe-west4?"),
        ({"endpoint": "vertex.internal"}, "gcp.endpoint: 'vertex.internal' is not a URL"),
        ({"quota_project": "My Billing"}, "gcp.quota_project: 'My Billing' is not a project ID, such as my-project-123456"),
        ({"machine": "n1-standart-8"}, "gcp.machine: unknown machine n1-standart-8; did you mean n1-standard-8"),
        ({"machine": "a3-highgpu-3g"}, "gcp.machine: unknown machine a3-highgpu-3g; did you mean a3-highgpu-"),
        ({"machine": "a3-highgpu-2g"}, "gcp.machine: a3-highgpu-2g is available as spot capacity or with gcp.flex_start only"),
        ({"machine": "n1-highmem-2", "resources": {"cpus": 8}}, "gcp.machine: n1-highmem-2: it has 2 cpus, but resources.cpus asks for 8"),
        ({"machine": "n2-standard-8", "resources": {"accelerator": "T4"}}, "gcp.machine: n2-standard-8: it has no accelerator, but"),
        ({"machine": "ct5lp-hightpu-4t"}, "gcp.machine: ct5lp-hightpu-4t has TPUs, which are not supported"),
        (
            {"resources": {"accelerator": "TPU_V5_LITEPOD:4"}},
            "resources.accelerator: TPU_V5_LITEPOD is not supported: the usual builds of PyTorch",
        ),
        ({"resources": {"accelerator": "GB200:4"}}, "gcp.platform: a4x-highgpu-4g has Arm processors; set it to linux/arm64"),
        ({"machine": "g4-standard-48", "disk_type": "pd-ssd"}, "gcp.disk_type: 'pd-ssd' is not available: g4-standard-48 takes hyperdisk"),
        ({"machine": "g2-standard-8", "disk_type": "pd-standard"}, "gcp.disk_type: 'pd-standard' is not available: g2-standard-8 takes"),
        ({"platform": "linux/arm64"}, "gcp.platform: e2-highmem-2 has x86-64 processors"),
        ({"base_output_directory": "gs://your-bucket/vertex"}, "gcp.base_output_directory: 'gs://your-bucket/vertex' is a placeholder"),
        (
            {"repository": "gcr.io/my-project-123456"},
            "gcp.repository: 'gcr.io/my-project-123456' has too few parts for an image's name",
        ),
        (
            {"repository": "europe-west4-python.pkg.dev/my-project-123456/cloud-train/jobs"},
            "gcp.repository: 'europe-west4-python.pkg.dev/my-project-123456/cloud-train/jobs' is not in Artifact Registry, though",
        ),
        ({"resources": {"accelerator": "A10G"}}, "resources.accelerator: gcp has no known machine with A10G"),
        ({"resources": {"cpus": 1000}}, "resources: no known gcp machine is large enough"),
        ({"flex_start": True, "resources": {"spot": True}}, "gcp.flex_start: cannot be used with spot capacity"),
        ({"reservation": "any", "resources": {"spot": True}}, "gcp.reservation: cannot be used with spot capacity"),
        ({"reservation": "any", "flex_start": True}, "gcp.flex_start: cannot be combined with gcp.reservation"),
        ({"max_wait": "1h"}, "gcp.max_wait: requires gcp.flex_start"),
        ({"flex_start": True, "max_runtime": "8 d"}, "gcp.flex_start: jobs may run for at most 7 days"),
        ({"flex_start": True, "resources": {"accelerator": "T4"}}, "gcp.flex_start: n1-standard-4 is not available that way"),
        (
            {
                "network": "projects/12345/global/networks/x",
                "network_attachment": "projects/my-project-123456/regions/europe-west4/networkAttachments/x",
            },
            "gcp.network_attachment: cannot be combined with gcp.network",
        ),
        (
            {
                "tensorboard": "projects/my-project-123456/locations/europe-west4/tensorboards/1",
                "base_output_directory": "gs://my-bucket/x",
            },
            "gcp.tensorboard: requires gcp.service_account",
        ),
        ({"reservation": "projects/my-project-123456/zones/us-central1-a/reservations/x"}, "gcp.reservation: 'projects/my-project-123456/"),
    ],
)
def test_a_mistake_in_the_settings_is_named_by_its_key(settings: dict[str, Any], problem: str) -> None:
    resources = settings.get("resources", {})
    plan = plan_of(settings={name: value for name, value in settings.items() if name != "resources"}, resources=resources)
    problems = list(problems_of(request_of(plan)))
    assert [each for each in problems if each.startswith(problem)], problems
    assert len(problems) == 1, problems


def test_the_machines_know_which_project_pays_for_their_requests() -> None:
    pools = request_of(plan_of(settings={"quota_project": "billing-123456"}, resources={"nodes": 2}))["body"]["jobSpec"]["workerPoolSpecs"]
    assert len(pools) == 2
    for pool in pools:
        assert {"name": "GOOGLE_CLOUD_QUOTA_PROJECT", "value": "billing-123456"} in pool["containerSpec"]["env"]


def test_one_h100_is_only_to_be_had_as_spot_capacity_or_with_flex_start() -> None:
    one: dict[str, Any] = {"accelerator": "H100:1"}
    [problem] = problems_of(request_of(plan_of(resources=one)))
    assert problem.startswith("gcp.machine: a3-highgpu-1g is available as spot capacity or with gcp.flex_start only; set resources.spot")
    assert problem.endswith("or gcp.machine to a3-highgpu-8g")
    assert list(problems_of(request_of(plan_of(resources={**one, "spot": True})))) == []
    assert list(problems_of(request_of(plan_of(resources=one, settings={"flex_start": True})))) == []
    assert list(problems_of(request_of(plan_of(resources=one, settings={"machine": "a3-highgpu-8g"})))) == []


def test_the_sample_config_is_refused_until_its_placeholders_are_replaced() -> None:
    sample = YAML(typ="safe", pure=True).load(SAMPLE.read_text(encoding="utf-8"))
    problems = list(problems_of(request_of(plan_of(settings=sample["gcp"], store=sample["store"]))))
    assert {problem.partition(":")[0] for problem in problems if "placeholder" in problem} == {
        *("store", "gcp.project", "gcp.repository", "gcp.service_account")
    }


def test_fields_that_were_added_are_checked_like_the_settings() -> None:
    added = {"jobSpec": {"scheduling": {"maxWaitDuration": "3600s"}, "workerPoolSpecs": {"machineSpec": {"machineType": "n1-standart-4"}}}}
    problems = list(problems_of(request_of(plan_of(settings={"request": added}))))
    assert [problem.partition(":")[0] for problem in problems] == ["gcp.max_wait", "gcp.machine"]


@pytest.mark.parametrize("setting", ["project", "region", "repository"])
def test_a_setting_that_is_needed_is_asked_for(setting: str) -> None:
    [problem] = problems_of(request_of(without(plan_of(), setting)))
    assert problem.startswith(f"gcp.{setting}: not set")


@pytest.mark.parametrize(
    ("retry", "restarts"),
    [
        ({"attempts": 1}, False),
        ({"attempts": 2}, True),
        ({"attempts": 2, "on": ["preempted"]}, True),
        ({"attempts": 2, "on": ["failed"]}, False),
    ],
)
def test_vertex_starts_workers_anew_only_where_the_job_allows_another_attempt(retry: dict[str, Any], restarts: bool) -> None:
    assert request_of(plan_of(retry=retry))["body"]["jobSpec"]["scheduling"]["disableRetries"] is not restarts


def test_checking_needs_neither_network_nor_google_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert list(problems_of(request_of(plan_of()))) == []
    script = (
        "import sys; from tests.providers.gcp_plans import plan_of; from pathlib import Path;"
        "from cloud_train.providers.gcp.provider import VertexProvider; p = VertexProvider(Path('.'));"
        "assert p.check(p.render(plan_of())) == [];"
        "sys.exit(str([m for m in ('google.auth', 'requests', 'urllib3') if m in sys.modules]))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert said.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("endpoint", "is_said"),
    [
        ("https://{service}.googleapis.com", False),
        ("https://{service}-mine.p.googleapis.com", False),
        ("http://127.0.0.1:8080", False),
        ("no URL", False),
        ("https://{service}.evil.example", True),
        ("https://{service}.p.googleapis.com.evil.example", True),
    ],
)
def test_an_endpoint_that_gets_no_token_is_said_before_anything_is_sent(tmp_path: Path, endpoint: str, is_said: bool) -> None:
    said = list(VertexProvider(tmp_path).remarks(plan_of(settings={"endpoint": endpoint})))
    assert [each for each in said if each.startswith(f"gcp.endpoint: {endpoint} is not one of Google's hosts")] == (said if is_said else [])
    assert bool(said) is is_said
