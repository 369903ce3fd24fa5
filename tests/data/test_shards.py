"""Sharded image sets as names and numbers: the index, who it is not trusted by, and tars without one."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cloud_train.data.images import ImagesData, find_shards
from cloud_train.data.shards import INDEX, Shard, ShardIndex, read_index
from cloud_train.errors import CorruptError
from cloud_train.spec.problems import FieldError

SHARD = Shard("train-00000.tar", "train", 4096, "a" * 64, ("cat/1.png", "dog/ü.png"), (512, 1536), (100, 200))
SET = ShardIndex(("cat", "dog"), (SHARD,))


def data(**fields: Any) -> ImagesData:
    return ImagesData.model_validate({"dataset": "images", "path": "here", **fields})


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(SET.to_json())
    assert read_index(tmp_path / INDEX) == SET
    assert SET.to_json() == SET.to_json()


def changed(**fields: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(SET.to_json())
    document["shards"][0].update(fields)
    return document


HOSTILE: dict[str, Any] = {
    "no mapping": [],
    "another format": {**json.loads(SET.to_json()), "format": 2},
    "no shards": {**json.loads(SET.to_json()), "shards": []},
    "classes that are no names": {**json.loads(SET.to_json()), "classes": ["..", "cat"]},
    "classes twice": {**json.loads(SET.to_json()), "classes": ["cat", "cat"]},
    "a name that leads out": changed(name="../train.tar"),
    "an absolute name": changed(name="/etc/x.tar"),
    "a hidden name": changed(name=".cloud-train-source.tar"),
    "a name that is no text": changed(name=7),
    "an unknown part": changed(part="test"),
    "a size below zero": changed(size=-1),
    "a size that is true": changed(size=True),
    "a size beyond all disks": changed(size=1 << 60),
    "no checksum": changed(sha256=None),
    "a checksum that is none": changed(sha256="A" * 64),
    "lists of different lengths": changed(sizes=[100]),
    "a member outside": changed(members=["cat/1.png", "../../x.png"]),
    "a member of no class": changed(members=["cat/1.png", "bird/1.png"]),
    "a member of another part": changed(members=["cat/1.png", "val/dog/1.png"]),
    "a member with a control character": changed(members=["cat/1.png", "dog/\n.png"]),
    "an offset beyond the end": changed(offsets=[512, 4096]),
    "an offset below zero": changed(offsets=[-512, 1536]),
    "an offset between blocks": changed(offsets=[512, 1537]),
    "images that overlap": changed(sizes=[1025, 200]),
    "an offset that is no number": changed(offsets=[512, "1536"]),
    "two shards of one name": {
        **json.loads(SET.to_json()),
        "shards": [changed()["shards"][0], changed(name="TRAIN-00000.tar")["shards"][0]],
    },
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_index_that_cannot_be_right_is_refused_with_its_place(what: str) -> None:
    with pytest.raises(CorruptError, match=r"^here/shards.json is not a usable index of shards: .") as caught:
        ShardIndex.from_json(json.dumps(HOSTILE[what]).encode(), "here/shards.json")
    assert caught.value.hint is not None


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[" * 100_000, b'{"format": 1, "classes": NaN}'])
def test_a_file_that_is_no_json_is_no_index(content: bytes) -> None:
    with pytest.raises(CorruptError, match="not a usable index of shards"):
        ShardIndex.from_json(content, "here")


def test_a_plan_knows_the_shards_of_a_folder(tmp_path: Path) -> None:
    several = ShardIndex(SET.classes, (SHARD, Shard("val.tar", "val", 2048, "b" * 64, ("val/dog/1.png",), (512,), (9,))))
    (tmp_path / INDEX).write_bytes(several.to_json())
    facts = data(path=str(tmp_path)).describe(tmp_path)
    assert facts is not None
    assert (facts.classes, facts.train_samples, facts.validation_samples) == (2, 2, 1)
    members = ("cat/1.png", "cat/2.png", "dog/1.png")
    unsplit = ShardIndex(SET.classes, (Shard("train.tar", "train", 4096, "b" * 64, members, (512, 1536, 2560), (9, 9, 9)),))
    (tmp_path / INDEX).write_bytes(unsplit.to_json())
    facts = data(path=str(tmp_path), validation=0.4).describe(tmp_path)
    assert facts is not None
    assert (facts.train_samples, facts.validation_samples) == (2, 1)
    with pytest.raises(FieldError, match="2 classes, not 3"):
        data(path=str(tmp_path), classes=3).describe(tmp_path)


def test_tars_without_an_index_are_known_by_their_headers(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar", {"./train/cat/1.jpg": b"one", "train/dog/2.PNG": b"three", "val/cat/3.jpg": b"", "._x.png": b"", "README": b""}
    )
    write_tar(tmp_path / "b.tar", {"train/dog/4.jpg": b"x"})
    found = find_shards(tmp_path)
    assert found is not None
    assert found.classes == ("cat", "dog")
    assert (found.count("train"), found.count("val")) == (3, 1)
    (number, shard), _ = found.of_part("train")
    content = (tmp_path / shard.name).read_bytes()
    assert number == 0
    assert [content[at : at + size] for at, size in zip(shard.offsets, shard.sizes, strict=True)] == [b"one", b"three"]


def test_a_folder_of_classes_is_no_folder_of_shards(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    write_tar(tmp_path / "a.tar", {"cat/1.jpg": b""})
    assert find_shards(tmp_path) is None


@pytest.mark.parametrize("members", [{"1.jpg": b""}, {"../cat/1.jpg": b""}, {"a/b/c/1.jpg": b""}, {"other/cat/1.jpg": b""}])
def test_a_tar_that_is_no_shard_is_refused_with_the_member(tmp_path: Path, members: dict[str, bytes]) -> None:
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(FieldError, match=r"a\.tar: member '.*1\.jpg' is not an image in a class folder"):
        find_shards(tmp_path)


def test_a_link_in_a_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        info = tarfile.TarInfo("cat/1.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(info)
    with pytest.raises(FieldError, match="is not an image in a class folder"):
        find_shards(tmp_path)


def test_a_tar_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"cat/1.jpg": b"x" * 600, "dog/1.jpg": b"y" * 600})
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[: 512 + 1024 + 512 + 100])
    with pytest.raises(FieldError, match=r"a\.tar is (cut off|not a readable tar)"):
        find_shards(tmp_path)
