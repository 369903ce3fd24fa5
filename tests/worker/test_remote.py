"""A run in a store, as a worker lease attempts and brings checkpoints: what is damaged, incomplete or hostile there harms nothing."""

import hashlib
import json
from pathlib import Path
from threading import Thread

import pytest

from cloud_train.errors import CorruptError
from cloud_train.retry import RetryPolicy
from cloud_train.run import layout
from cloud_train.run.checkpoints import newest_valid
from cloud_train.run.manifest import FORMAT, write_manifest
from cloud_train.storage.base import ObjectMissingError, TransientStoreError
from cloud_train.storage.local import LocalStore
from cloud_train.storage.retrying import RetryingStore
from cloud_train.worker import remote
from cloud_train.worker.remote import CLAIMED, TAKEN, Remote
from tests.storage.memory_store import MemoryStore

RUN = "run-1"


class Run:
    """A run in a memory store, and an empty machine."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.remote = Remote(self.store.url, RUN)
        self.workspace = LocalStore(folder / "work")
        self.checkpoints = folder / "work" / RUN / layout.CHECKPOINTS
        self.checkpoints.mkdir(parents=True)
        self.notes: list[str] = []

    def key(self, step: int, name: str = "") -> str:
        return f"{RUN}/{layout.CHECKPOINTS}/{layout.step_folder(step)}/{name}"

    def save(self, step: int) -> None:
        """A complete checkpoint in the store."""
        self.forge(step, {"weights": b"weights of %d" % step, "deep/state": b"state of %d" % step})

    def forge(self, step: int, files: dict[str, bytes], says: int | None = None) -> None:
        """A folder in the store with a manifest that lists these files, whatever their names are."""
        entries = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
        manifest = {"format": FORMAT, "step": says or step, "metrics": {}, "fingerprint": {}, "files": entries}
        for name, data in files.items():
            self.store.place(self.key(step, name), data)
        self.store.place(self.key(step, layout.MANIFEST), json.dumps(manifest).encode())

    def digest(self, step: int) -> str:
        return hashlib.sha256(self.store.objects[self.key(step, layout.MANIFEST)][0]).hexdigest()

    def save_here(self, step: int) -> None:
        folder = self.checkpoints / layout.step_folder(step)
        folder.mkdir()
        (folder / "weights").write_bytes(b"here")
        write_manifest(folder, step)

    def bring(self) -> str:
        """Bring the newest; returns the name of the checkpoint that a program would resume from."""
        self.remote.bring_newest(self.checkpoints, self.notes.append)
        found = newest_valid(self.checkpoints, pytest.fail)
        return found.name if found else ""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    found = Run(tmp_path)
    policy = RetryPolicy(sleep=lambda seconds: None, time_limit=0.1)
    monkeypatch.setattr(remote, "open_store", lambda url, _=None: RetryingStore(found.store, policy))
    return found


def test_the_newest_checkpoint_is_brought_and_no_other(run: Run) -> None:
    for step in (1, 3, 2):
        run.save(step)
    assert run.bring() == layout.step_folder(3)
    assert [path.name for path in run.checkpoints.iterdir()] == [layout.step_folder(3)]
    assert (run.checkpoints / layout.step_folder(3) / "deep" / "state").read_bytes() == b"state of 3"
    assert run.notes == ["downloaded checkpoint step-00000003 from the store"]


def test_what_is_damaged_incomplete_or_missing_is_passed_over_with_a_note(run: Run) -> None:
    for step in range(1, 7):
        run.save(step)
    run.store.place(run.key(6, "weights"), b"weights of 0", sha256=None)  # as long as it should be
    run.store.delete(run.key(5, "deep/state"))
    run.store.delete(run.key(4, layout.MANIFEST))
    run.store.place(run.key(3, layout.MANIFEST), b'{"format": 1, ')
    run.forge(2, {"weights": b"weights of 1"}, says=1)
    assert run.bring() == layout.step_folder(1)
    assert [note.split()[2] for note in run.notes[:5]] == [layout.step_folder(step) for step in (6, 5, 4, 3, 2)]
    assert all("skipped" in note for note in run.notes[:5])
    assert "SHA-256" in run.notes[0] or "not what" in run.notes[0]


def test_without_any_valid_checkpoint_the_run_starts_afresh(run: Run) -> None:
    assert run.bring() == ""
    run.save(1)
    run.store.delete(run.key(1, "weights"))
    assert run.bring() == ""


@pytest.mark.parametrize(
    "name", ["../../escaped", "/tmp/cloud-train-escaped", "a/../../../escaped", "..", "a\\b", "a//b", "manifest.json", "a\nb"]
)
def test_a_manifest_with_an_unsafe_name_is_passed_over_and_nothing_escapes(run: Run, tmp_path: Path, name: str) -> None:
    run.save(1)
    run.forge(2, {name: b"hostile", "weights": b"weights"})
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert run.bring() == layout.step_folder(1)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(run.checkpoints / layout.step_folder(1)) for path in new)
    assert not Path("/tmp/cloud-train-escaped").exists()


def test_a_manifest_with_names_that_cannot_lie_beside_each_other_is_passed_over(run: Run) -> None:
    run.save(1)
    run.forge(2, {"a": b"file", "a/b": b"in a folder of the same name"})
    assert run.bring() == layout.step_folder(1)
    assert "skipped checkpoint step-00000002" in run.notes[0]


def test_folders_with_other_names_are_no_checkpoints(run: Run) -> None:
    run.save(1)
    for name in ("step-x", "..", "step-9 ", ".step-9"):
        run.store.place(f"{RUN}/{layout.CHECKPOINTS}/{name}/{layout.MANIFEST}", b"{}")
    assert run.bring() == layout.step_folder(1)
    assert run.notes == ["downloaded checkpoint step-00000001 from the store"]


def test_a_checkpoint_that_lies_here_and_is_as_new_is_used_without_a_transfer(run: Run) -> None:
    run.save(1)
    run.save(2)
    run.save_here(2)
    assert run.bring() == layout.step_folder(2)
    assert run.store.asked("get", "stat") == 0
    run.save(3)
    assert run.bring() == layout.step_folder(3)


def test_a_newer_one_here_that_is_damaged_gives_way_to_the_stores(run: Run) -> None:
    run.save(2)
    run.save_here(2)
    (run.checkpoints / layout.step_folder(2) / "weights").write_bytes(b"gone")
    run.remote.bring_newest(run.checkpoints, run.notes.append)
    assert (run.checkpoints / layout.step_folder(2) / "weights").read_bytes() == b"weights of 2"
    assert newest_valid(run.checkpoints, pytest.fail) == run.checkpoints / layout.step_folder(2)


def test_a_store_that_fails_while_a_checkpoint_is_brought_is_not_taken_for_a_damaged_one(run: Run) -> None:
    run.save(1)
    run.save(2)

    def away(name: str, key: str) -> None:
        if key == run.key(2, "weights"):
            raise TransientStoreError("away")

    run.store.before = away
    with pytest.raises(Exception, match="away"):
        run.bring()
    run.store.before = lambda name, key: None
    assert run.bring() == layout.step_folder(2)


def test_another_node_waits_for_the_checkpoint_that_node_0_is_still_sending(run: Run) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            run.save(2)

    run.save(2)
    chosen = run.digest(2)
    run.store.delete(run.key(2, layout.MANIFEST))
    assert run.remote.bring(layout.step_folder(2), chosen, run.checkpoints, 60, sleep) == ""
    assert newest_valid(run.checkpoints, pytest.fail)
    assert len(waits) == 3
    run.remote.bring(layout.step_folder(2), chosen, run.checkpoints, 60, sleep)
    with pytest.raises(ObjectMissingError):
        run.remote.bring(layout.step_folder(9), chosen, run.checkpoints, 10, waits.append)
    assert sum(waits[3:]) == 10


def test_another_node_does_not_start_from_a_damaged_checkpoint(run: Run) -> None:
    run.save(1)
    run.store.place(run.key(1, "weights"), b"weights of 0", sha256=None)
    with pytest.raises(CorruptError):
        run.remote.bring(layout.step_folder(1), run.digest(1), run.checkpoints, 60)
    assert not (run.checkpoints / layout.step_folder(1)).exists()


def test_of_many_workers_one_claims_the_attempt(run: Run) -> None:
    answers: list[str] = []
    lease = [
        Thread(target=lambda name=name: answers.append(run.remote.claim("attempts/1/status.json", name))) for name in (b"a", b"b", b"c")
    ]
    for claim in lease:
        claim.start()
    for claim in lease:
        claim.join()
    assert sorted(answers) == [CLAIMED, TAKEN, TAKEN]


def test_the_record_and_the_marks_are_brought(run: Run) -> None:
    run.store.place(f"{RUN}/{layout.RUN}", b"record")
    run.store.place(f"{RUN}/{layout.cancel(2)}", b"")
    run.remote.bring_record(run.workspace)
    run.remote.bring_marks(run.workspace, [1, 2])
    assert run.workspace.get(f"{RUN}/{layout.RUN}") == b"record"
    assert not run.workspace.path_of(f"{RUN}/{layout.cancel(1)}").exists()
    assert run.workspace.get(f"{RUN}/{layout.cancel(2)}") == b""


def test_the_end_of_a_predecessor_is_written_in_the_version_that_was_seen(run: Run) -> None:
    key = f"{RUN}/attempts/1/status.json"
    run.store.place(key, b"running")
    assert run.remote.end_for("attempts/1/status.json", "running", b"ended") == "ended"
    assert run.remote.end_for("attempts/1/status.json", "running", b"ended twice") == "ended"

    def closed_meanwhile(name: str, _: str) -> None:
        if name == "replace":
            run.store.place(key, b"closed by another machine")

    run.store.before = closed_meanwhile
    assert run.remote.end_for("attempts/1/status.json", "ended", b"ended") == "closed by another machine"
