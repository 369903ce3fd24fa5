"""What each request to a cloud takes: the permission, by the cloud's own documentation. For the test that holds docs/clouds to the code.

AWS: https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html, for S3
https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html, for a registry's HTTP API
https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html. Google:
https://cloud.google.com/iam/docs/permissions-reference and https://cloud.google.com/storage/docs/access-control/iam-json. Azure:
https://learn.microsoft.com/azure/role-based-access-control/resource-provider-operations; an action is a resource's type and what is done
to it.
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from cloud_train.image.building import build_in_registry
from cloud_train.image.recipe import Recipe
from cloud_train.storage.base import Store
from tests.answers import Request as StoreRequest
from tests.clouds.server import Logged
from tests.faults import FaultProxy
from tests.image.faulty_registry import faulty_registry
from tests.image.real_registry import push_base

Asked = tuple[str, str]
"""An action of AWS, and the ARN that it is asked for."""


def use_in_every_way(store: Store) -> None:
    """Whatever submitters and workers do to a store, once."""
    store.put("run/a", b"a")
    store.create("run/b", b"b")
    store.put("run/b", b"b again")
    assert store.get("run/a", 0, 1) == b"".join(bytes(piece) for piece in store.pieces("run/a", 0, 1)) == b"a"
    assert store.read("run/a")[0].size == store.stat("run/a").size
    assert [info.key for info in store.list("run/", "run/a")] == ["run/b"]
    assert list(store.folders("")) == ["run"]
    parts = store.multipart()
    size = parts.part_bytes(1) + 1
    for end in ("finish", "abort"):
        token = parts.begin(f"run/{end}", size, "0" * 64)
        receipts = {0: parts.send(f"run/{end}", token, 0, 0, bytes(size - 1))}
        receipts[1] = parts.send(f"run/{end}", token, 1, size - 1, b"z")
        parts.finish(f"run/{end}", token, receipts) if end == "finish" else parts.abort(f"run/{end}", token)
    for info in store.list():
        store.delete(info.key)


def pushed(folder: Path) -> set[tuple[str, str]]:
    """What two pushes of an image ask of a registry, of which the second finds a part there: methods, and ``manifests``, ``blobs`` or
    ``uploads``.
    """
    code = folder / "code"
    code.mkdir()
    with faulty_registry() as registry:
        push_base(f"{registry.host}/cloud-train:base", folder / "base")
        registry.requests.clear()
        for text in ("one", "two"):
            (code / "train.py").write_text(f"print({text!r})\n")
            build_in_registry(
                Recipe(code, f"{registry.host}/cloud-train:base"), f"{registry.host}/cloud-train", print, memory=folder / "pushed"
            )
        return {(method, re.findall(r"/(manifests|uploads|blobs(?!/uploads))/", path)[-1]) for method, path in registry.requests}


# AWS.

_WITH_IT = {"sagemaker:CreateTrainingJob": ("sagemaker:AddTags", "iam:PassRole")}
"""Actions that another one takes too, as the service's documentation says of it: for a job with tags and a role."""
_FREE = {"sts:GetCallerIdentity"}
"""What everybody may."""
_ECR = {
    ("GET", "manifests"): ("BatchGetImage",),
    ("HEAD", "manifests"): ("BatchGetImage",),
    ("PUT", "manifests"): ("PutImage",),
    ("HEAD", "blobs"): ("BatchCheckLayerAvailability",),
    ("GET", "blobs"): ("GetDownloadUrlForLayer",),
    ("POST", "uploads"): ("InitiateLayerUpload",),
    ("PUT", "uploads"): ("UploadLayerPart", "CompleteLayerUpload"),
}
"""A PUT that completes an upload has the layer in it, too."""
_S3 = (
    ("GET", "location", "s3:GetBucketLocation"),
    ("DELETE", "uploadId", "s3:AbortMultipartUpload"),
    ("GET", "list-type", "s3:ListBucket"),
    ("GET", "", "s3:GetObject"),
    ("HEAD", "", "s3:GetObject"),
    ("PUT", "", "s3:PutObject"),
    ("POST", "", "s3:PutObject"),
    ("DELETE", "", "s3:DeleteObject"),
)
"""Method and a parameter of the query → action; the first that fits counts."""


def of_aws(logged: Iterable[Logged], region: str, account: str) -> set[Asked]:
    """The actions, and what they were asked for, of requests to services other than S3 and registries."""
    asked: set[Asked] = set()
    for each in logged:
        service = re.search(r"Credential=[^/]+/\d{8}/[a-z0-9-]+/([a-z0-9-]+)/", each.request.headers["authorization"])
        assert service is not None, "every request to AWS is signed"
        is_form = "x-amz-target" not in each.request.headers
        body = dict(parse_qsl(each.request.body.decode())) if is_form else each.request.json()
        action = f"{service[1]}:{each.operation}"
        for one in (action, *_WITH_IT.get(action, ())):
            if one not in _FREE:
                asked.add((one, _arn(one, body, region, account)))
    return asked


def _arn(action: str, body: Mapping[str, Any], region: str, account: str) -> str:
    """What the action is asked for: * for those that IAM lets nobody narrow."""
    service, here = action.partition(":")[0], f"{region}:{account}"
    repository = body.get("repositoryName") or (body.get("repositoryNames") or [None])[0]
    secret = body.get("Name") or body.get("SecretId")
    stream = f":log-stream:{body['logStreamName']}" if "logStreamName" in body else ""
    arns = {
        "iam": body.get("RoleArn") or f"arn:aws:iam::{account}:role/{body.get('RoleName')}",
        "sagemaker": f"arn:aws:sagemaker:{here}:training-job/{body['TrainingJobName']}" if "TrainingJobName" in body else "*",
        "logs": f"arn:aws:logs:{here}:log-group:{body['logGroupName']}{stream}" if "logGroupName" in body else "*",
        "secretsmanager": f"arn:aws:secretsmanager:{here}:secret:{secret}-AbCdEf" if secret else "*",
        "ecr": f"arn:aws:ecr:{here}:repository/{repository}" if repository else "*",
    }
    return arns.get(service, "*")


def of_s3(proxy: FaultProxy) -> set[Asked]:
    """The same of requests to S3."""
    return {_of_s3(record.request) for record in proxy.records}


def _of_s3(request: StoreRequest) -> Asked:
    bucket, _, key = unquote(request.path).lstrip("/").partition("/")
    query = {name for name, _ in parse_qsl(request.query, keep_blank_values=True)}
    action = next(action for method, parameter, action in _S3 if method == request.method and (not parameter or parameter in query))
    return action, f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"


def of_ecr(requests: Iterable[tuple[str, str]], region: str, account: str) -> set[Asked]:
    """The same of requests to a registry, as ``pushed`` has them."""
    repository = f"arn:aws:ecr:{region}:{account}:repository/cloud-train"
    return {(f"ecr:{action}", repository) for request in requests for action in _ECR[request]}


def is_allowed(asked: Asked, statements: Iterable[Mapping[str, object]]) -> bool:
    """Whether a statement of a policy allows the action there."""
    return any(
        asked[0] in listed(each["Action"]) and any(fnmatchcase(asked[1], one) for one in listed(each["Resource"])) for each in statements
    )


def listed(value: object) -> list[str]:
    """What a policy has as one text or as several."""
    return [value] if isinstance(value, str) else [str(each) for each in value] if isinstance(value, list) else []


# Google.

_GOOGLE = {
    "customJobs.create": ("aiplatform.customJobs.create", "iam.serviceAccounts.actAs"),
    "customJobs.get": ("aiplatform.customJobs.get",),
    "customJobs.list": ("aiplatform.customJobs.list",),
    "customJobs.cancel": ("aiplatform.customJobs.cancel",),
    "entries.list": ("logging.logEntries.list",),
    "secrets.create": ("secretmanager.secrets.create",),
    "secrets.addVersion": ("secretmanager.versions.add",),
    "secrets.access": ("secretmanager.versions.access",),
    "secrets.delete": ("secretmanager.secrets.delete",),
    "repositories.get": ("artifactregistry.repositories.get",),
    "repositories.create": ("artifactregistry.repositories.create",),
    "buckets.get": ("storage.buckets.get",),
    "consumerQuotaMetrics.get": ("serviceusage.quotas.get",),
    "testIamPermissions": (),
    "token": (),
    "metadata": (),
}
"""Method → permissions. With the service account of a job comes that to act as it; anybody may ask what they may do."""
_GCS = {"GET": "get", "HEAD": "get", "PUT": "create", "POST": "create", "DELETE": "delete"}


def of_google(logged: Iterable[Logged]) -> set[str]:
    """The permissions that requests to services other than Cloud Storage and registries take."""
    return {permission for each in logged for permission in _GOOGLE[each.operation]}


def of_gcs(proxy: FaultProxy) -> set[str]:
    """The same of requests to Cloud Storage. Who writes where an object is takes its place, which is to delete it too."""
    actions = {"list" if record.request.path.endswith("/o") else _GCS[record.request.method] for record in proxy.records}
    return {f"storage.objects.{action}" for action in actions}


def of_artifact_registry(requests: Iterable[tuple[str, str]]) -> set[str]:
    """The same of requests to a registry, as ``pushed`` has them."""
    kinds = {"downloadArtifacts" if method in ("GET", "HEAD") else "uploadArtifacts" for method, _ in requests}
    return {f"artifactregistry.repositories.{kind}" for kind in kinds}


# Azure.

_ML = "Microsoft.MachineLearningServices"
_VAULT = "Microsoft.KeyVault/vaults/secrets"
_AZURE = {
    "environments/write": f"{_ML}/workspaces/environments/versions/write",
    "jobs/write": f"{_ML}/workspaces/jobs/write",
    "jobs/read": f"{_ML}/workspaces/jobs/read",
    "jobs/list": f"{_ML}/workspaces/jobs/read",
    "jobs/cancel": f"{_ML}/workspaces/jobs/cancel/action",
    "workspaces/read": f"{_ML}/workspaces/read",
    "computes/read": f"{_ML}/workspaces/computes/read",
    "history/details": f"{_ML}/workspaces/experiments/runs/read",
    "sizes/list": f"{_ML}/locations/vmSizes/read",
    "usages/list": f"{_ML}/locations/usages/read",
    "permissions/list": "Microsoft.Authorization/permissions/read",
    "secrets/set": f"{_VAULT}/setSecret/action",
    "secrets/get": f"{_VAULT}/getSecret/action",
    "secrets/list": f"{_VAULT}/readMetadata/action",
    "secrets/delete": f"{_VAULT}/delete",
}
_SIGNED_OTHERWISE = {"token", "logs/read", "registry/exchange", "registry/token"}
"""What no role allows or forbids: identities, and URLs that carry their own signature."""
_BLOBS = {"GET": "read", "HEAD": "read", "PUT": "write", "DELETE": "delete"}


def of_azure(logged: Iterable[Logged]) -> set[str]:
    """The actions of requests to the resource manager, the run history and the vault."""
    return {_AZURE[each.operation] for each in logged if each.operation not in _SIGNED_OTHERWISE}


def of_blobs(proxy: FaultProxy) -> set[str]:
    """The same of requests to a storage account."""
    blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
    return {f"{blobs}/{_BLOBS[record.request.method]}" for record in proxy.records}


def of_acr(requests: Iterable[tuple[str, str]]) -> set[str]:
    """The same of requests to a registry, as ``pushed`` has them."""
    kinds = {"pull/read" if method in ("GET", "HEAD") else "push/write" for method, _ in requests}
    return {f"Microsoft.ContainerRegistry/registries/{kind}" for kind in kinds}
