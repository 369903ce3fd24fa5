"""Logins, and that they appear nowhere."""

import base64
import json
from pathlib import Path

import pytest

from cloud_train.image.building import build_in_registry
from cloud_train.image.errors import ImageError, RegistryError
from cloud_train.image.recipe import Recipe
from cloud_train.image.tokens import Login, login_of
from tests.image.real_registry import PASSWORD, USER, push_base, running_registry

HELPER = """#!/bin/sh
read host
case "$host" in
{host}) echo '{{"ServerURL": "'$host'", "Username": "{user}", "Secret": "{secret}"}}' ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder / "config.json"


def auths(host: str, password: str = PASSWORD) -> str:
    return json.dumps({"auths": {host: {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}}})


def test_a_login_is_found_in_dockers_config(docker_config: Path) -> None:
    docker_config.write_text(auths("registry.example.com:5000"))
    assert login_of("registry.example.com:5000") == Login(USER, PASSWORD)
    assert login_of("other.example.com") is None


def test_the_login_of_docker_hub_is_found_under_its_old_address(docker_config: Path) -> None:
    docker_config.write_text(auths("https://index.docker.io/v1/"))
    assert login_of("docker.io") == Login(USER, PASSWORD)


def test_without_a_config_there_is_no_login(docker_config: Path) -> None:
    assert login_of("registry.example.com") is None


@pytest.mark.parametrize("settings", [{"credsStore": "canary"}, {"credHelpers": {"registry.example.com": "canary"}}])
def test_a_login_is_asked_of_a_credential_helper(
    docker_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    install_helper(tmp_path, monkeypatch, HELPER.format(host="registry.example.com", user=USER, secret=PASSWORD))
    docker_config.write_text(json.dumps(settings))
    assert login_of("registry.example.com") == Login(USER, PASSWORD)
    assert login_of("other.example.com") is None


def test_a_token_of_a_credential_helper_is_an_identity_token(docker_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_helper(tmp_path, monkeypatch, HELPER.format(host="registry.example.com", user="<token>", secret="refresh"))
    docker_config.write_text('{"credsStore": "canary"}')
    assert login_of("registry.example.com") == Login(identity_token="refresh")


def test_a_credential_helper_that_is_missing_or_fails_is_an_error_without_its_words(
    docker_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker_config.write_text('{"credsStore": "canary"}')
    with pytest.raises(ImageError, match=r"cannot read the login for registry\.example\.com"):
        login_of("registry.example.com")
    install_helper(tmp_path, monkeypatch, f"#!/bin/sh\necho {PASSWORD}; exit 1\n")
    with pytest.raises(ImageError) as caught:
        login_of("registry.example.com")
    assert PASSWORD not in f"{caught.value.message} {caught.value.hint} {caught.value!r} {caught.value.__cause__!r}"


def test_a_login_does_not_show_in_a_repr() -> None:
    assert PASSWORD not in repr(Login(USER, PASSWORD, PASSWORD))


def test_an_image_is_pushed_with_the_login_which_appears_nowhere(
    docker_config: Path, code: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running_registry(tmp_path / "registry", with_login=True) as registry:
        docker_config.write_text(auths(registry.host))
        push_base(f"{registry.place}/base:1", tmp_path / "base")
        built = build_in_registry(Recipe(code, f"{registry.place}/base:1"), f"{registry.place}/digits", print)
        assert not built.reused
        docker_config.write_text(auths(registry.host, "canary-wrong"))
        with pytest.raises(RegistryError, match="401") as caught:
            build_in_registry(Recipe(code, f"{registry.place}/base:1"), f"{registry.place}/digits", print)
        assert "docker login" in (caught.value.hint or "")
        docker_config.unlink()
        with pytest.raises(RegistryError, match="401"):
            build_in_registry(Recipe(code, f"{registry.place}/base:1"), f"{registry.place}/digits", print)
        stored = [path.read_bytes() for path in registry.storage.rglob("*") if path.is_file()]
    said = f"{built} {caught.value.message} {caught.value.hint} {capfd.readouterr()}"
    for secret in (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(), "canary-wrong"):
        assert secret not in said
        assert not any(secret.encode() in data for data in stored)


def install_helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "docker-credential-canary"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
