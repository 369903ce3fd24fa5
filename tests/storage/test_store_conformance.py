"""What every store does alike: a local folder, and each cloud's storage on a real server, directly and behind retries."""

import hashlib
import itertools
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

from cloud_train.errors import StoreError
from cloud_train.storage.base import (
    AccessDeniedError,
    InvalidKeyError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    Store,
)
from cloud_train.storage.registry import open_store
from tests.faults import FaultProxy, Refuse
from tests.stores import AZURE_KEY, StoreServer, server_or_skip, use

UNUSUAL = [
    "with a space",
    "größe/日本語/🙂",
    "a+b",
    "100%",
    "%41%2F",
    "number#1",
    "what?x=1&y=2",
    'it\'s "quoted"',
    "~tilde~7E",
    "<tag>&amp;",
    "semi;colon:comma,",
    "{braces}[brackets]",
    ".hidden",
    "x..y",
]

INVALID = ["/absolute", "a//b", "../outside", "a/../../b", "./a", "a/.", "a/", "back\\slash", "nul\0byte"]

PERMISSIONS = {"s3": "s3:PutObject", "gs": "storage.objects.create", "az": "Storage Blob Data Contributor"}


@cache
def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def keys(store: Store, prefix: str = "", after: str = "") -> list[str]:
    return [info.key for info in store.list(prefix, after)]


def begin_upload(store: Store) -> None:
    """The first request of an upload in parts, which on Azure is that of the first part."""
    parts = store.multipart()
    parts.send("a", parts.begin("a", 10, "00"), 0, 0, b"0123456789")


def is_remote(store: Store) -> bool:
    return store.local_path("any") is None


@pytest.mark.parametrize("size", [0, 1, 1_000, 3_000_000])
def test_what_was_put_is_what_is_got(store: Store, size: int) -> None:
    store.put("a/b.bin", some_bytes(size))
    assert store.get("a/b.bin") == some_bytes(size)
    info = store.stat("a/b.bin")
    assert (info.key, info.size) == ("a/b.bin", size)
    assert info.modified > 1_600_000_000
    if is_remote(store):
        assert info.sha256 == hashlib.sha256(some_bytes(size)).hexdigest()


def test_a_second_put_replaces_the_first_and_changes_the_version(store: Store) -> None:
    store.put("a", b"one")
    first = store.stat("a").version
    store.put("a", b"two")
    assert store.get("a") == b"two"
    assert store.stat("a").version not in ("", first)
    assert keys(store) == ["a"]


def test_a_listing_and_a_stat_tell_the_same_version(store: Store) -> None:
    store.put("folder/a", b"one")
    (listed,) = store.list("folder/")
    found = store.stat("folder/a")
    assert (listed.key, listed.size, listed.version) == (found.key, found.size, found.version)


def test_a_range_is_cut_at_the_end_of_the_object(store: Store) -> None:
    store.put("a", b"0123456789")
    assert store.get("a", 2, 5) == b"234"
    assert store.get("a", 8) == b"89"
    assert store.get("a", 8, 50) == b"89"
    assert store.get("a", 0, 10) == b"0123456789"
    assert store.get("a", 10) == b""
    assert store.get("a", 50) == b""
    assert store.get("a", 50, 60) == b""
    assert store.get("a", 3, 3) == b""


def test_a_range_comes_in_pieces_up_to_its_end_or_the_objects(store: Store) -> None:
    store.put("a", some_bytes(600_000))
    version = store.stat("a").version
    assert b"".join(store.pieces("a", 10, 500_000, version=version)) == some_bytes(600_000)[10:500_000]
    assert b"".join(store.pieces("a", 10, None, version=version)) == some_bytes(600_000)[10:]


def test_every_range_of_an_empty_object_is_empty(store: Store) -> None:
    store.put("a", b"")
    assert store.get("a") == store.get("a", 5) == store.get("a", 0, 10) == b""


def test_a_missing_object_is_told_from_other_errors(store: Store) -> None:
    store.put("there", b"")
    for ask in (store.get, store.stat, lambda key: store.get(key, 5, 10)):
        with pytest.raises(ObjectMissingError, match="not/there"):
            ask("not/there")


def test_reading_a_version_that_is_no_more_says_so(store: Store) -> None:
    store.put("a", b"0123456789")
    version = store.stat("a").version
    assert store.get("a", version=version) == b"0123456789"
    assert store.get("a", 2, 5, version=version) == b"234"
    assert store.get("a", 50, version=version) == b""
    store.put("a", b"9876543210")
    for start, end in ((0, None), (2, 5), (50, None)):
        with pytest.raises(ObjectChangedError):
            store.get("a", start, end, version=version)


def test_create_refuses_a_key_that_is_taken(store: Store) -> None:
    store.create("a", b"first")
    with pytest.raises(ObjectExistsError, match="a"):
        store.create("a", b"second")
    assert store.get("a") == b"first"
    store.delete("a")
    store.create("a", b"third")
    assert store.get("a") == b"third"


def test_an_empty_object_can_be_created_once(store: Store) -> None:
    store.create("mark", b"")
    with pytest.raises(ObjectExistsError):
        store.create("mark", b"")


def test_of_eight_creators_at_once_exactly_one_succeeds(store: Store) -> None:
    start = threading.Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        try:
            store.create("only/one", b"%d" % number * 1000)
        except ObjectExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(create, range(8)))
    assert outcomes.count(True) == 1
    assert store.get("only/one") == b"%d" % outcomes.index(True) * 1000


def test_an_object_is_replaced_only_in_the_version_that_was_seen(store: Store) -> None:
    first = store.create("a", b"first")
    second = store.replace(first, b"second")
    with pytest.raises(ObjectChangedError):
        store.replace(first, b"late")
    assert store.get("a") == b"second"
    found, there = store.read("a")
    assert there == b"second"
    store.replace(store.replace(found, b"third"), b"fourth")
    with pytest.raises(ObjectChangedError):
        store.replace(second, b"late")
    store.replace(store.put("a", b"fifth"), b"sixth")
    store.replace(store.stat("a"), b"seventh")
    assert store.get("a") == b"seventh"


def test_an_object_that_is_gone_is_not_replaced(store: Store) -> None:
    seen = store.put("folder/a", b"x")
    store.delete("folder/a")
    with pytest.raises(ObjectChangedError):
        store.replace(seen, b"y")
    assert keys(store) == []


def test_of_eight_that_replace_the_same_version_at_once_exactly_one_succeeds(store: Store) -> None:
    start, seen = threading.Barrier(8), store.put("only/one", b"seen")

    def replace(number: int) -> bool:
        start.wait()
        try:
            store.replace(seen, b"%d" % number * 1000)
        except ObjectChangedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(replace, range(8)))
    assert outcomes.count(True) == 1
    assert store.get("only/one") == b"%d" % outcomes.index(True) * 1000


def test_the_beginning_of_an_object_is_read_with_its_version(store: Store) -> None:
    written = store.put("a", b"0123456789")
    info, data = store.read("a", 4)
    assert (data, info.size, info.version) == (b"0123", 10, written.version)
    assert store.read("a", 99)[1] == b"0123456789"
    store.put("empty", b"")
    assert store.read("empty", 4)[1] == b""


def test_a_list_is_in_the_order_of_the_keys(store: Store) -> None:
    written = ["b", "a/z", "a/b/c", "a-b", "a.b", "a/bc", "B", "a/b.d", "ab", "ä", "z"]
    for key in written:
        store.put(key, key.encode())
    assert keys(store) == sorted(written)
    assert [info.size for info in store.list()] == [len(key.encode()) for key in sorted(written)]


def test_a_list_takes_a_prefix_that_is_no_folder_and_begins_after_a_key(store: Store) -> None:
    for key in ("a", "a/b", "a/b/c", "a/bc", "a/bd", "a/c", "ab", "b"):
        if key not in ("a", "a/b"):  # a local folder cannot hold both an object and a folder of one name
            store.put(key, b"")
    assert keys(store, "a/b") == ["a/b/c", "a/bc", "a/bd"]
    assert keys(store, "a/") == ["a/b/c", "a/bc", "a/bd", "a/c"]
    assert keys(store, "a/b", "a/bc") == ["a/bd"]
    assert keys(store, "a/", "a/b") == ["a/b/c", "a/bc", "a/bd", "a/c"]
    assert keys(store, "", "a/c") == ["ab", "b"]
    assert keys(store, "a/", "b") == []
    assert keys(store, "none/") == keys(store, "zz") == []


def test_a_store_with_nothing_in_it_lists_nothing(store: Store) -> None:
    assert keys(store) == keys(store, "any/") == []
    assert list(store.folders()) == list(store.folders("any/")) == []


@pytest.mark.parametrize("open_again", ["local", "s3"], indirect=True)  # the others' pages are tested where they are made
def test_a_list_of_more_than_a_page_is_whole_and_in_order(store: Store) -> None:
    names = [f"many/{number:05}" for number in range(1_100)]
    store.put("many.txt", b"")
    store.put("n", b"")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), names))
    assert keys(store, "many/") == names
    assert keys(store, "many/", names[50]) == names[51:]
    assert keys(store) == ["many.txt", *names, "n"]


def test_folders_are_what_lies_directly_below(store: Store) -> None:
    for key in ("a/x", "b/c/x", "b/d/e/x", "b/y", "z"):
        store.put(key, b"")
    assert list(store.folders()) == ["a", "b"]
    assert list(store.folders("b/")) == ["c", "d"]
    assert list(store.folders("a/")) == []


def test_a_deleted_object_is_gone_and_may_be_deleted_again(store: Store) -> None:
    store.put("a", b"x")
    store.put("b", b"y")
    store.delete("a")
    store.delete("a")
    store.delete("was/never/there")
    assert keys(store) == ["b"]
    with pytest.raises(ObjectMissingError):
        store.stat("a")


def test_keys_with_unusual_characters_come_back_as_they_were(store: Store) -> None:
    for key in UNUSUAL:
        store.put(f"top {key}", key.encode())
        store.put(f"in/{key}", key.encode())
    for key in UNUSUAL:
        assert store.get(f"top {key}") == store.get(f"in/{key}") == key.encode()
        assert store.stat(f"in/{key}").key == f"in/{key}"
    assert keys(store, "in/") == sorted(f"in/{key}" for key in UNUSUAL)
    assert keys(store, "in/100%") == ["in/100%"]
    for key in keys(store):
        store.delete(key)
    assert keys(store) == []


def test_keys_that_differ_in_case_only_are_two_objects(store: Store) -> None:
    store.put("Key", b"upper")
    store.put("key", b"lower")
    assert (store.get("Key"), store.get("key")) == (b"upper", b"lower")
    assert keys(store) == ["Key", "key"]


def test_a_key_that_is_no_relative_path_is_refused(store: Store) -> None:
    acts: list[Callable[[str], object]] = [
        lambda key: store.put(key, b"x"),
        lambda key: store.create(key, b"x"),
        store.get,
        store.stat,
        store.delete,
        store.local_path,
        lambda key: store.multipart().begin(key, 10, "00"),
    ]
    for act, key in itertools.product(acts, INVALID):
        with pytest.raises(InvalidKeyError):
            act(key)


def test_a_key_that_is_refused_costs_no_request(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultProxy(store_server) as proxy:
        use(store_server, monkeypatch, proxy.endpoint)
        store = open_store(store_server.new_url())
        for key in INVALID:
            with pytest.raises(InvalidKeyError):
                store.put(key, b"x")
            with pytest.raises(InvalidKeyError):
                store.get(key)
        assert proxy.records == []


def test_keys_that_are_unsafe_as_paths_are_listed_as_they_are_or_left_out(store_server: StoreServer) -> None:
    url = store_server.new_url()
    control = "bell\x07" if store_server.scheme == "s3" else "tab\tand\x7f"  # Azurite fails to list what XML cannot hold
    odd = ["../../x", "a//b", "/abs", control, "dir/", "case", "Case", "a/../b", "./dot", "z~"]
    if store_server.scheme != "az":  # which takes it for a '/'
        odd.append("back\\slash")
    for key in odd:
        store_server.put_raw(url, f"some/prefix/{key}", key.encode() if key != "dir/" else b"")
    store_server.put_raw(url, "some/prefixed", b"a neighbour")
    store_server.put_raw(url, "x", b"what ../../x would be")
    store = open_store(f"{url}/some/prefix")
    store.put("plain", b"plain")
    listed = keys(store)
    assert listed == sorted(set(listed))
    assert set(listed) <= {*odd, "plain"}
    assert {"case", "Case", "plain"} <= set(listed)
    for key in listed:
        try:
            assert store.get(key) == (b"" if key == "dir/" else key.encode())
        except InvalidKeyError:
            assert key in odd
    assert "prefixed" not in list(store.folders())


@pytest.mark.parametrize("prefix", ["", "some/prefix"])
def test_a_bucket_with_odd_keys_can_be_listed_from_any_prefix(store_server: StoreServer, prefix: str) -> None:
    url = store_server.new_url()
    for key in ("../up", "/abs", "a//b", "dir/", "plain"):
        store_server.put_raw(url, f"{prefix}/{key}".removeprefix("/") if prefix else key, b"1" if key != "dir/" else b"")
    store = open_store(f"{url}/{prefix}".rstrip("/"))
    assert "plain" in keys(store)
    assert keys(store, "pl") == ["plain"]
    assert "dir" in {key.rstrip("/") for key in keys(store, "dir")} or keys(store, "dir") == []
    assert keys(store, "dir") in ([], ["dir/"])


def test_a_bucket_that_does_not_exist_is_named_with_the_next_step(store_server: StoreServer) -> None:
    url = store_server.url_of_missing_bucket()
    bucket = url.rpartition("/")[2]
    store = open_store(f"{url}/prefix")
    for act in (
        lambda: store.put("a", b"x"),
        lambda: store.create("a", b"x"),
        lambda: list(store.list()),
        lambda: list(store.folders()),
        lambda: store.get("a"),
        lambda: begin_upload(store),
    ):
        with pytest.raises(StoreError, match=bucket) as caught:
            act()
        assert not isinstance(caught.value, ObjectMissingError), "a missing bucket is not a missing object"
        assert caught.value.hint


def test_a_refusal_names_the_bucket_and_the_permission_and_is_final(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = store_server.new_url()
    with FaultProxy(store_server, lambda request: Refuse("denied")) as proxy:
        use(store_server, monkeypatch, proxy.endpoint)
        store = open_store(f"{url}/prefix")
        for act in (
            lambda: store.put("a", b"x"),
            lambda: store.create("a", b"x"),
            lambda: store.get("a"),
            lambda: store.stat("a"),
            lambda: list(store.list()),
            lambda: list(store.folders()),
            lambda: store.delete("a"),
            lambda: begin_upload(store),
        ):
            before = len(proxy.records)
            with pytest.raises(AccessDeniedError, match=url.rpartition("/")[2]) as caught:
                act()
            assert caught.value.hint
            assert len(proxy.records) == before + 1
        with pytest.raises(AccessDeniedError) as caught:
            store.put("a", b"x")
    assert PERMISSIONS[store_server.scheme] in f"{caught.value.message} {caught.value.hint}"


def test_credentials_that_expire_are_no_reason_to_try_again(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = store_server.new_url()
    with FaultProxy(store_server) as proxy:
        use(store_server, monkeypatch, proxy.endpoint)
        store = open_store(url)
        store.put("a", b"x")
        proxy.plan = lambda request: Refuse("expired")
        before = len(proxy.records)
        with pytest.raises(AccessDeniedError) as caught:
            store.put("a", b"y")
        assert caught.value.hint
        assert len(proxy.records) == before + 1


def test_a_wrong_account_key_is_refused_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_or_skip("az")
    settings = server.environment["AZURE_STORAGE_CONNECTION_STRING"]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", settings.replace(AZURE_KEY, AZURE_KEY[::-1].lstrip("=") + "=="))
    store = open_store(server.new_url())
    for act in (lambda: store.put("a", b"x"), lambda: store.get("a"), lambda: list(store.list())):
        with pytest.raises(AccessDeniedError) as caught:
            act()
        assert caught.value.hint


def test_without_credentials_a_refusal_says_that_there_were_none(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    url = server.new_url()
    open_store(url).put("a", b"x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(AccessDeniedError) as caught:
        open_store(url).get("a")
    assert "no AWS credentials were found" in f"{caught.value.message} {caught.value.hint}"


def test_a_bucket_in_another_region_is_said_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_or_skip("s3")
    url = server.new_url()
    with FaultProxy(server, lambda request: Refuse("wrong-region")) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        with pytest.raises(StoreError, match=url.rpartition("/")[2]) as caught:
            open_store(url).put("a", b"x")
    assert "region" in f"{caught.value.message} {caught.value.hint}".lower()
