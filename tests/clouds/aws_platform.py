"""What SageMaker gives to the machines of a training job, and takes from them: variables, files, credentials, output, the model's archive.

Reference: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html. Its folders
and ``/tmp`` belong to root, and other users cannot write to them: https://github.com/aws/sagemaker-python-sdk/pull/4325.
"""

import io
import json
import socket
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import botocore.session

from cloud_train.providers.cloud.machines import machines as machine_table
from tests.clouds.aws_job import Body, Imaginary, TrainingJob
from tests.clouds.machine import Login, Machines
from tests.stores import LOOPBACK, StoreServer

ACCOUNT = "123456789012"
"""moto's account, whoever asks."""
REGION = "us-east-1"
LOGIN = {"AWS": f"{ACCOUNT}-auth-token"}
"""The login that moto's ECR gives out: for the registry that stands for it."""
LOG_GROUP = "/aws/sagemaker/TrainingJobs"

ROOTS_FOLDERS: tuple[str, ...] = ("/opt/ml/model/", "/opt/ml/output/data/", "/opt/ml/input/data/", "/tmp/")
"""Folders that belong to root and that no other user can write to."""

_EVENTS = 1000
"""Lines that are sent to the log service at once."""


class Platform:
    """The machines of all jobs: containers, or imaginary ones. Output goes to moto's CloudWatch Logs."""

    def __init__(self, moto: StoreServer, containers: Machines | None) -> None:
        self._moto, self._containers = moto, containers
        self._session = botocore.session.get_session()
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def is_imaginary(self) -> bool:
        """Whether nothing runs."""
        return self._containers is None

    def client(self, service: str) -> Any:
        """One of moto's service of this name."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._session.create_client(
                    service,
                    region_name=REGION,
                    endpoint_url=self._moto.endpoint,
                    aws_access_key_id="testing",
                    aws_secret_access_key="testing",
                )
            return self._clients[service]

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            client.close()

    def start(self, job: TrainingJob) -> Sequence[Body]:
        """A machine a node. Raises ImagePullError."""
        if self._containers is None:
            return [Imaginary() for _ in range(job.nodes)]
        algorithm = job.request["AlgorithmSpecification"]
        hosts = [f"algo-{number}" for number in range(1, job.nodes + 1)]
        environment = self._environment(job)
        [(user, password)] = LOGIN.items()
        return [
            self._containers.start(
                algorithm["TrainingImage"],
                command=[*algorithm.get("ContainerEntrypoint", []), *algorithm.get("ContainerArguments", [])],
                environment=environment,
                files=_files(job, host, hosts),
                hosts=dict.fromkeys(hosts, LOOPBACK),
                memory_bytes=_memory(job.kind),
                login=Login(user, password),
            )
            for host in hosts
        ]

    def ship(self, job: TrainingJob, *, whole: bool) -> None:
        """Bring what was printed since the last time to the log service: lines, and with ``whole`` also what follows the last of them."""
        for node, machine in enumerate(job.machines):
            printed, begin = machine.output(), job.shipped.get(node, 0)
            end = len(printed) if whole else printed.rfind(b"\n") + 1
            if end > begin:
                job.shipped[node] = end
                stream = f"{job.name}/algo-{node + 1}-{int(job.began * 1000)}"
                self._put(stream, printed[begin:end].decode(errors="replace").splitlines())

    def keep(self, job: TrainingJob) -> None:
        """The archive of /opt/ml/model, in which a worker leaves nothing."""
        if self._containers is None:
            return
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz"):
            pass
        place = urlsplit(f"{job.request['OutputDataConfig']['S3OutputPath']}/{job.name}/output/model.tar.gz")
        self.client("s3").put_object(Bucket=place.netloc, Key=place.path.lstrip("/"), Body=packed.getvalue())

    def _environment(self, job: TrainingJob) -> dict[str, str]:
        """The job's own variables, the platform's, and what stands for the role: credentials, and where moto is."""
        return {
            **self._moto.environment,
            **job.request.get("Environment", {}),
            "TRAINING_JOB_NAME": job.name,
            "TRAINING_JOB_ARN": job.arn,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": self._moto.endpoint,
            "CLOUD_TRAIN_MASTER_PORT": str(_free_port()),  # all machines share this one's network
        }

    def _put(self, stream: str, lines: list[str]) -> None:
        logs = self.client("logs")
        with suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_group(logGroupName=LOG_GROUP)
        with suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
        now = int(time.time() * 1000)  # of the real clock: moto takes nothing that is older than 14 days by it
        for some in _pieces(lines):
            logs.put_log_events(
                logGroupName=LOG_GROUP, logStreamName=stream, logEvents=[{"timestamp": now, "message": line or " "} for line in some]
            )


def _files(job: TrainingJob, host: str, hosts: list[str]) -> dict[str, bytes]:
    resources = {
        "current_host": host,
        "current_instance_type": job.kind,
        "current_group_name": "homogeneousCluster",
        "hosts": hosts,
        "instance_groups": [{"instance_group_name": "homogeneousCluster", "instance_type": job.kind, "hosts": hosts}],
        "network_interface_name": "lo",  # all machines share this one's network
    }
    config = {
        "resourceconfig": resources,
        "hyperparameters": job.request.get("HyperParameters", {}),
        "inputdataconfig": {},
    }
    folders = dict.fromkeys(ROOTS_FOLDERS, b"")
    return {**folders, **{f"/opt/ml/input/config/{name}.json": json.dumps(value).encode() for name, value in config.items()}}


def _memory(kind: str) -> int | None:
    return next((machine.memory_bytes for machine in machine_table("aws") if machine.name == kind), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _pieces(lines: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(lines), _EVENTS):
        yield lines[first : first + _EVENTS]
