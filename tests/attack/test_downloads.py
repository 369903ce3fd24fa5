"""A job's URL, or a server that it leads to, sends a download to where credentials are; nothing that must not be reached is reached."""

import os
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloud_train.data.downloads import downloads_of
from cloud_train.data.registry import DATASETS
from cloud_train.errors import CorruptError
from cloud_train.retry import RetryPolicy
from cloud_train.storage.https import fetch_url
from cloud_train.storage.url_safety import AddressRefusedError, connect, refusal
from cloud_train.worker import contract
from cloud_train.worker.data import download_all
from tests.downloads import fetched
from tests.web_server import Answer, FileServer, serving, sha256

Get = Callable[[str], bytes]

CONTENT = b"data"
SUM = sha256(CONTENT)

METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "0xa9.254.0xa9fe",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::ffff:0:a9fe:a9fe]",
    "[::a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "metadata.google.internal",
    "METADATA.google.internal.",
    "169.254.169.254:80",
    "anna:secret@169.254.169.254",
]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(contract.PLATFORM, raising=False)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(data=CONTENT) as server:
        yield server


@pytest.fixture(params=["worker", "store"])
def get(request: pytest.FixtureRequest, tmp_path: Path) -> Get:
    """Download a file as a worker does, or as a store is read."""

    def as_a_worker(url: str) -> bytes:
        return fetched(url, SUM, tmp_path, allow_loopback=not os.environ.get(contract.PLATFORM)).read_bytes()

    def from_a_store(url: str) -> bytes:
        policy = RetryPolicy(5, sleep=lambda seconds: None)
        fetch_url(
            url, tmp_path / "file", sha256=SUM, allow_loopback=not os.environ.get(contract.PLATFORM), policy=policy, timeout_seconds=5
        )
        return (tmp_path / "file").read_bytes()

    return as_a_worker if request.param == "worker" else from_a_store


@pytest.mark.parametrize("host", METADATA)
@pytest.mark.parametrize("way", ["straight", "redirected", "through a proxy"])
def test_no_spelling_of_a_metadata_service_is_reached(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, get: Get, host: str, way: str
) -> None:
    url = f"http://{host}/latest/meta-data/iam"
    if way == "redirected":
        server.answers = [Answer(302, (("Location", url.replace("anna:secret@", "")),))]  # with it, no name of a host
        url = f"{server.url}/data"
    if way == "through a proxy":
        monkeypatch.setenv("http_proxy", server.url)
    with pytest.raises(AddressRefusedError, match=r"is (a link-local address or )?a cloud's metadata service") as caught:
        get(url)
    assert "secret" not in caught.value.message
    assert len(server.requests) == (1 if way == "redirected" else 0)


def test_a_metadata_service_is_no_proxy_and_one_on_a_clouds_worker_may_be(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, get: Get
) -> None:
    monkeypatch.setenv(contract.PLATFORM, "sagemaker")
    monkeypatch.setenv("http_proxy", "http://169.254.169.254")
    with pytest.raises(AddressRefusedError, match=r"169\.254\.169\.254 is a link-local address"):
        get("http://data.example/data")
    monkeypatch.setenv("http_proxy", server.url)
    assert get("http://data.example/data") == CONTENT


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]"])
def test_a_clouds_worker_downloads_nothing_from_itself_and_this_machine_may(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, get: Get, host: str
) -> None:
    url = f"http://{host}:{server.url.rpartition(':')[2]}/data"
    monkeypatch.setenv(contract.PLATFORM, "sagemaker")
    with pytest.raises(AddressRefusedError, match="is this machine itself"):
        get(url)
    assert server.requests == []
    monkeypatch.delenv(contract.PLATFORM)
    assert get(url) == CONTENT


@pytest.mark.parametrize("address", ["10.1.2.3", "172.16.0.1", "192.168.1.1", "fd12:3456::1", "93.184.216.34", "2606:2800::1"])
def test_private_networks_and_the_internet_may_be_reached_from_a_cloud(address: str) -> None:
    assert refusal(ip_address(address), loopback=False) is None


def test_a_name_of_several_addresses_is_refused_if_one_of_them_is(server: FileServer, monkeypatch: pytest.MonkeyPatch, get: Get) -> None:
    _resolve(monkeypatch, [["127.0.0.1", "169.254.169.254"]])
    with pytest.raises(AddressRefusedError, match=r"data\.example \(169\.254\.169\.254\)"):
        get(f"http://data.example:{server.url.rpartition(':')[2]}/data")
    assert server.requests == []


def test_the_connection_is_made_to_the_address_that_was_checked(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _resolve(monkeypatch, [["127.0.0.1"], ["169.254.169.254"]])
    with connect("data.example", int(server.url.rpartition(":")[2]), 5.0, loopback=True) as connection:
        assert connection.getpeername()[0] == "127.0.0.1"
    assert asked == ["data.example"]


def test_a_proxys_password_does_not_follow_a_redirection_to_a_host_without_proxy(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, get: Get
) -> None:
    with serving() as proxy:
        proxy.answers = [Answer(302, (("Location", f"{server.url}/data"),))] * 2
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://anna:s3cret@"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        url = "http://bob:pa55@data.example/data"
        assert get(url) == CONTENT
    at_proxy = proxy.requests[0]
    assert (at_proxy["path"], "proxy-authorization" in at_proxy, "authorization" in at_proxy) == ("http://data.example/data", True, True)
    assert all(not {"proxy-authorization", "authorization", "cookie"} & set(request) for request in server.requests)


@pytest.mark.parametrize("location", ["http://[::1/", "http://" + "a" * 70 + ".example/", "http://\u0000/", "http://a..b/"])
def test_a_redirection_to_an_address_that_cannot_be_one_ends_in_an_error_of_ours(server: FileServer, get: Get, location: str) -> None:
    from cloud_train.errors import StoreError

    server.answers = [Answer(302, (("Location", location),))] * 10
    with pytest.raises(StoreError, match="cannot download"):
        get(f"{server.url}/data")


def _resolve(monkeypatch: pytest.MonkeyPatch, answers: list[list[str]]) -> list[str]:
    """Let a name server answer with these addresses, one list a question; returns the names that it was asked for."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "data.example" or options.get("flags"):
            return real(host, port, *arguments, **options)
        asked.append(host)
        return [found for address in answers[len(asked) - 1] for found in real(address, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("dataset", ["text", "sequences"])
def test_a_file_of_text_that_announces_more_than_such_files_may_have_is_refused_before_it_moves(
    server: FileServer, tmp_path: Path, dataset: str
) -> None:
    server.answers = [Answer(206, (("Content-Range", "bytes 0-0/64400000000"), ("Content-Length", "0")))]
    url = f"{server.url}/data"
    (file,) = downloads_of({"dataset": dataset, "url": url, "sha256": SUM}, DATASETS.get(dataset).most_download_bytes)
    with pytest.raises(CorruptError, match=r"has 64,400,000,000 bytes, but at most 1,073,741,824 bytes are allowed"):
        download_all([file], tmp_path, lambda note: None)
    assert len(server.requests) == 1
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 1000


def test_a_file_whose_size_is_not_said_ends_at_what_it_may_have(server: FileServer, tmp_path: Path) -> None:
    server.files["/data"] = bytes(100_000)
    server.answers = [Answer(chunked=True, ranges=False)] * 2
    with pytest.raises(CorruptError, match="does not end, but at most 1,000 bytes are allowed"):
        fetch_url(f"{server.url}/data", tmp_path / "file", sha256=SUM, most_bytes=1_000)
    assert not (tmp_path / "file").exists()


def test_a_file_whose_size_is_not_said_does_not_fill_the_disk(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
    server.files["/data"] = bytes(100_000)
    server.answers = [Answer(chunked=True, ranges=False)] * 2
    with pytest.raises(CorruptError, match="does not end, but at most 9,000 bytes are allowed"):
        fetch_url(f"{server.url}/data", tmp_path / "file", sha256=SUM)
