"""Checkpoints, the final model and other files on their way into a store: what goes last, what is pruned, and what is never deleted."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import CorruptError, StoreError
from cloud_train.run import layout
from cloud_train.run.checkpoints import places_in_store
from cloud_train.run.manifest import FileEntry, parse_manifest, write_manifest
from cloud_train.run.ranking import Ranking
from cloud_train.run.record import Program
from cloud_train.run.succession import Ancestor, Branch
from cloud_train.storage.base import TransientStoreError
from cloud_train.storage.local import LocalStore
from cloud_train.storage.transfer import uploading
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.uploads.folders import FolderUploads
from tests.storage.memory_store import MemoryStore

RUN = "run-1"
LARGE = 5000  # bytes: in parts, by the memory store's measure


class Shipped:
    """A workspace, a store, a clock that stands still, and what ships folders between them."""

    def __init__(self, folder: Path, keep: int = 3, ranking: Ranking | None = None, node: NodeContext | None = None) -> None:
        self.workspace = LocalStore(folder / "work")
        self.run = folder / "work" / RUN
        self.store = MemoryStore()
        self.program = Program(("true",), "/", keep_checkpoints=keep, ranking=ranking or Ranking())
        self.node = node or NodeContext()
        self.notes: list[str] = []
        self.now = 0.0
        self.folders = self.uploads()

    def uploads(self) -> FolderUploads:
        return FolderUploads(self.workspace, self.store, RUN, self.program, node=self.node, note=self.notes.append, clock=lambda: self.now)

    def save(self, step: int, accuracy: float | None = None, content: bytes = b"", attempt: int = 1) -> Path:
        folder = self.run / layout.checkpoints(attempt) / layout.step_folder(step)
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(content or b"%d" % step * LARGE)
        (folder / "state").write_bytes(b"state of %d" % step)
        write_manifest(folder, step, {} if accuracy is None else {"validation/accuracy": accuracy}, root=self.run, attempt=attempt)
        return folder

    def forget(self, *steps: int) -> None:
        for step in steps:
            shutil.rmtree(self.run / layout.CHECKPOINTS / layout.step_folder(step))

    def look(self, *, attempts: tuple[int, ...] = (), ended: tuple[int, ...] = ()) -> None:
        self.folders.look(attempts, ended)

    def steps(self) -> list[int]:
        """The steps of the store's complete checkpoints, each of which is checked."""
        return sorted(step for step in (layout.step_of(name) for name in self.names()) if step is not None and self.is_valid(step))

    def names(self) -> list[str]:
        return list(self.store.folders(f"{RUN}/{layout.CHECKPOINTS}/"))

    def is_valid(self, step: int) -> bool:
        """Whether there is a manifest. Then every file must be what it says."""
        prefix = f"{RUN}/{layout.CHECKPOINTS}/{layout.step_folder(step)}"
        if f"{prefix}/{layout.MANIFEST}" not in self.store.objects:
            return False
        manifest = parse_manifest(self.store.objects[f"{prefix}/{layout.MANIFEST}"][0], prefix)
        for name, entry in manifest.files.items():
            data = self.store.objects[f"{prefix}/{name}"][0]
            assert entry == FileEntry(len(data), hashlib.sha256(data).hexdigest()), f"{name} of step {step}"
        return True

    def check(self, name: str, key: str) -> None:
        """Before each request: whatever has a manifest is complete."""
        self.steps()

    def written(self) -> list[str]:
        """The keys, in the order in which they were written."""
        return [key for name, key in self.store.calls if name in ("put", "create", "replace", "finish")]


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shipped:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(uploading, "_WHOLE_BYTES", 0)  # the store alone says what goes in parts
    return Shipped(tmp_path)


def test_a_manifest_goes_last_of_its_folder_and_the_newest_checkpoint_first(at: Shipped) -> None:
    at.save(1)
    at.save(2)
    at.look()
    of_steps = [f"{RUN}/{layout.CHECKPOINTS}/{layout.step_folder(step)}/{layout.MANIFEST}" for step in (2, 1)]
    assert at.written()[2::3] == of_steps
    assert all(f"/{layout.step_folder(2)}/" in key for key in at.written()[:3])
    assert at.steps() == [1, 2]


def test_at_no_moment_is_there_a_manifest_without_every_file(at: Shipped) -> None:
    for step in range(1, 8):
        at.save(step)
        if step > 3:
            at.forget(step - 3)
        at.store.before = at.check
        at.look()
    assert at.steps() == [5, 6, 7]


def test_what_is_there_already_is_not_sent_again(at: Shipped) -> None:
    at.save(1)
    at.look()
    at.store.calls.clear()
    at.look()
    assert at.store.calls == []
    at.folders = at.uploads()  # as after a crash
    at.look()
    assert at.store.asked("put", "finish", "delete") == 0


def test_of_the_stores_checkpoints_the_newest_and_the_best_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    at = Shipped(tmp_path, keep=2)
    for step, accuracy in enumerate((0.1, 0.9, 0.2, 0.3, 0.4), start=1):
        at.save(step, accuracy)
        at.look()
    assert at.steps() == [2, 4, 5]
    assert len(at.names()) == 3


def test_what_would_be_pruned_at_once_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    at = Shipped(tmp_path, keep=1)
    for step, accuracy in enumerate((0.1, 0.9, 0.2, 0.3), start=1):
        at.save(step, accuracy)
    at.look()
    at.look()
    assert at.steps() == [2, 4]
    assert sum(key.endswith("/weights") for key in at.written()) == 2


def test_nothing_is_deleted_while_the_newest_does_not_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    at = Shipped(tmp_path, keep=1)
    at.save(1)
    at.look()
    at.forget(1)
    at.save(2)

    def refuses(kind: str) -> Callable[[str, str], None]:
        def before(name: str, key: str) -> None:
            if name in ("put", "create", "finish") and layout.step_folder(2) in key and key.endswith(kind):
                raise TransientStoreError("away")

        return before

    for kind in ("weights", "state", layout.MANIFEST):
        at.store.before = refuses(kind)
        with pytest.raises(StoreError):
            at.look()
        assert at.steps() == [1]
    at.store.before = lambda name, key: None
    at.look()
    assert at.steps() == [2]
    assert at.names() == [layout.step_folder(2)]


def test_a_checkpoint_that_is_pruned_while_it_is_sent_leaves_nothing_and_the_newer_one_goes(at: Shipped) -> None:
    at.save(1)

    def pruned(name: str, key: str) -> None:
        if name == "send" and layout.step_folder(1) in key and (at.run / layout.CHECKPOINTS / layout.step_folder(1)).exists():
            at.save(2)
            at.forget(1)

    at.store.before = pruned
    at.look()
    assert at.names() == [layout.step_folder(2)]
    assert at.steps() == [2]
    assert at.store.uploads == {} or all(layout.step_folder(1) in key for key in at.store.uploads)


def test_what_a_crash_left_without_a_manifest_is_removed_once_a_newer_one_is_there(at: Shipped) -> None:
    prefix = f"{RUN}/{layout.CHECKPOINTS}"
    at.store.place(f"{prefix}/{layout.step_folder(1)}/weights", b"half")
    at.store.place(f"{prefix}/{layout.step_folder(2)}/weights", b"half")
    at.store.place(f"{prefix}/{layout.step_folder(2)}/{layout.MANIFEST}", b"{")
    at.store.place(f"{prefix}/of somebody else/weights", b"other")
    at.save(3)
    at.look()
    assert at.names() == ["of somebody else", layout.step_folder(3)]


def test_a_checkpoint_of_the_same_step_is_replaced_without_ever_being_valid_with_mixed_files(at: Shipped) -> None:
    at.save(1, content=b"old" * LARGE)
    at.look()
    at.forget(1)
    at.save(1, content=b"new" * LARGE)
    at.store.before = at.check
    at.look()
    assert at.steps() == [1]
    assert at.store.objects[f"{RUN}/{layout.CHECKPOINTS}/{layout.step_folder(1)}/weights"][0] == b"new" * LARGE


def test_what_is_newer_in_the_store_was_passed_over_and_counts_for_nothing_but_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    at = Shipped(tmp_path, keep=1)
    at.save(9)
    at.look()
    at.forget(9)  # as if its bytes in the store had been damaged, and the worker had gone on from before
    for step in (5, 6):
        at.save(step)
        at.folders.look((), ())
    assert at.steps() == [6, 9]
    at.save(9, content=b"again")
    at.look()
    assert at.steps() == [9]
    assert at.names() == [layout.step_folder(9)]


def test_a_checkpoint_that_was_damaged_here_is_not_shipped_and_holds_up_nothing(at: Shipped) -> None:
    at.save(1)
    (at.save(2) / "weights").write_bytes(b"2" * (LARGE - 1) + b"!")
    at.save(3)
    at.look()
    assert at.steps() == [1, 3]
    assert len(at.names()) == 2
    assert [note for note in at.notes if "cannot upload checkpoint step-00000002" in note]
    at.store.calls.clear()
    at.look()
    assert at.store.calls == []


def test_a_manifest_that_was_acknowledged_and_lost_is_sent_again(at: Shipped) -> None:
    at.save(1)
    key = f"{RUN}/{layout.CHECKPOINTS}/{layout.step_folder(1)}/{layout.MANIFEST}"
    lost: list[object] = []

    def lose(name: str, asked: str) -> None:
        if name == "stat" and asked == key and key in at.store.objects and not lost:
            lost.append(at.store.objects.pop(key))

    at.store.before = lose
    at.look()
    assert lost
    assert at.steps() == [1]


def test_the_final_model_goes_with_its_manifest_last(at: Shipped) -> None:
    model = at.run / layout.MODEL
    model.mkdir(parents=True)
    (model / "weights").write_bytes(b"w" * LARGE)
    at.look()
    assert at.store.objects == {}
    write_manifest(model, None)
    at.look()
    assert at.written() == [f"{RUN}/model/weights", f"{RUN}/model/manifest.json"]
    at.store.calls.clear()
    at.look()
    assert at.store.calls == []


def test_a_final_model_that_was_damaged_here_is_no_success(at: Shipped) -> None:
    model = at.run / layout.MODEL
    model.mkdir(parents=True)
    (model / "weights").write_bytes(b"w" * LARGE)
    write_manifest(model, None)
    (model / "weights").write_bytes(b"v" * LARGE)
    with pytest.raises(CorruptError):
        at.look(ended=(1,))
    assert f"{RUN}/model/manifest.json" not in at.store.objects


def test_other_files_go_every_half_minute_and_at_the_end_and_only_when_they_changed(at: Shipped) -> None:
    events = at.run / layout.attempt(1) / "tensorboard" / "events.out"
    events.parent.mkdir(parents=True)
    events.write_bytes(b"one")
    at.look(attempts=(1,))
    assert at.store.asked("put") == 1
    for seconds, text in ((0, b"two"), (29, b"three")):
        at.now = seconds
        events.write_bytes(text)
        at.look(attempts=(1,))
    assert at.store.asked("put") == 1
    at.now = 30
    at.look(attempts=(1,))
    assert at.store.objects[f"{RUN}/{layout.attempt(1)}/tensorboard/events.out"][0] == b"three"
    at.now = 60
    at.look(attempts=(1,))
    assert at.store.asked("put") == 2
    events.write_bytes(b"the last")
    at.look(attempts=(1,), ended=(1,))
    assert at.store.objects[f"{RUN}/{layout.attempt(1)}/tensorboard/events.out"][0] == b"the last"


def test_streams_statuses_marks_and_hidden_files_are_no_other_files(at: Shipped) -> None:
    known = (layout.status(1), layout.cancel(1), layout.output_log(1), layout.worker_log(1), layout.metrics(1), layout.start(1))
    for name in (*known, layout.following(1), f"{layout.attempt(1)}/.cloud-train-reserve", layout.failure(1)):
        path = at.run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text")
    (at.run / layout.attempt(1) / "link").symlink_to("/etc/hostname")
    at.look(attempts=(1,), ended=(1,))
    assert list(at.store.objects) == [f"{RUN}/{layout.failure(1)}"]


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_nodes_only_node_0_ships_checkpoints_and_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    at = Shipped(tmp_path, node=NodeContext(rank, 2))
    at.save(1)
    shutil.copytree(at.run / layout.CHECKPOINTS / layout.step_folder(1), at.run / layout.MODEL)
    failure = at.run / layout.failure(1, rank)
    failure.parent.mkdir(parents=True)
    failure.write_bytes(b"why")
    others = at.run / layout.status(1, 1 - rank)
    others.parent.mkdir(parents=True, exist_ok=True)
    others.write_bytes(b"{}")
    at.look(ended=(1,))
    assert at.steps() == ([1] if rank == 0 else [])
    assert (f"{RUN}/{layout.MODEL}/{layout.MANIFEST}" in at.store.objects) is (rank == 0)
    assert at.store.objects[f"{RUN}/{layout.failure(1, rank)}"][0] == b"why"
    assert f"{RUN}/{layout.status(1, 1 - rank)}" not in at.store.objects


class LateStore:
    """Around a store: writes of keys that end in ``holds`` do not arrive, their sender is told so, and ``deliver`` lets them arrive."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.holds = store, " none"
        self._held: list[Callable[[], object]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        if name not in ("put", "create", "replace", "delete"):
            return method

        def write(*arguments: Any) -> Any:
            if not arguments[0].endswith(self.holds):
                return method(*arguments)
            self._held.append(lambda: method(*arguments))
            raise TransientStoreError("no response")

        return write

    def deliver(self) -> int:
        for write in self._held:
            with suppress(StoreError):
                write()
        return len(self._held)


def continuing(at: Shipped, folder: Path, attempt: int, origin: Ancestor) -> Shipped:
    """The machine of an attempt that continues another one in the same store."""
    other = Shipped(folder)
    other.store = at.store
    said = {number: Ancestor(0, None) if number == 1 else origin for number in range(1, attempt)}
    branch = Branch(attempt, said.get)
    other.folders = FolderUploads(
        other.workspace, at.store, RUN, other.program, node=other.node, note=other.notes.append, branch=branch, clock=lambda: 0.0
    )
    return other


def test_what_an_overtaken_attempt_sent_arrives_late_and_changes_nothing_of_the_next_ones(
    at: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "_WHOLE_BYTES", 1 << 20)
    at.save(1)
    at.look()
    late = LateStore(at.store)
    at.folders = FolderUploads(at.workspace, late, RUN, at.program, node=at.node, note=at.notes.append, clock=lambda: 0.0)
    at.save(2, content=b"of the first")
    late.holds = "/weights"
    with pytest.raises(TransientStoreError):
        at.look()

    next_one = continuing(at, tmp_path / "next", 2, Ancestor(1, 1))
    next_one.save(2, content=b"of the second", attempt=2)
    next_one.look()
    manifest = f"{RUN}/{layout.checkpoints(2)}/{layout.step_folder(2)}/{layout.MANIFEST}"
    sealed = at.store.objects[manifest]
    assert late.deliver() == 1

    assert at.store.objects[manifest] == sealed
    assert at.store.objects[manifest.replace(layout.MANIFEST, "weights")][0] == b"of the second"
    places = [(step, attempt) for step, attempt, _ in places_in_store(at.store, RUN)]
    assert places == [(2, 2), (2, 1), (1, 1)]
    branch = Branch(3, {1: Ancestor(0, None), 2: Ancestor(1, 1)}.get)
    assert [branch.holds(attempt, step, attempt) for step, attempt in places] == [True, False, True]


def test_the_attempt_that_continues_prunes_what_earlier_ones_left_and_never_a_later_ones(at: Shipped, tmp_path: Path) -> None:
    for step in (1, 2):
        at.save(step)
    at.look()
    next_one = continuing(at, tmp_path / "next", 2, Ancestor(1, 2))
    third = continuing(at, tmp_path / "third", 3, Ancestor(1, 2))
    third.save(3, attempt=3)
    third.look()
    for step in (4, 6, 8):
        next_one.save(step, attempt=2)
        next_one.look()
    assert [(step, attempt) for step, attempt, _ in places_in_store(at.store, RUN)] == [(8, 2), (6, 2), (4, 2), (3, 3)]


def test_a_checkpoint_that_a_retry_moved_into_its_own_folder_is_not_uploaded_again(at: Shipped) -> None:
    for step in (1, 2):
        at.save(step)
    at.look()
    (at.run / layout.CHECKPOINTS).rename(at.run / layout.checkpoints(2))
    before = len(at.written())
    at.look()
    assert len(at.written()) == before
    at.save(4, attempt=2)
    at.look()
    assert [(step, attempt) for step, attempt, _ in places_in_store(at.store, RUN)] == [(4, 2), (2, 1), (1, 1)]
