"""Engines that are reached by TLS and by SSH, as Docker's own command line reaches them."""

import hashlib
import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_train.docker.engine import connected
from cloud_train.docker.host import EngineUnavailableError, address_of
from cloud_train.docker.transport import opened
from cloud_train.image.engine_images import EngineImages
from tests.docker.forwarding import OF_THIS_MACHINE, forwarded
from tests.docker_engine import base_image, engine_or_skip


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_or_skip().close()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority's certificate (ca.pem), and one that it signed (cert.pem, key.pem), which serves engine and user."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here to make certificates")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-subj", "/CN=authority", "-keyout", "ca-key.pem", "-out", "ca.pem")
    openssl("req", *new, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "asked.pem")
    signing = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-copy_extensions", "copy"]
    openssl("x509", "-req", "-in", "asked.pem", *signing, "-out", "cert.pem")
    return folder


@pytest.fixture
def far(certificates: Path) -> Iterator[str]:
    """The address of an engine that answers only to whoever has a certificate."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    tls.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    with forwarded(tls) as address:
        yield address


def test_an_engine_with_tls_is_reached_with_the_certificates_that_docker_s_variables_name(
    far: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ssl.get_default_verify_paths().cafile or "")  # what is trusted elsewhere is not asked
    monkeypatch.setenv("DOCKER_HOST", far)
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    with opened(far) as http, EngineImages() as engine:
        assert http.ask("GET", "/_ping").body == b"OK"
        assert engine.find(base_image())


def test_without_certificates_or_with_others_it_is_said_what_is_missing(
    far: str, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineUnavailableError, match="cannot be reached") as caught, connected(far):
        pass
    assert "DOCKER_CERT_PATH to the folder with ca.pem, cert.pem and key.pem" in str(caught.value.hint)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(EngineUnavailableError, match="requires TLS certificates"), connected(far):
        pass
    for name in ("cert.pem", "key.pem"):
        shutil.copy(certificates / name, tmp_path)
    shutil.copy(certificates / "cert.pem", tmp_path / "ca.pem")
    with pytest.raises(EngineUnavailableError, match="do not trust each other's certificates: self-signed certificate"), connected(far):
        pass


def test_a_context_of_docker_s_brings_its_own_certificates(far: str, certificates: Path, tmp_path: Path) -> None:
    name = hashlib.sha256(b"far").hexdigest()
    described, kept = tmp_path / "docker/contexts/meta" / name, tmp_path / "docker/contexts/tls" / name / "docker"
    described.mkdir(parents=True)
    kept.mkdir(parents=True)
    for file in ("ca.pem", "cert.pem", "key.pem"):
        shutil.copy(certificates / file, kept)
    (tmp_path / "docker/config.json").write_text('{"currentContext": "far"}')
    endpoint = {"Host": far, "SkipTLSVerify": False}
    (described / "meta.json").write_text(json.dumps({"Name": "far", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    assert address_of(None) == far
    with opened(far) as http:
        assert http.ask("GET", "/_ping").body == b"OK"


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An SSH client that knows one machine: this one. Returns the file in which it writes how it was called."""
    client = tmp_path / "bin" / "ssh"
    client.parent.mkdir()
    client.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/called\n'
        'for last in "$@"; do before=$host; host=$command; command=$last; done\n'
        '[ "$host" = here ] || { echo "Permission denied (publickey)." >&2; exit 255; }\n'
        'exec sh -c "$command"\n'
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(client.parent), prepend=":")
    return tmp_path / "called"


def test_an_engine_behind_ssh_is_reached_through_the_ssh_client(ssh: Path) -> None:
    with connected("ssh://me@here:2222") as engine:
        assert engine.image(base_image())
        assert not engine.image("cloud-train-test/no-such-image:1")
    assert ssh.read_text().splitlines() == ["-oConnectTimeout=10 -T -l me -p 2222 -- here docker system dial-stdio"]
    with EngineImages(f"ssh://here{OF_THIS_MACHINE.removeprefix('unix://')}") as images:
        base = images.base(base_image(), "linux/amd64", print)
        images.tag(base.image_id, base_image())  # through the Docker SDK
    assert ssh.read_text().splitlines()[-1] == "-oConnectTimeout=10 -T -- here docker --host unix:///var/run/docker.sock system dial-stdio"


def test_what_the_ssh_client_says_is_passed_on(ssh: Path) -> None:
    with (
        pytest.raises(EngineUnavailableError, match=r"ssh://nobody cannot be reached: Permission denied \(publickey\)") as caught,
        connected("ssh://nobody"),
    ):
        pass
    assert "ssh ssh://nobody docker info" in str(caught.value.hint)


def test_without_an_ssh_client_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineUnavailableError, match="no SSH client is installed"), connected("ssh://here"):
        pass
