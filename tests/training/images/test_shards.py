"""Images in tar shards: the same images as in a folder, read where they lie, and waited for while they arrive."""

import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch

from cloud_train.data.images import ImagesData
from cloud_train.data.shards import INDEX, ShardIndex, read_index
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.training.data.dataset import Batch, Pick, ToldToStopError
from cloud_train.training.data.decoding import UnreadableImageError
from cloud_train.training.data.images import FolderSamples, load_images
from cloud_train.training.data.shards import ArrivalError
from cloud_train.worker import contract
from tests.support import wait_until
from tests.training.images.packed import write_shards
from tests.training.images.pictures import SIDE

IMAGES = {"cat": 9, "dog": 8}


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(contract.RUN_ID, "test-run")
    return write_shards(tmp_path / "packed", IMAGES)


def settings(workers: int = 0, **fields: object) -> ImagesData:
    return ImagesData.model_validate({"dataset": "images", "path": "here", "size": SIDE, "workers": workers, "augment": None, **fields})


def samples(folder: Path, workers: int = 0, **fields: object) -> FolderSamples:
    train = load_images(settings(workers, **fields), folder, seed=0).train
    assert isinstance(train, FolderSamples)
    return train


def read(found: FolderSamples, *rows: int) -> Batch:
    with closing(found.batches(iter([Pick(torch.tensor(rows), None)]))) as batches:
        return next(batches)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_images_are_those_of_the_folder(packed: Path, workers: int) -> None:
    shards, folder = samples(packed, workers, validation=0.2), samples(packed.with_name("packed-images"), validation=0.2)
    assert len(shards) == len(folder) == 14
    of_folder = {Path(folder.path(row)).relative_to(packed.with_name("packed-images")).as_posix(): row for row in range(14)}
    seen = 0
    for row in range(14):
        shard, member = shards.path(row).split(": ")
        assert Path(shard).parent == packed
        if member in of_folder:  # the seed holds back other ones, because they are numbered in another order
            seen += 1
            one, other = read(shards, row), read(folder, of_folder[member])
            assert torch.equal(one.inputs, other.inputs)
            assert one.targets.tolist() == other.targets.tolist()
    assert seen > 7


def test_the_samples_come_in_the_groups_of_their_shards(packed: Path) -> None:
    found, index = samples(packed, validation=0.2), read_index(packed / INDEX)
    assert found.groups is not None
    assert len(found.groups) == len(index.shards) > 2
    assert found.groups.sum() == len(found)
    begin = 0
    for shard, size in zip(index.shards, found.groups.tolist(), strict=True):
        assert {found.path(row).split(": ")[0] for row in range(begin, begin + size)} == {str(packed / shard.name)}
        begin += size


def test_tars_without_an_index_are_shuffled_as_a_whole(packed: Path) -> None:
    names = [found.path(row) for found in [samples(packed)] for row in range(len(found))]
    (packed / INDEX).unlink()
    found = samples(packed)
    assert [found.path(row) for row in range(len(found))] == names
    assert found.groups is None


def test_an_image_that_cannot_be_read_is_named_with_its_shard(packed: Path) -> None:
    shard = read_index(packed / INDEX).shards[0]
    content = bytearray((packed / shard.name).read_bytes())
    content[shard.offsets[0] : shard.offsets[0] + 8] = b"no image"
    (packed / shard.name).write_bytes(content)
    found = samples(packed, validation=0.01 + 1 / 17)
    row = next(row for row in range(len(found)) if found.path(row).endswith(shard.members[0]))
    with pytest.raises(UnreadableImageError, match=rf"{shard.name}: {shard.members[0]}: not a JPEG, PNG, WebP, BMP, GIF or TIFF"):
        read(found, row)


def test_a_shard_that_is_gone_or_of_another_size_is_said_before_anything_is_read(packed: Path) -> None:
    path = packed / read_index(packed / INDEX).shards[1].name
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(CorruptError, match=rf"{path.name} has .* but its index says"):
        samples(packed)
    path.unlink()
    with pytest.raises(StoreError, match=rf"cannot read .*{path.name}: no such file"):
        samples(packed)


def test_a_set_may_be_split(tmp_path: Path) -> None:
    from cloud_train.orchestrator.packing import pack
    from tests.training.images.pictures import write_folder

    write_folder(tmp_path / "images/train", {"cat": 3, "dog": 2})
    write_folder(tmp_path / "images/val", {"cat": 1, "dog": 1})
    pack(tmp_path / "images", str(tmp_path / "packed"), 1 << 20)
    data = load_images(settings(), tmp_path / "packed", seed=0)
    assert (len(data.train), len(data.validation), data.classes) == (5, 2, ("cat", "dog"))


# While shards still arrive


@pytest.fixture
def arriving(packed: Path) -> ShardExchange:
    """A place in which there is nothing but the index; the shards lie beside it."""
    arrivals = ShardExchange(packed, "test-run")
    arrivals.come_from("s3://bucket/packed")
    for shard in read_index(packed / INDEX).shards:
        (packed / shard.name).rename(packed.with_name(f"late-{shard.name}"))
    return arrivals


def come(arrivals: ShardExchange, shard: int) -> None:
    name = read_index(arrivals.folder / INDEX).shards[shard].name
    arrivals.folder.with_name(f"late-{name}").rename(arrivals.folder / name)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_is_waited_for_until_its_shard_is_there(arriving: ShardExchange, workers: int) -> None:
    found, got = samples(arriving.folder, workers), list[Batch]()
    reader = threading.Thread(target=lambda: got.append(read(found, 0)))
    reader.start()
    wait_until(lambda: arriving.in_order({0, 1, 2}) == [0, 1, 2] and (arriving.folder / ".cloud-train-needed-0").exists(), "it is needed")
    assert not got
    come(arriving, 0)
    reader.join()
    assert len(got[0]) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_whoever_waits_is_told_that_no_shard_will_come(arriving: ShardExchange, workers: int) -> None:
    found = samples(arriving.folder, workers)
    arriving.fail("the bucket is gone")
    with pytest.raises(ArrivalError, match=r"cannot fetch .*train-00000\.tar: the bucket is gone"):
        read(found, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_whoever_waits_is_told_to_stop(arriving: ShardExchange, workers: int) -> None:
    found = samples(arriving.folder, workers)
    arriving.stop()
    with pytest.raises(ToldToStopError):
        read(found, 0)


def test_the_shards_are_asked_for_in_the_order_in_which_the_training_needs_them(arriving: ShardExchange) -> None:
    found = samples(arriving.folder)
    index: ShardIndex = read_index(arriving.folder / INDEX)
    count = len(index.shards)
    rows = torch.arange(len(found)).flip(0)
    found.expect(rows)
    assert arriving.in_order(set(range(count))) == list(range(count))[::-1]
    arriving.need(1)
    assert arriving.in_order(set(range(count)))[:2] == [1, count - 1]
    arriving.arrived(1)
    assert arriving.in_order({0, 1}) == [1, 0]
    ShardExchange(arriving.folder, "another-run").expect([0])
    assert arriving.in_order({0, 1}) == [1, 0]


def test_once_all_are_there_nothing_is_asked_for(arriving: ShardExchange) -> None:
    for shard in range(len(read_index(arriving.folder / INDEX).shards)):
        come(arriving, shard)
    found = samples(arriving.folder)
    before = set(arriving.folder.iterdir())
    found.expect(torch.arange(len(found)))
    assert set(arriving.folder.iterdir()) == before
