"""Transfers through a proxy that cuts, refuses, flips, drips and loses, between the real client and a real server."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import AccessDeniedError, Store
from cloud_train.storage.registry import open_store
from cloud_train.storage.retrying import RetryingStore
from cloud_train.storage.s3 import S3Store
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.uploading import Upload, upload
from tests.answers import Request
from tests.faults import Cut, Fault, FaultProxy, Flip, Lose, Refuse, Weather
from tests.stores import StoreServer, missing, running, server_or_skip, use

PART = 4096
SIZES = {"small": 900, "large": 2 * PART + 7}
PARTS = 3


@pytest.fixture(scope="module")
def server() -> Iterator[StoreServer]:
    """An S3 server that takes small parts."""
    if (reason := missing("s3")) is not None:
        server_or_skip("s3")
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_UPLOAD_PART_MIN_SIZE", "1")
        with running("s3") as server:
            yield server


def bytes_of(name: str) -> bytes:
    return random.Random(name).randbytes(SIZES[name])


def impatient(store: Store) -> Store:
    """Tries again as often as usual, but does not wait."""
    return RetryingStore(store, RetryPolicy(sleep=lambda seconds: None, time_limit=20))


def test_through_200_seeds_of_bad_weather_nothing_corrupt_is_ever_visible(
    server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.new_url()
    bucket = url.removeprefix("s3://")
    source = tmp_path / "from"
    source.mkdir()
    for name in SIZES:
        (source / name).write_bytes(bytes_of(name))
    use(server, monkeypatch)
    plain = impatient(S3Store(bucket, ""))  # moto answers 500 where a listing meets a request that was cut
    arrived = brought = 0
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        stormy = impatient(S3Store(bucket, ""))
        for seed in range(200):
            folder, begun = tmp_path / f"{seed}", len(proxy.records)
            proxy.plan = Weather(seed, cut=0.06, busy=0.05, flip=0.05, drip=0.01, lose=0.05)
            arrived += _there_and_back(stormy, f"{seed}/", source, folder)
            records = proxy.records[begun:]
            faults = [record.fault for record in records if record.fault is not None]
            sent = [record for record in records if record.request.method == "PUT" and "partNumber" in record.request.target]
            brought += len(faults)
            lost = sum(isinstance(fault, Lose) for fault in faults)
            assert len(sent) <= PARTS * (1 + lost) + len(faults), f"seed {seed}: a fault costs one part, a lost one all"
            for info in plain.list(f"{seed}/"):
                assert plain.get(info.key) == bytes_of(info.key.rpartition("/")[2]), f"seed {seed}: {info.key}"
    assert arrived >= 180
    assert brought >= 200


def _there_and_back(store: Store, prefix: str, source: Path, folder: Path) -> bool:
    options = Options(threads=3, part_bytes=PART, state=folder / "state")
    try:
        upload(store, [Upload(source / name, prefix + name) for name in SIZES], options)
        download(store, [Download(prefix + name, folder / "to" / name, SIZES[name]) for name in SIZES], options)
    except (StoreError, CorruptError):
        return False
    finally:
        for path in (folder / "to").glob("[!.]*"):
            assert path.read_bytes() == bytes_of(path.name), f"{prefix}{path.name}"
    assert {path.name for path in (folder / "to").iterdir()} == set(SIZES)
    return True


def test_a_cut_costs_one_part_and_no_more(server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large").write_bytes(bytes_of("large"))
    cut: list[str] = []

    def cut_the_third_part(request: Request) -> Fault | None:
        if request.method == "PUT" and "partNumber=3" in request.target and not cut:
            cut.append(request.target)
            return Cut("request", after=1000)
        return None

    with FaultProxy(server, cut_the_third_part) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = impatient(open_store(server.new_url()))
        upload(store, [Upload(tmp_path / "large", "large")], Options(part_bytes=PART, state=tmp_path / "state"))
        assert (len(cut), proxy.sent("PUT", "partNumber"), proxy.sent("POST")) == (1, PARTS + 1, 2)
        assert store.stat("large").sha256 == hashlib.sha256(bytes_of("large")).hexdigest()


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_flipped_bit_is_noticed_and_fetched_again(
    name: str, server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flipped: list[str] = []

    def flip_once(request: Request) -> Fault | None:
        if request.method == "GET" and not flipped:
            flipped.append(request.target)
            return Flip(77)
        return None

    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = impatient(open_store(server.new_url()))
        store.put(name, bytes_of(name))
        proxy.plan = flip_once
        download(store, [Download(name, tmp_path / name, SIZES[name])], Options(part_bytes=PART, state=tmp_path / "state"))
        assert flipped
        assert (tmp_path / name).read_bytes() == bytes_of(name)
        proxy.plan = lambda request: Flip(77) if request.method == "GET" else None
        with pytest.raises(CorruptError):
            download(store, [Download(name, tmp_path / "again", SIZES[name])], Options(part_bytes=PART, state=tmp_path / "state"))
        assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["denied", "expired"])
def test_a_refusal_is_not_tried_again_and_says_what_is_missing(
    kind: str, server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = impatient(open_store(server.new_url()))
        store.put("small", bytes_of("small"))
        proxy.plan = lambda request: Refuse(kind)
        begun = len(proxy.records)
        with pytest.raises(AccessDeniedError):
            download(store, [Download("small", tmp_path / "small", 900)], Options(state=tmp_path / "state"))
        assert len(proxy.records) <= begun + 2  # an answer to HEAD says no reason: the store may ask once more for that
    assert not (tmp_path / "small").exists()


def test_an_upload_that_is_always_lost_ends_in_an_error(server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").write_bytes(bytes_of("small"))
    with FaultProxy(server, lambda request: Lose() if request.method == "PUT" else None) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = impatient(open_store(server.new_url()))
        with pytest.raises(StoreError, match=r"was written, but was missing .*3 times"):
            upload(store, [Upload(tmp_path / "small", "small")], Options(state=tmp_path / "state"))
