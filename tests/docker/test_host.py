"""Which addresses may be an engine's, and to which of them secrets may go. No engine is needed."""

from pathlib import Path

import pytest

from cloud_train.docker.host import address_of
from cloud_train.docker.transport import Ssh, is_private
from cloud_train.errors import ProviderError


@pytest.fixture(autouse=True)
def no_engine_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.mark.parametrize("host", ["unix:///run/user/1000/docker.sock", "ssh://me@gpu-box:22", "tcp://127.0.0.1:2375", "tcp://gpu-box:2376"])
def test_the_engine_of_a_config_file_is_the_one_that_is_meant(host: str) -> None:
    assert address_of(host) == host


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "//gpu-box", "tcp://", "tcp://a b:1", "tcp://me@gpu-box:1", "tcp://gpu-box:1#x", "file:///etc/passwd", "unix://x"),
        *("ssh://-oProxyCommand=id", "ssh://-l@gpu-box", "ssh://me@gpu-box;id", "ssh://me@gpu-box/a b", "unix:///run/docker.sock\n"),
    ],
)
def test_what_is_not_the_url_of_an_engine_is_refused_with_the_setting(host: str) -> None:
    with pytest.raises(ProviderError, match=r"docker\.host: .* is not the URL of an engine"):
        address_of(host)


@pytest.mark.parametrize("address", ["ssh://-oProxyCommand=id", "ssh://-oProxyCommand=id@gpu-box", "ssh://"])
def test_no_address_gives_ssh_an_option(address: str) -> None:
    with pytest.raises(ValueError, match="has no host name"):
        Ssh(address)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        *(("unix:///var/run/docker.sock", True), ("npipe:////./pipe/docker_engine", True), ("ssh://me@gpu-box", True)),
        *(("https://gpu-box:2376", True), ("tcp://127.0.0.1:2375", True), ("tcp://[::1]:2375", True), ("127.0.0.1:2375", True)),
        *(("tcp://gpu-box:2375", False), ("http://gpu-box:2375", False), ("gpu-box:2375", False)),
        *(("tcp://127.0.0.1:1@gpu-box:2375", False), ("tcp://127.0.0.1.attacker.example:2375", False)),
    ],
)
def test_an_engine_is_private_on_this_machine_or_behind_encryption(address: str, private: bool) -> None:
    assert is_private(address) is private


def test_tls_makes_an_engine_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").write_text("")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    assert is_private("tcp://gpu-box:2376")
    assert not is_private("http://gpu-box:2375")
