"""Maps the state of an attempt's containers to that of the attempt. Pure.

While a container runs, its worker reports to the run directory, for the other nodes as well. The state derived here counts only if a worker
could not report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from cloud_train import exit_status
from cloud_train.providers.base import TAKEN, Observation, ended, said_by
from cloud_train.run.states import Cause, State

_LOST = 255
"""The exit status that the engine assigns to a container that ended unobserved, while the engine or the machine was restarted."""


@dataclass(frozen=True)
class Seen:
    """One container, as the engine sees it."""

    rank: int
    name: str
    status: str
    """``created``, ``running``, ``paused``, ``restarting``, ``removing``, ``exited``, ``dead``, or ``missing`` if it does not exist."""
    exit_code: int = 0
    out_of_memory: bool = False
    memory_limit: int = 0
    """Bytes; 0 for none."""
    error: str = ""
    finished: str = ""
    """RFC 3339."""

    @classmethod
    def of(cls, rank: int, name: str, inspected: Mapping[str, Any] | None) -> Self:
        """From the response to ``GET /containers/{id}/json``, or None for a missing container."""
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
    """The state of an attempt, and the rank of the node that determines it."""

    observation: Observation
    rank: int | None = None


def verdict(nodes: Sequence[Seen]) -> Verdict:
    """The state of the attempt with these nodes, in order of rank.

    The first container that ended without a report from its worker ends the attempt, because the others wait for it. Otherwise node 0
    decides: its worker waits for the others, and reports for all of them.
    """
    if not nodes:
        return Verdict(ended(Cause.INFRASTRUCTURE, "the submission was interrupted before it created a container"))
    if nodes[0].rank == 0 and nodes[0].status == "exited" and said_by(nodes[0].exit_code) is TAKEN:
        return Verdict(TAKEN)
    ends = [(node, end) for node in nodes if (end := _end_of(node)) is not None]
    unreported = [(node, end) for node, end in ends if _reported_by(node) is None]
    if unreported:
        # Running out of memory explains other failures at about the same time. A missing container has no time.
        node, end = min(unreported, key=lambda pair: (not pair[0].out_of_memory, not pair[0].finished, pair[0].finished))
    elif ends and ends[0][0].rank == 0:
        node, end = ends[0]
    else:
        return Verdict(_living(nodes))
    return Verdict(replace(end, message=f"node {node.rank}: {end.message}") if len(nodes) > 1 else end, node.rank)


def _reported_by(node: Seen) -> Observation | None:
    """The end that the node's worker reported with its exit status; None if there is none, or another worker had begun the attempt."""
    said = said_by(node.exit_code) if node.status == "exited" else None
    return None if said is TAKEN else said


def _living(nodes: Sequence[Seen]) -> Observation:
    for node in nodes:
        if node.status == "paused":
            return Observation(State.RUNNING, None, f"{node.name} is paused; resume it with: docker unpause {node.name}")
        if node.status not in {"running", "restarting", "exited"}:
            return Observation(State.RUNNING, Cause.UNKNOWN, f"{node.name} is in an unknown state: {node.status!r}")
    return Observation(State.RUNNING)


def _end_of(node: Seen) -> Observation | None:
    """The end of this container; None if it has not ended."""
    if node.status in {"missing", "removing"}:
        return ended(Cause.INFRASTRUCTURE, f"the container {node.name} was removed")
    if node.status == "created":
        why = f": {node.error}" if node.error else "; the submission was interrupted"
        return ended(Cause.INFRASTRUCTURE, f"the container {node.name} was created but never started{why}")
    if node.status == "dead":
        return ended(Cause.INFRASTRUCTURE, f"the engine could not remove the container {node.name}: it is dead{_tail(node)}")
    return _of_exit(node) if node.status == "exited" else None


def _of_exit(node: Seen) -> Observation:
    code = node.exit_code
    if said := _reported_by(node):
        return said
    if node.out_of_memory:
        limit = f"its {_megabytes(node.memory_limit)} (resources.memory)" if node.memory_limit else "all of the machine's memory"
        return ended(Cause.OUT_OF_MEMORY, f"the container ran out of memory ({limit}), and its worker was killed")
    if code == exit_status.KILLED:
        return ended(Cause.INFRASTRUCTURE, "the container was killed: by a user, by the engine as it stopped, or by the kernel")
    if code == exit_status.TERMINATED:
        return ended(Cause.INFRASTRUCTURE, "the container was stopped before its worker handled signals")
    if code == _LOST:
        return ended(Cause.INFRASTRUCTURE, f"the engine or the machine was restarted while the container ran{_tail(node)}")
    cause = Cause.INFRASTRUCTURE if code == exit_status.STORE else Cause.FAILED
    return ended(cause, f"the container ended with exit status {code} before its worker could report why{_tail(node)}")


def _tail(node: Seen) -> str:
    return f" ({node.error})" if node.error else ""


def _megabytes(size: int) -> str:
    return f"{size / 10**6:g} MB"
