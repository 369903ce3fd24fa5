"""A real registry, Debian's docker-registry, on a free loopback port, and small base images to lay into it."""

import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_train.image.layers import digest_of
from cloud_train.image.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from tests.support import wait_until

USER = "trainer"
PASSWORD = "canary-registry-password"
_HTPASSWD = f"{USER}:$2b$04$abcdefghijklmnopqrstuujZStvIVNwWmabTnn7IyzxQDOl3eXrqC\n"


@dataclass(frozen=True)
class RunningRegistry:
    """Where the registry answers, what it has written, and the path before the names of a test's own repositories."""

    host: str
    log: Path
    storage: Path
    path: str = "me"

    @property
    def place(self) -> str:
        return f"{self.host}/{self.path}"


@contextmanager
def running_registry(
    folder: Path, *, with_login: bool = False, htpasswd: str = _HTPASSWD, storage: Path | None = None
) -> Iterator[RunningRegistry]:
    """A registry that keeps everything in ``folder``, but images in ``storage``, which registries may share."""
    program = shutil.which("docker-registry")
    if program is None:
        if os.environ.get("CLOUD_TRAIN_REQUIRE_DOCKER") == "1":
            pytest.fail("docker-registry is not installed")
        pytest.skip("docker-registry is not installed")
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "htpasswd").write_text(htpasswd)
    storage = storage or folder / "storage"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        "http": {"addr": host, "secret": "any"},
        **({"auth": {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}} if with_login else {}),
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(host), f"a registry at {host}; its log: {(folder / 'log').read_text()}")
        yield RunningRegistry(host, folder / "log", storage)
    finally:
        process.terminate()
        process.wait(10)


def _answers(host: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{host}/v2/", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    except OSError:
        return False
    return True


def push_base(
    repository: str,
    folder: Path,
    *,
    content: bytes = b"a base\n",
    architecture: str = "amd64",
    settings: dict[str, object] | None = None,
    types: tuple[str, str, str] = (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER),
    annotations: dict[str, str] | None = None,
) -> str:
    """Put a base image of one small layer into a repository, under its tag; its manifest's digest."""
    layer_tar = io.BytesIO()
    with tarfile.open(fileobj=layer_tar, mode="w") as archive:
        info = tarfile.TarInfo("base.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    layer = gzip.compress(layer_tar.getvalue(), mtime=0)
    config = json.dumps(
        {
            "os": "linux",
            "architecture": architecture,
            "config": {"Env": ["PATH=/usr/bin"], **(settings or {})},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer_tar.getvalue())]},
        }
    ).encode()
    manifest_type, config_type, layer_type = types
    more = {"annotations": annotations} if annotations else {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": {"mediaType": config_type, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": layer_type, "digest": digest_of(layer), "size": len(layer), **more}],
    }
    reference = parse_reference(repository)
    folder.mkdir(exist_ok=True)
    with Repository(reference) as target:
        target.push_bytes(config, folder)
        target.push_bytes(layer, folder)
        return target.push_manifest(json.dumps(manifest).encode(), manifest_type, reference.version)
