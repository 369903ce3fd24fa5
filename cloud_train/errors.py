"""The errors that cloud-train raises on purpose: the whole tree, with the exit status of each branch.

::

    CloudTrainError                        1
    ├── UsageError                         2  invalid usage
    │   ├── NotTrustedError                   another person's decisions, which were not accepted
    │   └── UnknownProviderError
    ├── JobError                           3  a job or config file is wrong
    │   ├── BrokenComponentError              a plugin named in a job cannot be loaded
    │   ├── UnknownComponentError             no component has the name in the job
    │   ├── JobFileError                      every mistake in a file, with its position
    │   └── FieldError                        one mistake, without its position
    │       └── AbsentDataError
    ├── NotFoundError                      4  no such run, checkpoint, model or file, or more than one match
    ├── MissingDependencyError             5  an optional part is not installed
    ├── StoreError                         6  a store cannot be reached, read or written
    │   ├── AccessDeniedError
    │   │   └── CredentialsEndedError
    │   ├── AddressRefusedError
    │   ├── InvalidKeyError
    │   ├── NotPlainError                     also a CorruptError
    │   ├── ObjectChangedError
    │   ├── ObjectExistsError
    │   ├── ObjectMissingError
    │   ├── RetriesExhaustedError             still unavailable after all retries
    │   ├── SupersededError                   a newer attempt of the run has begun elsewhere
    │   ├── TransientStoreError               a retry may succeed
    │   └── UploadGoneError
    ├── ProviderError                      7  a provider refused a request, or cannot run this plan
    │   ├── AlreadyLaunchedError
    │   ├── CloudError
    │   │   ├── RefusedError
    │   │   │   ├── ExistsError
    │   │   │   ├── ForbiddenError
    │   │   │   ├── MissingError
    │   │   │   ├── ThrottledError
    │   │   │   └── UnreachableError
    │   │   └── UnansweredError
    │   ├── EngineUnavailableError
    │   ├── FolderUnseenError
    │   ├── LaunchUnknownError
    │   ├── NameTakenError
    │   └── UntrustedHostError
    ├── ImageError                         7  a container image cannot be built or pushed
    │   └── RegistryError
    │       └── BrokenConnectionError
    ├── CorruptError                       8  data does not match its checksum or format
    │   └── DamagedRecordError                the ledger's record of a run is damaged
    ├── ConflictError                      9  the run's state does not allow this
    └── PredictionError                       the model could not be used; has the exit status of the predicting process

The first level is defined here, and each branch in its own package. Errors inside a worker or a trainer end an attempt, not a command, so
they are not listed. ``exit_status`` lists every exit status; those from 10 to 17, and 19, say how a run ended.
"""

from typing import ClassVar

from cloud_train import exit_status


class CloudTrainError(Exception):
    """The root. ``message`` says what is wrong and where; ``hint`` says what to do next.

    ``code`` is stable, so scripts may rely on it (``--json`` prints it). ``exit_code`` is the CLI's exit status.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = exit_status.INTERNAL

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CloudTrainError):
    """Invalid usage."""

    code = "usage"
    exit_code = exit_status.USAGE


class JobError(CloudTrainError):
    """A job or config file is wrong."""

    code = "job"
    exit_code = exit_status.JOB


class NotFoundError(CloudTrainError):
    """No such run, checkpoint, model or file, or more than one match."""

    code = "not-found"
    exit_code = exit_status.NOT_FOUND


class MissingDependencyError(CloudTrainError):
    """An optional part of cloud-train, or one of its dependencies, is not installed."""

    code = "missing-dependency"
    exit_code = exit_status.MISSING_DEPENDENCY


class StoreError(CloudTrainError):
    """A store cannot be reached, read or written."""

    code = "store"
    exit_code = exit_status.STORE


class ProviderError(CloudTrainError):
    """A provider refused a request, or cannot run this plan."""

    code = "provider"
    exit_code = exit_status.PROVIDER


class CorruptError(CloudTrainError):
    """Data does not match its checksum or its format."""

    code = "corrupt"
    exit_code = exit_status.CORRUPT


class ConflictError(CloudTrainError):
    """The run's state does not allow this."""

    code = "conflict"
    exit_code = exit_status.CONFLICT
