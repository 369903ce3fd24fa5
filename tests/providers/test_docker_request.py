"""What the docker provider sends, in the engine's own words, and what it would refuse. No engine is needed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import ProviderError
from cloud_train.providers.base import Request
from cloud_train.providers.docker.provider import DockerProvider
from cloud_train.providers.docker.request import cache_of, problems_of, request_of
from cloud_train.run.plan import NOT_WRITTEN, Plan
from tests.providers.docker_runs import plan_of

IMAGE = "sha256:" + "4" * 64
CACHES = Path("/home/me/.cloud-train/docker/caches")


WORKSPACES = Path("/home/me/.cloud-train/work")


def requested(plan: Plan, user: str) -> Request:
    return request_of(plan, user, CACHES, WORKSPACES)


@pytest.fixture
def plan() -> Plan:
    return replace(plan_of(Path("/home/me/runs"), "true", image=IMAGE), run_id="test-261124-120000-abcd")


def changed(plan: Plan, **job: Any) -> Plan:
    return replace(plan_of(Path(plan.store), "true", image=IMAGE, **job), run_id=plan.run_id)


def test_the_request_is_the_engine_s_own(plan: Plan) -> None:
    labels = {"cloud-train.run": "test-261124-120000-abcd", "cloud-train.attempt": "1", "cloud-train.store": "/home/me/runs"}
    run = {
        "Type": "bind",
        "Source": "/home/me/runs/test-261124-120000-abcd",
        "Target": "/cloud-train/runs/test-261124-120000-abcd",
        "ReadOnly": False,
    }
    request = requested(replace(plan, host_data="/home/me/data"), "1000:100")
    assert request == {
        "engine": None,
        "run_id": "test-261124-120000-abcd",
        "attempt": 1,
        "store": "/home/me/runs",
        "network": None,
        "containers": [
            {
                "name": "ct-test-261124-120000-abcd-1-0",
                "body": {
                    "Image": IMAGE,
                    "Entrypoint": ["python3", "-m", "cloud_train.worker"],
                    "Cmd": ["--store", "/cloud-train/runs", "--run", "test-261124-120000-abcd", "--attempt", "1", "--record", NOT_WRITTEN],
                    "WorkingDir": "/",
                    "Hostname": "node-0",
                    "User": "1000:100",
                    "Env": ["HOME=/tmp", "USER=cloud-train"],
                    "Labels": {**labels, "cloud-train.node": "0"},
                    "StopSignal": "SIGTERM",
                    "StopTimeout": 35,
                    "HostConfig": {
                        "ShmSize": 2**30,
                        "NetworkMode": "bridge",
                        "Mounts": [run, {"Type": "bind", "Source": "/home/me/data", "Target": "/cloud-train/data", "ReadOnly": True}],
                        "ReadonlyRootfs": True,
                        "Tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},
                        "CapDrop": ["ALL"],
                        "SecurityOpt": ["no-new-privileges"],
                        "Privileged": False,
                        "Init": False,
                        "AutoRemove": False,
                        "RestartPolicy": {"Name": "no"},
                        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}},
                    },
                },
            }
        ],
    }
    assert json.loads(json.dumps(request)) == request


def test_resources_become_limits(plan: Plan) -> None:
    resources = {"cpus": 3, "memory": "16GB", "accelerator": "L4:2"}
    limits = requested(changed(plan, resources=resources), "1:1")["containers"][0]["body"]["HostConfig"]
    assert limits["NanoCpus"] == 3_000_000_000
    assert limits["Memory"] == limits["MemorySwap"] == 16_000_000_000
    assert limits["ShmSize"] == 8_000_000_000
    assert limits["DeviceRequests"] == [{"Driver": "", "Count": 2, "Capabilities": [["gpu"]]}]
    little = requested(changed(plan, resources={"memory": "64MB"}), "1:1")["containers"][0]["body"]["HostConfig"]
    assert little["ShmSize"] == 64 * 2**20


def test_several_nodes_share_a_network_and_know_each_other(plan: Plan) -> None:
    request = requested(changed(plan, resources={"nodes": 3}), "1:1")
    name = "ct-test-261124-120000-abcd-1"
    assert request["network"]["Name"] == name
    assert request["network"]["Labels"]["cloud-train.run"] == "test-261124-120000-abcd"
    assert [each["name"] for each in request["containers"]] == [f"{name}-{rank}" for rank in range(3)]
    for rank, each in enumerate(request["containers"]):
        body = each["body"]
        assert body["Cmd"][-4:] == ["--node-rank", str(rank), "--nodes", "3"]
        assert body["Hostname"] == f"node-{rank}"
        assert body["HostConfig"]["NetworkMode"] == name
        assert body["NetworkingConfig"] == {"EndpointsConfig": {name: {"Aliases": [f"node-{rank}"]}}}
        assert "MASTER_ADDR=node-0" in body["Env"]
        assert body["Labels"]["cloud-train.node"] == str(rank)


def test_the_config_names_engine_network_and_user(plan: Plan, tmp_path: Path) -> None:
    settings = {"host": "unix:///run/user/1000/docker.sock", "network": "laboratory", "user": "0:0"}
    request = DockerProvider(tmp_path).render(replace(plan, provider_settings=settings))
    body = request["containers"][0]["body"]
    assert (request["engine"], body["HostConfig"]["NetworkMode"], body["User"]) == tuple(settings.values())


def test_a_sound_request_has_no_problems(plan: Plan, tmp_path: Path) -> None:
    provider = DockerProvider(tmp_path)
    assert provider.check(provider.render(replace(plan, host_data=str(tmp_path)))) == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"host": "localhost"}, "docker.host: 'localhost' is not the URL of an engine"),
        ({"host": 5}, "docker.host: 5 is not"),
        ({"network": ""}, "docker.network: '' is not the name of a network"),
        ({"network": ["a"]}, "docker.network: ['a'] is not"),
    ],
)
def test_settings_that_cannot_be_are_named(plan: Plan, settings: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(requested(replace(plan, provider_settings=settings), "1:1"))
    assert found.startswith(problem)


def test_a_request_without_an_image_or_with_too_little_memory_is_refused(plan: Plan) -> None:
    poor = replace(changed(plan, resources={"memory": "1MB"}), image=None)
    assert [problem.split(":")[0] for problem in problems_of(requested(poor, "1:1"))] == ["image", "resources.memory"]


def test_data_that_would_hand_over_the_machine_is_refused(plan: Plan, tmp_path: Path) -> None:
    sockets = tmp_path / "run"
    sockets.mkdir()
    (tmp_path / "link").symlink_to(sockets)

    def problem(data: Path | str) -> str:
        (found,) = problems_of(requested(replace(plan, host_data=str(data)), "1:1"), (f"{sockets}/docker.sock",))
        return found

    assert problem("/") == "data.path: / is the whole machine; use the folder that contains the data"
    assert problem(tmp_path / "absent") == f"data.path: no such file or folder: {tmp_path}/absent"
    assert problem(tmp_path / "link") == (
        f"data.path: {tmp_path}/link contains the socket {sockets}/docker.sock, which a container could connect to"
    )
    (tmp_path / "own").mkdir()
    named = replace(plan, provider_settings={"host": f"unix://{tmp_path}/own/docker.sock"}, host_data=str(tmp_path / "own"))
    assert len(list(problems_of(requested(named, "1:1")))) == 1


def test_a_job_without_data_of_its_own_has_a_cache_of_downloads(plan: Plan) -> None:
    body = requested(plan, "1:1")["containers"][0]["body"]
    assert body["HostConfig"]["Mounts"][1:] == [
        {"Type": "bind", "Source": str(cache_of(CACHES, plan)), "Target": "/cloud-train/home/data", "ReadOnly": False}
    ]
    assert "CLOUD_TRAIN_HOME=/cloud-train/home" in body["Env"]


def test_a_run_in_a_store_of_a_cloud_has_a_workspace_instead_of_the_run_directory(plan: Plan) -> None:
    far = changed(replace(plan, store="s3://bucket/runs"), resources={"nodes": 2})
    for rank, container in enumerate(requested(replace(far, store="s3://bucket/runs"), "1:1")["containers"]):
        body = container["body"]
        assert body["Cmd"][:4] == ["--store", "s3://bucket/runs", "--workspace", "/cloud-train/work"]
        work = next(mount for mount in body["HostConfig"]["Mounts"] if mount["Target"] == "/cloud-train/work")
        assert work["Source"] == f"/home/me/.cloud-train/work/{plan.run_id}.node-{rank}"
        assert not any(mount["Target"].startswith("/cloud-train/runs") for mount in body["HostConfig"]["Mounts"])


def test_an_endpoint_on_this_machines_loopback_is_refused_before_anything_is_made(plan: Plan, tmp_path: Path) -> None:
    request = requested(replace(plan, store="s3://bucket/runs"), "1:1")
    with pytest.raises(ProviderError, match=r"127\.0\.0\.1:9000 is on this machine") as caught:
        DockerProvider(tmp_path).launch(request, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"})
    assert "docker.network: host" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "said"), [(".ssh", "may hold keys and logins"), (".", "is your home folder"), ("sub/../.aws", "may hold keys and logins")]
)
def test_a_folder_with_keys_and_logins_is_no_data(data: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (".ssh", ".aws", "sub"):
        (tmp_path / name).mkdir()
    request = request_of(replace(plan_of(tmp_path, "true", image=IMAGE), host_data=str(tmp_path / data)), "1:1", tmp_path, tmp_path)
    assert any(said in problem for problem in problems_of(request))
