"""Where an attempt stands, and the one enum that says why it ended: state, retry, text and exit code all follow from the cause."""

from enum import Enum


class _Text(str, Enum):  # noqa: UP042 -- StrEnum came with Python 3.11, and the worker runs on 3.10 as well
    """Members that are the text they stand for, in messages too."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, format_spec: str) -> str:
        return format(str(self.value), format_spec)


class State(_Text):
    """Where an attempt stands. The last four are ends."""

    SUBMITTING = "submitting"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_end(self) -> bool:
        """Whether nothing more will happen in this attempt."""
        return self in _ENDS


_ENDS = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.INTERRUPTED})


class Cause(_Text):
    """Why an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    OUT_OF_MEMORY = "out-of-memory"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"
    INFRASTRUCTURE = "infrastructure"
    REJECTED = "rejected"
    UNKNOWN = "unknown"

    @property
    def state(self) -> State:
        """The state that an attempt with this cause ends in. Cancelled is not failed; interrupted was no fault of the program."""
        return _STATE.get(self, State.FAILED)

    @property
    def text(self) -> str:
        """One sentence for a person."""
        return _TEXT[self]

    @property
    def exit_code(self) -> int:
        """What a command that waited for the run exits with; 0 for success, 10 to 17 otherwise."""
        return _EXIT_CODE[self]


_STATE = {
    Cause.SUCCEEDED: State.SUCCEEDED,
    Cause.CANCELLED: State.CANCELLED,
    Cause.PREEMPTED: State.INTERRUPTED,
    Cause.INFRASTRUCTURE: State.INTERRUPTED,
}

_TEXT = {
    Cause.SUCCEEDED: "The program ended well.",
    Cause.FAILED: "The program ended with an error.",
    Cause.OUT_OF_MEMORY: "The program needed more memory than there was.",
    Cause.PREEMPTED: "The machine was taken back, or told the run to stop.",
    Cause.CANCELLED: "The run was cancelled.",
    Cause.TIMED_OUT: "The run reached its time limit.",
    Cause.INFRASTRUCTURE: "The machine or its connection failed; the program did not.",
    Cause.REJECTED: "The provider did not accept the run.",
    Cause.UNKNOWN: "The run ended, and nothing says why.",
}

_EXIT_CODE = {
    Cause.SUCCEEDED: 0,
    Cause.FAILED: 10,
    Cause.OUT_OF_MEMORY: 11,
    Cause.PREEMPTED: 12,
    Cause.CANCELLED: 13,
    Cause.TIMED_OUT: 14,
    Cause.INFRASTRUCTURE: 15,
    Cause.REJECTED: 16,
    Cause.UNKNOWN: 17,
}
