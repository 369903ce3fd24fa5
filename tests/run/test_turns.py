"""The queue of the runs on one machine, with the real locks of this process in place of workers'."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_train import locks
from cloud_train.run import turns
from cloud_train.run.turns import Machine, Needs, Turn

MACHINE = Machine(cpus=4, memory_bytes=8 * 2**30, gpus=("0", "1"))


class Workers:
    """Workers that are alive for as long as their locks are held, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks: dict[str, int] = {}

    def look(self, name: str, **needs: int) -> Turn:
        """Join the queue, or look again."""
        if name not in self._locks:
            descriptor = locks.take(turns.lock_file(self.folder, f"{name}.1"))
            assert descriptor is not None
            self._locks[name] = descriptor
        known = next((turn for turn in turns.read(self.folder) if turn.name == f"{name}.1"), None)
        return turns.take(self.folder, known or Turn(f"{name}.1", Needs(**needs)), MACHINE)

    def end(self, name: str) -> None:
        os.close(self._locks.pop(name))

    def why(self, name: str) -> str:
        return turns.explain(turns.read(self.folder), f"{name}.1")


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path)
    yield made
    for name in list(made._locks):
        made.end(name)


def test_runs_start_while_their_cores_are_free_and_the_next_waits(workers: Workers) -> None:
    assert workers.look("a", cpus=2).gpus == ()
    assert workers.look("b", cpus=2).gpus == ()
    assert workers.look("c", cpus=1).is_waiting
    assert workers.why("c") == "place 1 in this machine's queue: the run asks for 1 core; a, b must end first"
    assert workers.why("a") == ""
    workers.end("a")
    assert not workers.look("c").is_waiting


def test_places_are_in_the_order_of_arrival(workers: Workers) -> None:
    workers.look("a", cpus=4)
    for name in "bc":
        assert workers.look(name, cpus=3).is_waiting
    assert workers.why("c").startswith("place 2 in this machine's queue")
    workers.end("a")
    assert workers.look("c").is_waiting  # looks first, but b was there before
    assert not workers.look("b").is_waiting
    assert workers.why("c").startswith("place 1")


def test_a_small_run_starts_before_a_large_one_only_if_that_does_not_delay_it(workers: Workers) -> None:
    workers.look("a", cpus=2, gpus=2)
    assert workers.look("large", gpus=1, cpus=1).is_waiting
    assert not workers.look("small", cpus=1).is_waiting  # one core is left for the large one
    assert workers.look("another", cpus=1).is_waiting


def test_each_run_is_given_gpus_of_its_own(workers: Workers) -> None:
    assert workers.look("a", gpus=1).gpus == ("0",)
    assert workers.look("b", gpus=1).gpus == ("1",)
    assert workers.look("c", gpus=1).is_waiting
    workers.end("a")
    assert workers.look("c").gpus == ("0",)


def test_a_waiting_run_keeps_the_gpus_that_become_free_from_those_that_came_later(workers: Workers) -> None:
    workers.look("a", gpus=1)
    assert workers.look("both", gpus=2).is_waiting
    assert workers.look("one", gpus=1).is_waiting
    workers.end("a")
    assert workers.look("one").is_waiting
    assert workers.look("both").gpus == ("0", "1")


def test_memory_counts_too(workers: Workers) -> None:
    workers.look("a", memory_bytes=6 * 2**30)
    assert workers.look("b", memory_bytes=3 * 2**30).is_waiting
    assert workers.why("b").endswith("the run asks for 3 GiB of memory; a must end first")
    assert not workers.look("c", cpus=4).is_waiting  # asks for none


def test_a_run_that_asks_for_more_than_the_machine_has_gets_the_whole_machine(workers: Workers) -> None:
    assert not workers.look("a", cpus=64).is_waiting
    assert workers.look("b", cpus=64).is_waiting
    workers.end("a")
    assert not workers.look("b").is_waiting


def test_the_turn_of_a_worker_that_was_killed_while_it_waited_is_given_to_the_next(workers: Workers) -> None:
    workers.look("a", cpus=4)
    workers.look("b", cpus=4)
    workers.look("c", cpus=4)
    workers.end("b")
    workers.end("a")
    assert not workers.look("c").is_waiting
    assert [turn.name for turn in turns.read(workers.folder)] == ["c.1"]
    assert [path.name for path in (workers.folder / turns.QUEUE).glob("*.json")] == ["c.1.json"]


def test_looking_at_the_queue_changes_nothing_and_needs_no_queue(tmp_path: Path) -> None:
    assert turns.read(tmp_path / "none") == []
    assert turns.explain([], "a.1") == ""
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"number": 1}', '{"number": "x", "cpus": 1, "memory_bytes": 0, "gpus": 0}'])
def test_a_damaged_file_in_the_queue_holds_up_nothing(workers: Workers, text: str) -> None:
    workers.look("a", cpus=4)
    workers.end("a")
    (workers.folder / turns.QUEUE / "x.1.json").write_text(text)
    assert not workers.look("b", cpus=4).is_waiting


def test_a_run_that_leaves_gives_its_place_away(workers: Workers) -> None:
    workers.look("a", cpus=4)
    workers.look("b", cpus=4)
    workers.look("c", cpus=4)
    turns.leave(workers.folder, "b.1")
    assert workers.why("c").startswith("place 1")


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Needs(2), "2 cores"),
        (Needs(1, 0, 1), "1 core and 1 GPU"),
        (Needs(8, 2**30 // 2, 2), "8 cores, 0.5 GiB of memory and 2 GPUs"),
    ],
)
def test_what_a_run_asks_for_is_said_in_words(needs: Needs, words: str) -> None:
    assert str(needs) == words
