"""Run directories and plans for the docker provider, made by hand."""

import io
import json
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloud_train
from cloud_train.job.models import JobSpec
from cloud_train.providers.base import Handle
from cloud_train.providers.docker.provider import DockerProvider
from cloud_train.providers.docker.request import labels_of
from cloud_train.run import layout
from cloud_train.run.plan import Plan, new_run_id
from cloud_train.run.record import AttemptStatus, Program, RunRecord, sha256_of
from tests.docker_engine import base_image
from tests.support import wait_until

if TYPE_CHECKING:
    from docker import DockerClient


def plan_of(store: Path, *command: str, image: str | None, settings: dict[str, Any] | None = None, **job: Any) -> Plan:
    """The plan of a script job; its run directory is not made yet."""
    fields = {"name": "test", "model": {"kind": "script", "command": command}, "provider": "docker", **job}
    spec = JobSpec.model_validate_json(json.dumps(fields))
    return Plan(
        run_id=new_run_id("test"),
        attempt=1,
        job=spec,
        job_file="/nowhere/job.yaml",
        provider="docker",
        provider_settings=settings or {},
        store=str(store),
        program=Program(command, "/", grace_seconds=20),
        layers=(),
        data=None,
        steps_per_epoch=None,
        total_steps=None,
        origins={},
        notes=(),
        image=image,
    )


class Run:
    """One run on the engine: its plan, its run directory, and what became of it."""

    def __init__(self, provider: DockerProvider, plan: Plan) -> None:
        self.provider = provider
        self.directory = Path(plan.store, plan.run_id)
        self.directory.mkdir(parents=True)
        self.handle: Handle | None = None
        record = RunRecord(plan.run_id, 1.0, plan.job.model_dump(mode="json"), plan.program, plan.facts(), {})
        (self.directory / layout.RUN).write_bytes(record.to_json())
        self.plan = replace(plan, record_sha256=sha256_of(record.to_json()))

    def launch(self, secrets: dict[str, str] | None = None, **body: Any) -> Handle:
        """Send the request; ``body`` replaces fields of every container in it."""
        request = self.provider.render(self.plan)
        for container in request["containers"]:
            container["body"].update(body)
        self.handle = self.provider.launch(request, secrets or {})
        return self.handle

    def finish(self, secrets: dict[str, str] | None = None, **body: Any) -> Handle:
        """Launch, and wait for the end."""
        handle = self.launch(secrets, **body)
        wait_until(lambda: self.provider.observe(handle).state.is_end, "the containers have ended")
        return handle

    def says(self, word: bytes) -> None:
        """Wait until the program has printed ``word``."""
        wait_until(lambda: word in self.output(), f"the program says {word!r}")

    def output(self, rank: int = 0) -> bytes:
        path = self.directory / layout.output_log(1, rank)
        return path.read_bytes() if path.exists() else b""

    def status(self) -> AttemptStatus:
        return AttemptStatus.from_json((self.directory / layout.status(1)).read_bytes(), "status.json")

    def left_at(self, engine: "DockerClient") -> list[str]:
        """Names of the containers and networks that the engine still has of this run."""
        filters = {"label": [f"{name}={value}" for name, value in labels_of(self.plan.run_id, 1, self.plan.store).items()]}
        containers, networks = engine.containers.list(all=True, filters=filters), engine.networks.list(filters=filters)
        return [str(each.name) for each in (*containers, *networks)]


def of_nobody(plan: Plan) -> Plan:
    """The same, with a user who is not the one that the tests run as."""
    return replace(plan, provider_settings={**plan.provider_settings, "user": "12345:12345"})


@contextmanager
def worker_image(engine: "DockerClient") -> Iterator[str]:
    """An image with the worker and nothing else on top of the base image; yields its id, and removes it afterwards."""
    dockerfile = f"FROM {base_image()}\nCOPY cloud_train /opt/cloud-train/lib/cloud_train\nENV PYTHONPATH=/opt/cloud-train/lib\n"
    tag = f"cloud-train-test-docker-provider:{uuid.uuid4().hex}"
    image, _ = engine.images.build(fileobj=_context(dockerfile), custom_context=True, tag=tag, rm=True, labels={"cloud-train.test": "yes"})
    try:
        yield str(image.id)
    finally:
        engine.images.remove(tag, force=True)


def _context(dockerfile: str) -> io.BytesIO:
    buffer, package = io.BytesIO(), Path(cloud_train.__file__).parent
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        described = tarfile.TarInfo("Dockerfile")
        described.size = len(dockerfile.encode())
        archive.addfile(described, io.BytesIO(dockerfile.encode()))
        for path in sorted(package.rglob("*.py")):
            archive.add(path, f"cloud_train/{path.relative_to(package)}", filter=_readable)
    buffer.seek(0)
    return buffer


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mode = 0o644
    return entry
