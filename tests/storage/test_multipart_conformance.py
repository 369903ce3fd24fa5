"""Uploads in parts, which every store takes alike: a local folder, and each cloud's storage on a real server."""

import hashlib
import random
from contextlib import suppress
from functools import cache

import pytest

from cloud_train.storage.base import Store, UploadGoneError


@cache
def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def keys(store: Store) -> list[str]:
    return [info.key for info in store.list()]


def is_remote(store: Store) -> bool:
    return store.local_path("any") is None


def upload_parts(store: Store) -> tuple[bytes, int, str]:
    """The bytes of an object of three parts, the size of a part, and the object's SHA-256."""
    part = store.multipart().part_bytes(1)
    data = some_bytes(2 * part + 1_000)
    assert store.multipart().part_bytes(len(data)) == part
    return data, part, hashlib.sha256(data).hexdigest()


def test_an_object_in_parts_can_be_seen_only_when_it_is_finished(store: Store) -> None:
    data, part, sha256 = upload_parts(store)
    parts = store.multipart()
    token = parts.begin("big/one", len(data), sha256)
    order = (0, 1, 2) if parts.in_order else (2, 0, 1)
    receipts = {}
    for number in order:
        receipts[number] = parts.send("big/one", token, number, number * part, data[number * part : (number + 1) * part])
        if number != order[-1] or not parts.in_order:
            assert keys(store) == []
    parts.finish("big/one", token, receipts)
    assert store.get("big/one") == data
    assert keys(store) == ["big/one"]
    if is_remote(store):
        assert store.stat("big/one").sha256 == sha256


def test_a_part_that_is_sent_again_replaces_the_first(store: Store) -> None:
    data, part, sha256 = upload_parts(store)
    parts = store.multipart()
    token = parts.begin("big/one", len(data), sha256)
    receipts = {}
    for number in range(3):
        piece = data[number * part : (number + 1) * part]
        if not parts.in_order:  # what was sent in order is taken once
            parts.send("big/one", token, number, number * part, bytes(len(piece)))
        receipts[number] = parts.send("big/one", token, number, number * part, piece)
        if number == 0:
            receipts[number] = parts.send("big/one", token, number, 0, piece)
    parts.finish("big/one", token, receipts)
    assert store.get("big/one") == data


def test_an_upload_may_be_given_up_twice_and_leaves_no_object(store: Store) -> None:
    data, part, sha256 = upload_parts(store)
    parts = store.multipart()
    token = parts.begin("big/one", len(data), sha256)
    parts.send("big/one", token, 0, 0, data[:part])
    parts.abort("big/one", token)
    parts.abort("big/one", token)
    assert keys(store) == []


@pytest.mark.parametrize("open_again", ["local", "gs", "az"], indirect=True)  # moto answers with 500
def test_an_upload_that_was_given_up_takes_no_parts_and_has_no_end(store: Store) -> None:
    data, part, sha256 = upload_parts(store)
    parts = store.multipart()
    token = parts.begin("big/one", len(data), sha256)
    receipt = parts.send("big/one", token, 0, 0, data[:part])
    parts.abort("big/one", token)
    with pytest.raises(UploadGoneError):
        parts.send("big/one", token, 0, 0, data[:part])
    with pytest.raises(UploadGoneError):
        parts.finish("big/one", token, {0: receipt})


def test_an_upload_is_finished_once(store: Store) -> None:
    data, part, sha256 = upload_parts(store)
    parts = store.multipart()
    token = parts.begin("big/one", len(data), sha256)
    receipts = {number: parts.send("big/one", token, number, number * part, data[number * part :][:part]) for number in range(3)}
    parts.finish("big/one", token, receipts)
    version = store.stat("big/one").version
    with suppress(UploadGoneError):  # S3 remembers a finished upload for a while, and says yes again
        parts.finish("big/one", token, receipts)
    assert store.stat("big/one").version == version
    assert store.get("big/one") == data


def test_an_upload_replaces_what_was_there_only_at_its_end(store: Store) -> None:
    data, part, sha256 = upload_parts(store)
    store.put("big/one", b"before")
    parts = store.multipart()
    token = parts.begin("big/one", len(data), sha256)
    receipts = {}
    for number in (0, 1):
        receipts[number] = parts.send("big/one", token, number, number * part, data[number * part : (number + 1) * part])
    assert store.get("big/one") == b"before"
    receipts[2] = parts.send("big/one", token, 2, 2 * part, data[2 * part :])
    parts.finish("big/one", token, receipts)
    assert store.get("big/one") == data
