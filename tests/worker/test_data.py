"""Data from a store: fetched once, verified, shared."""

import os
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.storage.registry import open_store
from cloud_train.worker.data import bring, is_in_store
from tests.faults import FaultProxy
from tests.stores import SCHEMES, StoreServer, server_or_skip, use

Notes = list[str]


@pytest.fixture(params=SCHEMES)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StoreServer:
    server = server_or_skip(request.param)
    use(server, monkeypatch)
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    return server


@pytest.fixture
def filled(server: StoreServer) -> str:
    """The URL of a folder of data, beside another one whose name begins in the same way."""
    url = server.new_url()
    store = open_store(url)
    for key, data in {"photos/cat/1.png": b"cat", "photos/dog/1.png": b"dog", "photos2/x": b"no", "words.txt": b"a b c"}.items():
        store.put(key, data)
    return url


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_and_a_file_arrive_as_they_were(filled: str, tmp_path: Path) -> None:
    folder = bring(f"{filled}/photos", tmp_path, print)
    assert (folder.name, files(folder)) == ("photos", {"cat/1.png": b"cat", "dog/1.png": b"dog"})
    file = bring(f"{filled}/words.txt", tmp_path, print)
    assert (file.name, file.read_bytes()) == ("words.txt", b"a b c")


def test_what_is_there_is_not_fetched_again_and_what_changed_gets_another_place(filled: str, tmp_path: Path) -> None:
    notes: Notes = []
    first = bring(f"{filled}/photos", tmp_path, notes.append)
    said = len(notes)
    assert bring(f"{filled}/photos", tmp_path, notes.append) == first
    assert len(notes) == said
    open_store(filled).put("photos/cat/1.png", b"CAT")
    second = bring(f"{filled}/photos", tmp_path, notes.append)
    assert second != first
    assert files(second)["cat/1.png"] == b"CAT"
    assert files(first)["cat/1.png"] == b"cat"


def test_of_many_that_want_it_at_once_one_fetches_it(filled: str, tmp_path: Path) -> None:
    notes: Notes = []
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(bring(f"{filled}/photos", tmp_path, notes.append))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len([note for note in notes if "objects of" in note]) == 1


def test_nothing_there_and_an_object_that_is_not_what_was_written_are_errors(server: StoreServer, filled: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no objects found at"):
        bring(f"{filled}/phot", tmp_path, print)
    server.put_raw(filled, "damaged/a", b"other bytes", {"sha256": "0" * 64})
    with pytest.raises(CorruptError):
        bring(f"{filled}/damaged", tmp_path, print)
    assert not [name for _, names, _ in os.walk(tmp_path / "stores") for name in names if name == "damaged"]


def test_objects_without_a_checksum_and_keys_that_lead_out_are_said(server: StoreServer, filled: str, tmp_path: Path) -> None:
    server.put_raw(filled, "odd/a", b"a")
    server.put_raw(filled, "odd/../../b", b"b")
    notes: Notes = []
    folder = bring(f"{filled}/odd", tmp_path, notes.append)
    assert files(folder) == {"a": b"a"}
    assert any("1 objects carry no SHA-256" in note for note in notes)
    assert any("skipped" in note and "../" in note for note in notes)


@pytest.mark.parametrize(("path", "far"), [("s3://b/x", True), ("az://a/c", True), ("/folder", False), (None, False)])
def test_only_what_is_in_a_clouds_store_is_fetched(path: str | None, far: bool) -> None:
    assert is_in_store(path) is far


def test_a_whole_bucket_may_be_the_data(filled: str, tmp_path: Path) -> None:
    assert set(files(bring(filled, tmp_path, print))) == {"photos/cat/1.png", "photos/dog/1.png", "photos2/x", "words.txt"}


def without_seals(cache: Path) -> None:
    """Make the cache one of an earlier version, which sealed nothing."""
    for seal in cache.rglob(".cloud-train-seal-*"):
        seal.unlink()


def identities(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder.parent).as_posix(): path.stat().st_ino for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("early", [False, True])
def test_data_of_an_earlier_version_is_verified_where_another_run_reads_it(filled: str, tmp_path: Path, early: bool) -> None:
    folder, file = (bring(f"{filled}/{name}", tmp_path, print, early=early) for name in ("photos", "words.txt"))
    before = identities(folder), identities(file)
    without_seals(tmp_path)
    there: list[bool] = []

    def note(_: str) -> None:
        there.append(folder.is_dir() and file.is_file())

    for _ in range(2):
        assert bring(f"{filled}/photos", tmp_path, note, early=early) == folder
        assert bring(f"{filled}/words.txt", tmp_path, note, early=early) == file
    assert (identities(folder), identities(file)) == before
    assert there == [True] * 3  # and so nothing more was said the second time


def test_a_file_that_differs_is_replaced_and_the_others_stay_as_they_are(filled: str, tmp_path: Path) -> None:
    folder = bring(f"{filled}/photos", tmp_path, print)
    before = identities(folder)
    (folder / "cat" / "1.png").write_bytes(b"dog")
    with (folder / "cat" / "1.png").open("rb") as opened:
        assert bring(f"{filled}/photos", tmp_path, print) == folder
        assert opened.read() == b"dog"
    assert files(folder) == {"cat/1.png": b"cat", "dog/1.png": b"dog"}
    assert {name for name, identity in identities(folder).items() if before[name] != identity} == {"photos/cat/1.png"}


def test_a_file_that_a_program_leaves_beside_its_data_stays_is_named_and_costs_nothing_later(
    server: StoreServer, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bring(f"{filled}/photos", tmp_path, print)
    (folder / "labels.cache").write_bytes(b"scanned")
    before = identities(folder)
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        for content in (b"scanned", b"scanned again"):
            (folder / "labels.cache").write_bytes(content)
            notes: Notes = []
            assert bring(f"{filled}/photos", tmp_path, notes.append) == folder
            assert notes == [f"data: {folder} contains files that are not in the store: labels.cache"]
        assert not [record for record in proxy.records if unquote(record.request.path).endswith(".png")]
    assert identities(folder) == before


def test_whoever_trains_on_all_that_is_there_gets_a_folder_of_nothing_but_the_stores_files(filled: str, tmp_path: Path) -> None:
    shared = bring(f"{filled}/photos", tmp_path, print, early=True)
    (shared / "cat" / "2.png").write_bytes(b"left by a script")
    before = identities(shared)
    exact = bring(f"{filled}/photos", tmp_path, print, early=True)
    assert exact != shared
    assert files(exact) == {"cat/1.png": b"cat", "dog/1.png": b"dog"}
    assert bring(f"{filled}/photos", tmp_path, print, early=True) == exact
    assert bring(f"{filled}/photos", tmp_path, print) == shared
    assert identities(shared) == before


def test_links_and_folders_in_the_way_of_the_stores_files_are_removed_and_not_followed(filled: str, tmp_path: Path) -> None:
    folder, outside = bring(f"{filled}/photos", tmp_path, print), tmp_path / "outside"
    outside.mkdir()
    for name in ("cat", "dog"):
        (folder / name / "1.png").unlink()
    (folder / "cat").rmdir()
    (folder / "cat").symlink_to(outside)
    (folder / "dog" / "1.png").mkdir()
    assert bring(f"{filled}/photos", tmp_path, print) == folder
    assert files(folder) == {"cat/1.png": b"cat", "dog/1.png": b"dog"}
    assert list(outside.iterdir()) == []
