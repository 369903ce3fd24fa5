"""Requests that Azure ML refuses, or that cannot work there, for reasons that its specification does not state.

Sources: https://learn.microsoft.com/azure/machine-learning/how-to-manage-quotas (lifetimes, tags), the descriptions of fields in mfe.json
(shared memory, precision of durations, resource IDs), Azure's own messages in public reports (names), the naming rules of Azure's
resources (https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules).
"""

from collections.abc import Callable, Mapping
from typing import Any

from cloud_train.providers.base import Request
from tests.clouds.mutants import Spoil


def _job(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """A mistake in the properties of the job."""
    return lambda request: change(request["job"]["body"]["properties"])


def _resources(**fields: Any) -> Spoil:
    return _job(lambda job: job["resources"].update(fields))


def _environment(**fields: Any) -> Spoil:
    return lambda request: request["environment"]["body"]["properties"].update(fields)


def _setting(name: str, value: Any) -> Spoil:
    """A mistake in a setting that the request has."""
    return lambda request: request["settings"].update({name: value}) if name in request["settings"] else None


def _timeout(value: str, *, spot: bool = False) -> Spoil:
    def spoil(request: Request) -> None:
        request["spot"] = spot
        request["job"]["body"]["properties"]["limits"]["timeout"] = value

    return spoil


def _on_a_cluster(change: Callable[[dict[str, Any]], object]) -> Spoil:
    return _job(lambda job: change(job) if "computeId" in job else None)


def _with_nodes(change: Callable[[dict[str, Any]], object]) -> Spoil:
    return _job(lambda job: change(job) if "distribution" in job else None)


REQUESTS: Mapping[str, Spoil] = {
    "no nodes": _resources(instanceCount=0),
    "less than no nodes": _resources(instanceCount=-1),
    "shared memory without a unit's number": _resources(shmSize="0g"),
    "shared memory with a fraction": _resources(shmSize="1.5g"),
    "shared memory in GiB": _resources(shmSize="2Gi"),
    "shared memory with words around it": _resources(shmSize="about 2g"),
    "less than no shared memory": _resources(shmSize="-2g"),
    "no machine and no cluster": _job(lambda job: job["resources"].pop("instanceType", None) if "computeId" not in job else None),
    "a machine without a name": _job(lambda job: job["resources"].update(instanceType="") if "computeId" not in job else None),
    "no processes": _with_nodes(lambda job: job["distribution"].update(processCountPerInstance=0)),
    "the name of a cluster in place of its ID": _on_a_cluster(lambda job: job.update(computeId="gpu-cluster")),
    "a cluster of no workspace": _on_a_cluster(lambda job: job.update(computeId="/subscriptions/1/computes/gpu-cluster")),
    "serverless in place of a cluster's ID": _job(lambda job: job.update(computeId="serverless")),
    "a tier for a cluster": _on_a_cluster(lambda job: job.update(queueSettings={"jobTier": "Spot"})),
    "the name of an environment in place of its ID": _job(lambda job: job.update(environmentId="cloud-train:1")),
    "an environment without its version": _job(lambda job: job.update(environmentId=job["environmentId"].partition("/versions/")[0])),
    "an environment with a dot in its name": _job(lambda job: job.update(environmentId=job["environmentId"].replace("/cloud-", "/cloud."))),
    "an experiment with a blank in its name": _job(lambda job: job.update(experimentName="my experiment")),
    "an experiment with a dot in its name": _job(lambda job: job.update(experimentName="v1.5")),
    "an experiment that begins with a dash": _job(lambda job: job.update(experimentName="-digits")),
    "an experiment without a name": _job(lambda job: job.update(experimentName="")),
    "an experiment whose name is too long": _job(lambda job: job.update(experimentName="x" * 257)),
    "an experiment that is not named in ASCII": _job(lambda job: job.update(experimentName="zählen")),
    "an expression in the command": _job(lambda job: job.update(command="echo ${{inputs.data}}")),
    "a blank command": _job(lambda job: job.update(command="  ")),
    "a command without a letter or digit": _job(lambda job: job.update(command=":;")),
    "a variable without a name": _job(lambda job: job["environmentVariables"].update({"": "x"})),
    "a variable with '=' in its name": _job(lambda job: job["environmentVariables"].update({"A=B": "x"})),
    "a variable with a null character": _job(lambda job: job["environmentVariables"].update(A="x\0y")),
    "no time": _timeout("PT0S"),
    "22 days": _timeout("P22D"),
    "21 days and a second": _timeout("P21DT1S"),
    "21 days in seconds, and one more": _timeout(f"PT{21 * 24 * 3600 + 1}S"),
    "7 days and a second on low-priority machines": _timeout("P7DT1S", spot=True),
    "a fraction of a second": _timeout("PT1.5S"),
    "months": _timeout("P1M"),
    "weeks": _timeout("P1W"),
    "less than no time": _timeout("-PT1H"),
    "51 tags": _job(lambda job: job["tags"].update({f"tag-{number}": "" for number in range(51)})),
    "a tag whose name is too long": _job(lambda job: job["tags"].update({"x" * 101: ""})),
    "a tag whose value is too long": _job(lambda job: job["tags"].update(tag="x" * 1001)),
    "an identity by its name": _job(lambda job: job["identity"].update(clientId="cloud-train")),
    "an identity by its resource ID": _job(lambda job: job["identity"].update(clientId="/subscriptions/1/userAssignedIdentities/x")),
    "an identity of another kind": _job(lambda job: job["identity"].update(identityType="UserAssigned")),
    "the distribution of another library": _with_nodes(lambda job: job["distribution"].update(distributionType="Horovod")),
    "a job of another kind": _job(lambda job: job.update(jobType="Sweep")),
    "a status": _job(lambda job: job.update(status="Running")),
    "the tier Dedicated": _job(lambda job: job.update(queueSettings={"jobTier": "Dedicated"})),
    "an image without a host or a repository": _environment(image="python:3.11 slim"),
    "an image in capitals": _environment(image="MyRegistry.azurecr.io/Cloud-Train"),
    "an image with a protocol": _environment(image="https://myregistry.azurecr.io/cloud-train"),
    "an image with half a digest": _environment(image="myregistry.azurecr.io/cloud-train@sha256:4444"),
    "an image and a build context": _environment(build={"contextUri": "https://example.com/context"}),
    "an image for Windows": _environment(osType="Windows"),
    "no image": lambda request: request["environment"]["body"]["properties"].pop("image"),
    "a job without an ID": lambda request: request["job"].update(id=""),
    "a job's ID with a dot": lambda request: request["job"].update(id="digits.cnn-1"),
    "a job's ID that begins with a dash": lambda request: request["job"].update(id="-digits"),
    "a job's ID that is too long": lambda request: request["job"].update(id="x" * 256),
    "a subscription by its name": _setting("subscription", "Pay-As-You-Go"),
    "a resource group that ends with a dot": _setting("resource_group", "training."),
    "a resource group with a blank": _setting("resource_group", "my group"),
    "the subscription of the example": _setting("subscription", "00000000-0000-0000-0000-000000000000"),
    "the registry of the example": _setting("repository", "your-registry.azurecr.io/cloud-train"),
    "the identity of the example": _setting("identity", "00000000-0000-0000-0000-000000000000"),
    "the vault of the example": _setting("vault", "https://your-vault.vault.azure.net"),
    "the store of the example": lambda request: request.update(store="az://youraccount/cloud-train"),
    "a region with a typo": _setting("location", "westeurop"),
    "a region by its shown name": _setting("location", "West Europe"),
    "a cloud that was closed": _setting("cloud", "AzureGermanCloud"),
    "a workspace of 2 characters": _setting("workspace", "ml"),
    "a workspace with a dot": _setting("workspace", "my.workspace"),
    "a workspace of 34 characters": _setting("workspace", "x" * 34),
    "a cluster of 33 characters": _setting("compute", "x" * 33),
    "a cluster that begins with a digit": _setting("compute", "1-cluster"),
    "a repository without a name": _setting("repository", "myregistry.azurecr.io"),
    "a repository with a tag": _setting("repository", "myregistry.azurecr.io/cloud-train:latest"),
    "a vault by its name": _setting("vault", "my-vault"),
    "a machine without Standard_": _setting("machine", "NC4as_T4_v3"),
    "a machine that no region has": _job(
        lambda job: job["resources"].update(instanceType="Standard_XY8_v9") if "computeId" not in job else None
    ),
    "a cluster that the workspace does not have": _on_a_cluster(lambda job: job.update(computeId=f"{job['computeId']}-2")),
}
"""Name → what spoils a request in this way; it changes nothing where a request has no such part."""

ACCEPTED: Mapping[str, str] = {
    "a machine that no region has": "Azure adds machines every month, and only the region's own list has them all: `doctor` asks for it",
    "a cluster that the workspace does not have": "only the workspace knows: `doctor` asks it",
}
"""The wrong requests that the dry run accepts → why."""
