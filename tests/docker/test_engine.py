"""What is said of an engine that refuses, or cannot be reached, and which engine is meant."""

import errno
import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from cloud_train.docker.engine import NameTakenError, connected, refusal
from cloud_train.docker.host import EngineUnavailableError, address_of, explain
from cloud_train.errors import MissingDependencyError, ProviderError
from tests.docker.test_transport import engine_that_says

docker = pytest.importorskip("docker", reason="the Docker SDK is not installed: pip install 'cloud-train[docker]'")


@pytest.mark.parametrize(
    ("status", "said", "message", "hint"),
    [
        (404, "No such image: sha256:4444", "the engine has no image sha256:4444", "cloud-train package JOB.yaml"),
        (
            400,
            'OCI runtime create failed: runc create failed: exec: "python3": executable file not found in $PATH: unknown',
            "the image has no python3",
            "image.base",
        ),
        (
            400,
            "invalid mount config: bind source path does not exist: /runs/a",
            "cannot see a folder of this machine",
            "check that it exists",
        ),
        (500, "write /var/lib/docker/tmp: no space left on device", "the engine's disk is full", "docker system df"),
        (500, "could not find an available, non-overlapping IPv4 address pool", "no addresses left", "docker network prune"),
        (500, 'could not select device driver "" with capabilities: [[gpu]]', "GPUs", "resources.accelerator"),
        (400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", "from 0.01 to 2.00", "resources.cpus"),
        (404, "network nowhere not found", "the engine has no network nowhere", "docker network ls"),
        (500, "something else", "the Docker Engine refused the request: something else", "journalctl -u docker"),
    ],
)
def test_a_refusal_is_said_with_the_engine_s_words_and_the_next_step(status: int, said: str, message: str, hint: str) -> None:
    error = refusal(status, said)
    assert message in error.message
    assert said in error.message
    assert hint in str(error.hint)
    assert not isinstance(error, NameTakenError)


@pytest.mark.parametrize(
    "said",
    [
        'Conflict. The container name "/ct-a-1-0" is already in use by container "4f". You have to remove (or rename) that container',
        "network with name ct-a-1 already exists",
    ],
)
def test_a_name_that_is_taken_has_an_error_of_its_own(said: str) -> None:
    assert isinstance(refusal(409, said), NameTakenError)


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (errno.ENOENT, "no Docker Engine is running at unix:///a", "DOCKER_HOST"),
        (errno.ECONNREFUSED, "no Docker Engine is running at unix:///a", "systemctl start docker"),
        (errno.EACCES, "permission denied", "sudo usermod -aG docker $USER"),
        (errno.ECONNRESET, "cannot be reached", "docker info"),
    ],
)
def test_what_is_wrong_with_the_connection_is_found_inside_the_sdk_s_error(number: int, message: str, hint: str) -> None:
    inner = ConnectionError("Connection aborted.", OSError(number, "what the kernel said"))
    try:
        raise docker.errors.DockerException(f"Error while fetching server API version: {inner}") from inner
    except docker.errors.DockerException as error:
        said, next_step = explain(error, "unix:///a")
    assert message in said
    assert hint in next_step


def test_an_engine_that_hangs_is_said_to() -> None:
    assert "does not respond" in explain(TimeoutError("timed out"), "unix:///a")[0]


def test_an_address_that_is_none_is_an_error_in_words() -> None:
    with pytest.raises(ProviderError, match=r"'floppy://a' is not the URL of an engine, such as unix:///"), connected("floppy://a"):
        pass


def test_the_engine_is_the_one_of_the_config_then_of_the_environment_then_of_the_docker_cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert address_of(None) == "unix:///var/run/docker.sock"
    (tmp_path / "config.json").write_text("{ not json")
    assert address_of(None) == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///of/the/environment.sock")
    assert address_of(None) == "unix:///of/the/environment.sock"
    assert address_of("ssh://of-the-config") == "ssh://of-the-config"


def test_a_missing_sdk_is_an_error_that_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker.errors", None)
    with pytest.raises(MissingDependencyError) as caught, connected("tcp://a:2376"):
        pass
    assert "pip install 'cloud-train[docker]'" in str(caught.value.hint)


def test_the_docker_cli_s_context_names_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONTEXT", "desk")
    folder = tmp_path / "contexts/meta" / hashlib.sha256(b"desk").hexdigest()
    folder.mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    described = {"Name": "desk", "Metadata": {}, "Endpoints": {"docker": {"Host": "unix:///of/the/desk.sock", "SkipTLSVerify": False}}}
    (folder / "meta.json").write_text(json.dumps(described))
    assert address_of(None) == "unix:///of/the/desk.sock"
    (folder / "meta.json").write_text("{ not json")
    assert address_of(None) == "unix:///var/run/docker.sock"


@pytest.mark.parametrize(("said", "rootless"), [("name=rootless", True), ("name=seccomp,profile=default", False)])
def test_an_engine_that_the_caller_runs_without_being_root_is_told_from_others(tmp_path: Path, said: str, rootless: bool) -> None:
    body = json.dumps({"SecurityOptions": [said]}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    owner = os.getuid() or 12345
    with engine_that_says(tmp_path / "s", answer) as asked, connected(f"unix://{tmp_path}/s") as engine:
        os.chown(tmp_path / "s", owner, -1)
        assert not engine.is_rootless_of(0)
        assert not engine.is_rootless_of(owner + 1), "it is somebody else's"
        assert engine.is_rootless_of(owner) is rootless
    assert len(asked) == 1


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nApi-Version: 1.4", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"]
)
def test_an_answer_that_breaks_off_within_its_head_is_no_empty_answer(head: bytes, tmp_path: Path) -> None:
    with engine_that_says(tmp_path / "s", head, head), connected(f"unix://{tmp_path}/s") as engine:
        with pytest.raises(EngineUnavailableError, match="broke in the middle of a response"):
            engine.image("sha256:4444")
        with pytest.raises(EngineUnavailableError, match="broke in the middle of a response"):
            engine.has_stopped("4444", 1.0)
