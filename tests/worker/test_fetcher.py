"""Shards from a store: their index first, then each once, checked, in the order in which they are needed."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from cloud_train.data.shards import INDEX, read_index
from cloud_train.errors import CorruptError
from cloud_train.orchestrator.packing import pack
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.storage.registry import open_store
from cloud_train.worker.data import bring, can_begin_early
from cloud_train.worker.fetcher import bring_shards
from tests.answers import Request
from tests.faults import Fault, FaultProxy
from tests.stores import SCHEMES, StoreServer, server_or_skip, use

_FETCH = """
import sys
from pathlib import Path
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.worker.fetcher import bring_shards
bring_shards(ShardExchange(Path(sys.argv[1]), sys.argv[2]), print)
"""


@pytest.fixture(params=SCHEMES)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StoreServer:
    server = server_or_skip(request.param)
    use(server, monkeypatch)
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    return server


@pytest.fixture
def packed(server: StoreServer, tmp_path: Path) -> str:
    """The URL of a sharded set of six shards."""
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "images" / name / f"{number}.png").write_bytes(f"{name} {number}".encode() * 30)
    url = f"{server.new_url()}/photos"
    pack(tmp_path / "images", url, 1)
    return url


def tars(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if not path.name.startswith(".") and path.name != INDEX)


def is_of_shard(request: Request) -> bool:
    return request.method == "GET" and unquote(request.path).endswith(".tar")


def shards_asked(proxy: FaultProxy) -> list[str]:
    """The names of the shards that were fetched through the proxy, in that order."""
    return [unquote(record.request.path).rpartition("/")[2] for record in proxy.records if is_of_shard(record.request)]


def test_the_index_comes_at_once_and_the_shards_after_it(packed: str, tmp_path: Path) -> None:
    place = bring(packed, tmp_path, print, early=True)
    assert tars(place) == []
    index = read_index(place / INDEX)
    exchange = ShardExchange(place, "run")
    assert exchange.source == packed
    bring_shards(exchange, print)
    assert tars(place) == [shard.name for shard in index.shards]
    assert bring(packed, tmp_path, print, early=True) == place
    notes: list[str] = []
    bring_shards(exchange, notes.append)
    assert notes == [f"data: all 6 shards of {packed} are here; this attempt downloaded 0 of them"]


def test_shards_of_an_earlier_version_are_verified_where_another_run_reads_them(packed: str, tmp_path: Path) -> None:
    place = bring(packed, tmp_path, print, early=True)
    bring_shards(ShardExchange(place, "run"), print)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.glob("*.tar")}
    damaged = place / next(iter(before))
    damaged.write_bytes(b"x")
    for seal in place.glob(".cloud-train-seal-*"):
        seal.unlink()
    notes: list[str] = []
    assert bring(packed, tmp_path, notes.append, early=True) == place
    assert "comparing its shards" in notes[0]
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.glob("*.tar")} == {
        name: each for name, each in before.items() if name != damaged.name
    }
    bring_shards(ShardExchange(place, "run"), print)
    assert damaged.read_bytes() == before[damaged.name][1]
    assert bring(packed, tmp_path, pytest.fail, early=True) == place


def test_a_program_that_does_not_wait_gets_the_whole_folder(packed: str, tmp_path: Path) -> None:
    early, whole = bring(packed, tmp_path, print, early=True), bring(packed, tmp_path, print)
    assert early != whole
    assert tars(whole) == [shard.name for shard in read_index(whole / INDEX).shards]
    assert ShardExchange(whole, "run").source is None


@pytest.mark.parametrize(
    ("job", "waits"),
    [
        ({"model": {"kind": "cnn"}, "data": {"dataset": "images"}}, True),
        ({"model": {"kind": "script"}, "data": {"dataset": "images"}}, False),
        ({"model": {"kind": "cnn"}, "data": {"dataset": "mnist"}}, False),
        ({"model": {"kind": "script"}}, False),
        ({}, False),
    ],
)
def test_only_the_trainers_of_images_wait_for_shards(job: dict[str, object], waits: bool) -> None:
    assert can_begin_early(job) is waits


def test_the_shards_come_in_the_order_in_which_they_are_wanted(
    server: StoreServer, packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        place = bring(packed, tmp_path, print, early=True)
        exchange = ShardExchange(place, "run")
        exchange.expect([4, 2, 99, 5])
        exchange.need(3)
        bring_shards(exchange, print)
        fetched = shards_asked(proxy)
    assert list(dict.fromkeys(fetched)) == [f"train-0000{number}.tar" for number in (3, 4, 2, 5, 0, 1)]
    assert not list(place.glob(".cloud-train-needed-*"))


def test_two_runs_at_once_fetch_each_shard_once(server: StoreServer, packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        place = bring(packed, tmp_path, print, early=True)
        ShardExchange(place, "b").expect([5, 4, 3, 2, 1, 0])
        runs = [subprocess.Popen([sys.executable, "-c", _FETCH, place, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
        said = [run.communicate(timeout=60)[0] for run in runs]
        fetched = shards_asked(proxy)
    assert [run.returncode for run in runs] == [0, 0]
    assert len(fetched) == len(set(fetched)) == len(tars(place)) == 6
    counts = [int(line.split(" of them")[0].rsplit(" ", 1)[1]) for line in said for line in line.splitlines() if "of them" in line]
    assert sum(counts) == 6


def test_what_one_that_died_had_locked_another_one_fetches(
    server: StoreServer, packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def stuck(request: Request) -> Fault | None:
        if is_of_shard(request) and not asked:
            asked.append(request)
            first.kill()
            first.wait()
        return None

    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        place = bring(packed, tmp_path, print, early=True)
        proxy.plan = stuck
        first = subprocess.Popen([sys.executable, "-c", _FETCH, place, "a"])
        first.wait(60)
        assert asked
        assert tars(place) == []
        bring_shards(ShardExchange(place, "b"), print)
    assert len(tars(place)) == 6


def test_a_shard_that_is_not_what_was_packed_is_named_and_nothing_of_it_is_there(packed: str, tmp_path: Path) -> None:
    store = open_store(packed)
    size = next(info.size for info in store.list() if info.key == "train-00002.tar")
    store.put("train-00002.tar", b"x" * size)
    place = bring(packed, tmp_path, print, early=True)
    with pytest.raises(CorruptError, match=r"checksum mismatch for .*train-00002\.tar"):
        bring_shards(ShardExchange(place, "run"), print)
    assert tars(place) == ["train-00000.tar", "train-00001.tar"]


def test_a_set_that_is_not_whole_or_has_a_bad_index_is_refused_before_anything_begins(packed: str, tmp_path: Path) -> None:
    store = open_store(packed)
    index = json.loads(store.get(INDEX))
    store.delete("train-00003.tar")
    with pytest.raises(CorruptError, match=r"train-00003\.tar is missing; "):
        bring(packed, tmp_path, print, early=True)
    store.put("train-00003.tar", b"short")
    with pytest.raises(CorruptError, match=r"train-00003\.tar has 5 bytes; "):
        bring(packed, tmp_path, print, early=True)
    index["shards"][0]["name"] = "../../x.tar"
    store.put(INDEX, json.dumps(index).encode())
    with pytest.raises(CorruptError, match="not a usable index of shards"):
        bring(packed, tmp_path, print, early=True)
