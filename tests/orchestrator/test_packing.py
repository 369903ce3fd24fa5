"""``pack``: shards of a folder of images, the same bytes on any machine."""

import hashlib
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.data.shards import INDEX, class_of, read_index
from cloud_train.errors import CloudTrainError, CorruptError, UsageError
from cloud_train.orchestrator.packing import pack
from cloud_train.storage.registry import open_store
from cloud_train.storage.transfer.progress import Progress
from tests.stores import SCHEMES, server_or_skip, use

SIZE = 8192


def photos(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 12) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").write_bytes(f"{name} {number} ".encode() * (20 + 7 * number))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_image_is_in_one_shard_at_the_offset_in_the_index(tmp_path: Path) -> None:
    source, target = photos(tmp_path / "photos"), tmp_path / "packed"
    packed = pack(source, str(target), SIZE)
    index = read_index(target / INDEX)
    found = {}
    for shard in index.shards:
        content = (target / shard.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.size, shard.sha256)
        assert shard.size <= SIZE
        for member, offset, size in zip(shard.members, shard.offsets, shard.sizes, strict=True):
            found[member] = content[offset : offset + size]
    assert found == {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.jpg")}
    assert (packed.shards, packed.images, packed.classes) == (len(index.shards), 24, 2)
    assert packed.shards > 2
    assert packed.bytes == sum(shard.size for shard in index.shards)


def test_a_shard_is_a_standard_tar(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", ("Äpfel", "x" * 120))
    pack(source, str(tmp_path / "packed"), 1 << 20)
    with tarfile.open(tmp_path / "packed/train-00000.tar") as opened:
        names = opened.getnames()
        assert sorted(names) == sorted(path.relative_to(source).as_posix() for path in source.rglob("*.jpg"))
        first = opened.extractfile(names[0])
        assert first is not None
        assert first.read() == (source / names[0]).read_bytes()
        assert {(info.mtime, info.uid, info.uname) for info in opened} == {(0, 0, "")}


def test_the_same_images_give_the_same_bytes_whatever_their_folders_name(tmp_path: Path) -> None:
    first = photos(tmp_path / "photos")
    second = shutil.copytree(first, tmp_path / "copy")
    for path in second.rglob("*.jpg"):
        path.chmod(0o600)
    pack(first, str(tmp_path / "a"), SIZE)
    pack(second, str(tmp_path / "b"), SIZE)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_each_shard_has_images_of_all_classes(tmp_path: Path) -> None:
    classes = ("a", "b", "c")
    pack(photos(tmp_path / "photos", classes, 60), str(tmp_path / "packed"), 64 << 10)
    whole = [shard for shard in read_index(tmp_path / "packed" / INDEX).shards if shard.size > 32 << 10]
    assert len(whole) > 2
    assert all({class_of(member) for member in shard.members} == set(classes) for shard in whole)


def test_a_split_set_has_shards_for_both_parts(tmp_path: Path) -> None:
    photos(tmp_path / "photos/train")
    photos(tmp_path / "photos/val", count=2)
    pack(tmp_path / "photos", str(tmp_path / "packed"), SIZE)
    index = read_index(tmp_path / "packed" / INDEX)
    assert (index.count("train"), index.count("val")) == (24, 4)
    assert {member.split("/")[0] for _, shard in index.of_part("val") for member in shard.members} == {"val"}


def test_an_image_larger_than_a_shard_gets_its_own(tmp_path: Path) -> None:
    assert pack(photos(tmp_path / "photos", count=2), str(tmp_path / "packed"), 1).shards == 4


@pytest.mark.parametrize("target", ["photos/packed", "taken", "file"])
def test_an_unusable_destination_is_refused_and_left_unchanged(tmp_path: Path, target: str) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/x").touch()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        pack(tmp_path / "photos", str(tmp_path / target), SIZE)
    assert caught.value.hint is not None
    assert list((tmp_path / "taken").iterdir()) == [tmp_path / "taken/x"]
    assert not (tmp_path / "photos/packed").exists()


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="no class"):
        pack(tmp_path / "photos", str(tmp_path / "packed"), SIZE)
    (tmp_path / "photos/cat").mkdir()
    (tmp_path / "photos/dog").mkdir()
    for name in ("cat/\n.jpg", "dog/a.jpg"):
        (tmp_path / "photos" / name).touch()
    with pytest.raises(UsageError, match="is not a valid name"):
        pack(tmp_path / "photos", str(tmp_path / "packed"), SIZE)


def test_failed_packing_leaves_nothing(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")

    def grow(progress: Progress) -> None:
        (source / "cat/0.jpg").write_bytes(b"another length")
        (source / "dog/0.jpg").write_bytes(b"another length")

    with pytest.raises(CorruptError, match="changed while being packed"):
        pack(source, str(tmp_path / "packed"), SIZE, grow)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.fixture(params=SCHEMES)
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    server = server_or_skip(request.param)
    use(server, monkeypatch)
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    return server.new_url()


def test_shards_in_a_store_equal_those_in_a_folder_and_report_progress(url: str, tmp_path: Path) -> None:
    source, seen = photos(tmp_path / "photos"), list[Progress]()
    packed = pack(source, f"{url}/photos", SIZE, seen.append)
    pack(source, str(tmp_path / "packed"), SIZE)
    store = open_store(url)
    assert {info.key.removeprefix("photos/"): store.get(info.key) for info in store.list()} == contents(tmp_path / "packed")
    assert [progress.bytes_done for progress in seen] == sorted(progress.bytes_done for progress in seen)
    assert {(progress.bytes, progress.files) for progress in seen} == {(packed.bytes, packed.shards)}
    assert seen[-1].bytes_done == packed.bytes


def test_shards_of_an_interrupted_call_are_not_uploaded_again(url: str, tmp_path: Path) -> None:
    source, store = photos(tmp_path / "photos"), open_store(url)
    pack(source, f"{url}/photos", SIZE)
    refuses(lambda: pack(source, f"{url}/photos", SIZE), "already contains shards")
    for key in ("photos/shards.json", "photos/train-00001.tar"):
        store.delete(key)
    left = {info.key: info.modified for info in store.list()}
    pack(source, f"{url}/photos", SIZE)
    again = {info.key: info.modified for info in store.list()}
    assert again.keys() - left.keys() == {"photos/shards.json", "photos/train-00001.tar"}
    assert {key: again[key] for key in left} == left


def test_a_url_with_other_objects_is_refused(url: str, tmp_path: Path) -> None:
    open_store(url).put("photos/mine.txt", b"mine")
    refuses(lambda: pack(photos(tmp_path / "photos"), f"{url}/photos", SIZE), r"it contains 'mine\.txt'")


def refuses(action: Callable[[], object], words: str) -> None:
    with pytest.raises(CloudTrainError, match=words) as caught:
        action()
    assert isinstance(caught.value, UsageError)
