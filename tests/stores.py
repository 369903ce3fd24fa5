"""Object stores to test against: real servers on this machine, which the clouds' own SDKs talk to over loopback.

``s3://`` is moto's server, ``az://`` is Azurite, ``gs://`` is gcp-storage-emulator behind ``tests/gcs_server.py``. All keep everything in
memory, listen on a free port and end with the process that started them, however that ends. tests/storage/conftest.py has the fixtures.

Where a server is not installed, tests are skipped with the reason; ``CLOUD_TRAIN_REQUIRE_STORES=1`` (as in CI) turns that into a failure.
What the servers do not enforce: moto and the emulator take any credentials, moto takes any checksum, none throttles. Faults are brought by
``tests/faults.py``.
"""

import atexit
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, Protocol
from urllib.parse import quote, urlsplit

import pytest

from tests import lanes

SCHEMES = ("s3", "gs", "az")
LOOPBACK = "127.0.0.1"
DOCKER_BRIDGE = "172.17.0.1"
"""The Docker Engine's default gateway: an address that this machine and its containers can both reach."""

AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's account and key are the same on every machine and documented: https://learn.microsoft.com/azure/storage/common/storage-use-azurite"""

START_SECONDS = 60.0
ADMIN = {"Content-Type": "application/json"}


class StoreServer(Protocol):
    """One running server of one cloud's object storage."""

    @property
    def scheme(self) -> str:
        """``s3``, ``gs`` or ``az``."""

    @property
    def endpoint(self) -> str:
        """``http://address:port``, without a '/' at the end."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which the SDKs, and so ``open_store``, find this server and credentials for it."""

    def environment_at(self, endpoint: str) -> dict[str, str]:
        """The same, with another endpoint between: a fault proxy's."""

    def new_url(self) -> str:
        """The URL, with no prefix, of a bucket (a container) that was made for this call."""

    def url_of_missing_bucket(self) -> str:
        """A URL whose bucket does not exist."""

    def put_raw(self, url: str, key: str, data: bytes = b"", metadata: Mapping[str, str] | None = None) -> None:
        """Write an object into the bucket of ``url``, with any key, over plain HTTP: as whoever else has access to the bucket can."""


def missing(scheme: str) -> str | None:
    """Why the server of a scheme cannot be started here, or None if it can."""
    needs = {"s3": ("moto", "flask", "boto3"), "gs": ("gcp_storage_emulator", "google"), "az": ("azure",)}[scheme]
    absent = [name for name in (*needs, "obstore") if importlib.util.find_spec(name) is None]
    if absent:
        return f"the packages {', '.join(absent)} are not installed (pip install -e '.[dev]')"
    if scheme == "az" and _azurite() is None:
        return "azurite-blob is not installed (.ci/stores start FOLDER, or name it in CLOUD_TRAIN_AZURITE)"
    return None


def server_or_skip(scheme: str, address: str = LOOPBACK) -> StoreServer:
    """The server of a scheme: started once for this process, at its first use. Where it is not installed, the test is skipped or fails."""
    lanes.require("cloud")
    reason = missing(scheme)
    if reason is not None:
        _absent(f"no {scheme}:// server: {reason}")
    return _started(scheme, address)


def use(server: StoreServer, monkeypatch: pytest.MonkeyPatch, endpoint: str | None = None) -> None:
    """Let ``open_store`` find the server (behind another endpoint, a fault proxy's) until the test ends."""
    for name, value in server.environment_at(endpoint or server.endpoint).items():
        monkeypatch.setenv(name, value)


@contextmanager
def running(scheme: str, address: str = LOOPBACK) -> Iterator[StoreServer]:
    """A server that runs for as long as the context. With ``DOCKER_BRIDGE`` as its address, containers reach it too, under the same URL."""
    lanes.require("cloud")
    azurite = f"--blobHost {address} --blobPort 0 --inMemoryPersistence --skipApiVersionCheck --disableTelemetry"
    command = {
        "s3": [sys.executable, "-m", "moto.server", "-H", address, "-p", "0"],
        "gs": [sys.executable, "-m", "tests.gcs_server", address],
        "az": [str(_azurite()), *azurite.split()],
    }[scheme]
    kinds: dict[str, Callable[[str], StoreServer]] = {"s3": _S3, "gs": _Gcs, "az": _Azure}
    with TemporaryDirectory(prefix="cloud-train-server-") as folder, _process(command, Path(folder)) as (process, log):
        yield kinds[scheme](_endpoint(process, log, address))


@cache
def _started(scheme: str, address: str) -> StoreServer:
    servers = ExitStack()
    server = servers.enter_context(running(scheme, address))
    atexit.register(servers.close)  # after it was started, so that this comes before the clean-up of its temporary folder
    return server


@dataclass(frozen=True)
class _S3:
    endpoint: str
    scheme: str = "s3"

    @property
    def environment(self) -> dict[str, str]:
        return self.environment_at(self.endpoint)

    def environment_at(self, endpoint: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def new_url(self) -> str:
        bucket = _new_name()
        _request(self.endpoint, "PUT", f"/{bucket}")
        return f"s3://{bucket}"

    def url_of_missing_bucket(self) -> str:
        return f"s3://{_new_name()}"

    def put_raw(self, url: str, key: str, data: bytes = b"", metadata: Mapping[str, str] | None = None) -> None:
        headers = {f"x-amz-meta-{name}": value for name, value in (metadata or {}).items()}
        _request(self.endpoint, "PUT", f"/{urlsplit(url).netloc}/{quote(key, safe='')}", data, headers)


@dataclass(frozen=True)
class _Gcs:
    endpoint: str
    scheme: str = "gs"

    @property
    def environment(self) -> dict[str, str]:
        return self.environment_at(self.endpoint)

    def environment_at(self, endpoint: str) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": endpoint, "GOOGLE_CLOUD_PROJECT": "test", "NO_GCE_CHECK": "true"}

    def new_url(self) -> str:
        bucket = _new_name()
        _request(self.endpoint, "POST", "/storage/v1/b?project=test", f'{{"name": "{bucket}"}}'.encode(), ADMIN)
        return f"gs://{bucket}"

    def url_of_missing_bucket(self) -> str:
        return f"gs://{_new_name()}"

    def put_raw(self, url: str, key: str, data: bytes = b"", metadata: Mapping[str, str] | None = None) -> None:
        headers = {f"x-goog-meta-{name}": value for name, value in (metadata or {}).items()}
        _request(self.endpoint, "PUT", f"/{urlsplit(url).netloc}/{quote(key, safe='')}", data, headers)


@dataclass(frozen=True)
class _Azure:
    endpoint: str
    scheme: str = "az"

    @property
    def environment(self) -> dict[str, str]:
        return self.environment_at(self.endpoint)

    def environment_at(self, endpoint: str) -> dict[str, str]:
        account = f"AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};BlobEndpoint={endpoint}/{AZURE_ACCOUNT};"
        return {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{account}"}

    def new_url(self) -> str:
        container = _new_name()
        _request(self.endpoint, "PUT", f"/{AZURE_ACCOUNT}/{container}?restype=container&{self._signature()}")
        return f"az://{AZURE_ACCOUNT}/{container}"

    def url_of_missing_bucket(self) -> str:
        return f"az://{AZURE_ACCOUNT}/{_new_name()}"

    def put_raw(self, url: str, key: str, data: bytes = b"", metadata: Mapping[str, str] | None = None) -> None:
        headers = {"x-ms-blob-type": "BlockBlob"} | {f"x-ms-meta-{name}": value for name, value in (metadata or {}).items()}
        container = urlsplit(url).path.strip("/").split("/")[0]
        _request(self.endpoint, "PUT", f"/{AZURE_ACCOUNT}/{container}/{quote(key, safe='')}?{self._signature()}", data, headers)

    def _signature(self) -> str:
        from datetime import UTC, datetime

        from azure.storage.blob import generate_account_sas

        forever = datetime(2099, 1, 1, tzinfo=UTC)  # whatever the machine's clock says
        return generate_account_sas(AZURE_ACCOUNT, AZURE_KEY, resource_types="sco", permission="rwdlc", expiry=forever)


@contextmanager
def _process(command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process, and its output in a file.

    It gets a session of its own, with a watcher that ends all of it as soon as our end of its pipe is closed: so it ends also if this
    process is killed and has no time to end it.
    """
    watcher = 'exec 3<&0; { read -r _ <&3; kill -KILL 0; } & exec 3<&-; exec "$@" </dev/null'
    log = folder / "log"
    with log.open("wb") as output:
        shell = ["/bin/sh", "-c", watcher, "sh", *command]
        # Not one of a test's own processes: those are found, and ended, by the home that they have.
        environment = {name: value for name, value in os.environ.items() if name != "CLOUD_TRAIN_HOME"}
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
        process = subprocess.Popen(
            shell, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=folder, env=environment, start_new_session=True
        )
    assert process.stdin is not None
    try:
        yield process, log
    finally:
        process.stdin.close()
        process.wait(START_SECONDS)


def _endpoint(process: subprocess.Popen[bytes], log: Path, address: str) -> str:
    """Where the server listens, as soon as it says so."""
    deadline = time.monotonic() + START_SECONDS
    said = re.compile(rf"http://{re.escape(address)}:[1-9]\d*(?=\s)")  # with what follows: the line may be half written
    while (match := said.search(log.read_text(errors="replace"))) is None:
        if time.monotonic() > deadline or process.poll() is not None:
            raise AssertionError(f"a store's server did not start: {log.read_text(errors='replace')}")
        time.sleep(0.02)  # the pace of looking
    return match[0]


def _request(endpoint: str, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
    # http.client sends the path as it is: SDKs and most HTTP clients would resolve '..' and '//' in it.
    connection = HTTPConnection(urlsplit(endpoint).netloc, timeout=START_SECONDS)
    try:
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        answer = response.read()
        assert response.status < 300, f"{method} {target}: {response.status} {answer.decode(errors='replace')}"
    finally:
        connection.close()


def _azurite() -> str | None:
    here = Path("node_modules", ".bin", "azurite-blob").absolute()
    return os.environ.get("CLOUD_TRAIN_AZURITE") or shutil.which("azurite-blob") or (str(here) if here.is_file() else None)


def _new_name() -> str:
    return f"test-{secrets.token_hex(8)}"


def _absent(reason: str) -> NoReturn:
    if os.environ.get("CLOUD_TRAIN_REQUIRE_STORES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
