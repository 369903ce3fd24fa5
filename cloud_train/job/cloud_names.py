"""Patterns for names that become part of a cloud's hosts, URLs and ARNs: regions, projects, workspaces, repositories, vaults.

Config files are checked against these patterns, and so is every name from which a host or a path is built, because not every setting
comes from a config file. They are ASCII only and bounded by '^' and '$', and mean the same in JSON Schema, pydantic and ``re``.
"""

import re

from cloud_train.job.loopback import HOST as _LOOPBACK

_LABEL = r"[a-z0-9]+(?:-+[a-z0-9]+)*"
_SHOWN_LABEL = r"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
"""Azure shows a vault's host with the capitals that its name was typed with; case does not matter."""
_PORT = r"(?::[0-9]{1,5})?"
_TEMPLATE_LABEL = r"(?:\{service\}|[a-z0-9])+(?:-+(?:\{service\}|[a-z0-9])+)*"
_PATH = r"(?:/(?:[A-Za-z0-9_~-]|\{service\})[A-Za-z0-9._~-]*)*/?"

SERVICE_URL = rf"^(?:https://{_LABEL}(?:\.{_LABEL})*|https?://{_LOOPBACK}){_PORT}{_PATH}$"
SERVICE_TEMPLATE = rf"^(?:https://{_TEMPLATE_LABEL}(?:\.{_TEMPLATE_LABEL})*|https?://{_LOOPBACK}){_PORT}{_PATH}$"
"""The same, with ``{service}`` in the place of a service's name."""
VAULT_URL = rf"^(?:https://{_SHOWN_LABEL}(?:\.{_SHOWN_LABEL})*|https?://{_LOOPBACK}){_PORT}/?$"

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY = rf"^(?:{_LABEL}(?:\.{_LABEL})+{_PORT}|{_LABEL}:[0-9]{{1,5}}|{_LOOPBACK}{_PORT})(?:/{_PART})+$"
"""``host/name``, with a recognizable host (a '.', a port, or localhost) followed by at least one name."""

AWS_REGION = r"^[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}$"
AWS_ROLE = r"^arn:aws(?:-[a-z]+)*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,576}$"
AWS_TRAINING_PLAN = r"^arn:aws(?:-[a-z]+)*:sagemaker:[a-z0-9-]+:[0-9]{12}:training-plan/[A-Za-z0-9-]{1,64}$"
AWS_FUNCTION = r"^arn:aws(?:-[a-z]+)*:lambda:[a-z0-9-]+:[0-9]{12}:function:[A-Za-z0-9_:$-]{1,170}$"
GCP_PROJECT = r"^(?:(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]{6,30})$"
GCP_REGION = r"^[a-z]+-[a-z]+[0-9]+$"
GCP_ACCOUNT = r"^[a-z0-9][a-z0-9-]*@(?:[a-z0-9-]+\.)+gserviceaccount\.com$"
_GCP_NAME = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_GCP_OWNER = r"projects/(?:(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]{6,30})"
GCP_NETWORK = rf"^projects/[0-9]{{4,30}}/global/networks/{_GCP_NAME}$"
"""Vertex AI takes the project's number here, not its ID."""
GCP_KEY = rf"^{_GCP_OWNER}/locations/[a-z0-9-]+/keyRings/[\w-]{{1,63}}/cryptoKeys/[\w-]{{1,63}}$"
GCP_RESERVATION = rf"^(?:any|{_GCP_OWNER}/zones/[a-z]+-[a-z]+[0-9]+-[a-z]/reservations/{_GCP_NAME})$"
GCP_ATTACHMENT = rf"^{_GCP_OWNER}/regions/[a-z]+-[a-z]+[0-9]+/networkAttachments/{_GCP_NAME}$"
GCP_TENSORBOARD = rf"^{_GCP_OWNER}/locations/[a-z]+-[a-z]+[0-9]+/tensorboards/[a-z0-9-]{{1,128}}$"
GCP_PERSISTENT = r"^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$"
GCS_FOLDER = r"^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](?:/[\w.=~+@-]+)*/?$"
GUID = r"^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
CLIENT_ID = r"^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"
"""The same form written differently, because messages are looked up by pattern."""
AZURE_IDENTITY = r"^(?:user|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12})$"
"""A client ID, or the word for the identity of the user who submits the job."""
AZURE_GROUP = r"^[\w.()-]{0,89}[\w()-]$"
AZURE_WORKSPACE = r"^[A-Za-z0-9][A-Za-z0-9_-]{2,32}$"
AZURE_LOCATION = r"^[a-z][a-z0-9]{1,39}$"
AZURE_COMPUTE = r"^[A-Za-z](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])$"
AZURE_INSTANCE_TYPE = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
AZURE_MACHINE = r"^[Ss][Tt][Aa][Nn][Dd][Aa][Rr][Dd]_[A-Za-z][A-Za-z0-9_]+$"
DOCKER_HOST = (
    r"^(?:unix:///[^\s\x00-\x1f\x7f?#\\]+|npipe:////[^\s\x00-\x1f\x7f?#\\]+"
    r"|ssh://(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?(?:/[^\s\x00-\x1f\x7f?#\\]*)?"
    r"|(?:tcp|https?)://(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~-]+)*/?)$"
)
DOCKER_NETWORK = r"^(?:container:)?[A-Za-z0-9][A-Za-z0-9_.-]*$"
DOCKER_USER = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?$"

_AZURE_HOST = re.compile(r"(?P<account>[a-z0-9]{3,24})\.(?:blob|dfs)\.core\.(?:windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)")
_AZURE_FILES = ("abfs", "abfss", "wasb", "wasbs")
"""Schemes of Hadoop's drivers for Azure: ``abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX``."""

EXPECTED = {
    SERVICE_URL: "a URL that begins with https:// (http:// on this machine only), such as https://management.azure.com",
    SERVICE_TEMPLATE: "a URL that begins with https:// (http:// on this machine only), such as https://{service}.googleapis.com",
    VAULT_URL: "the URL of a Key Vault, such as https://cloud-train.vault.azure.net",
    REPOSITORY: "a registry's host and a repository in it, such as registry.example.com/team/cloud-train, in lower case and without a tag",
    AWS_REGION: "a region, such as eu-west-1",
    AWS_ROLE: "a role's ARN, such as arn:aws:iam::123456789012:role/cloud-train-machines",
    AWS_TRAINING_PLAN: "a training plan's ARN, such as arn:aws:sagemaker:us-east-1:123456789012:training-plan/mine",
    AWS_FUNCTION: "a Lambda function's ARN, such as arn:aws:lambda:us-east-1:123456789012:function:registry-login",
    GCP_PROJECT: "a project ID, such as my-project-123456",
    GCP_REGION: "a region, such as europe-west4",
    GCP_ACCOUNT: "a service account's email address, such as trainer@my-project.iam.gserviceaccount.com",
    GCP_NETWORK: "a network's full name with the project's number, such as projects/12345/global/networks/training",
    GCP_KEY: "a key's full name, such as projects/my-project/locations/europe-west4/keyRings/ring/cryptoKeys/key",
    GCP_RESERVATION: "'any', or a reservation's full name, such as projects/my-project/zones/europe-west4-a/reservations/gpus",
    GCP_ATTACHMENT: "a network attachment's full name, such as projects/my-project/regions/europe-west4/networkAttachments/training",
    GCP_TENSORBOARD: "a TensorBoard instance's full name, such as projects/my-project/locations/europe-west4/tensorboards/1234567890",
    GCP_PERSISTENT: "the ID of a persistent resource: at most 63 characters of a-z, 0-9 and '-', starting with a letter",
    GCS_FOLDER: "a folder in a bucket, such as gs://my-bucket/tensorboard",
    GUID: "an ID such as 11111111-2222-3333-4444-555555555555",
    CLIENT_ID: "an identity's client ID, such as 11111111-2222-3333-4444-555555555555",
    AZURE_IDENTITY: "an identity's client ID, such as 11111111-2222-3333-4444-555555555555, or 'user'",
    AZURE_GROUP: "1 to 90 letters, digits and '_-.()', without a '.' at the end",
    AZURE_WORKSPACE: "3 to 33 letters, digits, '_' and '-'",
    AZURE_LOCATION: "an Azure region in one word, such as westeurope",
    AZURE_COMPUTE: "the name of a cluster: 2 to 32 letters, digits and '-'",
    AZURE_INSTANCE_TYPE: "the name of an instance type of a Kubernetes cluster, such as gpu-large",
    AZURE_MACHINE: "an Azure machine type, such as Standard_NC4as_T4_v3",
    DOCKER_HOST: "the URL of an engine, such as unix:///var/run/docker.sock, ssh://user@host or tcp://host:2376",
    DOCKER_NETWORK: "the name of a network, such as bridge or host",
    DOCKER_USER: "uid:gid, such as 1000:1000",
}
"""Pattern → what it expects, in words that complete "… is not …"."""

BUCKETS = {
    "s3": (
        r"(?!(?:[0-9]+\.){3}[0-9]+$|xn--|sthree-|amzn-s3-demo-)(?!.*(?:-s3alias|--ol-s3|\.mrap|--x-s3|--table-s3)$)"
        r"[a-z0-9](?:[a-z0-9-]|\.(?![.-])){1,61}[a-z0-9]",
        "3 to 63 characters of a-z, 0-9, '-' and '.', without the prefixes and suffixes that Amazon keeps for itself",
    ),
    "gs": (
        r"(?!(?:[0-9]+\.){3}[0-9]+$|goog)(?!.*google)[a-z0-9](?:[a-z0-9_-]|\.(?![.-])){1,220}[a-z0-9]",
        "3 to 63 characters (222 with dots) of a-z, 0-9, '-', '_' and '.', without goog at its start or google in it",
    ),
}
"""Scheme → pattern of a bucket's name, and its description
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, https://cloud.google.com/storage/docs/buckets#naming).
"""
AZURE_ACCOUNT = r"[a-z0-9]{3,24}"
AZURE_CONTAINER = r"\$(?:root|web|logs)|(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*"
"""A container's name: https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata"""


def has_form(pattern: str, value: object) -> bool:
    """Whether ``value`` is a string that matches ``pattern``, one of this module's."""
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def meant_azure_store(url: str) -> str:
    """The store URL for another spelling of a container in Azure: its https URL, or that of Hadoop's drivers; empty for other URLs."""
    scheme, _, rest = url.partition("://")
    first, _, path = rest.partition("?")[0].partition("/")
    container, at, host = first.rpartition("@")
    named = _AZURE_HOST.fullmatch((host if at else first).partition(":")[0])
    if named is None or scheme not in (*_AZURE_FILES, "https", "http", "az"):
        return ""
    where = "/".join(part for part in ((container if at and scheme in _AZURE_FILES else ""), path.strip("/")) if part)
    return f"az://{named['account']}/{where or 'CONTAINER'}"
