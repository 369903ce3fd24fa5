"""Every error that cloud-train raises on purpose, and the exit code that each one ends a command with.

::

    CloudTrainError                 1
    ├── UsageError                  2   the command line cannot be carried out as written
    ├── JobError                    3   a job or config file is wrong (``spec.problems.JobFileError`` lists every mistake)
    ├── NotFoundError               4   no such run, checkpoint, model or file, or an ambiguous prefix
    ├── MissingDependencyError      5   an optional part is not installed; the message names the command that installs it
    ├── StoreError                  6   a store cannot be reached, read or written (permission, disk full, …)
    ├── ProviderError               7   a provider refused, or cannot run this plan
    ├── CorruptError                8   bytes arrived, but they are not the bytes that were written
    └── ConflictError               9   the run is not in a state in which this can be done

Exit codes 10 to 17 say how a run ended (``run.states.Cause.exit_code``); 130 is Ctrl-C. docs/exit-codes.md explains them all.
"""

from typing import ClassVar


class CloudTrainError(Exception):
    """The root. ``message`` says what happened and where; ``hint`` says what to do next.

    ``code`` is stable: scripts may match on it (``--json`` prints it). ``exit_code`` is the status that the CLI exits with.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CloudTrainError):
    """The command line cannot be carried out as written."""

    code = "usage"
    exit_code = 2


class JobError(CloudTrainError):
    """A job or config file is wrong."""

    code = "job"
    exit_code = 3


class NotFoundError(CloudTrainError):
    """A run, checkpoint, model or file that was named does not exist, or the name fits several."""

    code = "not-found"
    exit_code = 4


class MissingDependencyError(CloudTrainError):
    """An optional part of cloud-train, or something that it needs, is not installed."""

    code = "missing-dependency"
    exit_code = 5


class StoreError(CloudTrainError):
    """A store cannot be reached, read or written."""

    code = "store"
    exit_code = 6


class ProviderError(CloudTrainError):
    """A provider refused a request, or cannot carry out this plan."""

    code = "provider"
    exit_code = 7


class CorruptError(CloudTrainError):
    """Bytes arrived, but they are not the bytes that were written."""

    code = "corrupt"
    exit_code = 8


class ConflictError(CloudTrainError):
    """The run is not in a state in which this can be done."""

    code = "conflict"
    exit_code = 9
