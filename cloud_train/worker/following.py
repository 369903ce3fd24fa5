"""How a node that is not node 0 goes on after its own end: node 0 decides what the attempt's cause is and whether another one follows."""

from time import monotonic

from cloud_train.run.states import Cause
from cloud_train.worker.context import AttemptContext
from cloud_train.worker.ending import Ending
from cloud_train.worker.nodes.verdict import nodes_named


def attempt_cause(end: Ending, at: AttemptContext) -> Cause:
    """Why the attempt ended, as node 0 wrote it down; this node's own cause if node 0 never came, is gone or takes too long."""
    patience = at.timing.lost if end.is_consequence else at.timing.silence
    since = monotonic()
    while True:
        at.peers.look()
        status = at.peers.statuses.get(0)
        if status is not None and status.cause is not None:
            return status.cause
        if at.peers.missing():
            return end.cause
        if at.peers.silent(patience):
            at.worker_log.note(f"{nodes_named([0])} gives no sign of life: this node's own cause is {end.cause.value}")
            return end.cause
        if at.signals.stop_requested and monotonic() - since > at.timing.farewell:
            return end.cause
        at.signals.wait(at.timing.look)


def another_follows(at: AttemptContext) -> bool:
    """Wait until node 0 has begun another attempt; False if it does not, or is gone, or if this node is told to stop."""
    said, changed, allowed = None, monotonic(), at.timing.farewell
    while not at.signals.stop_requested and not at.is_cancelled():
        if at.peers.has_begun_another():
            return True
        now_said = at.peers.announced()
        if now_said != said:
            said, changed, allowed = now_said, monotonic(), at.timing.silence
        if (said is None and allowed == at.timing.silence) or monotonic() - changed > allowed:
            break
        at.signals.wait(at.timing.look)
    at.worker_log.note("no further attempt")
    return False


def last_word(cause: Cause, at: AttemptContext) -> Cause:
    """The cause of the last attempt: whoever cancels between two of them gets a cancelled run, as node 0 writes down a moment later."""
    give_up_at = monotonic() + at.timing.farewell
    while cause is not Cause.CANCELLED and 0 in at.peers.statuses and at.is_cancelled() and monotonic() < give_up_at:
        at.peers.look()
        cause = at.peers.statuses[0].cause or cause
        at.signals.wait(at.timing.join_look)
    return cause
