"""The policies and roles of docs/clouds allow what is really asked of each cloud, and nothing else."""

import json
import re
import string
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from cloud_train.providers.aws.client import POLICY as AWS_POLICY
from cloud_train.providers.aws.provider import SageMakerProvider
from cloud_train.providers.azure.provider import AzureMlProvider
from cloud_train.providers.gcp.client import POLICY as GCP_POLICY
from cloud_train.providers.gcp.provider import VertexProvider
from cloud_train.run.plan import new_run_id
from cloud_train.storage.registry import open_store
from cloud_train.worker.secrets import fetch
from tests.clouds import kit, permissions
from tests.clouds.aws_job import Imaginary
from tests.clouds.aws_platform import ACCOUNT, REGION
from tests.clouds.aws_simulator import aws_cloud
from tests.clouds.azure_simulator import CLUSTER, AzureSimulator
from tests.clouds.gcp_simulator import REGION as GOOGLE_REGION
from tests.clouds.gcp_simulator import GcpSimulator
from tests.faults import FaultProxy
from tests.providers import aws_plans, azure_plans, gcp_plans
from tests.stores import use

DOCS = Path(__file__).parents[2] / "docs" / "clouds"
KEYS = {"KEY": "value"}

SAGEMAKER_S_OWN = {
    *("ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
    "cloudwatch:PutMetricData",
    *("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
}
"""What SageMaker does in the name of the machines' role (https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html)."""

GOOGLE_ROLES = {
    "roles/storage.objectUser": {"storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list"},
    "roles/artifactregistry.writer": {
        "artifactregistry.repositories.get",
        "artifactregistry.repositories.downloadArtifacts",
        "artifactregistry.repositories.uploadArtifacts",
    },
    "roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs"},
    "roles/secretmanager.secretAccessor": {"secretmanager.versions.access"},
    "roles/logging.logWriter": {"logging.logEntries.create"},
}
"""Of what Google's own roles allow, what matters here (https://cloud.google.com/iam/docs/roles-permissions)."""
VERTEX_S_OWN = {"logging.logEntries.create"}
"""What Vertex AI does in the name of the machines' account."""

_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
_REGISTRIES = "Microsoft.ContainerRegistry/registries"
_SECRETS = "Microsoft.KeyVault/vaults/secrets"
AZURE_ROLES = {
    "Storage Blob Data Contributor": {f"{_BLOBS}/read", f"{_BLOBS}/write", f"{_BLOBS}/delete"},
    "AcrPush": {f"{_REGISTRIES}/pull/read", f"{_REGISTRIES}/push/write"},
    "AcrPull": {f"{_REGISTRIES}/pull/read"},
    "Key Vault Secrets User": {f"{_SECRETS}/getSecret/action"},
}
"""Of what Azure's own roles allow, what matters here (https://learn.microsoft.com/azure/role-based-access-control/built-in-roles)."""
AZURE_S_TABLE = {
    f"Microsoft.MachineLearningServices/workspaces/{action}"
    for action in ("environments/write", "environments/build/action", "environments/readSecrets/action", "metadata/artifacts/write")
}
"""What Microsoft's table has beside what is asked, in its row for submitting any run; the other actions of that row are those
of the older API (https://learn.microsoft.com/azure/machine-learning/how-to-assign-roles).
"""


def test_the_policies_for_aws_allow_what_is_asked_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/cloud-train"
    role = f"arn:aws:iam::{ACCOUNT}:role/cloud-train-machines"
    settings = {"region": REGION, "role": role, "repository": repository, "machine": "ml.g5.xlarge", "create_repository": True}
    with aws_cloud() as cloud, FaultProxy(cloud.store) as s3:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        use(cloud.store, monkeypatch, s3.endpoint)
        provider = SageMakerProvider(tmp_path, replace(AWS_POLICY, sleep=lambda _: None))
        store, run_id = cloud.new_store(), new_run_id("test")
        provider.registry_login(settings)
        assert {each.status for each in provider.diagnose(settings, store)} <= {"ok", "warning"}
        plans = [aws_plans.plan_of(settings, run_id=run_id, attempt=number, store=store, secrets=["KEY"]) for number in (1, 2)]
        handles = [provider.launch(provider.render(plan), KEYS) for plan in plans]
        [machine] = cloud.simulator.machines(f"{run_id}-1")
        assert isinstance(machine, Imaginary)
        machine.printed, machine.status = b"printed\n", 0
        assert provider.find(run_id, 1, store, settings) is not None
        provider.observe_all(handles)
        assert provider.logs(handles[0], None)[0]
        fetch(f"aws-secret:cloud-train/{run_id}-2@{REGION}")
        for handle in handles:
            provider.cancel(handle)
            provider.clean_up(handle)
        cloud.simulator.client("secretsmanager").create_secret(Name=f"cloud-train/{run_id}-2", SecretString="{}")
        with pytest.raises(Exception, match="already launched"):
            provider.launch(provider.render(plans[1]), KEYS)  # which lays the secret anew
        permissions.use_in_every_way(open_store(store))
        asked = permissions.of_aws(cloud.server.requests, REGION, ACCOUNT)
        stored = permissions.of_s3(s3)
    secret = {each for each in asked if each[0] == "secretsmanager:GetSecretValue"}
    locating = {each for each in stored if each[0] == "s3:GetBucketLocation"}
    asked = (asked - secret) | stored | permissions.of_ecr(permissions.pushed(tmp_path), REGION, ACCOUNT)
    documented = (DOCS / "aws.md").read_text()
    for file, needs, other in (
        ("submit.json", asked, set[str]()),
        ("machines.json", secret | stored - locating, SAGEMAKER_S_OWN),
    ):
        variables = {"PARTITION": "aws", "AWS_REGION": REGION, "ACCOUNT": ACCOUNT, "BUCKET": store.split("/")[2]}
        statements = written("aws.md", file, variables)["Statement"]
        refused = {each for each in needs if not permissions.is_allowed(each, statements)}
        assert {action for action, _ in refused} <= {"ecr:CreateRepository"}, f"{file} lacks {refused}"
        assert all(f"add `{action}`" in documented for action, _ in refused)
        named = {action for statement in statements for action in permissions.listed(statement["Action"])}
        assert named - {action for action, _ in needs} == other, file


def test_the_roles_for_google_cloud_allow_what_is_asked_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = kit.store("gcp")
    with GcpSimulator(tmp_path / "google") as google, FaultProxy(server) as gcs:
        for name, value in {**google.environment, **server.environment}.items():
            monkeypatch.setenv(name, value)
        use(server, monkeypatch, gcs.endpoint)
        store = server.new_url()
        google.buckets[store.removeprefix("gs://")] = GOOGLE_REGION.upper()
        google.repositories.clear()
        settings = {**google.settings, "service_account": google.accounts.machines, "create_repository": True}
        provider = VertexProvider(tmp_path, policy=replace(GCP_POLICY, sleep=lambda _: None))
        provider.registry_login(settings)
        assert {each.status for each in provider.diagnose(settings, store)} == {"ok"}
        plan = gcp_plans.plan_of(settings=settings, store=store, secrets=["KEY"])
        handle = provider.launch(provider.render(plan), KEYS)
        assert provider.find(plan.run_id, 1, store, settings) is not None
        provider.observe_all([handle])
        provider.observe(handle)
        provider.logs(handle, None)
        provider.cancel(handle)
        provider.clean_up(handle)
        assert google.secrets.names() == []
        permissions.use_in_every_way(open_store(store))
        asked = permissions.of_google(google.server.requests)
        stored = permissions.of_gcs(gcs)
    document = (DOCS / "gcp.md").read_text()
    commands = document.replace("\\\n", "")
    given = {who: set(re.findall(rf"--member={who} --role=(\S+)", commands)) for who in (r"\$ME", r"serviceAccount:\$TRAINER")}
    [own] = re.findall(r"gcloud iam roles create cloudTrainSubmitter .*--permissions=(\S+)", commands)
    optional = {"artifactregistry.repositories.create", "storage.buckets.get", "serviceusage.quotas.get"}
    assert all(f"`{permission}`" in document for permission in optional)
    roles = {**GOOGLE_ROLES, "projects/$PROJECT/roles/cloudTrainSubmitter": set(own.split(",")) - {"serviceusage.services.use"}}
    push = permissions.of_artifact_registry(permissions.pushed(tmp_path))
    assert {permission for role in given[r"\$ME"] for permission in roles[role]} == (asked | stored | push) - optional
    machines = stored | {"secretmanager.versions.access"} | VERTEX_S_OWN
    assert {permission for role in given[r"serviceAccount:\$TRAINER"] for permission in roles[role]} == machines


def test_the_roles_for_azure_allow_what_is_asked_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = kit.store("azure")
    with AzureSimulator() as azure, FaultProxy(server) as blobs:
        for name, value in {**azure.environment, **server.environment}.items():
            monkeypatch.setenv(name, value)
        use(server, monkeypatch, blobs.endpoint)
        store, provider = server.new_url(), AzureMlProvider(tmp_path)
        settings = {**azure.settings, "repository": f"{azure.url.removeprefix('http://')}/cloud-train"}
        for machine in ({"compute": CLUSTER}, {"machine": "Standard_F4s_v2"}):
            assert {each.status for each in provider.diagnose({**settings, **machine}, store)} == {"ok"}
        plan = azure_plans.plan_of(settings, store=store, secrets=["KEY"])
        handle = provider.launch(provider.render(plan), KEYS)
        job = f"{plan.run_id}-1"
        fetch(f"azure-secret:{azure.url}/secrets/cloud-train-{job}")
        assert provider.find(plan.run_id, 1, store, settings) is not None
        provider.observe_all([handle] * 3)
        azure.jobs[job].logs["user_logs/std_log.txt"] = b"printed"
        assert provider.logs(handle, None)[0]
        provider.cancel(handle)
        azure.jobs[job].status = "Canceled"
        provider.clean_up(handle)
        assert azure.keys.secrets == {}
        permissions.use_in_every_way(open_store(store))
        asked = permissions.of_azure(azure.server.requests)
        stored = permissions.of_blobs(blobs)
    document = (DOCS / "azure.md").read_text()
    optional = {f"Microsoft.MachineLearningServices/locations/{kind}/read" for kind in ("vmSizes", "usages")}
    assert all(f"`{action}`" in document for action in optional)
    secret = {action for action in asked if "getSecret" in action}
    definition = written("azure.md", "submitter.json", {"SUBSCRIPTION": "1", "GROUP": "cloud-train"})
    own = {*definition["Actions"], *definition["DataActions"]}
    given = {
        who: set(re.findall(rf'^give {who} "?(.+?)"? \$', document, re.MULTILINE)) for who in (r"User \$ME", r"ServicePrincipal \$IDENTITY")
    }
    push = permissions.of_acr(permissions.pushed(tmp_path))
    roles = {**AZURE_ROLES, definition["Name"]: own}
    for who, needs in ((r"User \$ME", asked - secret - optional | stored | push), (r"ServicePrincipal \$IDENTITY", secret | stored)):
        allowed = {action for role in given[who] for action in roles[role]}
        assert not [each for each in needs if not any(fnmatchcase(each, action) for action in allowed)], who
        pulled = AZURE_ROLES["AcrPull"] if "Principal" in who else set[str]()
        idle = {action for action in allowed if not any(fnmatchcase(each, action) for each in needs)} - pulled
        assert idle == (set[str]() if pulled else AZURE_S_TABLE), who
    assert definition["NotActions"] == definition["NotDataActions"] == []


def written(document: str, file: str, variables: dict[str, str]) -> dict[str, Any]:
    """A JSON file that the commands of a document write."""
    found = re.search(rf"^cat > {re.escape(file)} <<EOF\n(.*?)^EOF$", (DOCS / document).read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{document} writes no {file}"
    policy: dict[str, Any] = json.loads(string.Template(found[1]).substitute(variables))
    return policy


@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov"])
@pytest.mark.parametrize("file", ["machines.json", "submit.json"])
def test_the_policies_for_aws_follow_the_partition(partition: str, file: str) -> None:
    variables = {"PARTITION": partition, "AWS_REGION": REGION, "ACCOUNT": ACCOUNT, "BUCKET": "runs"}
    resources = [one for statement in written("aws.md", file, variables)["Statement"] for one in permissions.listed(statement["Resource"])]
    assert {one.split(":")[1] for one in resources if one != "*"} == {partition}
