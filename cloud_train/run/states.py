"""The state of an attempt and the cause of its end, which determines the final state, whether to retry, the text and the exit code."""

from enum import Enum

from cloud_train import exit_status


class _Text(str, Enum):  # noqa: UP042 -- StrEnum came with Python 3.11, and the worker runs on 3.10 as well
    """An enum whose members are strings and format as their values."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, format_spec: str) -> str:
        return format(str(self.value), format_spec)


class State(_Text):
    """The state of an attempt. The last four are final."""

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
        """Whether the attempt has ended."""
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
    NO_ACCELERATOR = "no-accelerator"

    @property
    def state(self) -> State:
        """The final state of an attempt with this cause. *Interrupted* means that the program was not at fault."""
        return _STATE.get(self, State.FAILED)

    @property
    def text(self) -> str:
        """One sentence for a person."""
        return _TEXT[self]

    @property
    def exit_code(self) -> int:
        """The exit status of a command that waited for the run: 0 for success, otherwise 10 to 17, or 19."""
        return _EXIT_CODE[self]


_STATE = {
    Cause.SUCCEEDED: State.SUCCEEDED,
    Cause.CANCELLED: State.CANCELLED,
    Cause.PREEMPTED: State.INTERRUPTED,
    Cause.INFRASTRUCTURE: State.INTERRUPTED,
}

_TEXT = {
    Cause.SUCCEEDED: "Completed successfully.",
    Cause.FAILED: "The program failed.",
    Cause.OUT_OF_MEMORY: "The program ran out of memory.",
    Cause.PREEMPTED: "The machine was preempted or shut down.",
    Cause.CANCELLED: "The run was cancelled.",
    Cause.TIMED_OUT: "The run reached its time limit.",
    Cause.INFRASTRUCTURE: "The machine or its connection failed; the program did not.",
    Cause.REJECTED: "The provider did not accept the run.",
    Cause.UNKNOWN: "The run ended for an unknown reason.",
    Cause.NO_ACCELERATOR: "The program cannot use the accelerators that the job asks for.",
}

_EXIT_CODE = {
    Cause.SUCCEEDED: exit_status.OK,
    Cause.FAILED: exit_status.FAILED,
    Cause.OUT_OF_MEMORY: exit_status.OUT_OF_MEMORY,
    Cause.PREEMPTED: exit_status.PREEMPTED,
    Cause.CANCELLED: exit_status.CANCELLED,
    Cause.TIMED_OUT: exit_status.TIMED_OUT,
    Cause.INFRASTRUCTURE: exit_status.INFRASTRUCTURE,
    Cause.REJECTED: exit_status.REJECTED,
    Cause.UNKNOWN: exit_status.UNKNOWN,
    Cause.NO_ACCELERATOR: exit_status.NO_ACCELERATOR,
}
