"""An attempt on its way into a store: its status and its signs of life, marks in both directions, and the end last of all."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.errors import StoreError
from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.streams import SegmentedStream
from cloud_train.run.succession import SupersededError
from cloud_train.storage.base import TransientStoreError
from cloud_train.storage.local import LocalStore
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.uploads.attempts import AttemptUploads
from tests.storage.memory_store import MemoryStore

RUN = "run-1"
STATUS = f"{RUN}/{layout.status(1)}"
STARTED = AttemptStatus(State.STARTING, started=100.0, heartbeat=100.0, host="here", pid=7, token="mine")
WRITES = ("put", "create", "replace")


class Shipped:
    """A workspace that a worker writes to, a store, a clock that stands still, and the uploads between them."""

    def __init__(self, folder: Path, node: NodeContext | None = None) -> None:
        self.node = node or NodeContext()
        self.workspace = LocalStore(folder / f"work-{self.node.rank}")
        self.store = MemoryStore()
        self.now = 0.0
        self.uploads = self.begin()

    def begin(self, *, again: bool = False) -> AttemptUploads:
        return AttemptUploads(self.workspace, self.store, RUN, 1, node=self.node, token="mine", again=again, clock=lambda: self.now)

    def says(self, status: AttemptStatus, attempt: int = 1) -> None:
        self.workspace.put(f"{RUN}/{layout.status(attempt, self.node.rank)}", status.to_json())

    def ends(self, cause: Cause = Cause.SUCCEEDED, attempt: int = 1) -> bytes:
        ended = STARTED.ended_with(cause, "why", 200.0, 0)
        self.says(ended, attempt)
        return ended.to_json()

    def print(self, text: bytes, name: str = layout.output_log(1)) -> None:
        path = self.workspace.path_of(f"{RUN}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text)

    def look(self, seconds: float = 0.5) -> bool:
        self.now += seconds
        return self.uploads.look()

    def folders_arrive(self) -> None:
        self.uploads.folders_arrived(self.uploads.waiting())

    def status(self, attempt: int = 1) -> AttemptStatus:
        key = f"{RUN}/{layout.status(attempt)}"
        return AttemptStatus.from_json(self.store.objects[key][0], key)

    def puts(self, key: str = STATUS) -> int:
        return sum(name in WRITES and at == key for name, at in self.store.calls)


@pytest.fixture
def at(tmp_path: Path) -> Shipped:
    return Shipped(tmp_path)


@pytest.fixture
def as_node(tmp_path: Path, request: pytest.FixtureRequest) -> Shipped:
    return Shipped(tmp_path, NodeContext(request.param, 2))


def test_the_status_goes_at_every_change_and_as_a_sign_of_life_every_ten_seconds(at: Shipped) -> None:
    at.says(STARTED)
    at.look()
    assert at.puts() == 1
    at.says(replace(STARTED, state=State.RUNNING, resumed_step=7))
    at.look()
    assert (at.puts(), at.status().state, at.status().resumed_step) == (2, State.RUNNING, 7)
    for second in range(1, 10):
        at.says(replace(STARTED, state=State.RUNNING, resumed_step=7, heartbeat=100.0 + second, elapsed=0.0 + second))
        at.look(1)
    assert at.puts() == 2
    at.look(1)
    assert (at.puts(), at.status().heartbeat, at.status().elapsed) == (3, 109.0, 9.0)


def test_the_end_is_the_last_write_of_all(at: Shipped) -> None:
    at.says(STARTED)
    at.print(b"one\n")
    at.print(b"note\n", layout.worker_log(1))
    at.look()
    at.print(b"two")
    at.print(b'{"step": 1}\n{', layout.metrics(1))
    end = at.ends()
    assert not at.look()
    assert at.uploads.waiting() == [1]
    at.folders_arrive()
    assert at.look()
    assert [key for name, key in at.store.calls if name in WRITES][-1] == STATUS
    assert at.store.objects[STATUS][0] == end
    assert SegmentedStream(at.store, f"{RUN}/{layout.output_log(1)}").read(0) == b"one\ntwo"
    assert SegmentedStream(at.store, f"{RUN}/{layout.metrics(1)}").read(0) == b'{"step": 1}\n{'
    before = at.store.asked(*WRITES)
    assert at.look()
    assert at.store.asked(*WRITES) == before


def test_an_end_waits_for_the_folders_and_meanwhile_there_are_signs_of_life(at: Shipped) -> None:
    at.says(replace(STARTED, state=State.STOPPING, elapsed=40.0))
    at.look()
    at.ends(Cause.CANCELLED)
    for _ in range(25):
        assert not at.look(1)
    assert at.status().state is State.STOPPING
    assert at.puts() == 3
    assert at.status().elapsed == 60.0  # as the last heartbeat, 20 s later: the start that follows from both stays the same
    assert at.status().heartbeat == pytest.approx(time.time(), abs=60)
    at.folders_arrive()
    assert at.look()
    assert at.status().cause is Cause.CANCELLED


def test_another_shipper_that_finds_an_end_gives_signs_of_life_with_the_state_of_the_store(at: Shipped) -> None:
    at.says(replace(STARTED, state=State.RUNNING))
    at.look()
    at.ends()
    at.uploads = at.begin(again=True)
    assert not at.look(11)
    assert at.status().state is State.RUNNING
    at.folders_arrive()
    assert at.look()
    assert at.status().state is State.SUCCEEDED


def test_an_end_that_was_acknowledged_and_lost_is_not_believed(at: Shipped) -> None:
    at.says(STARTED)
    at.look()
    end = at.ends()
    at.look()
    at.folders_arrive()
    before = at.store.objects[STATUS]

    def put_back(name: str, key: str) -> None:
        if name == "get" and key == STATUS:
            at.store.objects[STATUS] = before

    at.store.before = put_back
    with pytest.raises(StoreError, match="reads back differently"):
        at.look()
    at.store.before = lambda name, key: None
    assert at.look()
    assert at.store.objects[STATUS][0] == end


def test_a_store_that_is_away_delays_and_loses_nothing(at: Shipped) -> None:
    at.says(STARTED)
    at.print(b"one\n")

    def away(name: str, key: str) -> None:
        raise TransientStoreError("away")

    at.store.before = away
    for text in (b"two\n", b"three\n"):
        with pytest.raises(TransientStoreError):
            at.look(20)
        at.print(text)
    end = at.ends()
    with pytest.raises(TransientStoreError):
        at.look(20)
    at.store.before = lambda name, key: None
    assert not at.look(20)
    at.folders_arrive()
    assert at.look()
    assert SegmentedStream(at.store, f"{RUN}/{layout.output_log(1)}").read(0) == b"one\ntwo\nthree\n"
    assert at.store.objects[STATUS][0] == end


def lost_touch(at: Shipped) -> None:
    """The store is away for a minute, in which another machine writes the attempt's end."""
    at.says(replace(STARTED, state=State.RUNNING))
    at.look()

    def away(name: str, key: str) -> None:
        raise TransientStoreError("away")

    at.store.before = away
    with pytest.raises(TransientStoreError):
        at.look(60)
    at.store.place(STATUS, STARTED.ended_with(Cause.INFRASTRUCTURE, "no sign of life", 150.0).to_json())
    at.store.before = lambda name, key: None


def test_an_end_that_another_machine_wrote_is_taken_back_by_the_next_heartbeat(at: Shipped) -> None:
    lost_touch(at)
    at.look()
    assert at.status().state is State.RUNNING
    assert not at.uploads.is_superseded
    at.ends()
    at.look()
    at.folders_arrive()
    assert at.look()
    assert at.status().cause is Cause.SUCCEEDED


def test_an_attempt_that_was_overtaken_while_its_store_was_away_gives_way(at: Shipped) -> None:
    lost_touch(at)
    theirs = replace(STARTED, token="another").to_json()
    at.store.place(f"{RUN}/{layout.status(2)}", theirs)
    at.look()
    assert at.status().message == "no sign of life"
    assert at.workspace.get(f"{RUN}/{layout.superseded(1)}") == b"2\n"
    with pytest.raises(SupersededError, match="superseded by attempt 2"):
        at.uploads.check()
    at.print(b"last words")
    at.ends(Cause.INFRASTRUCTURE)
    at.look()
    at.folders_arrive()
    assert at.look()
    assert at.status().message == "why"
    assert at.store.objects[f"{RUN}/{layout.status(2)}"][0] == theirs
    assert SegmentedStream(at.store, f"{RUN}/{layout.output_log(1)}").read(0) == b"last words"


def test_an_attempt_is_overtaken_without_any_change_of_its_own_status(at: Shipped) -> None:
    at.says(replace(STARTED, state=State.RUNNING))
    at.look()
    at.store.place(f"{RUN}/{layout.status(2)}", replace(STARTED, token="another").to_json())
    at.look(10)
    assert at.uploads.is_superseded
    before = at.puts()
    at.look(10)
    assert at.puts() == before


def test_the_next_attempt_of_the_same_launch_overtakes_nothing(at: Shipped) -> None:
    at.says(replace(STARTED, state=State.RUNNING))
    at.look()
    at.store.place(f"{RUN}/{layout.status(2)}", STARTED.to_json())
    at.look(10)
    at.uploads.check()
    assert not at.uploads.is_superseded


def test_a_heartbeat_is_one_conditional_write_and_one_small_read_in_ten_seconds(at: Shipped) -> None:
    at.says(replace(STARTED, state=State.RUNNING))
    at.look()
    marks = ("get", f"{RUN}/{layout.cancel(1)}")
    at.store.calls.clear()
    for second in range(1, 601):
        at.says(replace(STARTED, state=State.RUNNING, heartbeat=100.0 + second))
        at.look(1)
    counted = Counter(call for call in at.store.calls if call != marks)
    assert counted == {("replace", STATUS): 60, ("read", f"{RUN}/{layout.status(2)}"): 60}
    assert at.store.calls.count(marks) == 150


def test_without_a_worker_all_that_lies_here_is_shipped_and_no_end_is_made_up(at: Shipped) -> None:
    at.says(replace(STARTED, state=State.RUNNING))
    at.look()
    at.print(b"last words")
    at.uploads.expect_no_end()
    assert not at.look()
    at.folders_arrive()
    assert at.look()
    assert SegmentedStream(at.store, f"{RUN}/{layout.output_log(1)}").read(0) == b"last words"
    assert at.status().state is State.RUNNING


def test_each_attempt_is_shipped_and_its_end_does_not_wait_for_the_next_one(at: Shipped) -> None:
    at.says(STARTED)
    at.look()
    at.ends(Cause.FAILED)
    at.look()
    at.folders_arrive()
    assert at.look()
    at.says(STARTED, attempt=2)
    at.print(b"second\n", layout.output_log(2))
    assert not at.look()
    assert (at.status(1).cause, at.status(2).state) == (Cause.FAILED, State.STARTING)
    assert (at.uploads.begun(), at.uploads.newest) == ([2], 2)
    at.ends(attempt=2)
    at.look()
    at.folders_arrive()
    assert at.look()
    assert SegmentedStream(at.store, f"{RUN}/{layout.output_log(2)}").read(0) == b"second\n"


def test_what_is_written_down_after_an_end_arrives_too(at: Shipped) -> None:
    at.says(STARTED)
    at.look()
    at.ends(Cause.FAILED)
    at.look()
    at.folders_arrive()
    assert at.look()
    at.print(b"no further attempt: told to stop\n", layout.worker_log(1))
    cancelled = at.ends(Cause.CANCELLED)
    assert at.look()
    assert at.store.objects[STATUS][0] == cancelled
    assert SegmentedStream(at.store, f"{RUN}/{layout.worker_log(1)}").read(0) == b"no further attempt: told to stop\n"


def test_the_mark_of_somebody_who_cancels_arrives_within_seconds(at: Shipped) -> None:
    at.says(STARTED)
    at.look()
    mark = f"{RUN}/{layout.cancel(1)}"
    asked = at.store.calls.count(("get", mark))
    for _ in range(8):
        at.look(1)
    assert at.store.calls.count(("get", mark)) - asked == 2
    at.store.place(mark, b"")
    for _ in range(4):
        at.look(1)
    assert at.workspace.get(mark) == b""


def test_the_mark_of_somebody_who_cancels_between_two_attempts_arrives(at: Shipped) -> None:
    at.says(STARTED)
    at.look()
    at.ends(Cause.FAILED)
    at.look()
    at.folders_arrive()
    assert at.look()
    mark = f"{RUN}/{layout.cancel(1)}"
    at.store.place(mark, b"")
    at.says(STARTED, attempt=2)
    at.look(4)
    assert at.workspace.get(mark) == b""


@pytest.mark.parametrize("as_node", [0], indirect=True)
def test_node_0_hears_of_the_others_and_tells_them_where_to_start_and_whether_to_go_on(as_node: Shipped) -> None:
    at, start, following = as_node, f"{RUN}/{layout.start(1)}", f"{RUN}/{layout.following(1)}"
    at.says(STARTED)
    at.store.place(f"{RUN}/{layout.status(1, 1)}", b"of node 1")
    at.look()
    assert at.workspace.get(f"{RUN}/{layout.status(1, 1)}") == b"of node 1"
    at.workspace.put(start, b"step-00000007")
    at.look()
    assert at.store.objects[start][0] == b"step-00000007"
    at.ends(Cause.FAILED)
    at.look()
    at.folders_arrive()
    assert at.look()
    for text in (b"1.0\n", b"2.0\n"):  # after its own end: as long as it waits to begin another
        at.workspace.put(following, text)
        at.look()
        assert at.store.objects[following][0] == text
    at.workspace.delete(following)
    at.look()
    assert following not in at.store.objects


@pytest.mark.parametrize("as_node", [1], indirect=True)
def test_another_node_hears_of_node_0_also_after_its_own_end(as_node: Shipped) -> None:
    at, start, following = as_node, f"{RUN}/{layout.start(1)}", f"{RUN}/{layout.following(1)}"
    at.store.place(STATUS, b"of node 0")
    at.says(STARTED)
    at.look()
    assert at.workspace.get(STATUS) == b"of node 0"
    at.store.place(start, b"")
    at.look(1)
    assert at.workspace.get(start) == b""
    at.ends(Cause.FAILED)
    at.look()
    at.folders_arrive()
    assert at.look()
    assert f"{RUN}/{layout.status(1, 1)}" in at.store.objects
    at.store.place(STATUS, b"its end")
    at.store.place(following, b"1.0\n")
    at.look(1)
    assert at.workspace.get(STATUS) == b"its end"
    assert at.workspace.get(following) == b"1.0\n"
    at.store.delete(following)
    at.store.place(f"{RUN}/{layout.status(2)}", b"of node 0")
    at.look(1)
    assert not at.workspace.path_of(following).exists()
    assert at.workspace.get(f"{RUN}/{layout.status(2)}") == b"of node 0"
    assert at.store.objects[STATUS][0] == b"its end"
