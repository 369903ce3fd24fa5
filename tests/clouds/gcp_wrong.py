"""Requests that Vertex AI refuses, or that cannot work there, for reasons that its discovery document states in prose or not at all.

Sources: the descriptions of fields in the discovery document aiplatform.v1,
https://cloud.google.com/vertex-ai/docs/training/configure-compute (pools, machines, disks),
https://cloud.google.com/vertex-ai/docs/training/schedule-jobs-dws (Flex-start), and the naming rules of Google's resources.
"""

from collections.abc import Callable, Mapping
from typing import Any

from cloud_train.providers.base import Request
from tests.clouds.mutants import Spoil

_PROJECT = "projects/my-project-123456"
_ACCOUNT = "trainer@my-project-123456.iam.gserviceaccount.com"
_RESERVATION = {
    "reservationAffinityType": "SPECIFIC_RESERVATION",
    "key": "compute.googleapis.com/reservation-name",
    "values": [f"{_PROJECT}/zones/europe-west4-a/reservations/gpus"],
}


def _specification(change: Callable[[dict[str, Any]], object]) -> Spoil:
    return lambda request: change(request["body"]["jobSpec"])


def _with(**fields: Any) -> Spoil:
    """Other fields of the job's specification."""
    return _specification(lambda specification: specification.update(fields))


def _scheduling(**fields: Any) -> Spoil:
    return _specification(lambda specification: specification["scheduling"].update(fields))


def _pool(part: str, **fields: Any) -> Spoil:
    """Other fields of a part of every pool."""

    def spoil(request: Request) -> None:
        for pool in request["body"]["jobSpec"]["workerPoolSpecs"]:
            pool[part].update(fields)

    return spoil


def _machine(name: str, kind: str | None = None, count: int = 1) -> Spoil:
    """Another machine in every pool, with or without accelerators."""

    def spoil(request: Request) -> None:
        accelerators = {"acceleratorType": kind, "acceleratorCount": count} if kind else {}
        for pool in request["body"]["jobSpec"]["workerPoolSpecs"]:
            pool["machineSpec"] = {"machineType": name, **accelerators}
            pool["diskSpec"] = {"bootDiskSizeGb": 100}

    return spoil


def _pools(change: Callable[[list[dict[str, Any]]], object]) -> Spoil:
    return _specification(lambda specification: change(specification["workerPoolSpecs"]))


def _setting(**fields: Any) -> Spoil:
    return lambda request: request["settings"].update(fields)


def _tensorboard(**fields: Any) -> Spoil:
    """A TensorBoard instance, and only these fields of those that belong to it."""

    def spoil(request: Request) -> None:
        specification = request["body"]["jobSpec"]
        for name in ("serviceAccount", "baseOutputDirectory"):
            specification.pop(name, None)
        specification.update(tensorboard=f"{_PROJECT}/locations/europe-west4/tensorboards/1", **fields)

    return spoil


def _two_networks(request: Request) -> None:
    request["body"]["jobSpec"].update(
        network="projects/12345/global/networks/training",
        pscInterfaceConfig={"networkAttachment": f"{_PROJECT}/regions/europe-west4/networkAttachments/training"},
    )


def _reserved(strategy: str) -> Spoil:
    def spoil(request: Request) -> None:
        specification = request["body"]["jobSpec"]
        specification["scheduling"] = {"timeout": "3600s", "strategy": strategy}
        specification.pop("persistentResourceId", None)
        specification["workerPoolSpecs"][0]["machineSpec"] = {
            "machineType": "g2-standard-8",
            "acceleratorType": "NVIDIA_L4",
            "acceleratorCount": 1,
            "reservationAffinity": _RESERVATION,
        }
        specification["workerPoolSpecs"][0]["diskSpec"] = {"bootDiskSizeGb": 100}

    return spoil


def _flexible(machine: str, **scheduling: str) -> Spoil:
    def spoil(request: Request) -> None:
        specification = request["body"]["jobSpec"]
        specification["scheduling"] = {"timeout": "3600s", "strategy": "FLEX_START", **scheduling}
        _machine(machine, "NVIDIA_TESLA_T4" if machine.startswith("n1") else "NVIDIA_L4")(request)

    return spoil


def _on_demand(machine: str, kind: str, count: int) -> Spoil:
    def spoil(request: Request) -> None:
        request["body"]["jobSpec"]["scheduling"] = {"timeout": "3600s", "strategy": "STANDARD"}
        _machine(machine, kind, count)(request)

    return spoil


REQUESTS: Mapping[str, Spoil] = {
    "no project": _setting(project=None),
    "a project by its name": _setting(project="My Project"),
    "the project of the example": _setting(project="your-project-123456"),
    "no region": _setting(region=None),
    "a zone in place of a region": _setting(region="europe-west4-a"),
    "a region that does not exist": _setting(region="europe-west44"),
    "no repository": _setting(repository=None),
    "a repository without an image": _setting(repository="europe-west4-docker.pkg.dev/my-project-123456/cloud-train"),
    "a repository of another cloud": _setting(repository="123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train"),
    "the repository of the example": _setting(repository="europe-west4-docker.pkg.dev/your-project-123456/cloud-train/jobs"),
    "the store of the example": lambda request: request.update(store="gs://your-bucket/runs"),
    "an endpoint without a protocol": _setting(endpoint="{service}.internal"),
    "a name of 129 characters": lambda request: request["body"].update(displayName="x" * 129),
    "an empty name": lambda request: request["body"].update(displayName=""),
    "a label in capitals": lambda request: request["body"]["labels"].update(Team="vision"),
    "a label that begins with a digit": lambda request: request["body"]["labels"].update({"1st": "x"}),
    "a label's value with a blank": lambda request: request["body"]["labels"].update(team="computer vision"),
    "a label's value of 64 characters": lambda request: request["body"]["labels"].update(team="x" * 64),
    "65 labels": lambda request: request["body"]["labels"].update({f"label-{number}": "x" for number in range(65)}),
    "no pools": _with(workerPoolSpecs=[]),
    "five pools": _pools(lambda pools: pools.extend([{**pools[0]}] * (5 - len(pools)))),
    "two replicas in the first pool": _pools(lambda pools: pools[0].update(replicaCount="2")),
    "no replica in another pool": _pools(lambda pools: pools.append({**pools[0], "replicaCount": "0"})),
    "fewer than no replicas in another pool": _pools(lambda pools: pools.append({**pools[0], "replicaCount": "-1"})),
    "a pool without a container": _pools(lambda pools: pools[0].pop("containerSpec")),
    "a pool with a container and a Python package": _pools(
        lambda pools: pools[0].update(
            pythonPackageSpec={"executorImageUri": "image", "packageUris": ["gs://my-bucket/x.tar.gz"], "pythonModule": "x"}
        )
    ),
    "no machine": _pool("machineSpec", machineType=""),
    "a machine with a typo": _machine("n1-standart-8"),
    "a size that the family does not have": _machine("g2-standard-9"),
    "a machine of another cloud": _machine("ml.m5.large"),
    "a machine with TPUs": _machine("ct5lp-hightpu-4t"),
    "TPUs at a machine": _machine("n1-standard-8", "TPU_V3", 8),
    "another accelerator than the machine's own": _machine("g2-standard-8", "NVIDIA_TESLA_T4"),
    "more accelerators than the machine has": _machine("g2-standard-8", "NVIDIA_L4", 8),
    "accelerators at a machine that takes none": _machine("e2-standard-8", "NVIDIA_TESLA_T4"),
    "three T4": _machine("n1-standard-8", "NVIDIA_TESLA_T4", 3),
    "fewer than no accelerators": _machine("n1-standard-8", "NVIDIA_TESLA_T4", -1),
    "a kind of accelerator without a number": _machine("n1-standard-8", "NVIDIA_TESLA_T4", 0),
    "a small A3 on demand": _on_demand("a3-highgpu-2g", "NVIDIA_H100_80GB", 2),
    "a machine with Arm processors": _machine("a4x-highgpu-4g", "NVIDIA_GB200", 4),
    "a disk that is too small": _pool("diskSpec", bootDiskSizeGb=99),
    "a disk that is too large": _pool("diskSpec", bootDiskSizeGb=64_001),
    "a type of disk that does not exist": _pool("diskSpec", bootDiskType="pd-fast"),
    "a Compute Engine disk that Vertex AI does not have": _pool("diskSpec", bootDiskType="pd-balanced"),
    "101 variables": _pool("containerSpec", env=[{"name": f"V{number}", "value": "x"} for number in range(101)]),
    "a variable's name with a dash": _pool("containerSpec", env=[{"name": "MY-VARIABLE", "value": "x"}]),
    "a variable's name that begins with a digit": _pool("containerSpec", env=[{"name": "1ST", "value": "x"}]),
    "no time at all": _scheduling(timeout="0s"),
    "less than no time": _scheduling(timeout="-60s"),
    "a wait outside the queue": _scheduling(strategy="STANDARD", maxWaitDuration="3600s"),
    "a wait of less than no time": _flexible("g2-standard-8", maxWaitDuration="-1s"),
    "eight days in Flex-start": _flexible("g2-standard-8", timeout=f"{8 * 86400}s"),
    "Flex-start on N1": _flexible("n1-standard-8"),
    "a reservation for spot capacity": _reserved("SPOT"),
    "a reservation for Flex-start": _reserved("FLEX_START"),
    "a persistent resource for spot capacity": _specification(
        lambda specification: (specification.update(persistentResourceId="mine"), specification["scheduling"].update(strategy="SPOT"))
    ),
    "a persistent resource by its full name": _with(persistentResourceId=f"{_PROJECT}/locations/europe-west4/persistentResources/mine"),
    "a network by its name": _with(network="default"),
    "a network by its project's ID": _with(network=f"{_PROJECT}/global/networks/training"),
    "two networks": _two_networks,
    "a network attachment in another region": _with(
        pscInterfaceConfig={"networkAttachment": f"{_PROJECT}/regions/us-central1/networkAttachments/training"}
    ),
    "a service account by its name": _with(serviceAccount="trainer"),
    "a user in place of a service account": _with(serviceAccount="me@example.com"),
    "a key by its name": lambda request: request["body"].update(encryptionSpec={"kmsKeyName": "my-key"}),
    "a key in another region": lambda request: request["body"].update(
        encryptionSpec={"kmsKeyName": f"{_PROJECT}/locations/us-central1/keyRings/ring/cryptoKeys/key"}
    ),
    "a version of a key": lambda request: request["body"].update(
        encryptionSpec={"kmsKeyName": f"{_PROJECT}/locations/europe-west4/keyRings/ring/cryptoKeys/key/cryptoKeyVersions/1"}
    ),
    "a TensorBoard by its number": _with(tensorboard="1234567890"),
    "a TensorBoard in another region": _with(tensorboard=f"{_PROJECT}/locations/us-central1/tensorboards/1"),
    "a TensorBoard without a folder": _tensorboard(serviceAccount=_ACCOUNT),
    "a TensorBoard without a service account": _tensorboard(baseOutputDirectory={"outputUriPrefix": "gs://my-bucket/logs"}),
    "a folder of this machine for the output": _with(baseOutputDirectory={"outputUriPrefix": "/tmp/logs"}),
    "a bucket in capitals for the output": _with(baseOutputDirectory={"outputUriPrefix": "gs://My-Bucket/logs"}),
    "another service's project ID as the one that pays": _setting(quota_project="My Billing"),
}
"""Name → what makes a valid request wrong; it changes nothing where a request has no such part."""

ACCEPTED: Mapping[str, str] = {}
"""The wrong requests that a dry run accepts → why."""
