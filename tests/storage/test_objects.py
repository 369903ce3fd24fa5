"""What all clouds' objects have in common: ranges, refusals, and listings that obstore does not tell right."""

from collections.abc import Iterator

import pytest

from cloud_train.errors import StoreError
from cloud_train.storage.base import (
    InvalidKeyError,
    ObjectInfo,
    ObjectMissingError,
    TransientStoreError,
)
from cloud_train.storage.objects import CLIENT_OPTIONS, ONE_TRY, ObjectStorage
from tests.answers import Answer
from tests.storage.scripted import Asked, Scripted, s3_refusal, scripted

pytest.importorskip("obstore")

HEAD = {"ETag": '"e"', "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT"}


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted(lambda asked: Answer(200, HEAD, b"bytes")) as server:
        yield server


def storage(server: Scripted, prefix: str = "", listed: tuple[str, ...] = ()) -> ObjectStorage:
    """Objects of a bucket on the server; ``listed`` is what the SDK's own listing would find, all of it empty objects."""
    from obstore.store import S3Store as Client

    client = Client(
        "bucket", endpoint=server.endpoint, region="us-east-1", skip_signature=True, client_options=CLIENT_OPTIONS, retry_config=ONE_TRY
    )

    def listing(full_prefix: str, after: str) -> Iterator[ObjectInfo]:
        return (ObjectInfo(key, 0, 0.0) for key in listed)

    return ObjectStorage(f"s3://bucket/{prefix}".rstrip("/"), client, prefix, explain=lambda *answer: None, listing=listing)


def page(*objects: tuple[str, int], more: str = "") -> Answer:
    """A page of a listing in S3's words."""
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2026-11-24T12:00:00.000Z</LastModified><ETag>e</ETag></Contents>"
        for key, size in objects
    )
    token = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return Answer(200, {"Content-Type": "application/xml"}, f"<ListBucketResult>{contents}{token}</ListBucketResult>".encode())


def test_a_body_that_breaks_off_is_no_object(server: Scripted) -> None:
    server.answer = lambda asked: Answer(206, {**HEAD, "Content-Range": "bytes 0-9/10"}, b"12345")
    with pytest.raises(TransientStoreError):
        storage(server).get("k", 0, 10)


def test_a_server_that_does_not_know_ranges_is_not_asked_again(server: Scripted) -> None:
    with pytest.raises(StoreError, match="non-partial") as caught:
        storage(server).get("k", 1, 3)
    assert not isinstance(caught.value, TransientStoreError)


def test_a_refused_stat_is_asked_again_for_the_words_that_a_head_lacks(server: Scripted) -> None:
    server.answer = lambda asked: s3_refusal(400, "ExpiredToken", "The provided token has expired.")
    with pytest.raises(StoreError, match="ExpiredToken: The provided token has expired"):
        storage(server).stat("k")
    assert [(asked.method, asked.headers["Range"]) for asked in server.asked] == [("HEAD", None), ("GET", "bytes=0-0")]


@pytest.mark.parametrize("status", [403, 503])
def test_a_stat_whose_refusal_is_clear_is_asked_once(server: Scripted, status: int) -> None:
    server.answer = lambda asked: Answer(status)
    with pytest.raises(StoreError):
        storage(server).stat("k")
    assert len(server.asked) == 1


def test_a_missing_object_in_a_bucket_that_was_seen_costs_one_request(server: Scripted) -> None:
    store = storage(server)
    store.stat("k")
    server.answer = lambda asked: Answer(404)
    with pytest.raises(ObjectMissingError):
        store.stat("k")
    assert len(server.asked) == 2


def test_one_request_deletes_or_lists_a_page(server: Scripted) -> None:
    pages = [page(("folder/a", 1), ("folder/b", 2), more="t"), page(("folder/c", 3))]
    server.answer = lambda asked: pages[len(server.asked) - 1]
    listed = list(storage(server).list("folder/"))
    assert [(info.key, info.size, info.version) for info in listed] == [("folder/a", 1, "e"), ("folder/b", 2, "e"), ("folder/c", 3, "e")]
    assert len(server.asked) == 2


def test_an_empty_object_is_told_from_a_folders_mark(server: Scripted) -> None:
    # obstore shows both under the same key.
    there = {"folder/both": b"", "folder/empty": b"", "folder/full": b"x"}
    listed = [("folder/", 0), ("folder/both", 0), ("folder/both-", 1), ("folder/both/", 0), ("folder/empty", 0), ("folder/full", 1)]
    listed += [("folder/full/", 0), ("folder/mark/", 0), ("folder/z", 1)]

    def answer(asked: Asked) -> Answer:
        if asked.method == "GET":
            return page(*listed)
        body = there.get(asked.target.removeprefix("/bucket/"))
        return Answer(404) if body is None else Answer(200, HEAD, body)

    server.answer = answer
    assert [(info.key, info.size) for info in storage(server).list("folder/")] == listed


def test_a_listing_with_many_empty_objects_is_done_by_the_sdk_from_there_on(server: Scripted) -> None:
    server.answer = lambda asked: (
        page(*((f"folder/{number:03}", 0) for number in range(100))) if asked.method == "GET" else Answer(200, HEAD)
    )
    by_sdk = tuple(f"folder/{number:03}" for number in range(5, 30))
    assert [info.key for info in storage(server, listed=(*by_sdk, "other")).list("folder/")] == [
        f"folder/{number:03}" for number in range(30)
    ]
    assert len(server.asked) == 11


def test_keys_are_relative_to_the_stores_prefix(server: Scripted) -> None:
    store = storage(server, prefix="some/prefix/")
    store.put("a b/ü", b"x")
    assert server.asked[-1].target == "/bucket/some/prefix/a%20b/%C3%BC"
    server.answer = lambda asked: page(("some/prefix/a", 1))
    assert [info.key for info in store.list("")] == ["a"]
    assert "prefix=some%2Fprefix%2F" in server.asked[-1].target


@pytest.mark.parametrize("prefix", ["../", "a/../", "a//", "/", "..", "a\\"])
def test_a_prefix_that_would_leave_the_store_is_refused(server: Scripted, prefix: str) -> None:
    with pytest.raises(InvalidKeyError):
        list(storage(server, prefix="inside/").list(prefix))
    with pytest.raises(InvalidKeyError):
        list(storage(server, prefix="inside/").folders(prefix))
    assert server.asked == []


def test_every_object_travels_with_its_sha256(server: Scripted) -> None:
    storage(server).put("k", b"hello")
    asked: Asked = server.asked[-1]
    assert asked.headers["x-amz-meta-sha256"] == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
