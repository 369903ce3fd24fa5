"""From what the Docker Engine says of an attempt's containers to where the attempt stands. Pure.

While a container runs, its worker speaks for itself in the run directory, of the other nodes too. What is said here counts only where a
worker could not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from cloud_train import exit_status
from cloud_train.providers.base import TAKEN, Observation
from cloud_train.run.states import Cause, State

_BY_WORKER = {cause.exit_code: cause for cause in Cause if cause is not Cause.REJECTED}
"""The exit statuses with which a worker says why its attempt ended."""
_LOST = 255
"""The exit status that the engine gives to a container of which it lost sight, because it was itself ended, or the machine was."""


@dataclass(frozen=True)
class Seen:
    """One container, as the engine sees it."""

    rank: int
    name: str
    status: str
    """``created``, ``running``, ``paused``, ``restarting``, ``removing``, ``exited`` or ``dead``; ``missing`` where there is none."""
    exit_code: int = 0
    out_of_memory: bool = False
    memory_limit: int = 0
    """Bytes; 0 for none."""
    error: str = ""
    finished: str = ""
    """RFC 3339."""

    @classmethod
    def of(cls, rank: int, name: str, inspected: Mapping[str, Any] | None) -> Self:
        """From the engine's answer to ``GET /containers/{id}/json``; None stands for a container that is not there."""
        if inspected is None:
            return cls(rank, name, "missing")
        state = inspected["State"]
        return cls(
            rank=rank,
            name=name,
            status=state["Status"],
            exit_code=state["ExitCode"],
            out_of_memory=state["OOMKilled"],
            memory_limit=inspected["HostConfig"].get("Memory") or 0,
            error=state["Error"],
            finished=state["FinishedAt"],
        )


@dataclass(frozen=True)
class Verdict:
    """Where an attempt stands, and the node that says so."""

    observation: Observation
    rank: int | None = None


def verdict(nodes: Sequence[Seen]) -> Verdict:
    """Where the attempt stands whose nodes are these, in the order of their ranks.

    The first container that ended without its worker's word ends the attempt, because the others wait for it. Otherwise node 0 does:
    its worker waits for the others, and says how all of them ended.
    """
    if not nodes:
        return Verdict(_end(Cause.INFRASTRUCTURE, "the submission was cut off before there was a container"))
    if nodes[0].rank == 0 and nodes[0].status == "exited" and nodes[0].exit_code == exit_status.TAKEN:
        return Verdict(TAKEN)
    ends = [(node, end) for node in nodes if (end := _end_of(node)) is not None]
    without_a_word = [(node, end) for node, end in ends if not _has_spoken(node)]
    if without_a_word:
        # What ran out of memory explains whatever broke around the same time; a missing container has no time.
        node, end = min(without_a_word, key=lambda pair: (not pair[0].out_of_memory, not pair[0].finished, pair[0].finished))
    elif ends and ends[0][0].rank == 0:
        node, end = ends[0]
    else:
        return Verdict(_living(nodes))
    return Verdict(replace(end, message=f"node {node.rank}: {end.message}") if len(nodes) > 1 else end, node.rank)


def _has_spoken(node: Seen) -> bool:
    return node.status == "exited" and node.exit_code in _BY_WORKER


def _living(nodes: Sequence[Seen]) -> Observation:
    for node in nodes:
        if node.status == "paused":
            return Observation(State.RUNNING, None, f"{node.name} is paused; it goes on with: docker unpause {node.name}")
        if node.status not in {"running", "restarting", "exited"}:
            return Observation(State.RUNNING, Cause.UNKNOWN, f"the engine calls {node.name} {node.status!r}, which says nothing here")
    return Observation(State.RUNNING)


def _end_of(node: Seen) -> Observation | None:
    """How this container ended; None while it has not."""
    if node.status in {"missing", "removing"}:
        return _end(Cause.INFRASTRUCTURE, f"the container {node.name} is gone: somebody removed it")
    if node.status == "created":
        why = f": {node.error}" if node.error else "; the submission was cut off"
        return _end(Cause.INFRASTRUCTURE, f"the container {node.name} was created and never started{why}")
    if node.status == "dead":
        return _end(Cause.INFRASTRUCTURE, f"the engine could not take the container {node.name} away: it is dead{_tail(node)}")
    return _of_exit(node) if node.status == "exited" else None


def _of_exit(node: Seen) -> Observation:
    code = node.exit_code
    if cause := _BY_WORKER.get(code):
        return _end(cause, cause.text)
    if node.out_of_memory:
        limit = f"its {_megabytes(node.memory_limit)} (resources.memory)" if node.memory_limit else "what the machine has"
        return _end(Cause.OUT_OF_MEMORY, f"the container needed more memory than {limit}, and its worker was killed for it")
    if code == exit_status.KILLED:
        return _end(Cause.INFRASTRUCTURE, "the container was killed: by somebody, by the engine as it stopped, or by the kernel")
    if code == exit_status.TERMINATED:
        return _end(Cause.INFRASTRUCTURE, "the container was stopped before its worker could listen")
    if code == _LOST:
        return _end(Cause.INFRASTRUCTURE, f"the engine or the machine was restarted while the container ran{_tail(node)}")
    cause = Cause.INFRASTRUCTURE if code == exit_status.STORE else Cause.FAILED
    return _end(cause, f"the container ended with exit status {code} before its worker could say why{_tail(node)}")


def _end(cause: Cause, message: str) -> Observation:
    return Observation(cause.state, cause, message)


def _tail(node: Seen) -> str:
    return f" ({node.error})" if node.error else ""


def _megabytes(size: int) -> str:
    return f"{size / 10**6:g} MB"
