"""``upload``: a folder of data in a store, verified, and sent once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.errors import CloudTrainError, UsageError
from cloud_train.orchestrator.uploading import upload_data
from cloud_train.storage.registry import bucket_and_prefix, open_store
from cloud_train.storage.transfer import uploading as transfer
from cloud_train.storage.transfer.engine import Engine
from cloud_train.storage.transfer.folders import download_folder
from tests.stores import SCHEMES, server_or_skip, use

pytestmark = pytest.mark.cloud


@pytest.fixture(params=SCHEMES)
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    server = server_or_skip(request.param)
    use(server, monkeypatch)
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    return server.new_url()


def photos(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            (folder / name / f"{number}.jpg").write_bytes(f"{name} {number}".encode() * 100)
    return folder


def in_store(url: str) -> dict[str, bytes]:
    bucket, prefix = bucket_and_prefix(url)
    store = open_store(bucket)
    above = f"{prefix}/" if prefix else ""
    return {info.key.removeprefix(above): store.get(info.key) for info in store.list(above)}


def in_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_in_the_store_as_it_is_here_and_is_sent_once(url: str, tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    first = upload_data(source, f"{url}/data/photos")
    assert in_store(f"{url}/data/photos") == in_folder(source)
    assert (first.files, first.unchanged, first.others) == (6, 0, 0)
    again = upload_data(source, f"{url}/data/photos/")
    assert (again.files, again.bytes, again.unchanged) == (0, 0, 6)
    (source / "cat/1.jpg").write_bytes(b"dog 1" * 100)  # of the same size
    (source / "cat/new.jpg").write_bytes(b"new")
    changed = upload_data(source, f"{url}/data/photos")
    assert (changed.files, changed.unchanged) == (2, 5)
    assert in_store(f"{url}/data/photos") == in_folder(source)
    bucket, prefix = bucket_and_prefix(f"{url}/data/photos")
    download_folder(open_store(bucket), f"{prefix}/", tmp_path / "there")
    assert in_folder(tmp_path / "there") == in_folder(source)


def test_what_another_machine_uploaded_is_compared_and_not_sent_again(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_data(photos(tmp_path / "photos"), f"{url}/photos")
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "another"))
    assert upload_data(photos(tmp_path / "copy"), f"{url}/photos").unchanged == 6


def test_an_interrupted_upload_sends_only_the_rest(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, real = photos(tmp_path / "photos"), transfer._send_whole
    sent: list[str] = []

    def breaks(engine: Engine, file: transfer.Upload, tries: int) -> object:
        if len(sent) == 4:
            raise CloudTrainError("the network is down")
        sent.append(file.key)
        return real(engine, file, tries)

    monkeypatch.setattr(transfer, "_send_whole", breaks)
    with pytest.raises(CloudTrainError, match="the network is down"):
        upload_data(source, f"{url}/photos")
    monkeypatch.setattr(transfer, "_send_whole", real)
    rest = upload_data(source, f"{url}/photos")
    assert (rest.files, rest.unchanged) == (2, 4)
    assert in_store(f"{url}/photos") == in_folder(source)


def test_other_objects_at_the_url_are_counted_and_stay(url: str, tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    upload_data(source, f"{url}/photos")
    (source / "dog/2.jpg").unlink()
    (source / "dog").rename(source / "hound")
    found = upload_data(source, f"{url}/photos")
    assert (found.others, found.an_other) == (3, bucket_and_prefix(f"{url}/photos/dog/0.jpg")[1])
    assert "dog/2.jpg" in in_store(f"{url}/photos")


def test_hidden_files_stay_here_and_links_inside_the_folder_become_files(url: str, tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    for hidden in (".DS_Store", "cat/._0.jpg", "Thumbs.db"):
        (source / hidden).write_bytes(b"not data")
    (source / "pets").symlink_to("cat")
    (source / "cat/first.jpg").symlink_to("0.jpg")
    upload_data(source, f"{url}/photos")
    sent = in_store(f"{url}/photos")
    assert sent["cat/first.jpg"] == sent["cat/0.jpg"]
    assert {"cat/1.jpg", "pets/1.jpg"} & set(sent)  # the folder is sent once, by the name that comes first
    assert not any(name.rpartition("/")[2].startswith(".") or "Thumbs" in name for name in sent)
    again = upload_data(source, f"{url}/photos")
    assert (again.files, again.others) == (0, 0)


def test_a_single_file_is_an_object_with_the_url_as_its_name(url: str, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("Call me Ishmael.")
    assert upload_data(book, f"{url}/texts/moby.txt").url == f"{url}/texts/moby.txt"
    assert upload_data(book, f"{url}/texts/").url == f"{url}/texts/book.txt"
    assert set(in_store(f"{url}/texts")) == {"moby.txt", "book.txt"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "out").symlink_to("/etc"), "links to /etc, outside the folder to upload"),
        (lambda folder: (folder / "broken").symlink_to("nowhere"), "is a broken link, to nowhere"),
        (lambda folder: (folder / "deploy.pem").write_text("x"), "looks like a key or a password"),
        (lambda folder: os.mkfifo(folder / "pipe"), "is not a file or folder"),
        (lambda folder: (folder / "a\\b.jpg").write_text("x"), "could not be downloaded under its name"),
    ],
)
def test_nothing_is_sent_if_something_in_the_folder_is_refused(
    url: str, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    source = photos(tmp_path / "photos")
    spoil(source)
    with pytest.raises(UsageError, match=words):
        upload_data(source, f"{url}/photos")
    assert in_store(url) == {}


@pytest.mark.parametrize("url", ["photos", "file:///tmp/photos", "https://example.com/photos"])
def test_the_url_is_that_of_a_clouds_store(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="is not in a cloud's store"):
        upload_data(photos(tmp_path / "photos"), url)
