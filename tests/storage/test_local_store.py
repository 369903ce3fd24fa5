"""The store in a local folder."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cloud_train.errors import StoreError, UsageError
from cloud_train.storage.base import InvalidKeyError, ObjectExistsError, ObjectMissingError
from cloud_train.storage.local import LocalStore
from cloud_train.storage.registry import absolute_url, open_store, scheme_of


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_what_was_put_is_what_is_got(store: LocalStore) -> None:
    store.put("a/b.bin", b"0123456789")
    assert store.get("a/b.bin") == b"0123456789"
    assert store.get("a/b.bin", 2, 5) == b"234"
    assert store.get("a/b.bin", 8) == b"89"
    assert store.get("a/b.bin", 50) == b""
    assert store.stat("a/b.bin").size == 10


def test_a_second_put_replaces_the_first(store: LocalStore) -> None:
    store.put("a", b"one")
    store.put("a", b"two")
    assert store.get("a") == b"two"
    assert [info.key for info in store.list()] == ["a"]


def test_of_many_creators_at_once_exactly_one_succeeds(store: LocalStore) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(16)

    def create(name: str) -> None:
        start.wait()
        try:
            store.create("only/one", name.encode() * 1000)
            outcomes.append(name)
        except ObjectExistsError:
            outcomes.append("")

    threads = [threading.Thread(target=create, args=(f"{number:02}",)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [name for name in outcomes if name]
    assert len(winners) == 1
    assert store.get("only/one") == winners[0].encode() * 1000
    assert [info.key for info in store.list()] == ["only/one"]


def test_a_missing_object_is_said_to_be_missing(store: LocalStore) -> None:
    with pytest.raises(ObjectMissingError):
        store.get("nothing")
    with pytest.raises(ObjectMissingError):
        store.stat("nothing")
    store.delete("nothing")
    store.put("folder/a", b"")
    with pytest.raises(ObjectMissingError):
        store.stat("folder")


def test_listing_is_in_the_order_of_the_keys_and_stays_within_the_prefix(store: LocalStore) -> None:
    for key in ("r/b/2", "r/a", "r/b/10", "rest", "r-2/x"):
        store.put(key, b"x")
    assert [info.key for info in store.list("r/")] == ["r/a", "r/b/10", "r/b/2"]
    assert [info.key for info in store.list("r/b")] == ["r/b/10", "r/b/2"]
    assert [info.key for info in store.list()] == sorted(["r/b/2", "r/a", "r/b/10", "rest", "r-2/x"])
    assert list(store.folders("r/")) == ["b"]
    assert list(store.folders()) == ["r", "r-2"]
    assert list(store.folders("nothing/")) == []


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a\0b", "..\\x"])
def test_no_key_leaves_the_folder(store: LocalStore, key: str) -> None:
    for act in (lambda: store.put(key, b""), lambda: store.get(key), lambda: store.delete(key)):
        with pytest.raises(InvalidKeyError):
            act()


def test_a_link_inside_the_store_is_not_listed(store: LocalStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    store.put("real", b"x")
    (store.folder / "link").symlink_to(secret)
    assert [info.key for info in store.list()] == ["real"]


def test_a_file_that_is_still_being_written_is_not_an_object(store: LocalStore) -> None:
    store.put("a", b"x")
    (store.folder / ".cloud-train-half").write_bytes(b"half")
    assert [info.key for info in store.list()] == ["a"]


def test_an_object_is_read_with_what_is_known_of_it_and_in_pieces(store: LocalStore) -> None:
    data = os.urandom(3_000_000)
    written = store.put("big", data)
    assert store.read("big") == (written, data)
    pieces = list(store.pieces("big", 10, 2_500_000, version=written.version))
    assert b"".join(pieces) == data[10:2_500_000]
    assert len(pieces) == 3


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # A file size limit is the same failure of write(2) to this process as a full disk, and needs no privileges.
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from cloud_train.storage.local import LocalStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "LocalStore(Path(sys.argv[1])).put('run/object', b'x' * 5000)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")], capture_output=True, text=True, check=False)
    assert "StoreError: cannot write" in ended.stderr
    assert not list((tmp_path / "s").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="permission denied"):
        LocalStore(tmp_path / "closed").put("a", b"x")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file") as raised:
        LocalStore(tmp_path / "file").put("a/b", b"x")
    assert raised.value.hint


def test_a_url_names_its_store(tmp_path: Path) -> None:
    assert scheme_of("s3://bucket/x") == "s3"
    assert scheme_of("~/runs") == "file"
    assert absolute_url("runs", tmp_path) == str(tmp_path / "runs")
    assert absolute_url("file:///srv/runs", tmp_path) == "/srv/runs"
    assert absolute_url("s3://bucket/x", tmp_path) == "s3://bucket/x"
    assert open_store(str(tmp_path)).url == str(tmp_path)
    with pytest.raises(UsageError, match="ftp://"):
        open_store("ftp://somewhere")
