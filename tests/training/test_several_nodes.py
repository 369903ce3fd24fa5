"""How the launchers of several nodes meet, and that node 0 keeps its store for as long as another still needs it."""

import socket
import threading
from collections.abc import Callable

import pytest
from torch.distributed.elastic.rendezvous import RendezvousParameters

from cloud_train.training import several_nodes
from cloud_train.training.several_nodes import SEVERAL_NODES_BACKEND, SeveralNodesRendezvous


def _two_met() -> list[SeveralNodesRendezvous]:
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        port = asking.getsockname()[1]
    both = [
        SeveralNodesRendezvous(RendezvousParameters(SEVERAL_NODES_BACKEND, f"127.0.0.1:{port}", "run-1", 2, 2, rank=rank))
        for rank in range(2)
    ]
    other = _in_thread(both[1].next_rendezvous)
    met = both[0].next_rendezvous()
    other.join()
    assert (met.rank, met.world_size) == (0, 2)
    return both


def _in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_node_0_leaves_last() -> None:
    first, second = _two_met()
    leaving = _in_thread(first.take_leave)
    leaving.join(0.1)
    assert leaving.is_alive(), "node 0's launcher dropped the store that node 1 still reads"
    second.take_leave()
    leaving.join(10)
    assert not leaving.is_alive()


def test_a_node_that_was_lost_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = _two_met()
    monkeypatch.setattr(several_nodes, "_LEAVE_SECONDS", 0.05)
    first.take_leave()


def test_an_end_before_the_meeting_needs_no_leave() -> None:
    SeveralNodesRendezvous(RendezvousParameters(SEVERAL_NODES_BACKEND, "127.0.0.1:1", "run-1", 2, 2, rank=0)).take_leave()
