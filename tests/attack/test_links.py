"""Links, pipes and devices in a store, in a run directory and in the folder that is copied to: nothing is reached through them."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_train import beneath
from cloud_train.beneath import IrregularError
from cloud_train.errors import CloudTrainError, ConflictError, CorruptError, StoreError, UsageError
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.packing import pack
from cloud_train.orchestrator.reading import read_logs, read_metrics, read_worker_log
from cloud_train.orchestrator.reconcile import declare_lost, update_runs
from cloud_train.orchestrator.results import fetch_model
from cloud_train.orchestrator.syncing import sync
from cloud_train.run import layout, manifest
from cloud_train.run.checkpoints import manifest_digest, newest_valid, prune, publish
from cloud_train.run.ledger import Ledger
from cloud_train.run.record import Program
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.run.states import Cause, State
from cloud_train.storage.base import NotPlainError, ObjectExistsError, ObjectMissingError, UploadGoneError
from cloud_train.storage.local import LocalStore
from cloud_train.storage.transfer.uploading import Upload, upload
from cloud_train.worker.api import Run
from cloud_train.worker.attempts import sealing
from cloud_train.worker.attempts.program import _open_log
from cloud_train.worker.metrics import MetricsWriter
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.remote import Remote
from cloud_train.worker.uploads.folders import FolderUploads
from cloud_train.worker.uploads.streams import StreamUpload
from cloud_train.worker.worker_log import Redactor, WorkerLog
from cloud_train.worker.workspace import DiskReserve, Workspace
from tests.attack.run_directories import BAD, GOOD, changed, manifest_of, replaced_by, run_directory, write
from tests.worker.launching import Launched

SECRET = b"-----BEGIN PRIVATE KEY-----\n"
KEY = "run/attempts/1/status.json"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the store, of which nothing may be read, written or deleted."""
    write(tmp_path / "outside" / "status.json", SECRET)
    write(tmp_path / "outside" / "1" / "status.json", SECRET)
    write(tmp_path / "outside" / "attempts" / "1" / "status.json", SECRET)
    return tmp_path / "outside"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    (tmp_path / "store").mkdir()
    return LocalStore(tmp_path / "store")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    found = Launched(tmp_path)
    yield found
    found.end()


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder, with its modification time."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("link", ["run", "run/attempts", "run/attempts/1"])
def test_nothing_of_a_store_is_reached_through_a_link_in_the_place_of_a_folder(store: LocalStore, outside: Path, link: str) -> None:
    before = state_of(outside)
    place = store.folder / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to({"run": outside, "run/attempts": outside, "run/attempts/1": outside / "1"}[link])
    for act in (
        lambda: store.put(KEY, b"written"),
        lambda: store.create("run/attempts/1/new", b"written"),
        lambda: store.get(KEY),
        lambda: store.read(KEY),
        lambda: list(store.pieces(KEY, 0, 10)),
        lambda: store.delete(KEY),
        lambda: store.multipart().begin(KEY, 10, ""),
    ):
        with pytest.raises(NotPlainError, match=f"{link} is a link, which is not followed") as refused:
            act()
        assert refused.value.hint == "a store may contain only regular files and folders: remove the link, then retry"
    with pytest.raises(ObjectMissingError):
        store.stat(KEY)
    assert list(store.list("run/")) == []
    assert list(store.list("run/attempts/1/")) == []
    assert list(store.folders("run/attempts/1/")) == []
    assert state_of(outside) == before


def test_a_link_in_the_place_of_an_object_is_neither_read_nor_written_through(store: LocalStore, outside: Path) -> None:
    before = state_of(outside)
    store.put("run/other", b"")
    (store.folder / "run" / "mark").symlink_to(outside / "status.json")
    with pytest.raises(NotPlainError, match="run/mark is a link"):
        store.get("run/mark")
    with pytest.raises(ObjectExistsError):
        store.create("run/mark", b"")
    with pytest.raises(ObjectMissingError):
        store.stat("run/mark")
    store.put("run/mark", b"mine")  # takes the link's place
    assert store.get("run/mark") == b"mine"
    (store.folder / "run" / "again").symlink_to(outside / "status.json")
    store.delete("run/again")
    assert [info.key for info in store.list()] == ["run/mark", "run/other"]
    assert state_of(outside) == before


def test_an_upload_in_parts_does_not_go_on_through_a_link(store: LocalStore, outside: Path) -> None:
    before = state_of(outside)
    parts = store.multipart()
    token = parts.begin("run/large", 10, "")
    (store.folder / "run" / token).unlink()
    (store.folder / "run" / token).symlink_to(outside / "status.json")
    for act in (lambda: parts.send("run/large", token, 0, 0, b"x"), lambda: parts.finish("run/large", token, {})):
        with pytest.raises(UploadGoneError):
            act()
    parts.abort("run/large", token)
    with pytest.raises(UploadGoneError):
        parts.send("run/large", f"{token}/../../../outside/status.json", 0, 0, b"x")
    assert state_of(outside) == before


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)) if os.geteuid() == 0 else path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_plain_file_is_not_an_object_and_keeps_nobody_waiting(store: LocalStore, kind: str) -> None:
    store.put("run/other", b"")
    KINDS[kind](store.folder / "run" / "object")
    for act in (lambda: store.get("run/object"), lambda: store.get("run/object", 0, 10), lambda: store.read("run/object")):
        with pytest.raises(NotPlainError):
            act()
    with pytest.raises(ObjectMissingError):
        store.stat("run/object")
    with pytest.raises(ObjectExistsError):
        store.create("run/object", b"")
    assert [info.key for info in store.list()] == ["run/other"]


def test_the_store_itself_may_be_a_link_of_its_owner(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = LocalStore(tmp_path / "store")
    store.put("a/b", b"x")
    assert (tmp_path / "disk" / "a" / "b").read_bytes() == store.get("a/b") == b"x"
    assert [info.key for info in store.list("a/")] == ["a/b"]


def run_with_model(tmp_path: Path) -> Path:
    run = run_directory(tmp_path / "store", BAD)
    write(run / "model" / "model.bin", SECRET)
    manifest_of(run / "model", None, **{"model.bin": SECRET})
    return run


@pytest.mark.parametrize("what", ["file", "manifest", "folder"])
def test_fetch_model_does_not_copy_what_a_link_leads_to(tmp_path: Path, home: Home, outside: Path, what: str) -> None:
    run = run_with_model(tmp_path)
    place = {"file": run / "model" / "model.bin", "manifest": run / "model" / layout.MANIFEST, "folder": run / "model"}[what]
    place.rename(outside / "taken")
    place.symlink_to(outside / "taken")
    adopt(home, str(run))
    with pytest.raises(CloudTrainError, match="is a link, which is not followed"):
        fetch_model(home, BAD, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_fetch_model_does_not_replace_a_link(tmp_path: Path, home: Home, outside: Path) -> None:
    adopt(home, str(run_with_model(tmp_path)))
    write(outside / layout.MANIFEST, b"{}")
    before = state_of(outside)
    (tmp_path / "fetched").symlink_to(outside)
    with pytest.raises(ConflictError, match="fetched is a link"):
        fetch_model(home, BAD, tmp_path / "fetched")
    assert state_of(outside) == before


def copy_begun(run: Path, target: Path) -> Path:
    """A copy of a run that was cut off right after its beginning."""
    write(target / layout.RUN, (run / layout.RUN).read_bytes())
    return target


def test_sync_copies_no_link_and_writes_through_none(tmp_path: Path, home: Home, outside: Path) -> None:
    run = run_directory(tmp_path / "store", BAD)
    (run / "stolen").symlink_to(outside / "status.json")
    (run / "folder").symlink_to(outside)
    write(run / "attempts" / "1" / "events.000000000000000", b"segment")
    adopt(home, str(run))
    target = copy_begun(run, tmp_path / "copy")
    (target / "attempts").mkdir()
    (target / "attempts" / "1").symlink_to(outside)
    before = state_of(outside)
    synced = sync(home, BAD, target)
    assert state_of(outside) == before
    assert not (target / "stolen").exists()
    assert not (target / "folder").exists()
    assert not (target / layout.metrics(1)).is_file()
    assert any("attempts/1 is a link, where a folder is needed" in why for _, why in synced.skipped)


def test_sync_does_not_write_through_the_name_under_which_a_stream_arrives(tmp_path: Path, home: Home, outside: Path) -> None:
    run = run_directory(tmp_path / "store", BAD)
    write(run / "attempts" / "1" / "events.000000000000000", b"segment")
    adopt(home, str(run))
    place = copy_begun(run, tmp_path / "copy") / "attempts" / "1"
    place.mkdir(parents=True)
    (place / ".events.arriving").symlink_to(outside / "status.json")
    (place / "events").symlink_to(outside / "status.json")
    before = state_of(outside)
    sync(home, BAD, tmp_path / "copy")
    assert state_of(outside) == before
    assert (place / "events").read_bytes() == b"segment"
    assert not (place / "events").is_symlink()


def test_logs_metrics_and_notes_do_not_show_what_a_link_leads_to(tmp_path: Path, home: Home, outside: Path) -> None:
    run = run_directory(tmp_path / "store", BAD)
    write(run / layout.worker_log(1), b"")
    adopt(home, str(run))
    for key in (layout.output_log(1), layout.metrics(1), layout.worker_log(1)):
        replaced_by(run / key, lambda path: path.symlink_to(outside / "status.json"))
    for read in (lambda: b"".join(read_logs(home, BAD)), lambda: read_metrics(home, BAD), lambda: read_worker_log(home, BAD)):
        try:
            shown = read()
        except CloudTrainError:
            continue
        assert "PRIVATE" not in str(shown)


def test_an_end_that_is_written_in_the_workers_place_stays_in_the_store(tmp_path: Path, home: Home, outside: Path) -> None:
    running = {"state": "running", "cause": None, "ended": None}
    run = run_directory(tmp_path / "store", GOOD)
    changed(run / layout.status(1), lambda document: document.update(running))
    adopt(home, str(run))
    before = state_of(outside)
    (run / layout.status(1)).replace(run / "kept")
    (run / layout.status(1)).symlink_to(outside / "status.json")
    with Ledger(home.ledger_path) as ledger:
        entry = ledger.get(GOOD)
        assert entry is not None
        with pytest.raises(NotPlainError):
            declare_lost(home, ledger, entry, None, "nobody hears of it")
        (run / layout.status(1)).unlink()
        (run / "attempts" / "1").rename(run / "elsewhere")
        (run / "attempts" / "1").symlink_to(outside)
        with pytest.raises(CorruptError):
            declare_lost(home, ledger, entry, None, "nobody hears of it")
    assert state_of(outside) == before
    assert [each.state for each in update_runs(home)] == [State.RUNNING]


SWAPS_CHECKPOINTS = """
trap 'exit 143' TERM
cd "$CLOUD_TRAIN_CHECKPOINTS/.."
mv checkpoints elsewhere
ln -s {outside} checkpoints
while :; do sleep 0.05; done
"""


def test_checkpoints_that_become_a_link_are_neither_sealed_nor_deleted_and_end_the_attempt(launched: Launched, outside: Path) -> None:
    write(outside / "step-00000005" / "data", SECRET)
    write(outside / "step-00000035" / "data", SECRET)
    before = state_of(outside)
    launched.shell(SWAPS_CHECKPOINTS.format(outside=outside), keep_checkpoints=1)
    status = launched.run()
    assert status.cause is Cause.FAILED
    assert status.message.startswith(f"the checkpoints cannot be kept: {launched.directory / 'checkpoints'} is a link")
    assert "SIGTERM for the program" in launched.worker_log()
    assert state_of(outside) == before


@pytest.mark.parametrize("last_words", ["exit 0", "exit 3"])
def test_checkpoints_that_are_a_link_at_the_programs_end_are_refused(launched: Launched, outside: Path, last_words: str) -> None:
    write(outside / "step-00000005" / "data", SECRET)
    before = state_of(outside)
    launched.shell(f'cd "$CLOUD_TRAIN_CHECKPOINTS/.."; mv checkpoints elsewhere; ln -s {outside} checkpoints; {last_words}')
    assert "checkpoints is a link" in launched.run().message
    assert state_of(outside) == before


def test_a_run_that_is_cancelled_is_cancelled_whatever_became_of_its_checkpoints(launched: Launched, outside: Path) -> None:
    launched.shell(
        f"trap 'cd $CLOUD_TRAIN_CHECKPOINTS/..; mv checkpoints elsewhere; ln -s {outside} checkpoints; exit 143' TERM; "
        "echo ready; while :; do sleep 0.05; done"
    )
    worker = launched.start()
    launched.says(b"ready")
    launched.cancel()
    worker.wait(60)
    assert launched.status().cause is Cause.CANCELLED


def test_a_model_that_becomes_a_link_is_not_sealed(launched: Launched, outside: Path) -> None:
    before = state_of(outside)
    launched.shell(f'rmdir "$CLOUD_TRAIN_MODEL" && ln -s {outside} "$CLOUD_TRAIN_MODEL"')
    status = launched.run()
    assert status.cause is Cause.FAILED
    assert f"{launched.directory / 'model-1'} is a link, which is not followed" in status.message
    assert not (launched.directory / "model").exists()
    assert state_of(outside) == before


def checkpoints_in(folder: Path, *steps: int) -> Path:
    for step in steps:
        write(folder / layout.step_folder(step) / "data", SECRET)
        manifest_of(folder / layout.step_folder(step), step, data=SECRET)
    return folder


def test_checkpoints_behind_a_link_are_not_looked_for_not_replaced_and_not_pruned(tmp_path: Path, outside: Path) -> None:
    checkpoints_in(outside, 1, 2, 3)
    write(outside / ".new" / "data", SECRET)
    before = state_of(outside)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.symlink_to(outside)
    for act in (
        lambda: prune(checkpoints, keep=1, trusted=checkpoints / layout.step_folder(3)),
        lambda: newest_valid(checkpoints, print),
        lambda: publish(checkpoints / ".new", checkpoints, 3),
        lambda: sealing.unsealed(checkpoints),
    ):
        with pytest.raises(StoreError, match="checkpoints is a link, which is not followed"):
            act()
    with pytest.raises(IrregularError):
        sealing.prepare(checkpoints, print)
    assert state_of(outside) == before


def test_pruning_ends_in_the_folder_that_it_began_in(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints_in(outside, 1, 2, 3)
    before = state_of(outside)
    checkpoints = checkpoints_in(tmp_path / "checkpoints", 1, 2, 3)
    remove = beneath.remove

    def swap_and_remove(name: str, directory: int) -> None:
        if not checkpoints.is_symlink():
            linked(checkpoints, outside)
        remove(name, directory)

    monkeypatch.setattr(beneath, "remove", swap_and_remove)
    prune(checkpoints, keep=1, trusted=checkpoints / layout.step_folder(3))
    assert [path.name for path in (tmp_path / "checkpoints-elsewhere").iterdir()] == ["step-00000003"]
    assert state_of(outside) == before


def test_a_link_that_comes_between_sealing_and_pruning_is_noted(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints_in(outside, 1, 2, 3)
    before = state_of(outside)
    checkpoints, notes = checkpoints_in(tmp_path / "checkpoints", 1, 2), list[str]()
    write(checkpoints / layout.step_folder(3) / "data", b"new")
    seal = manifest.write_manifest

    def seal_and_swap(*arguments: Any, **named: Any) -> None:
        seal(*arguments, **named)
        linked(checkpoints, outside)

    monkeypatch.setattr(manifest, "write_manifest", seal_and_swap)
    sealing.seal_checkpoints(checkpoints, {layout.step_folder(3)}, 1, notes.append)
    assert notes == [
        "sealed checkpoint step-00000003",
        f"cannot look for checkpoints in {checkpoints}: {checkpoints} is a link, which is not followed",
    ]
    assert state_of(outside) == before


def test_a_checkpoint_that_becomes_a_link_is_not_sealed(tmp_path: Path, outside: Path) -> None:
    before = state_of(outside)
    checkpoints, notes = tmp_path / "checkpoints", list[str]()
    checkpoints.mkdir()
    (checkpoints / "step-00000001").symlink_to(outside)
    sealing.seal_checkpoints(checkpoints, {"step-00000001"}, 1, notes.append)
    assert f"{checkpoints / 'step-00000001'} is a link" in notes[0]
    assert state_of(outside) == before


def test_what_is_deleted_ends_at_a_link(tmp_path: Path, outside: Path) -> None:
    before = state_of(outside)
    (tmp_path / "old" / "inner").mkdir(parents=True)
    (tmp_path / "old" / "inner" / "link").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    with beneath.held(tmp_path) as directory:
        beneath.remove("old", directory)
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            beneath.remove("link", directory)
    assert not (tmp_path / "old").exists()
    assert state_of(outside) == before


def test_folders_that_lie_too_deep_are_an_error_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "old" / "/".join("d" * 300)).mkdir(parents=True)
    with beneath.held(tmp_path) as directory, pytest.raises(OSError, match="nested more than 200 deep"):
        beneath.remove("old", directory)


def attempt_of(folder: Path) -> Run:
    run = Run(
        "run", 1, folder / "checkpoints", folder / "model", folder / "attempts" / "1" / "metrics", None, None, folder / "attempts/1/failure"
    )
    for place in (run.checkpoints, run.model, run.metrics.parent):
        place.mkdir(parents=True)
    return run


def linked(place: Path, outside: Path) -> None:
    place.rename(place.with_name(f"{place.name}-elsewhere"))
    place.symlink_to(outside)


def test_a_trainer_saves_nothing_through_links_that_come_while_it_runs(tmp_path: Path, outside: Path) -> None:
    checkpoints_in(outside, 1, 2, 3)
    before = state_of(outside)
    run = attempt_of(tmp_path / "run")
    with pytest.raises(StoreError, match="checkpoints is a link"), run.checkpoint(4):
        linked(run.checkpoints, outside)
    with pytest.raises(StoreError, match="checkpoints is a link"), run.checkpoint(5):
        pass
    linked(run.model, outside)
    with pytest.raises(StoreError, match="model is a link"):
        run.publish_model()
    linked(run.metrics.parent, outside)
    with pytest.raises(StoreError, match="attempts/1: it is a link"):
        run.log(step=1, loss=1.0)
    run.fail("it failed")
    assert state_of(outside) == before


def test_the_built_in_trainers_files_go_through_no_link(tmp_path: Path, outside: Path) -> None:
    pytest.importorskip("torch")
    from cloud_train.training.events import EventFile
    from cloud_train.training.modelfile import save_model
    from tests.training.test_checkpoint_writer import DESCRIPTION, trained

    before = state_of(outside)
    run = attempt_of(tmp_path / "run")
    linked(run.model, outside)
    linked(run.metrics.parent, outside)
    with pytest.raises(IrregularError):
        save_model(run.model, trained().delivered, DESCRIPTION, run.root_of(run.model))
    with pytest.raises(StoreError, match="attempts/1 is a link"):
        EventFile(run.metrics.parent, run.root_of(run.metrics)).add(1, 0.0, {"loss": 1.0})
    assert state_of(outside) == before


def test_a_worker_writes_nothing_through_a_link_in_the_place_of_a_folder_above(tmp_path: Path, outside: Path) -> None:
    write(outside / ".cloud-train-reserve", SECRET)
    before = state_of(outside)
    (tmp_path / "attempts").symlink_to(outside)
    inner = tmp_path / "attempts" / "new.log"
    with pytest.raises(StoreError, match="attempts: it is a link"):
        _open_log(inner, tmp_path)
    WorkerLog(inner, Redactor([]), root=tmp_path).note("a line")
    reserve = DiskReserve(tmp_path / "attempts" / ".cloud-train-reserve", tmp_path)
    reserve.take()
    reserve.release()
    assert state_of(outside) == before


def test_nothing_behind_a_folder_that_becomes_a_link_is_shipped(tmp_path: Path, store: LocalStore, outside: Path) -> None:
    checkpoints_in(outside, 1)
    manifest_of(outside, None, **{"status.json": SECRET})
    for name in ("checkpoints", "model", "attempts/1"):
        (tmp_path / BAD / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / BAD / name).symlink_to(outside)
    workspace = LocalStore(tmp_path)
    uploads = StreamUpload(
        workspace.path_of(f"{BAD}/attempts/1/status.json"), store, "log", by_line=False, clock=lambda: 0.0, root=workspace.folder
    )
    uploads.look()
    FolderUploads(workspace, store, BAD, Program(("true",), "/"), node=NodeContext(), note=pytest.fail).look([], [1])
    assert list(store.list()) == []
    with pytest.raises(StoreError, match="attempts/1 is a link"):
        upload(store, [Upload(tmp_path / BAD / "attempts/1/status.json", "key", below=tmp_path / BAD)])
    assert list(store.list()) == []


def test_a_checkpoint_from_a_store_is_brought_through_no_link(tmp_path: Path, store: LocalStore, outside: Path) -> None:
    digest = manifest_digest(checkpoints_in(store.folder / BAD / "checkpoints", 1) / layout.step_folder(1))
    before = state_of(outside)
    run = tmp_path / "work" / BAD
    run.mkdir(parents=True)
    (run / "checkpoints").symlink_to(outside)
    remote = Remote(store.url, BAD)
    with pytest.raises(StoreError, match="checkpoints is a link"):
        remote.bring_newest(run / "checkpoints", print)
    with pytest.raises(StoreError, match="checkpoints is a link"):
        remote.bring(layout.step_folder(1), digest, run / "checkpoints", patience=0)
    checkpoints_in(outside, 1)
    with pytest.raises(StoreError, match="checkpoints is a link"):
        remote.bring(layout.step_folder(1), digest, run / "checkpoints", patience=0)
    shutil.rmtree(outside / layout.step_folder(1))
    assert state_of(outside) == before


@pytest.mark.parametrize("link", ["attempts", "attempts/2", "attempts/2/logs", "attempts/2/logs/node-0", "checkpoints-2", "model-2"])
def test_a_worker_makes_no_folder_through_a_link(tmp_path: Path, outside: Path, link: str) -> None:
    before = state_of(outside)
    place = tmp_path / "store" / BAD / link
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    workspace = Workspace.in_store(LocalStore(tmp_path / "store"), BAD, 2, 0)
    with pytest.raises(StoreError, match=f"{link}: it is a link, which is not followed"):
        workspace.make_folders()
    assert state_of(outside) == before


def test_a_worker_writes_no_log_no_metrics_and_no_reserve_through_a_link(tmp_path: Path, outside: Path) -> None:
    before = state_of(outside)
    link = tmp_path / "link"
    link.symlink_to(outside / "status.json")
    with pytest.raises(StoreError, match="it is a link"):
        _open_log(link)
    WorkerLog(link, Redactor([])).note("a line")
    metrics = MetricsWriter(link)
    with pytest.raises(StoreError):
        metrics.add(1, None, "train", {"loss": 1.0})
    DiskReserve(link).take()
    assert state_of(outside) == before


def test_nothing_that_a_link_leads_to_is_shipped(tmp_path: Path, store: LocalStore, outside: Path) -> None:
    link = tmp_path / "output.log"
    link.symlink_to(outside / "status.json")
    uploads = StreamUpload(link, store, "run/output.log", by_line=False, clock=lambda: 0.0)
    uploads.look()
    uploads.flush()
    assert list(store.list()) == []


def test_what_runs_say_to_each_other_in_a_cache_goes_through_no_link(tmp_path: Path, outside: Path) -> None:
    before = state_of(outside)
    cache = tmp_path / "cache"
    cache.mkdir()
    arrivals = ShardExchange(cache, BAD)
    beside = f".cloud-train-failed-{BAD}-0.{os.getpid()}"
    for name in (".cloud-train-source", f".cloud-train-failed-{BAD}-0", ".cloud-train-needed-3", beside):
        (cache / name).symlink_to(outside / "status.json")
    assert [arrivals.source, arrivals.failure] == [None, None]
    with pytest.raises(IrregularError):
        arrivals.need(3)
    arrivals.fail("it is gone")
    arrivals.come_from("s3://bucket")
    assert [arrivals.failure, arrivals.source] == ["it is gone", "s3://bucket"]
    os.mkfifo(cache / f".cloud-train-order-{BAD}-0")
    assert arrivals.in_order([2, 1]) == [1, 2]
    assert state_of(outside) == before


def test_a_model_is_not_read_through_a_link(tmp_path: Path, outside: Path) -> None:
    pytest.importorskip("torch")
    from cloud_train.training.modelfile import read_description, read_weights

    for name in ("model.safetensors", "model.json"):
        (tmp_path / name).symlink_to(outside / "status.json")
    with pytest.raises(CorruptError, match="it is a link"):
        read_weights(tmp_path / "model.safetensors")
    with pytest.raises(CorruptError, match="it is a link"):
        read_description(tmp_path / "model.json")
    replaced_by(tmp_path / "model.safetensors", os.mkfifo)
    with pytest.raises(CorruptError, match="named pipe"):
        read_weights(tmp_path / "model.safetensors")


def test_the_end_of_a_hostile_attempt_reaches_the_ledger_though_the_store_refuses_it(tmp_path: Path, home: Home) -> None:
    run = run_directory(tmp_path / "store", GOOD)
    changed(run / layout.status(1), lambda document: document.update({"state": "running", "cause": None, "ended": None}))
    adopt(home, str(run))
    replaced_by(run / layout.status(1), lambda path: None)
    with Ledger(home.ledger_path) as ledger:
        entry = ledger.get(GOOD)
        assert entry is not None
        (run / "attempts" / "1" / "status.json").mkdir()
        with pytest.raises(NotPlainError):
            declare_lost(home, ledger, entry, None, "nobody hears of it")
        (run / "attempts" / "1" / "status.json").rmdir()
        assert declare_lost(home, ledger, entry, None, "nobody hears of it").cause is Cause.INFRASTRUCTURE


def test_an_equal_file_behind_a_link_does_not_count_as_a_copy(tmp_path: Path, home: Home, outside: Path) -> None:
    run = run_with_model(tmp_path)
    adopt(home, str(run))
    target = copy_begun(run, tmp_path / "copy")
    (target / "model").mkdir()
    (target / "model" / "model.bin").symlink_to(outside / "status.json")  # the same bytes
    assert hashlib.sha256((outside / "status.json").read_bytes()).digest() == hashlib.sha256(SECRET).digest()
    synced = sync(home, BAD, target)
    assert "model/model.bin" in synced.copied
    assert not (target / "model" / "model.bin").is_symlink()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images that a stranger has sent."""
    for name in ("cat", "dog"):
        write(tmp_path / "images" / name / "1.jpg", name.encode())
    return tmp_path / "images"


@pytest.mark.parametrize("split", [False, True])
def test_packing_follows_no_link_to_a_file_out_of_the_folder(images: Path, outside: Path, tmp_path: Path, split: bool) -> None:
    if split:
        shutil.copytree(images, tmp_path / "parts" / "train")
        images = images.rename(tmp_path / "parts" / "val").parent
    (next(images.rglob("cat")) / "2.jpg").symlink_to(outside / "status.json")
    with pytest.raises(UsageError, match=r"2\.jpg links to .*/outside/status\.json, outside the folder to pack") as refused:
        pack(images, str(tmp_path / "packed"), 1 << 20)
    assert "cp -rL" in (refused.value.hint or "")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("name", ["bird", "train", "val"])
def test_packing_follows_no_link_to_a_folder_out_of_the_folder(images: Path, tmp_path: Path, name: str) -> None:
    write(tmp_path / "private" / "holiday.jpg", SECRET)
    write(tmp_path / "private" / "cat" / "holiday.jpg", SECRET)
    if name == "val":
        shutil.copytree(images, images / "train")
    (images / name).symlink_to(tmp_path / "private")
    with pytest.raises(UsageError):
        pack(images, str(tmp_path / "packed"), 1 << 20)
    assert not (tmp_path / "packed").exists()


def test_packing_follows_no_link_to_a_file_in_the_folder_that_is_no_image(images: Path, tmp_path: Path) -> None:
    write(images / ".env", SECRET)
    (images / "cat" / "2.jpg").symlink_to("../.env")
    with pytest.raises(UsageError, match="whose name is not that of an image"):
        pack(images, str(tmp_path / "packed"), 1 << 20)


def test_packing_opens_no_link_that_came_after_the_folder_was_looked_at(
    images: Path, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(path: Path, root: Path | None) -> int:
        path.unlink()
        path.symlink_to(outside / "status.json")
        return beneath.open_within(path, root)

    monkeypatch.setattr("cloud_train.orchestrator.packing.open_within", swapped)
    with pytest.raises(StoreError):
        pack(images, str(tmp_path / "packed"), 1 << 20)
    assert not (tmp_path / "packed").exists()


def test_packing_follows_a_link_to_an_image_in_the_same_folder(images: Path, tmp_path: Path) -> None:
    (images / "cat" / "2.jpg").symlink_to("1.jpg")
    (images / "wolf").symlink_to("dog")
    assert pack(images, str(tmp_path / "packed"), 1 << 20).images == 4
    assert (tmp_path / "packed" / "train-00000.tar").read_bytes().count(b"cat") >= 2


@pytest.mark.skipif(os.getuid() != 0 or not Path("/proc/kmsg").exists(), reason="only root may read /proc/kmsg")
@pytest.mark.parametrize("dataset", ["text", "sequences"])
@pytest.mark.parametrize("path", ["/proc/kmsg", "."])
def test_validating_data_that_leads_to_a_file_of_the_kernel_does_not_wait_for_it(tmp_path: Path, dataset: str, path: str) -> None:
    (tmp_path / "train.tsv").symlink_to("/proc/kmsg")
    (tmp_path / "a.txt").symlink_to("/proc/kmsg")
    (tmp_path / "job.yaml").write_text(f"name: waits\nmodel: {{kind: rnn}}\ndata: {{dataset: {dataset}, path: {path}}}\n")
    (tmp_path / "kernel.yaml").symlink_to("/proc/kmsg")
    for file in ("job.yaml", "kernel.yaml"):
        command = [sys.executable, "-m", "cloud_train", "validate", str(tmp_path / file)]
        ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert (ended.returncode, b"bug" in ended.stderr) == (3, False)
