"""A container, or whatever ran here before, plants links and false data where downloads are kept. Nothing outside is touched, and no false
byte is used.
"""

import os
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cloud_train.docker import container_paths
from cloud_train.errors import CorruptError, StoreError
from cloud_train.providers.docker.provider import DockerProvider
from cloud_train.run.plan import Plan
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.storage.registry import open_store
from cloud_train.worker.data import bring
from tests.docker_engine import engine_or_skip
from tests.providers.docker_runs import Run, plan_of, worker_image
from tests.stores import server_or_skip, use

if TYPE_CHECKING:
    from docker import DockerClient

CONTENT = bytes(range(256)) * 64
BUILT_IN: dict[str, Any] = {"model": {"kind": "cnn", "blocks": [{"filters": 2}]}, "data": {"dataset": "digits"}}
IMAGE, OTHER_IMAGE = (f"sha256:{digit * 64}" for digit in "45")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file of the user's that is none of cloud-train's business."""
    path = tmp_path / "outside" / "authorized_keys"
    path.parent.mkdir()
    path.write_bytes(b"mine\n")
    return path


@pytest.mark.parametrize("planted", [".{}.arriving", ".cloud-train-seal-{}", "{}.lock", "{}"])
@pytest.mark.parametrize("dangles", [False, True])
def test_a_download_follows_no_link_that_has_one_of_its_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outside: Path, planted: str, dangles: bool
) -> None:
    from tests.downloads import fetched
    from tests.web_server import serving, sha256

    monkeypatch.setenv("no_proxy", "*")
    target = outside.with_name("new") if dangles else outside
    downloads = tmp_path / "cache" / "downloads"
    downloads.mkdir(parents=True)
    total = sha256(CONTENT)
    link = downloads / planted.format(f"{total[:16]}-data.bin")
    link.symlink_to(target)
    with serving(**{"data.bin": CONTENT}) as server:
        path = fetched(f"{server.url}/data.bin", total, tmp_path / "cache")
        assert "mine" not in str(server.requests)
    assert (path.read_bytes(), path.is_symlink()) == (CONTENT, False)
    assert [(each.name, each.read_bytes()) for each in outside.parent.iterdir()] == [("authorized_keys", b"mine\n")]


def test_a_part_that_is_another_name_of_a_file_is_not_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outside: Path) -> None:
    from tests.downloads import fetched
    from tests.web_server import serving, sha256

    monkeypatch.setenv("no_proxy", "*")
    total = sha256(CONTENT)
    part = tmp_path / "cache" / "downloads" / f".{total[:16]}-data.bin.arriving"
    part.parent.mkdir(parents=True)
    os.link(outside, part)
    with serving(**{"data.bin": CONTENT}) as server:
        assert fetched(f"{server.url}/data.bin", total, tmp_path / "cache").read_bytes() == CONTENT
    assert outside.read_bytes() == b"mine\n"


@pytest.mark.parametrize("name", ["downloads", "unpacked"])
def test_a_folder_of_the_cache_that_is_a_link_is_refused(tmp_path: Path, outside: Path, name: str) -> None:
    from cloud_train.training.data.unpack import unpacked
    from tests.downloads import fetched

    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / name).symlink_to(outside.parent)
    use = partial(fetched, "http://127.0.0.1:9/data.bin") if name == "downloads" else partial(unpacked, outside)
    with pytest.raises(StoreError, match=f"{name} is a link or a file, and the cache does not follow links"):
        use("0" * 64, cache)
    assert [each.name for each in outside.parent.iterdir()] == ["authorized_keys"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(name.encode())
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(folder, "images")
    return tmp_path / "images.tar"


def test_an_unpacked_folder_that_no_verified_unpacking_made_is_not_used(tmp_path: Path, archive: Path) -> None:
    pytest.importorskip("torch")
    from cloud_train.training.data.unpack import unpacked
    from tests.web_server import sha256

    content = archive.read_bytes()
    total = sha256(content)
    planted = tmp_path / "cache" / "unpacked" / total[:16] / "images" / "cat"
    planted.mkdir(parents=True)
    (planted / "poison.png").write_bytes(b"poison")
    folder = unpacked(archive, total, tmp_path / "cache")
    assert contents(folder) == {"cat/1.png": b"cat", "dog/1.png": b"dog"}
    for change in (
        lambda: (folder / "cat" / "2.png").write_bytes(b"poison"),
        lambda: (folder / "cat" / "1.png").write_bytes(b"dog"),
        (folder / "dog" / "1.png").unlink,
        lambda: (folder / "dog" / "link.png").symlink_to("/etc/passwd"),
        lambda: overwritten_with_its_times(folder / "dog" / "1.png", b"god"),
    ):
        change()
        assert unpacked(archive, total, tmp_path / "cache") == folder
        assert contents(folder) == {"cat/1.png": b"cat", "dog/1.png": b"dog"}


def test_where_an_archive_is_unpacked_a_planted_link_is_removed_and_not_what_it_leads_to(
    tmp_path: Path, archive: Path, outside: Path
) -> None:
    pytest.importorskip("torch")
    from cloud_train.training.data.unpack import unpacked
    from tests.web_server import sha256

    total = sha256(archive.read_bytes())
    (tmp_path / "unpacked").mkdir()
    for name in (total[:16], f"{total[:16]}.part"):
        (tmp_path / "unpacked" / name).symlink_to(outside.parent)
    assert contents(unpacked(archive, total, tmp_path)) == {"cat/1.png": b"cat", "dog/1.png": b"dog"}
    assert [each.name for each in outside.parent.iterdir()] == ["authorized_keys"]


def test_data_of_a_store_that_was_planted_or_changed_is_compared_with_the_store_again(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    url = server.new_url()
    store = open_store(url)
    for key, data in {"photos/cat/1.png": b"cat", "photos/dog/1.png": b"dog", "words.txt": b"a b c"}.items():
        store.put(key, data)
    cache = tmp_path / "cache"
    folder, file = bring(f"{url}/photos", cache, print), bring(f"{url}/words.txt", cache, print)
    whole = {"cat/1.png": b"cat", "dog/1.png": b"dog"}

    (folder / "cat" / "1.png").write_bytes(b"dog")
    (folder / "poison").mkdir()
    (folder / "poison" / "1.png").write_bytes(b"poison")
    (folder / "cat" / "link").symlink_to(outside.parent)
    file.unlink()
    file.symlink_to(outside)
    notes: list[str] = []
    assert bring(f"{url}/photos", cache, notes.append) == folder
    assert contents(folder) == {**whole, "poison/1.png": b"poison"}
    assert any("has changed since it was verified" in note for note in notes)
    assert any("contains files that are not in the store: cat/link, poison/" in note for note in notes)
    exact = bring(f"{url}/photos", cache, print, early=True)  # for a trainer that reads whatever is there
    assert (contents(exact), exact.parent) == (whole, folder.parent)
    (exact / "cat" / "2.png").write_bytes(b"poison")
    with pytest.raises(CorruptError, match=r"contains files that are not in the store: cat/2\.png"):
        bring(f"{url}/photos", cache, print, early=True)
    assert bring(f"{url}/words.txt", cache, print) == file
    assert (file.read_bytes(), file.is_symlink()) == (b"a b c", False)

    for place in (folder, folder.with_name(".photos.arriving")):
        if place.exists():
            place.rename(tmp_path / "taken-away")
        place.symlink_to(outside.parent)
    assert bring(f"{url}/photos", cache, print) == folder
    assert (contents(folder), folder.is_symlink()) == (whole, False)
    assert [(each.name, each.read_bytes()) for each in outside.parent.iterdir()] == [("authorized_keys", b"mine\n")]


def test_what_program_and_fetcher_say_to_each_other_goes_through_no_link(tmp_path: Path, outside: Path) -> None:
    arrivals = ShardExchange(tmp_path, "run", 0)
    for name in ("order-run-0", f"order-run-0.{os.getpid()}", "failed-run-0", "stop-run-0"):
        (tmp_path / f".cloud-train-{name}").symlink_to(outside)
    (tmp_path / ".cloud-train-source").symlink_to(outside)
    assert (arrivals.source, arrivals.failure, arrivals.in_order([1, 0])) == (None, None, [0, 1])
    arrivals.come_from("s3://bucket/set")
    arrivals.expect([1, 0])
    arrivals.fail("reason")
    assert (arrivals.source, arrivals.failure, arrivals.in_order([1, 0])) == ("s3://bucket/set", "reason", [1, 0])
    (tmp_path / ".cloud-train-needed-1").symlink_to(outside.with_name("new"))
    with pytest.raises(OSError, match="a link, which is not followed"):
        arrivals.need(1)
    assert [(each.name, each.read_bytes()) for each in outside.parent.iterdir()] == [("authorized_keys", b"mine\n")]


def cache_of(plan: Plan, home: Path) -> Path:
    (container,) = DockerProvider(home).render(plan)["containers"]
    (mount,) = (each for each in container["body"]["HostConfig"]["Mounts"] if each["Target"] == container_paths.CACHE)
    return Path(mount["Source"])


def test_the_cache_of_this_machine_is_mounted_into_no_container_and_other_code_has_another_cache(tmp_path: Path) -> None:
    home = tmp_path / "home"
    trainer = plan_of(tmp_path / "runs", "x", image=IMAGE, **BUILT_IN)
    script = plan_of(tmp_path / "runs", "x", image=IMAGE)
    plans = [
        trainer,
        replace(trainer, image=OTHER_IMAGE),
        script,
        replace(script, job_file="/elsewhere/job.yaml"),
        replace(script, store="/elsewhere/runs"),
        plan_of(tmp_path / "runs", "x", image=IMAGE, name="other"),
    ]
    caches = [cache_of(plan, home) for plan in plans]
    assert len(set(caches)) == len(plans)
    assert {cache.parent for cache in caches} == {home / "docker" / "caches"}
    assert cache_of(replace(script, image=OTHER_IMAGE, run_id="other-261130-120000-abcd"), home) == cache_of(script, home)
    assert cache_of(replace(trainer, job_file="/elsewhere/job.yaml"), home) == cache_of(trainer, home)


@pytest.fixture(scope="module")
def engine() -> Iterator["DockerClient"]:
    with closing(engine_or_skip()) as client:
        yield client


PLANTS = """
import os
cache = os.environ["CLOUD_TRAIN_DATA"]
print(sorted(os.listdir(cache)))
os.symlink("/", cache + "/downloads")
"""


def test_what_a_container_plants_is_seen_by_its_own_job_alone(engine: "DockerClient", tmp_path: Path) -> None:
    provider = DockerProvider(tmp_path / "home")
    with worker_image(engine) as image:
        plan = plan_of(tmp_path / "runs", "python3", "-c", PLANTS, image=image)
        runs = [Run(provider, replace(plan, run_id=f"test-261130-120000-000{number}")) for number in range(3)]
        runs[2].plan = replace(runs[2].plan, job_file="/another/job.yaml")
        for run in runs:
            provider.clean_up(run.finish())
    assert [run.output().splitlines()[0] for run in runs] == [b"[]", b"['downloads']", b"[]"]
    assert not (tmp_path / "home" / "data").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def overwritten_with_its_times(path: Path, content: bytes) -> None:
    """Other content of the same size, and the file's times put back as far as a program can."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
