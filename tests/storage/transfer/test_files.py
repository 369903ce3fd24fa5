"""Files that go up and come down again."""

from pathlib import Path

import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import Store
from cloud_train.storage.retrying import RetryingStore
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.uploading import Upload, upload
from tests.storage.memory_store import FaultyStore, MemoryStore
from tests.storage.transfer.files import SIZES, bytes_of, file_of, left_over


@pytest.mark.parametrize("in_order", [False, True])
def test_files_of_every_size_arrive_as_they_were(in_order: bool, tmp_path: Path, options: Options) -> None:
    store = MemoryStore(in_order=in_order)
    sent = upload(store, [Upload(file_of(tmp_path / "from", name, size), f"x/{name}") for name, size in SIZES.items()], options)
    assert (sent.files, sent.bytes) == (len(SIZES), sum(SIZES.values()))
    fetched = download(store, [Download(f"x/{name}", tmp_path / "to" / name, size) for name, size in SIZES.items()], options)
    assert (fetched.files, fetched.bytes, fetched.unverified) == (len(SIZES), sum(SIZES.values()), ())
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == {name: bytes_of(name, SIZES[name]) for name in SIZES}
    assert not left_over(tmp_path)
    assert not (tmp_path / "state").exists()


def test_on_every_kind_of_store_files_go_up_and_come_down(store: Store, tmp_path: Path) -> None:
    options = Options(state=tmp_path / "state")
    small, large = file_of(tmp_path / "from", "small", 1000), file_of(tmp_path / "from", "large", (17 << 20) + 5)
    summary = upload(store, [Upload(small, "a/small"), Upload(large, "a/large")], options)
    assert (summary.files, summary.bytes) == (2, 1000 + (17 << 20) + 5)
    download(store, [Download(f"a/{path.name}", tmp_path / "to" / path.name, path.stat().st_size) for path in (small, large)], options)
    for path in (small, large):
        assert (tmp_path / "to" / path.name).read_bytes() == path.read_bytes()
    assert not left_over(tmp_path / "to")


@pytest.mark.slow
def test_through_200_seeds_of_faults_nothing_corrupt_is_ever_visible(tmp_path: Path) -> None:
    arrived = 0
    for seed in range(200):
        policy = RetryPolicy(sleep=lambda seconds: None)
        memory = MemoryStore(in_order=seed % 2 == 0)
        faulty = FaultyStore(memory, seed, 0.04)
        folder = tmp_path / f"{seed}"
        arrived += _there_and_back(RetryingStore(faulty, policy), folder, Options(threads=3, part_bytes=100, state=folder / "state"))
        for key, (data, _) in memory.objects.items():
            assert data == bytes_of(key, len(data)), f"seed {seed}: {key}"
        assert memory.asked("send") <= 8 + 5 + faulty.faults, "at most one part more for each fault"
    assert arrived > 180, "most transfers get through; how many depends on the order of the threads (measured: 190 to 196)"


def _there_and_back(store: Store, folder: Path, options: Options) -> bool:
    sizes = {"a": 50, "b": 790, "c": 451, "d": 0}
    try:
        upload(store, [Upload(file_of(folder / "from", name, size), name) for name, size in sizes.items()], options)
        download(store, [Download(name, folder / "to" / name, size) for name, size in sizes.items()], options)
    except (StoreError, CorruptError):
        return False
    finally:
        for path in (folder / "to").glob("[!.]*"):
            assert path.read_bytes() == bytes_of(path.name, sizes[path.name])
    return True
