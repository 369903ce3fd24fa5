"""Which engine is meant, and what is said where none answers."""

import hashlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud_train.docker.host import EngineUnavailableError
from cloud_train.errors import MissingDependencyError
from cloud_train.image.engine_images import EngineImages, engine_images_or_none, explained
from tests.docker_engine import engine_or_skip

NOBODY = 65534


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def test_an_engine_that_is_named_outranks_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/environment.sock")
    with pytest.raises(EngineUnavailableError, match=r"no Docker Engine is running at unix:///nowhere/named\.sock"):
        EngineImages("unix:///nowhere/named.sock")
    with pytest.raises(EngineUnavailableError, match=r"no Docker Engine is running at unix:///nowhere/environment\.sock"):
        EngineImages()
    assert engine_images_or_none() is None


def test_the_engine_of_the_docker_clis_context_is_taken(tmp_path: Path) -> None:
    meta = tmp_path / "docker" / "contexts" / "meta" / hashlib.sha256(b"remote").hexdigest()
    meta.mkdir(parents=True)
    (tmp_path / "docker" / "config.json").write_text('{"currentContext": "remote"}')
    endpoint = {"Host": "unix:///nowhere/context.sock", "SkipTLSVerify": False}
    (meta / "meta.json").write_text(json.dumps({"Name": "remote", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    with pytest.raises(EngineUnavailableError, match=r"no Docker Engine is running at unix:///nowhere/context\.sock"):
        EngineImages()


def test_a_file_of_the_docker_cli_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{")
    engine = engine_images_or_none()
    if engine is not None:
        with engine:
            assert engine.address == "unix:///var/run/docker.sock"


def test_a_socket_that_this_user_may_not_use_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    pytest.importorskip("docker")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0)
        with nobody(), pytest.raises(EngineUnavailableError, match=r"this user may not use the Docker Engine at unix://") as caught:
            EngineImages(f"unix://{path}")
    assert "usermod -aG docker" in (caught.value.hint or "")


def test_an_engine_that_is_no_engine_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EngineUnavailableError, match=rf"no Docker Engine is running at tcp://127\.0\.0\.1:{port}"):
        EngineImages(f"tcp://127.0.0.1:{port}")


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine_or_skip().close()
    monkeypatch.setitem(sys.modules, "docker", None)
    with EngineImages("unix:///var/run/docker.sock") as engine, pytest.raises(MissingDependencyError) as caught:
        engine.tag("sha256:0", "me/nothing:1")
    assert "pip install 'cloud-train[docker]'" in (caught.value.hint or "")


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who has no rights, where this is root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_bringing_something_into_an_engine_takes_the_sdk_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker.errors", None)
    with pytest.raises(MissingDependencyError, match="Docker SDK, which cannot be imported") as caught, explained("push an image"):
        pytest.fail("nothing is tried")
    assert caught.value.hint == "install it with: pip install 'cloud-train[docker]'"
