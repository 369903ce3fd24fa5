"""The settings of the built-in providers, as config files have them: sections with each field's type, default, unit and description.

Names that become part of a host, a URL or an ARN have strict forms (``cloud_names``). Mistakes that only the
provider can recognize (a machine type that does not exist) are reported when the request is checked.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from cloud_train.job import cloud_names as forms
from cloud_train.spec.types import ByteSize, Duration, Section

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
    """URL of the Docker Engine: ``unix://``, ``ssh://`` or ``tcp://``; the one that the ``docker`` command uses if left out. Plain
    ``tcp://`` to another machine sends everything unencrypted, so a job with secrets or a store's credentials is not started that way:
    use TLS (``DOCKER_TLS_VERIFY=1``) or ``ssh://``.
    """
    network: Annotated[str, Field(pattern=forms.DOCKER_NETWORK)] | None = None
    """Network of the container of a run with one node; ``bridge`` if left out."""
    user: Annotated[str, Field(pattern=forms.DOCKER_USER)] | Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """``uid:gid`` of the containers instead of yours."""
    base: Text | None = None
    """The base image of jobs that name none; ``cloud-train-worker`` of this version if left out."""
    repository: Text | None = None
    """Repository of a registry to which ``cloud-train package JOB.yaml --push`` pushes images."""
    platform: Text | None = None
    """Operating system and architecture of the images, such as ``linux/arm64``; this machine's if left out."""
    console_output: bool = True
    """Also write the program's output to the container's standard output, for ``docker logs``, besides the run's own log: at most 16 kB/s
    in the long run. ``cloud-train logs`` does not need it.
    """


class CloudSettings(Section):
    """What the three clouds' settings have in common."""

    repository: Repository | None = None
    """Repository of a registry for the images, such as ``123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train``: images are pushed to
    it, and the machines pull them from it.
    """
    create_repository: bool = False
    """Create the repository if it does not exist."""
    base: Text | None = None
    """The base image of jobs that name none: one in a registry, or in the Docker Engine of this machine."""
    platform: Text = "linux/amd64"
    """Operating system and architecture of the machines, and so of the images."""
    machine: Text | None = None
    """The machine type, by the cloud's own name; if left out, the smallest one that satisfies ``resources``."""
    request: dict[str, Any] = Field(default_factory=dict)
    """Fields of the cloud's own request, merged into it as the last word, for features that have no setting here: mappings are merged,
    other values replace, ``null`` removes. The result is validated like every request.
    """
    max_runtime: Duration = Duration(86400)
    """Longest time that a job without ``limits.duration`` may run and cost money; then the cloud itself ends it."""
    console_output: bool = True
    """Also write the program's output to the cloud's own log, which bills it by the byte, besides the run's own log: at most 16 kB/s in the
    long run. ``cloud-train logs`` does not need it.
    """


class AwsSettings(CloudSettings):
    """Settings of the provider ``aws``: SageMaker training jobs."""

    region: Annotated[str, Field(pattern=forms.AWS_REGION)] | None = None
    """The region of jobs, bucket and registry, such as ``eu-west-1``; that of ``repository`` if left out."""
    role: Annotated[str, Field(pattern=forms.AWS_ROLE)] | None = None
    """ARN of the role that the machines use to access the store, pull the image and write logs. Required. docs/clouds/aws.md has its
    policy.
    """
    volume: ByteSize = ByteSize(30 * 10**9)
    """Disk of each machine; machines with local NVMe disks, such as ``ml.g5.xlarge``, use those instead."""
    subnets: tuple[Text, ...] = ()
    """VPC subnets for the machines, together with ``security_groups``; S3, ECR and CloudWatch Logs must be reachable from them."""
    security_groups: tuple[Text, ...] = ()
    """Security groups of the machines in those subnets."""
    kms_key: Text | None = None
    """ID or ARN of the AWS KMS key that encrypts the machines' disks; AWS's own if left out. Not for machines with local NVMe disks."""
    output_kms_key: Text | None = None
    """ID, ARN or alias of the AWS KMS key for what SageMaker itself writes to the store, an empty archive; the run's own files have the
    bucket's default encryption.
    """
    encrypt_traffic: bool = False
    """Encrypt the traffic between the machines of a job with several nodes, which takes time."""
    network_isolation: bool = False
    """Refused: an isolated container reaches neither the store nor its secrets. Use private subnets without a route to the internet."""
    keep_alive: Duration | None = None
    """Keep the machines, and bill them, for this time after a job, at most 6 h, so that the next one with the same settings starts at once
    (a warm pool). Not with ``resources.spot``.
    """
    training_plan: Annotated[str, Field(pattern=forms.AWS_TRAINING_PLAN)] | None = None
    """ARN of the training plan whose reserved machines the jobs use."""
    private_registry: bool = False
    """``repository`` is in a registry of your own, which the machines reach through ``subnets``, instead of in Amazon ECR."""
    registry_credentials: Annotated[str, Field(pattern=forms.AWS_FUNCTION)] | None = None
    """ARN of the AWS Lambda function that gives SageMaker a login for that registry."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of the jobs, in addition to cloud-train's own."""
    max_wait: Duration | None = None
    """Longest time to wait for spot capacity, in addition to the time that the job may run; if left out, the same as that time."""


class GcpSettings(CloudSettings):
    """Settings of the provider ``gcp``: Vertex AI custom jobs."""

    project: Annotated[str, Field(pattern=forms.GCP_PROJECT)] | None = None
    """ID of the project in which jobs run and are billed. Required."""
    region: Annotated[str, Field(pattern=forms.GCP_REGION)] | None = None
    """The region of jobs and bucket, such as ``europe-west4``. Required."""
    service_account: Annotated[str, Field(pattern=forms.GCP_ACCOUNT)] | None = None
    """Email address of the service account that the machines use to access the store and the job's secrets and to write logs; if left out,
    Vertex AI's own, the Custom Code Service Agent. docs/clouds/gcp.md has its roles.
    """
    disk: ByteSize = ByteSize(100 * 10**9)
    """Boot disk of each machine, at least 100GB."""
    disk_type: Literal["pd-ssd", "pd-standard", "hyperdisk-balanced"] | None = None
    """Type of boot disk, of those that the machine's family takes; the family's default if left out."""
    network: Annotated[str, Field(pattern=forms.GCP_NETWORK)] | None = None
    """Full name of the VPC network to peer the machines with, with the project's number: ``projects/12345/global/networks/training``."""
    network_attachment: Annotated[str, Field(pattern=forms.GCP_ATTACHMENT)] | None = None
    """Full name of the network attachment through which the machines reach a VPC network (Private Service Connect interface), instead of
    ``network``.
    """
    kms_key: Annotated[str, Field(pattern=forms.GCP_KEY)] | None = None
    """Full name of the Cloud KMS key in the job's region that encrypts the machines' disks (CMEK); Google's own if left out."""
    reservation: Annotated[str, Field(pattern=forms.GCP_RESERVATION)] | None = None
    """Reservation of Compute Engine to take the machines from, by its full name, or ``any``. Not for spot capacity."""
    flex_start: bool = False
    """Wait in Google's queue for GPUs (Flex-start, of the Dynamic Workload Scheduler) instead of failing when there are none. Not for
    spot capacity; for at most 7 days of running.
    """
    max_wait: Duration | None = None
    """Longest time in that queue; one day if left out, and ``0 s`` for no limit."""
    persistent_resource: Annotated[str, Field(pattern=forms.GCP_PERSISTENT)] | None = None
    """ID of a persistent resource whose machines run the jobs. It must have machines of the job's type."""
    web_access: bool = False
    """Let users with access to the job open a shell on its machines (``enableWebAccess``)."""
    tensorboard: Annotated[str, Field(pattern=forms.GCP_TENSORBOARD)] | None = None
    """Full name of the TensorBoard instance of Vertex AI that shows what the program writes to ``AIP_TENSORBOARD_LOG_DIR``. Requires
    ``base_output_directory`` and ``service_account``.
    """
    base_output_directory: Annotated[str, Field(pattern=forms.GCS_FOLDER)] | None = None
    """Folder in a bucket from which Vertex AI makes the variables ``AIP_MODEL_DIR``, ``AIP_CHECKPOINT_DIR`` and ``AIP_TENSORBOARD_LOG_DIR``
    for the program. cloud-train writes nothing there.
    """
    quota_project: Annotated[str, Field(pattern=forms.GCP_PROJECT)] | None = None
    """Project that pays for the machines' requests to the store, for a bucket whose requester pays: their ``GOOGLE_CLOUD_QUOTA_PROJECT``.
    The service account needs ``serviceusage.services.use`` there. Where you submit, set that variable too.
    """
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the jobs, in addition to cloud-train's own."""
    endpoint: Annotated[str, Field(pattern=forms.SERVICE_TEMPLATE)] = "https://{service}.googleapis.com"
    """URL of Google's services; ``{service}`` is replaced by each one's name (``europe-west4-aiplatform``, ``logging``, ``secretmanager``).
    With Private Service Connect it is ``https://{service}-yourname.p.googleapis.com``. A host that is not Google's must also be listed
    in the environment variable ``CLOUD_TRAIN_TRUSTED_HOSTS``.
    """


class AzureSettings(CloudSettings):
    """Settings of the provider ``azure``: Azure ML command jobs."""

    subscription: Annotated[str, Field(pattern=forms.GUID)] | None = None
    """ID of the subscription."""
    resource_group: Annotated[str, Field(pattern=forms.AZURE_GROUP)] | None = None
    """The resource group of the workspace."""
    workspace: Annotated[str, Field(pattern=forms.AZURE_WORKSPACE)] | None = None
    """The Azure ML workspace."""
    location: Annotated[str, Field(pattern=forms.AZURE_LOCATION)] | None = None
    """The workspace's region, such as ``westeurope``, where its run history is kept."""
    cloud: Literal["AzureCloud", "AzureUSGovernment", "AzureChinaCloud"] | None = None
    """The cloud, by its name in the Azure CLI; if left out, the one of ``endpoint``, otherwise the public one, ``AzureCloud``."""
    compute: Annotated[str, Field(pattern=forms.AZURE_COMPUTE)] | None = None
    """A compute cluster of the workspace, which has its own setting for spot, or an attached one; serverless compute if left out."""
    instance_type: Annotated[str, Field(pattern=forms.AZURE_INSTANCE_TYPE)] | None = None
    """Instance type of an attached Kubernetes cluster (``compute``); the cluster's default if left out."""
    identity: Annotated[str, Field(pattern=forms.AZURE_IDENTITY)] | None = None
    """Client ID of the managed identity that the machines use to access the store and the image; if left out, a cluster's own identity.
    ``user`` for the identity of the user who submits the job. Serverless compute requires either. docs/clouds/azure.md has its roles.
    """
    docker_args: Text | None = None
    """Further arguments of ``docker run`` on the machines, such as ``--ulimit memlock=-1``."""
    vault: Annotated[str, Field(pattern=forms.VAULT_URL)] | None = None
    """URL of the Key Vault that passes a job's ``secrets`` to its machines, such as ``https://cloud-train.vault.azure.net``."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of the jobs, in addition to cloud-train's own."""
    endpoint: ServiceUrl | None = None
    """URL of Azure's resource manager instead of the cloud's own. A host that is not Azure's must also be listed in the environment
    variable ``CLOUD_TRAIN_TRUSTED_HOSTS``; the same holds for ``history_endpoint`` and ``vault``.
    """
    history_endpoint: ServiceUrl | None = None
    """URL of the run history instead of the region's own."""
