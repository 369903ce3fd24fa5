"""AWS's own idea of a training container: the local mode of its SDK runs the very request that the provider makes.

``make judge`` runs this: it needs docker-compose, and sagemaker-python-sdk in an environment of its own, whose Python CLOUD_TRAIN_JUDGE
names.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train import Client
from cloud_train.image.building import build_in_engine
from cloud_train.image.engine_images import EngineImages
from cloud_train.orchestrator import submitting
from cloud_train.orchestrator.packaging import recipe_of
from cloud_train.providers.aws.provider import SageMakerProvider
from cloud_train.providers.base import Handle, Request
from cloud_train.run.plan import Plan
from cloud_train.run.states import State
from tests.clouds import kit
from tests.docker_engine import engine_or_skip
from tests.judge.relay import relay

JUDGE = os.environ.get("CLOUD_TRAIN_JUDGE")
IMAGE = "cloud-train-test/judge:1"
REPOSITORY = "123456789012.dkr.ecr.us-east-1.amazonaws.com/cloud-train"
SETTINGS = {"role": "arn:aws:iam::123456789012:role/machines", "repository": REPOSITORY}
SET_BY_LOCAL_MODE = {"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
"""Variables that the SDK adds by itself, and for which Compose refuses another value: the region is that of its session."""
SECONDS = 300.0

pytestmark = pytest.mark.skipif(JUDGE is None, reason="CLOUD_TRAIN_JUDGE names no Python with sagemaker<3: make judge")

Judged = Callable[..., tuple["subprocess.CompletedProcess[str]", Client, str]]


@pytest.fixture
def judged(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Judged]:
    """Submits a job, and lets the SDK's local mode run its request. Returns what that said, a client, and the run's id."""
    moto, base = kit.store("aws"), kit.small_base(kit.shared_folder(tmp_path_factory))
    with closing(engine_or_skip()) as engine:
        gateway = engine.api.inspect_network("bridge")["IPAM"]["Config"][0]["Gateway"]
    for name, value in {**moto.environment, "HOME": str(tmp_path), "AWS_ENDPOINT_URL_SAGEMAKER": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    sent: list[Request] = []

    def launch(self: SageMakerProvider, request: Request, secrets: dict[str, str]) -> Handle:
        sent.append(request)
        return Handle(request["run_id"], 1, "aws", request["store"], {"job": request["body"]["TrainingJobName"], "region": "us-east-1"})

    def with_image(home: object, provider: object, plan: Plan, note: Callable[[str], None]) -> Plan:
        built = build_in_engine(recipe_of(plan, starts_as_root=True), note)
        with EngineImages() as images:
            images.tag(built.reference, IMAGE)
        return replace(plan, image=f"{REPOSITORY}@{built.reference}")

    monkeypatch.setattr(SageMakerProvider, "launch", launch)
    monkeypatch.setattr(submitting, "with_image", with_image)

    def judged(command: str, **sections: Any) -> tuple["subprocess.CompletedProcess[str]", Client, str]:
        job = {"name": "judged", "model": {"kind": "script", "command": command}, "image": {"base": base}, "provider": "aws"}
        (tmp_path / "job.yaml").write_text(json.dumps({**job, "store": f"{moto.new_url()}/runs", **sections}))
        (tmp_path / "aws.yaml").write_text(json.dumps({"provider": "aws", "aws": SETTINGS}))
        client = Client(tmp_path / "home")
        run = client.submit(tmp_path / "job.yaml", config=str(tmp_path / "aws.yaml"))
        with relay(gateway, moto.endpoint) as endpoint:
            body = local(sent[-1]["body"], tmp_path / "output", moto.environment_at(endpoint))
            (tmp_path / "request.json").write_text(json.dumps(body))
            (tmp_path / "mounted").mkdir()
            program = [
                str(JUDGE),
                str(Path(__file__).with_name("local_mode.py")),
                str(tmp_path / "request.json"),
                str(tmp_path / "mounted"),
            ]
            own = {**os.environ, **moto.environment_at(endpoint)}  # which the SDK passes on to its containers
            ended = subprocess.run(program, env=own, capture_output=True, text=True, timeout=SECONDS, check=False)
        return ended, client, run.id

    yield judged
    with closing(engine_or_skip()) as engine:  # the SDK leaves its containers behind
        for container in engine.api.containers(all=True, filters={"ancestor": IMAGE}):
            engine.api.remove_container(container["Id"], v=True, force=True)


def local(body: dict[str, Any], output: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The request as local mode takes it: with an image of this machine's engine, and what stands for the role."""
    variables = {name: value for name, value in {**body["Environment"], **environment}.items() if name not in SET_BY_LOCAL_MODE}
    return {
        **body,
        "AlgorithmSpecification": {**body["AlgorithmSpecification"], "TrainingImage": IMAGE},
        "ResourceConfig": {**body["ResourceConfig"], "InstanceType": "local"},
        "OutputDataConfig": {"S3OutputPath": output.as_uri()},
        "Environment": variables,
    }


def test_the_sdk_runs_the_request_to_its_end_and_the_program_is_not_root(judged: Judged) -> None:
    command = 'id -u; touch "$HOME/x" /tmp/y && echo "node $CLOUD_TRAIN_NODE_RANK of $CLOUD_TRAIN_NODES in $AWS_REGION"'
    ended, client, run_id = judged(command)
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    run = client.run(run_id)
    assert run.status().state is State.SUCCEEDED
    assert run.logs().splitlines() == ["65532", "node 0 of 1 in us-east-1"]


def test_a_program_that_fails_ends_its_container_with_the_status_of_its_cause(judged: Judged) -> None:
    ended, client, run_id = judged("echo oh no; exit 4")
    assert ended.returncode == 1
    assert "code: 10" in ended.stderr
    assert client.run(run_id).status().state is State.FAILED


def test_two_hosts_know_each_other_by_the_names_that_the_sdk_gives_them(judged: Judged) -> None:
    find = 'getent hosts "$MASTER_ADDR" >/dev/null && echo found'
    command = f'echo "node $CLOUD_TRAIN_NODE_RANK of $CLOUD_TRAIN_NODES, $NCCL_SOCKET_IFNAME"; {find}'
    ended, client, run_id = judged(command, resources={"nodes": 2})
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    assert client.run(run_id).logs(node=1).splitlines() == ["node 1 of 2, eth0", "found"]
