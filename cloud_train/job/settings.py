"""The settings of the built-in providers, as config files have them: sections with each field's type, default, unit and description.

Names that become part of a host, a URL or an ARN have strict forms (``cloud_names``). What only a provider itself would call a mistake (a
machine that does not exist) it says when the request is checked.
"""

from typing import Annotated

from pydantic import Field

from cloud_train.job import cloud_names as forms
from cloud_train.spec.section import Section
from cloud_train.spec.types import ByteSize, Duration

Text = Annotated[str, Field(min_length=1)]
Repository = Annotated[str, Field(pattern=forms.REPOSITORY)]
ServiceUrl = Annotated[str, Field(pattern=forms.SERVICE_URL)]


class LocalSettings(Section):
    """Settings of the provider ``local``."""

    python: Text | None = None
    """The Python that runs the worker and the built-in trainers; the one that runs cloud-train if left out. A relative path starts at
    this file's folder.
    """


class DockerSettings(Section):
    """Settings of the provider ``docker``."""

    host: Annotated[str, Field(pattern=forms.DOCKER_HOST)] | None = None
    """URL of the Docker Engine: ``unix://``, ``ssh://`` or ``tcp://``; the one that Docker's own command line takes if left out. Plain
    ``tcp://`` to another machine sends everything unencrypted, so no job with secrets, or with a store's credentials, is started that way:
    use TLS (``DOCKER_TLS_VERIFY=1``) or ``ssh://``.
    """
    network: Annotated[str, Field(pattern=forms.DOCKER_NETWORK)] | None = None
    """Network of a container that is alone; ``bridge`` if left out."""
    user: Annotated[str, Field(pattern=forms.DOCKER_USER)] | Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """``uid:gid`` of the containers instead of yours."""
    base: Text | None = None
    """The base image of jobs that name none; ``cloud-train-worker`` of this version if left out."""
    repository: Text | None = None
    """Repository of a registry for images, where ``cloud-train package JOB.yaml --push`` puts them."""
    platform: Text | None = None
    """Operating system and architecture of the images, such as ``linux/arm64``; this machine's if left out."""


class CloudSettings(Section):
    """What the three clouds' settings have in common."""

    repository: Repository | None = None
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

    region: Annotated[str, Field(pattern=forms.AWS_REGION)] | None = None
    """The region of jobs, bucket and registry, such as ``eu-west-1``; that of ``repository`` if left out."""
    role: Annotated[str, Field(pattern=forms.AWS_ROLE)] | None = None
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

    project: Annotated[str, Field(pattern=forms.GCP_PROJECT)] | None = None
    """Id of the project in which jobs run and cost money. Needed."""
    region: Annotated[str, Field(pattern=forms.GCP_REGION)] | None = None
    """The region of jobs and bucket, such as ``europe-west4``. Needed."""
    service_account: Annotated[str, Field(pattern=forms.GCP_ACCOUNT)] | None = None
    """E-mail of the service account that the machines have: it reaches the store and the job's secrets, and writes logs. Vertex AI's own,
    the Custom Code Service Agent, if left out. docs/clouds/gcp.md has its roles.
    """
    disk: ByteSize = ByteSize(100 * 10**9)
    """Boot disk of each machine, at least 100GB."""
    disk_type: Text | None = None
    """Kind of boot disk: ``pd-ssd``, ``pd-standard`` or ``hyperdisk-balanced``; the machine's usual one if left out."""
    network: Annotated[str, Field(pattern=forms.GCP_NETWORK)] | None = None
    """Full name of a VPC network that the machines are peered with, such as ``projects/12345/global/networks/training``."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the jobs, beside those of cloud-train."""
    endpoint: Annotated[str, Field(pattern=forms.SERVICE_TEMPLATE)] = "https://{service}.googleapis.com"
    """URL of Google's services; ``{service}`` stands for each one's name (``europe-west4-aiplatform``, ``logging``, ``secretmanager``).
    With Private Service Connect it is ``https://{service}-yourname.p.googleapis.com``. A host that is not one of Google's has to be named
    in the environment variable ``CLOUD_TRAIN_TRUSTED_HOSTS`` too.
    """


class AzureSettings(CloudSettings):
    """Settings of the provider ``azure``: Azure ML command jobs."""

    subscription: Annotated[str, Field(pattern=forms.GUID)] | None = None
    """Id of the subscription."""
    resource_group: Annotated[str, Field(pattern=forms.AZURE_GROUP)] | None = None
    """The resource group of the workspace."""
    workspace: Annotated[str, Field(pattern=forms.AZURE_WORKSPACE)] | None = None
    """The Azure ML workspace."""
    location: Annotated[str, Field(pattern=forms.AZURE_LOCATION)] | None = None
    """The workspace's region, such as ``westeurope``: its run history is there."""
    compute: Annotated[str, Field(pattern=forms.AZURE_COMPUTE)] | None = None
    """A compute cluster of the workspace, whose own setting decides about spot; serverless machines if left out."""
    identity: Annotated[str, Field(pattern=forms.CLIENT_ID)] | None = None
    """Client id of the managed identity that the machines have: it reaches the store and the image. A cluster's own, which the system made,
    if left out; serverless machines need one. docs/clouds/azure.md has its roles.
    """
    vault: Annotated[str, Field(pattern=forms.VAULT_URL)] | None = None
    """URL of the Key Vault that hands a job's ``secrets`` to its machines, such as ``https://cloud-train.vault.azure.net``."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of the jobs, beside those of cloud-train."""
    endpoint: ServiceUrl | None = None
    """URL of Azure's resource manager instead of the public cloud's. A host that is not one of Azure's has to be named in the environment
    variable ``CLOUD_TRAIN_TRUSTED_HOSTS`` too; so do such hosts of ``history_endpoint`` and ``vault``.
    """
    history_endpoint: ServiceUrl | None = None
    """URL of the run history instead of the region's own."""
