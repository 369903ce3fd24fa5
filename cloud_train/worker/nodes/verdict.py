"""Why an attempt of several nodes ended: each node has an end of its own, and one of them is what happened to the attempt."""

from collections.abc import Collection, Mapping

from cloud_train.run.states import Cause, State
from cloud_train.worker.ending import Ending
from cloud_train.worker.status import NodeStatus

_STOPS = frozenset({Cause.CANCELLED, Cause.PREEMPTED, Cause.TIMED_OUT})


def verdict(own: Ending, others: Mapping[int, NodeStatus], lost: Collection[int]) -> Ending:
    """The attempt's end, as node 0 writes it down; not for an attempt of which every node ended well.

    ``own`` is node 0's end, ``others`` are the statuses of the other nodes by rank, ``lost`` those of them that gave no sign of life. The
    earliest end that was no consequence of another one counts; without one a node that is lost must have been the reason.
    """
    endings = {0: own} | {rank: _ending(status) for rank, status in others.items() if status.state.is_end}
    bad = sorted((end.time, rank) for rank, end in endings.items() if end.cause is not Cause.SUCCEEDED)
    at_fault = [rank for _, rank in bad if not endings[rank].is_consequence]
    if own.cause in _STOPS and not own.is_consequence and all(endings[rank].cause is own.cause for rank in at_fault):
        return own  # all nodes were stopped by the same hand
    if at_fault:
        return _named(endings[at_fault[0]], at_fault[0], own)
    asked = [rank for _, rank in bad if endings[rank].cause is Cause.PREEMPTED]
    if asked:  # they saved and stopped together: the node that was told to stop is gone before it could say so
        return _named(endings[asked[0]], asked[0], own)
    if lost:
        return Ending(Cause.INFRASTRUCTURE, f"another process of this training is gone: {nodes_named(lost)} without a word", own.exit_code)
    return _named(endings[bad[0][1]], bad[0][1], own)


def nodes_named(ranks: Collection[int]) -> str:
    """``node 2``, or ``nodes 1, 2 and 5``."""
    names = [str(rank) for rank in sorted(ranks)]
    return f"node {names[0]}" if len(names) == 1 else f"nodes {', '.join(names[:-1])} and {names[-1]}"


def is_leaving(status: NodeStatus) -> bool:
    """Whether a node ends, or has ended, otherwise than well: then the others have nothing left to do."""
    return status.state is State.STOPPING or (status.state.is_end and status.cause is not Cause.SUCCEEDED)


def _ending(status: NodeStatus) -> Ending:
    cause = status.cause or Cause.UNKNOWN
    return Ending(cause, status.message, status.program_exit_code, status.is_consequence, status.ended or status.heartbeat)


def _named(end: Ending, rank: int, own: Ending) -> Ending:
    message = f"node {rank}: {end.message}" if rank else end.message
    return Ending(end.cause, message, end.exit_code if rank else own.exit_code)
