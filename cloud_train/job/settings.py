"""The settings of the built-in providers, as config files have them: sections with each field's type, default, unit and description.

What a provider itself would call a mistake (a role that is no ARN, a machine that does not exist) it says when the request is checked.
"""

from typing import Annotated

from pydantic import Field

from cloud_train.job.section import Section
from cloud_train.job.types import ByteSize, Duration

Text = Annotated[str, Field(min_length=1)]


class LocalSettings(Section):
    """Settings of the provider ``local``."""

    python: Text | None = None
    """The Python that runs the worker and the built-in trainers; the one that runs cloud-train if left out. A relative path starts at
    this file's folder.
    """


class CloudSettings(Section):
    """What the three clouds' settings have in common."""

    repository: Text | None = None
    """Repository of a registry for the images, such as ``123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train``: they are pushed there,
    and the machines pull them from there.
    """
    create_repository: bool = False
    """Make the repository where it is missing."""
    base: Text | None = None
    """The base image of jobs that name none: one in a registry, or in the Docker Engine of this machine."""
    platform: Text = "linux/amd64"
    """Operating system and architecture of the machines, as images have them."""
    machine: Text | None = None
    """The kind of machine, in the cloud's own words; the smallest one that has what ``resources`` asks for if left out."""
    max_runtime: Duration = Duration(86400)
    """Longest time that a job without ``limits.duration`` may cost money: the cloud itself ends it then."""


class AwsSettings(CloudSettings):
    """Settings of the provider ``aws``: SageMaker training jobs."""

    region: Text | None = None
    """The region of jobs, bucket and registry, such as ``eu-west-1``; that of ``repository`` if left out."""
    role: Text | None = None
    """ARN of the role that the machines have: it reaches the store, pulls the image, and writes logs. Needed. docs/clouds/aws.md has its
    policy.
    """
    volume: ByteSize = ByteSize(30 * 10**9)
    """Disk of each machine; one with NVMe disks of its own, such as ``ml.g5.xlarge``, has those instead."""
    subnets: tuple[Text, ...] = ()
    """Subnets of a VPC in which the machines are, with ``security_groups``; they need a way to S3, ECR and CloudWatch Logs there."""
    security_groups: tuple[Text, ...] = ()
    """Security groups of the machines in those subnets."""
    kms_key: Text | None = None
    """Key of AWS KMS that encrypts the machines' disks; AWS's own if left out. Not for machines with NVMe disks of their own."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of the jobs, beside those of cloud-train."""
    max_wait: Duration | None = None
    """Longest time to wait for spot capacity, beside the time that the job may run; as long as that if left out."""


class GcpSettings(CloudSettings):
    """Settings of the provider ``gcp``: Vertex AI custom jobs."""

    project: Text | None = None
    """Id of the project in which jobs run and cost money. Needed."""
    region: Text | None = None
    """The region of jobs and bucket, such as ``europe-west4``. Needed."""
    service_account: Text | None = None
    """E-mail of the service account that the machines have: it reaches the store and the job's secrets, and writes logs. Vertex AI's own,
    the Custom Code Service Agent, if left out. docs/clouds/gcp.md has its roles.
    """
    disk: ByteSize = ByteSize(100 * 10**9)
    """Boot disk of each machine, at least 100GB."""
    disk_type: Text | None = None
    """Kind of boot disk: ``pd-ssd``, ``pd-standard`` or ``hyperdisk-balanced``; the machine's usual one if left out."""
    network: Text | None = None
    """Full name of a VPC network that the machines are peered with, such as ``projects/12345/global/networks/training``."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the jobs, beside those of cloud-train."""
    endpoint: Text = "https://{service}.googleapis.com"
    """URL of Google's services; ``{service}`` stands for each one's name (``europe-west4-aiplatform``, ``logging``, ``secretmanager``).
    With Private Service Connect it is ``https://{service}-NAME.p.googleapis.com``.
    """


class AzureSettings(CloudSettings):
    """Settings of the provider ``azure``: Azure ML command jobs."""

    subscription: Text | None = None
    """Id of the subscription."""
    resource_group: Text | None = None
    """The resource group of the workspace."""
    workspace: Text | None = None
    """The Azure ML workspace."""
    location: Text | None = None
    """The workspace's region, such as ``westeurope``: its run history is there."""
    compute: Text | None = None
    """A compute cluster of the workspace, whose own setting decides about spot; serverless machines if left out."""
    identity: Text | None = None
    """Client id of the managed identity that the machines have: it reaches the store and the image. A cluster's own, which the system made,
    if left out; serverless machines need one. docs/clouds/azure.md has its roles.
    """
    vault: Text | None = None
    """URL of the Key Vault that hands a job's ``secrets`` to its machines, such as ``https://cloud-train.vault.azure.net``."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of the jobs, beside those of cloud-train."""
    endpoint: Text | None = None
    """URL of Azure's resource manager instead of the public cloud's."""
    history_endpoint: Text | None = None
    """URL of the run history instead of the region's own."""
