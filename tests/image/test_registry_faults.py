"""What a registry, or the way to it, can do wrong."""

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.errors import CloudTrainError, CorruptError
from cloud_train.image import uploads
from cloud_train.image.connection import POLICY
from cloud_train.image.errors import BrokenConnectionError, ImageError, RegistryError
from cloud_train.image.layers import Blob, digest_of
from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from tests.image.faulty_registry import Fault, FaultyRegistry, faulty_registry

TRIES = 5
PASSWORD = "canary-password"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyRegistry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with faulty_registry() as running:
        yield running


@pytest.fixture
def waits() -> list[float]:
    """The seconds that were waited; nothing really waits."""
    return []


@pytest.fixture
def repository(server: FaultyRegistry, waits: list[float]) -> Iterator[Repository]:
    with Repository(parse_reference(f"{server.host}/me/digits"), policy=replace(POLICY, sleep=waits.append)) as opened:
        yield opened


def blob_of(data: bytes, folder: Path) -> Blob:
    (folder / "blob").write_bytes(data)
    return Blob(folder / "blob", digest_of(data), len(data))


def log_in(tmp_path: Path, host: str, password: str = PASSWORD) -> None:
    (tmp_path / "docker").mkdir()
    login = base64.b64encode(f"trainer:{password}".encode()).decode()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": login}}}))


def test_a_blob_is_sent_with_one_post_and_one_put(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    data = os.urandom(20_000_000)
    repository.push_blob(blob_of(data, tmp_path))
    assert server.blobs == {digest_of(data): data}
    assert [method for method, _ in server.requests] == ["HEAD", "POST", "PUT"]
    assert server.headers[-1]["Content-Length"] == "20000000"


def test_an_empty_blob_is_sent_with_its_length(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    repository.push_blob(blob_of(b"", tmp_path))
    assert server.blobs == {digest_of(b""): b""}
    assert server.headers[-1]["Content-Length"] == "0"
    assert "Transfer-Encoding" not in server.headers[-1]


def test_an_upload_whose_connection_broke_starts_over(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    server.faults = [Fault("PUT", "/uploads/", after_bytes=400_000), Fault("PUT", "/uploads/", after_bytes=300_000)]
    repository.push_blob(blob_of(data, tmp_path))
    assert server.blobs == {digest_of(data): data}
    assert len({path for method, path in server.requests if method == "PUT"}) == 3, "each to an upload of its own"
    assert server.count("GET", "/uploads/") == 0, "Amazon ECR would not say how much has arrived"


@pytest.mark.parametrize("status", [404, 416])
def test_an_upload_that_the_registry_forgot_or_has_in_part_starts_over(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, status: int
) -> None:
    server.faults = [Fault("PUT", "/uploads/", status)]
    repository.push_blob(blob_of(b"layer", tmp_path))
    assert server.blobs == {digest_of(b"layer"): b"layer"}
    assert server.count("POST", "/uploads/") == 2


def test_an_upload_whose_last_answer_got_lost_is_done(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    server.blobs[digest_of(b"layer")] = b"layer"
    server.faults = [Fault("HEAD", "/blobs/", 404), Fault("PUT", "/uploads/")]
    repository.push_blob(blob_of(b"layer", tmp_path))
    assert server.count("PUT", "/uploads/") == 1


@pytest.mark.parametrize("status", [202, 204])
def test_another_success_than_201_counts_if_the_blob_is_there(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, status: int
) -> None:
    server.faults = [Fault("PUT", "/uploads/", status)]  # and the blob is not stored
    repository.push_blob(blob_of(b"layer", tmp_path))
    assert server.blobs == {digest_of(b"layer"): b"layer"}
    assert server.count("PUT", "/uploads/") == 2


def test_a_stored_blob_with_another_digest_is_an_error(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    server.faults = [Fault("PUT", "/uploads/", 201, {"Docker-Content-Digest": digest_of(b"another")})]
    with pytest.raises(CorruptError, match="stored a blob whose digest is not"):
        repository.push_blob(blob_of(b"layer", tmp_path))


def test_a_redirected_blob_is_sent_from_its_start(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    with faulty_registry() as bucket:
        bucket.uploads["elsewhere"] = bytearray()
        target = f"http://{bucket.host}/uploads/elsewhere?digest={digest_of(b'layer')}"
        server.faults = [Fault("PUT", "/uploads/", 307, {"Location": target})]
        repository.push_blob(blob_of(b"layer", tmp_path))
        assert bucket.blobs == {digest_of(b"layer"): b"layer"}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 2)


@pytest.mark.parametrize("status", [201, 202, 204])
def test_a_blob_that_is_refused_as_too_large_is_sent_in_chunks_and_so_are_all_after_it(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, small_chunks: None, status: int
) -> None:
    server.chunk_status = status
    server.faults = [Fault("PUT", "/uploads/", 413)]
    repository.push_blob(blob_of(b"layer", tmp_path))
    repository.push_blob(blob_of(b"other", tmp_path))
    repository.push_blob(blob_of(b"l", tmp_path))
    assert set(server.blobs.values()) == {b"layer", b"other", b"l"}
    spans = [headers["Content-Range"] for headers in server.headers if "Content-Range" in headers]
    assert spans == ["0-1", "2-3", "4-4"] * 2
    assert [method for method, path in server.requests if "/uploads/" in path] == [
        *("POST", "PUT"),
        *("POST", "PATCH", "PATCH", "PUT") * 2,
        *("POST", "PUT"),
    ]


def test_a_large_blob_whose_connection_always_breaks_is_sent_in_chunks(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, small_chunks: None
) -> None:
    server.faults = [Fault("PUT", "/uploads/", after_bytes=1) for _ in range(TRIES)]
    repository.push_blob(blob_of(b"layer", tmp_path))
    assert server.blobs == {digest_of(b"layer"): b"layer"}
    assert server.count("PATCH", "/uploads/") == 2


def test_chunks_whose_connection_broke_start_over(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, small_chunks: None
) -> None:
    server.faults = [Fault("PUT", "/uploads/", 413), Fault("PATCH", "/uploads/", after_bytes=1), Fault("PUT", "/uploads/")]
    repository.push_blob(blob_of(b"layer", tmp_path))
    assert server.blobs == {digest_of(b"layer"): b"layer"}
    assert server.count("POST", "/uploads/") == 4


def test_a_registry_that_refuses_a_whole_blob_and_chunks_is_told_with_both_reasons(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, small_chunks: None
) -> None:
    server.faults = [Fault("PUT", "/uploads/", 413), Fault("PATCH", "/uploads/", 405, body=b'{"errors": [{"code": "UNSUPPORTED"}]}')]
    with pytest.raises(RegistryError) as caught:
        repository.push_blob(blob_of(b"layer", tmp_path))
    assert "a layer of the image has 5 bytes, which is too large for 127.0.0.1" in caught.value.message
    assert "refused a request of 5 bytes (413), and refused the same in chunks of 2 bytes" in caught.value.message
    assert "405 (UNSUPPORTED)" in caught.value.message
    assert "client_max_body_size" in (caught.value.hint or "")


def test_chunks_that_are_refused_after_broken_connections_are_told_with_both_reasons(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, small_chunks: None
) -> None:
    server.faults = [*(Fault("PUT", "/uploads/") for _ in range(TRIES)), Fault("PATCH", "/uploads/", 405)]
    with pytest.raises(
        RegistryError, match=r"refused a request of 5 bytes \(5 connections broke\), and refused the same in chunks"
    ) as caught:
        repository.push_blob(blob_of(b"layer", tmp_path))
    assert caught.value.status == 405


def test_a_large_upload_says_that_it_begins_and_how_far_it_is(
    server: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(uploads, "_TELL_SECONDS", 0.0)
    monkeypatch.setattr(uploads, "_LARGE_BYTES", 2_000_000)
    with Repository(parse_reference(f"{server.host}/me/digits"), note=notes.append) as repository:
        repository.push_blob(blob_of(bytes(1_000_000), tmp_path))
        assert notes == []
        repository.push_blob(blob_of(bytes(2_000_000), tmp_path))
    assert notes[0] == f"uploading a layer (2.0 MB) to {server.host}"
    assert notes[-1] == f"uploaded 100% of a layer (2.0 MB) to {server.host}"
    assert any("uploaded 50% of" in line for line in notes)


def test_an_upload_that_is_given_no_place_is_an_error(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    server.faults = [Fault("POST", "/uploads/", 202)]
    with pytest.raises(RegistryError, match="sent no URL for an upload"):
        repository.push_blob(blob_of(b"layer", tmp_path))


def test_a_connection_that_always_breaks_off_is_given_up(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, waits: list[float]
) -> None:
    server.faults = [Fault("PUT", "/uploads/") for _ in range(TRIES)]
    with pytest.raises(BrokenConnectionError, match=r"closed the connection of an upload 5 times; the blob has 5 bytes"):
        repository.push_blob(blob_of(b"layer", tmp_path))
    assert waits == [0.5, 1, 2, 4]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize(("method", "path"), [("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PUT", "/uploads/")])
def test_a_failure_that_may_pass_is_tried_again(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, *, status: int, method: str, path: str
) -> None:
    server.faults = [Fault(method, path, status)]
    repository.push_blob(blob_of(b"layer", tmp_path))
    assert server.blobs == {digest_of(b"layer"): b"layer"}


@pytest.mark.parametrize(("answer", "seconds"), [("7", 7), ("100000", 60), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.5), ("soon", 0.5)])
def test_the_registry_says_how_long_to_wait(
    server: FaultyRegistry, repository: Repository, waits: list[float], answer: str, seconds: float
) -> None:
    server.faults = [Fault("GET", "/manifests/", 429, {"Retry-After": answer})]
    assert repository.manifest("1") is None
    assert waits == [seconds]


@pytest.mark.parametrize(("status", "hint"), [(401, "docker login"), (403, "docker login"), (404, "check the name")])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_refusal_is_final_and_in_the_registrys_words(
    server: FaultyRegistry, repository: Repository, tmp_path: Path, waits: list[float], *, method: str, status: int, hint: str
) -> None:
    words = b'{"errors": [{"code": "NOPE", "message": "not for you"}]}'
    server.faults = [Fault(method, "/uploads/", status, body=words)]
    if (method, status) == ("PUT", 404):
        repository.push_blob(blob_of(b"layer", tmp_path))  # the upload is gone, which a new one mends
        return
    with pytest.raises(
        RegistryError, match=rf"{server.host} refused to accept a blob for me/digits: {status} \(NOPE not for you\)"
    ) as caught:
        repository.push_blob(blob_of(b"layer", tmp_path))
    assert hint in (caught.value.hint or "")
    assert (caught.value.status, caught.value.code, caught.value.exit_code) == (status, "image", 7)
    assert waits == []
    assert server.count(method, "/uploads/") == 1


def test_a_registry_that_stays_out_of_order_is_given_up(server: FaultyRegistry, repository: Repository, waits: list[float]) -> None:
    server.faults = [Fault("GET", "/manifests/", 503) for _ in range(TRIES)]
    with pytest.raises(RegistryError, match=r"refused to show the image me/digits:1: 503"):
        repository.manifest("1")
    assert len(waits) == TRIES - 1


def test_a_registry_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    with faulty_registry() as gone:
        host = gone.host
    with (
        Repository(parse_reference(f"{host}/me/digits"), policy=replace(POLICY, sleep=waits.append)) as repository,
        pytest.raises(BrokenConnectionError, match=rf"the registry {host} cannot be reached.*refused"),
    ):
        repository.manifest("1")


def test_a_proxy_is_not_asked_for_a_registry_on_this_machine(
    server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with Repository(parse_reference(f"{server.host}/me/digits"), policy=replace(POLICY, sleep=waits.append)) as repository:
        assert repository.manifest("1") is None


def test_a_download_goes_on_where_it_broke_off(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    server.blobs[digest_of(data)] = data
    server.faults = [Fault("GET", "/blobs/", 200, {"Content-Length": str(len(data)), "Connection": "close"}, body=data[:2_000_000])]
    blob = repository.fetch_blob(digest_of(data), len(data), tmp_path / "file")
    assert blob.file.read_bytes() == data
    assert server.headers[-1]["Range"].startswith("bytes=")
    assert server.headers[-1]["Range"] != "bytes=0-"


def test_bytes_that_are_not_those_asked_for_are_an_error(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    digest = digest_of(b"right")
    server.blobs[digest] = b"wrong"
    server.manifests[digest] = ("application/json", b"wrong")
    with pytest.raises(CorruptError):
        repository.small_blob(digest)
    with pytest.raises(CorruptError):
        repository.fetch_blob(digest, 5, tmp_path / "file")
    with pytest.raises(CorruptError):
        repository.manifest(digest)
    server.faults = [Fault("PUT", "/manifests/", 201, {"Docker-Content-Digest": digest})]
    with pytest.raises(CorruptError):
        repository.push_manifest(b"{}", "application/json", "1")


def test_a_login_is_exchanged_for_a_token(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    log_in(tmp_path, server.host)
    server.token = "canary-token"
    repository.push_blob(blob_of(b"layer", tmp_path))
    asked = [(path, headers) for (_, path), headers in zip(server.requests, server.headers, strict=True) if path.startswith("/token")]
    assert [path for path, _ in asked] == [
        "/token?service=tests&scope=repository%3Ame%2Fdigits%3Apull",
        "/token?service=tests&scope=repository%3Ame%2Fdigits%3Apull%2Cpush",
    ]
    assert base64.b64decode(asked[0][1]["Authorization"].removeprefix("Basic ")) == f"trainer:{PASSWORD}".encode()


def test_without_a_login_a_token_is_asked_for_anonymously(server: FaultyRegistry, repository: Repository) -> None:
    server.token = "any"
    assert repository.manifest("1") is None
    assert not any(
        "Authorization" in headers for (_, path), headers in zip(server.requests, server.headers, strict=True) if "/token" in path
    )


def test_a_token_server_that_refuses_is_final(server: FaultyRegistry, repository: Repository, waits: list[float]) -> None:
    server.token = "any"
    server.faults = [Fault("GET", "/token", 403)]
    with pytest.raises(RegistryError, match=r"the token server of .* responded with 403"):
        repository.manifest("1")
    assert waits == []


def test_a_password_is_sent_nowhere_unencrypted(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    log_in(tmp_path, server.host)
    server.faults = [Fault("GET", "/manifests/", 401, {"WWW-Authenticate": 'Bearer realm="http://tokens.example.com/",service="s"'})]
    with pytest.raises(RegistryError, match=r"names the token server http://tokens\.example\.com, which is not encrypted"):
        repository.manifest("1")


def test_a_login_stays_with_its_registry_when_an_upload_is_sent_elsewhere(
    server: FaultyRegistry, repository: Repository, tmp_path: Path
) -> None:
    server.token = "canary-token"
    repository.push_blob(blob_of(b"before", tmp_path))
    with faulty_registry() as bucket:
        bucket.uploads["elsewhere"] = bytearray()
        server.faults = [
            Fault("HEAD", "/blobs/", 404),
            Fault("POST", "/uploads/", 202, {"Location": f"http://{bucket.host}/uploads/elsewhere"}),
        ]
        repository.push_blob(blob_of(b"layer", tmp_path))
        assert bucket.blobs == {digest_of(b"layer"): b"layer"}
        assert len(bucket.headers) == 1
        assert not any("Authorization" in headers for headers in bucket.headers)


def test_a_password_is_in_no_message_and_no_repr(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    log_in(tmp_path, server.host)
    server.faults = [Fault("GET", "/manifests/", 401, {"WWW-Authenticate": 'Basic realm="x"'}) for _ in range(2)]
    with pytest.raises(CloudTrainError) as caught:
        repository.manifest("1")
    sent = [headers["Authorization"] for headers in server.headers if "Authorization" in headers]
    assert len(sent) == 1
    said = repr((caught.value, caught.value.message, caught.value.hint, vars(repository), vars(repository._connection)))
    assert PASSWORD not in said
    assert sent[0].removeprefix("Basic ") not in said


def test_a_layer_that_is_too_large_is_told_with_its_size(server: FaultyRegistry, repository: Repository, tmp_path: Path) -> None:
    server.faults = [Fault("PUT", "/uploads/", 413)]
    with pytest.raises(RegistryError, match=r"a layer of the image has 5 bytes, which is too large for 127.0.0.1") as caught:
        repository.push_blob(blob_of(b"layer", tmp_path))
    assert ".dockerignore" in (caught.value.hint or "")


def test_a_layer_over_a_limit_that_is_known_is_not_even_sent(tmp_path: Path) -> None:
    ecr = parse_reference("123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train")
    with Repository(ecr) as repository, pytest.raises(ImageError, match=r"has 60,000,000,000 bytes, but 1234.* at most 54,525,952,000"):
        repository.push_blob(Blob(tmp_path / "never-read", digest_of(b""), 60_000_000_000))
