"""What the azure provider sends, feature by feature against golden files, and what it would refuse. Nobody is asked."""

import importlib.util
import json
import os
import shlex
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.providers.azure.provider import AzureMlProvider
from cloud_train.providers.base import Request
from cloud_train.providers.cloud.machines import machines
from cloud_train.providers.cloud.request import description
from tests.clouds import azure_descriptions, azure_swagger
from tests.providers.azure_plans import SETTINGS, plan_of

GOLDEN = Path(__file__).with_name("golden") / "azure"
UPDATE = "CLOUD_TRAIN_UPDATE_GOLDEN"

FEATURES: dict[str, Any] = {
    "serverless": plan_of(),
    "spot": plan_of(resources={"accelerator": "T4:1", "memory": "16GB", "spot": True}),
    "nodes": plan_of(resources={"accelerator": "A100:1", "nodes": 4}),
    "cluster": plan_of({"compute": "gpu-cluster", "identity": None}, resources={"spot": True}),
    "machine": plan_of({"machine": "Standard_NC8as_T4_v3"}, resources={"accelerator": "T4:1"}),
    "limits": plan_of(limits={"duration": "2h", "grace": "1 min"}, retry={"attempts": 3}),
    "tags": plan_of({"tags": {"team": "vision", "cost-centre": "42"}}),
    "secrets": plan_of({"vault": "https://cloud-train.vault.azure.net/"}, secrets=["WANDB_API_KEY"]),
    "government": plan_of({"cloud": "AzureUSGovernment", "location": "usgovvirginia", "repository": "myregistry.azurecr.us/cloud-train"}),
    "china": plan_of(
        {
            "cloud": "AzureChinaCloud",
            "location": "chinanorth3",
            "repository": "myregistry.azurecr.cn/cloud-train",
            "compute": "gpu-cluster",
            "identity": None,
        }
    ),
    "user-identity": plan_of({"identity": "user"}),
    "docker-args": plan_of({"docker_args": "--ulimit memlock=-1 --cap-add SYS_PTRACE"}),
    "attached": plan_of({"compute": "kubernetes", "instance_type": "gpu-large"}),
    "quoting": plan_of(store="az://mystorage/runs/it's $HOME; rm -rf / `x`"),
    "before-the-image": plan_of(image="cloud-train-worker:1.0, requirements.txt"),
}


@pytest.fixture
def azure(tmp_path: Path) -> AzureMlProvider:
    return AzureMlProvider(tmp_path)


@pytest.mark.parametrize("feature", FEATURES)
def test_the_request_of_each_feature_is_that_of_its_golden_file(azure: AzureMlProvider, feature: str) -> None:
    request = azure.render(FEATURES[feature])
    file = GOLDEN / f"{feature}.json"
    if os.environ.get(UPDATE):
        file.write_text(json.dumps(request, indent=1) + "\n", encoding="utf-8")
    assert request == json.loads(file.read_text(encoding="utf-8")), f"set {UPDATE}=1 if this is what you want"
    assert azure.check(request) == []


def test_the_command_is_one_text_from_which_a_shell_reads_the_worker_s_words(azure: AzureMlProvider) -> None:
    plan = FEATURES["quoting"]
    command = azure.render(plan)["job"]["body"]["properties"]["command"]
    read = subprocess.run(
        ["/bin/sh", "-c", f"set -- {command.removeprefix('exec ')}; printf '%s\\n' \"$@\""], capture_output=True, check=True
    )
    words = read.stdout.decode().splitlines()
    assert words == shlex.split(command)[1:]
    assert words[:3] == ["python3", "-m", "cloud_train.worker"]
    assert words[words.index("--store") + 1] == plan.store


def test_each_attempt_is_a_job_of_its_own_and_each_image_an_environment(azure: AzureMlProvider) -> None:
    plan = plan_of()
    first, second = azure.render(plan), azure.render(replace(plan, attempt=2))
    assert (first["job"]["id"], second["job"]["id"]) == (f"{plan.run_id}-1", f"{plan.run_id}-2")
    assert first["environment"] == second["environment"]
    elsewhere = azure.render(replace(plan, image=f"other.azurecr.io/x@sha256:{'4' * 64}"))
    assert elsewhere["environment"]["id"] != first["environment"]["id"]


def test_the_values_of_secrets_are_nowhere_in_a_request(azure: AzureMlProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-1234")
    assert "canary-1234" not in json.dumps(azure.render(FEATURES["secrets"]))


@pytest.mark.parametrize(
    ("settings", "job", "problem"),
    [
        ({"subscription": None}, {}, "azure.subscription: not set"),
        ({"resource_group": None}, {}, "azure.resource_group: not set"),
        ({"workspace": None}, {}, "azure.workspace: not set"),
        ({"repository": None}, {}, "azure.repository: not set"),
        ({"subscription": "Pay-As-You-Go"}, {}, "azure.subscription: 'Pay-As-You-Go' is not an ID"),
        ({"resource_group": "ends."}, {}, "azure.resource_group: 'ends.' is not"),
        ({"location": "westeurop"}, {}, "azure.location: 'westeurop' is not a region of Azure; did you mean westeurope?"),
        ({"cloud": "AzureGermanCloud"}, {}, "azure.cloud: 'AzureGermanCloud' is not one of AzureCloud, AzureUSGovernment, AzureChinaCloud"),
        ({"instance_type": "gpu-large"}, {}, "azure.instance_type: belongs to an attached Kubernetes cluster"),
        ({"workspace": "x"}, {}, "azure.workspace: 'x' is not 3 to 33"),
        ({"compute": "no_underscores"}, {}, "azure.compute: 'no_underscores' is not"),
        ({"identity": "my-identity"}, {}, "azure.identity: 'my-identity' is not an identity's client ID"),
        ({"identity": None}, {}, "azure.identity: not set; serverless machines need it to reach store and image"),
        (
            {"machine": "NC4as_T4_v3"},
            {},
            "azure.machine: 'NC4as_T4_v3' is not an Azure machine type, such as Standard_NC4as_T4_v3; did you mean Standard_NC4as",
        ),
        (
            {"machine": "Standard_F2s_v2"},
            {"resources": {"accelerator": "T4:1"}},
            "azure.machine: Standard_F2s_v2: it has no accelerator, but resources.accelerator asks for 1 × T4; use Standard_NC4as_T4_v3",
        ),
        ({"machine": "Standard_F2s_v2", "compute": "gpus"}, {}, "azure.machine: the cluster 'gpus' has its own machines"),
        (
            {"machine": "Standard_NC24ads_A100_v4"},
            {"resources": {"accelerator": "T4:1"}},
            "azure.machine: Standard_NC24ads_A100_v4: it has 1 × A100, but resources.accelerator asks for 1 × T4; use Standard_NC4as_T4_v3",
        ),
        ({"machine": "Standard_F2s_v2"}, {"resources": {"accelerator": "T4:1"}}, "azure.machine: Standard_F2s_v2: it has no accelerator"),
        ({"machine": "Standard_NC8as_T4_v3"}, {"resources": {"cpus": 16}}, "azure.machine: Standard_NC8as_T4_v3: it has 8 cpus"),
        ({"machine": "Standard_ND96isr_MI300X_v5"}, {}, "azure.machine: Standard_ND96isr_MI300X_v5 has AMD's GPUs"),
        ({"platform": "linux/arm64"}, {}, "azure.platform: linux/arm64 does not fit the machine, which has x86-64 processors"),
        ({"machine": "Standard_D4ps_v5"}, {}, "azure.platform: linux/amd64 does not fit Standard_D4ps_v5, which has Arm processors"),
        (
            {"endpoint": "https://evil.example"},
            {},
            "azure.endpoint: refusing to send the token of Azure's resource manager to evil.example",
        ),
        (
            {"history_endpoint": "https://evil.example"},
            {},
            "azure.history_endpoint: refusing to send the token of Azure's resource manager",
        ),
        ({"vault": "https://x.vault.azure.net.evil.example"}, {}, "azure.vault: refusing to send the token of Azure Key Vault to x.vault"),
        (
            {"vault": "https://x.vault.azure.cn"},
            {},
            "azure.vault: x.vault.azure.cn belongs to AzureChinaCloud, but the workspace is in Azure",
        ),
        ({"repository": "me.azurecr.us/x"}, {}, "azure.repository: me.azurecr.us belongs to AzureUSGovernment, but the workspace is in"),
        ({"cloud": "AzureChinaCloud", "repository": "me.azurecr.cn/x"}, {}, "azure.location: westeurope belongs to AzureCloud, but the"),
        (
            {"endpoint": "https://management.azure.com", "cloud": "AzureUSGovernment", "location": "usgovvirginia"},
            {},
            "azure.endpoint: management.azure.com belongs to AzureCloud, but the workspace is in AzureUSGovernment",
        ),
        ({}, {"resources": {"accelerator": "L4:1"}}, "resources.accelerator: azure has no known machine with L4"),
        ({}, {"resources": {"cpus": 500}}, "resources: no known azure machine is large enough"),
        ({}, {"secrets": ["TOKEN"]}, "azure.vault: not set; the job has secrets"),
        ({"vault": "my-vault"}, {}, "azure.vault: 'my-vault' is not the URL of a Key Vault"),
        ({"max_runtime": "22 d"}, {}, "azure.max_runtime: 22 days, 0:00:00 exceeds the 21 days that Azure ML allows; lower it"),
        ({}, {"limits": {"duration": "8 d"}, "resources": {"spot": True}}, "the 7 days that Azure ML allows on low-priority machines"),
        ({"compute": "low"}, {"limits": {"duration": "8 d"}, "resources": {"spot": True}}, "exceeds the 7 days"),
        ({}, {"limits": {"duration": "11 d"}, "retry": {"attempts": 2}}, "exceeds the 21 days"),
        ({"tags": {"long": "x" * 1001}}, {}, "azure.tags.long: too long; a name may have 100 characters, a value 1,000"),
        ({"tags": {f"tag-{number}": "" for number in range(48)}}, {}, "azure.tags: 51 tags"),
    ],
)
def test_what_azure_would_refuse_is_refused_here(
    azure: AzureMlProvider, settings: dict[str, Any], job: dict[str, Any], problem: str
) -> None:
    problems = azure.check(azure.render(plan_of(settings, **job)))
    assert [each for each in problems if problem in each], problems


def test_all_that_is_wrong_is_said_at_once(azure: AzureMlProvider) -> None:
    plan = plan_of(dict.fromkeys(SETTINGS))
    assert len(azure.check(azure.render(plan))) == 5


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda job: job.pop("command"), "job.properties: command is missing"),
        (lambda job: job.update(comand="x"), "job.properties: unknown field comand"),
        (lambda job: job["resources"].update(instanceCount="2"), 'job.properties.resources.instanceCount: "2" is not of the type integer'),
        (
            lambda job: job.update(queueSettings={"jobTier": "spot"}),
            'jobTier: "spot" is not one of the 5 allowed values; did you mean Spot',
        ),
        (lambda job: job["limits"].update(timeout="2h"), 'job.properties.limits.timeout: "2h" does not match the pattern'),
        (lambda job: job["identity"].update(identityType="managed"), 'identityType: "managed" is not one of the 3 allowed values'),
        (lambda job: job["tags"].update(number=1), "job.properties.tags.number: 1 is not of the type string"),
        (lambda job: job.update(command="echo ${{inputs.x}}"), "job.properties.command: '${{' begins an Azure ML expression"),
    ],
)
def test_a_body_of_another_shape_is_refused_with_the_field_s_path(azure: AzureMlProvider, spoil: Any, problem: str) -> None:
    request = azure.render(plan_of())
    spoil(request["job"]["body"]["properties"])
    problems = azure.check(request)
    assert [each for each in problems if problem in each], problems


def test_an_id_that_no_job_can_have_is_refused(azure: AzureMlProvider) -> None:
    request: Request = azure.render(plan_of(run_id="x" * 254))
    assert azure.check(request) == [
        f"job id: {'x' * 254 + '-1'!r} is invalid; use 1 to 254 letters, digits, '_' and '-', starting with a letter or digit"
    ]


def test_a_private_endpoint_is_accepted_once_it_is_trusted(azure: AzureMlProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    request = azure.render(plan_of({"endpoint": "https://arm.example.com", "vault": "https://vault.example.com"}))
    assert len(azure.check(request)) == 2
    monkeypatch.setenv("CLOUD_TRAIN_TRUSTED_HOSTS", "*.example.com")
    assert azure.check(request) == []


def test_a_machine_that_is_not_in_the_table_is_remarked_on_if_it_resembles_one(azure: AzureMlProvider) -> None:
    [said] = azure.remarks(plan_of({"machine": "Standard_NC4as_T4_v33"}))
    assert "Standard_NC4as_T4_v33 is not in the table of machines" in said
    assert said.endswith("did you mean Standard_NC4as_T4_v3?")
    assert list(azure.remarks(plan_of({"machine": "standard_nc4as_t4_v3"}, resources={"accelerator": "T4"}))) == []


def test_rendering_and_checking_need_no_network_and_no_sdk() -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a socket')\n"
        "socket.socket.connect = refuse\n"
        "from pathlib import Path\n"
        "from cloud_train.providers.azure.provider import AzureMlProvider\n"
        "from tests.providers.azure_plans import plan_of\n"
        "azure = AzureMlProvider(Path('/nowhere'))\n"
        "assert azure.check(azure.render(plan_of())) == []\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('azure', 'msal', 'requests')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    assert socket.socket.connect is not None


def test_every_machine_of_the_table_can_be_named(azure: AzureMlProvider) -> None:
    for machine in machines("azure"):
        request = azure.render(plan_of({"machine": machine.name}))
        assert azure.check(request) == []
        assert request["job"]["body"]["properties"]["resources"]["instanceType"] == machine.name


@pytest.mark.parametrize(
    ("definition", "field", "rule"),
    [
        ("CommandJob", "command", {"type": "string", "minLength": 1, "pattern": "[a-zA-Z0-9_]"}),
        ("CommandJob", "environmentId", {"type": "string", "minLength": 1, "pattern": "[a-zA-Z0-9_]"}),
        ("JobResourceConfiguration", "shmSize", {"type": "string", "pattern": r"\d+[bBkKmMgG]"}),
        ("JobResourceConfiguration", "instanceCount", {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}),
        ("ManagedIdentity", "clientId", {"type": "string", "pattern": "^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"}),
    ],
)
def test_the_schemas_have_what_the_sdk_s_models_lost(definition: str, field: str, rule: dict[str, Any]) -> None:
    assert description("azure")["$defs"][definition]["properties"][field] == rule


def test_the_schemas_of_requests_are_those_of_azure_s_specification() -> None:
    if not os.environ.get(azure_swagger.SWAGGER):
        pytest.skip(f"{azure_swagger.SWAGGER} names no copy of mfe.json: see tests/clouds/azure_swagger.py")
    swagger = json.loads(Path(os.environ[azure_swagger.SWAGGER]).read_text(encoding="utf-8"))
    assert azure_swagger.request_description(swagger)["$defs"] == description("azure")["$defs"]


def test_requests_have_the_same_fields_as_the_models_of_azure_s_own_sdk_and_answers_the_same_schemas() -> None:
    if importlib.util.find_spec("azure.ai") is None or importlib.util.find_spec("azure.ai.ml") is None:
        pytest.skip("azure-ai-ml is not installed: pip install azure-ai-ml")
    kept = json.loads(azure_descriptions.ANSWERS.read_text(encoding="utf-8"))["$defs"]
    assert azure_descriptions.answer_description()["$defs"] == kept
    fields = {name: {*schema["properties"]} for name, schema in description("azure")["$defs"].items()}
    assert fields == azure_descriptions.fields_of_requests()
