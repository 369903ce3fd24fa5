"""Requests to a Docker Engine, over its socket and by way of the Docker SDK."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud_train.docker.transport import Answer, opened
from cloud_train.errors import MissingDependencyError
from tests.docker.forwarding import OF_THIS_MACHINE, forwarded
from tests.docker_engine import base_image, engine_or_skip


@contextmanager
def engine_that_says(path: Path, *answers: bytes) -> Iterator[list[bytes]]:
    """Something that listens at ``path`` and answers each connection's first request with these bytes; yields what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(65_536))
                connection.sendall(answer)
                if answer == b"":
                    connection.recv(1)  # until the other side has had enough

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            thread.join(10)


@pytest.fixture
def engine() -> None:
    engine_or_skip().close()


@pytest.mark.usefixtures("engine")
def test_over_the_socket_and_over_tcp_an_engine_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    with opened(OF_THIS_MACHINE) as near, forwarded() as address, opened(address) as far:
        for path in (f"/images/{base_image()}/json", "/images/cloud-train-test/no-such-image:1/json"):
            assert near.ask("GET", path) == far.ask("GET", path)
        assert near.ask("GET", f"/images/{base_image()}/json").document["RepoTags"]
        refused = far.ask("POST", "/containers/create", {"name": "cloud-train-test-none"}, {"Image": "cloud-train-test/no-such-image:1"})
    assert (refused.status, refused.words) == (404, "No such image: cloud-train-test/no-such-image:1")


@pytest.mark.usefixtures("engine")
def test_one_connection_serves_many_requests() -> None:
    with opened(OF_THIS_MACHINE) as http:
        assert {http.ask("GET", "/_ping").body for _ in range(5)} == {b"OK"}


def test_the_socket_s_engine_is_reached_without_the_sdk_and_another_one_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    fine = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with engine_that_says(tmp_path / "s", fine) as asked, opened(f"unix://{tmp_path}/s") as http:
        assert http.ask("POST", "/a b", {"c": "d"}) == Answer(200, b"{}")
    assert asked[0].startswith(b"POST /a%20b?c=d HTTP/1.1\r\n")
    with pytest.raises(MissingDependencyError, match=r"tcp://127\.0\.0\.1:1 requires the Docker SDK"), opened("tcp://127.0.0.1:1"):
        pass


def test_an_engine_that_breaks_off_is_an_error_and_the_next_request_connects_again(tmp_path: Path) -> None:
    fine = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nO"
    with engine_that_says(tmp_path / "s", broken, fine), opened(f"unix://{tmp_path}/s") as http:
        with pytest.raises(ConnectionError, match="was closed"):
            http.ask("GET", "/_ping")
        assert http.ask("GET", "/_ping").body == b"OK"


def test_an_engine_that_keeps_silent_is_a_timeout(tmp_path: Path) -> None:
    with engine_that_says(tmp_path / "s", b""), opened(f"unix://{tmp_path}/s") as http, pytest.raises(TimeoutError):
        http.ask("GET", "/_ping", timeout_seconds=0.05)


def test_where_nobody_listens_is_said_by_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), opened(f"unix://{tmp_path}/none.sock"):
        pass
    with pytest.raises(OSError, match="refused"), opened("tcp://127.0.0.1:1"):
        pass


@pytest.mark.parametrize(
    ("body", "words"),
    [(json.dumps({"message": "no such thing"}).encode(), "no such thing"), (b"page not found\n", "page not found"), (b"[]", "[]")],
)
def test_a_refusal_has_the_engine_s_words(body: bytes, words: str) -> None:
    assert Answer(404, body).words == words
