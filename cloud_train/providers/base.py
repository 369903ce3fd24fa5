"""The provider protocol: the interface between cloud-train and a place where runs execute.

*Rendering* is pure (plan → request) and *sending* is thin. So a dry run takes the same path as a submission, and adapter tests compare
requests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from cloud_train.errors import ProviderError
from cloud_train.exit_status import TAKEN as TAKEN_STATUS
from cloud_train.exit_status import WORKSPACE
from cloud_train.run.states import Cause, State

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan  # imports pydantic, which observing runs does not need

SHOWS_WITHIN_SECONDS = 600.0
"""How long a cloud may take to show a new job. Until then, a missing job counts neither as deleted nor as never started."""

Request = dict[str, Any]
"""The request that starts an attempt: serializable as JSON, without secret values."""


class AlreadyLaunchedError(ProviderError):
    """The attempt was already launched; nothing was started a second time."""

    code = "already-launched"


class LaunchUnknownError(ProviderError):
    """The provider's response to a launch was lost, so it is unknown whether the attempt was started. ``Provider.find`` tells later."""

    code = "launch-unknown"


@dataclass(frozen=True)
class Capabilities:
    """The features of a provider. The table in docs/providers.md and the checks of a plan follow from them."""

    stores: tuple[str, ...]
    """Schemes of the stores that its machines can reach: ``file``, ``s3``, ``gs``, ``az``."""
    max_nodes: int
    spot: bool
    enforces: tuple[str, ...]
    """The fields of ``resources`` that it enforces: ``cpus``, ``memory``, ``accelerator``."""
    containers: bool = False
    """It runs container images: the plan then has one, and code and data are at the paths in ``container_paths``."""
    pulls_images: bool = False
    """Its machines pull the image from the setting ``repository``. Otherwise the image is built in a Docker Engine."""
    starts_as_root: bool = False
    """The folders of its machines belong to root, so images start as root, and the worker becomes the image's user."""
    machine_types: bool = False
    """It has machine types, one of which ``resources.machine`` or its setting ``machine`` may name."""
    mounts_folders: bool = False
    """Its containers can mount folders of this machine, such as ``data.path``."""
    forwards_credentials: bool = False
    """It passes this machine's credentials for the store to the attempt, which otherwise uses those of its machine."""
    named_config: bool = False
    """The config file named after the provider is used if none is chosen."""
    limits_runtime: bool = False
    """It stops a job without ``limits.duration`` after the setting ``max_runtime``."""
    polling_costs: bool = False
    """Polling is slow, costs money or counts against a limit, so it becomes less frequent over time."""
    shows_late: bool = False
    """A new job may take up to ``SHOWS_WITHIN_SECONDS`` to show up."""
    starts_slowly: bool = False
    """A start takes minutes, so the provider's own log is shown until the worker reports."""
    stops_slowly: bool = False
    """A stop takes minutes, so commands do not wait for it."""
    explains_stops: bool = False
    """It reports why it stopped a worker: a time limit, or a user at its console."""
    leaves_no_processes: bool = False
    """Once it reports an end, no process of the attempt is left to kill."""


@dataclass(frozen=True)
class Handle:
    """The provider's reference to one launched attempt, kept in the ledger."""

    run_id: str
    attempt: int
    provider: str
    store: str
    reference: dict[str, Any]
    """The provider's own reference, such as a process id, a container id or a job's ARN."""


@dataclass(frozen=True)
class Observation:
    """The provider's view of an attempt, independent of the run directory."""

    state: State
    cause: Cause | None = None
    message: str = ""
    is_elsewhere: bool = False
    """Whether another worker began this attempt first, so that the exit of the one launched here says nothing about the attempt."""


TAKEN = Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, "another worker began this attempt first", is_elsewhere=True)
"""The observation for a worker that exited because another one had begun the attempt."""

UNWRITABLE = (
    "the worker cannot write to any folder of its machine: make /tmp writable for the image's user, or use an image whose user is root"
)
"""The meaning of a worker's exit status ``WORKSPACE``. The store is not the cause."""

_CAUSES = {cause.exit_code: cause for cause in Cause if cause is not Cause.REJECTED}


def ended(cause: Cause, message: str = "") -> Observation:
    """The observation for an ended attempt; without a message, it has the cause's own text."""
    return Observation(cause.state, cause, message or cause.text)


def unknown(message: str) -> Observation:
    """The observation for an unknown state, which counts as running."""
    return Observation(State.RUNNING, Cause.UNKNOWN, message)


def said_by(exit_status: int) -> Observation | None:
    """The observation for a worker's exit status; None for a status that workers do not use."""
    if exit_status == TAKEN_STATUS:
        return TAKEN
    if exit_status == WORKSPACE:
        return ended(Cause.INFRASTRUCTURE, UNWRITABLE)
    cause = _CAUSES.get(exit_status)
    return None if cause is None else ended(cause)


def worker_arguments(plan: "Plan") -> list[str]:
    """The arguments of every worker: run id, attempt, the digest of the only ``run.json`` that it may execute, and the launch's token."""
    token = ["--token", plan.token] if plan.token else []
    return ["--run", plan.run_id, "--attempt", str(plan.attempt), "--record", plan.record_sha256, *token]


class Provider(Protocol):
    """A place where runs execute."""

    name: str
    capabilities: Capabilities

    def interpreter(self, settings: Mapping[str, Any]) -> str:
        """The Python on this provider's machines that runs the worker and the built-in trainers."""

    def render(self, plan: "Plan") -> Request:
        """The exact request that would start this plan's attempt. Pure: it reads only its arguments, and writes nothing."""

    def check(self, request: Request) -> list[str]:
        """The problems for which the provider would refuse this request, each with the field and the rule."""

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Start the attempt; ``secrets`` are passed to it and never recorded. Raises AlreadyLaunchedError if it was already started."""

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """The attempt, if it was ever launched. Recovers a launch that was not recorded.

        ``settings`` come from this machine's config file, never from a run directory. Raises ProviderError if the provider
        cannot be reached.
        """

    def observe(self, handle: Handle) -> Observation:
        """The attempt's state, as the provider sees it; with the cause *unknown* for a state that it cannot determine."""

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """Tell the attempt to stop within its grace period, without waiting for it; ``force`` kills it and all its processes at once."""

    def clean_up(self, handle: Handle) -> None:
        """Remove everything that an ended attempt left at the provider (containers, networks), if it can be reached.

        Called once the end is recorded, when the worker may still be exiting: give it a moment. A second call changes nothing; a running
        attempt is left alone.
        """

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """The provider's own log from ``cursor`` on, including output from before the worker started, and the next cursor."""


@runtime_checkable
class ManyObserved(Protocol):
    """A provider that observes many attempts with one listing. Optional."""

    def observe_all(self, handles: Sequence[Handle]) -> list[Observation]:
        """The observations that ``observe`` would return, in the same order."""


@runtime_checkable
class Remarking(Protocol):
    """A provider that comments on a plan before it is submitted. Optional."""

    def remarks(self, plan: "Plan") -> Iterator[str]:
        """Remarks for the user before anything is paid for, such as on a machine that is larger than necessary. Pure."""


@runtime_checkable
class ConsoleLinked(Protocol):
    """A provider whose console has a page for each job. Optional."""

    def console_url(self, about: "Handle | Request") -> str | None:
        """URL of the page of an attempt's job; for a request that was not sent, of the page that its job would have. Pure.

        None if it is not known yet, such as for a job whose name the provider chooses.
        """


@runtime_checkable
class RegistryLogin(Protocol):
    """A provider with a registry whose login is not in Docker's config file. Optional."""

    def registry_login(self, settings: Mapping[str, Any]) -> tuple[str, str] | None:
        """User and password for the registry of ``settings["repository"]``; None for any other registry, which uses Docker's own login.

        Creates the repository first if the settings say so. Called again if a push outlasts the login, which is sent only to the host in
        ``repository``. Raises ProviderError.
        """


@dataclass(frozen=True)
class Diagnosis:
    """A finding of ``doctor``: something that a provider needs, and whether it is there."""

    name: str
    """Its name, such as ``role``, shown after the provider's name."""
    status: Literal["ok", "warning", "error"]
    detail: str
    remedy: str = ""


@runtime_checkable
class Diagnosed(Protocol):
    """A provider that checks its settings for ``cloud-train doctor --config``. Optional."""

    def diagnose(self, settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
        """Check that everything in the settings exists and may be used, one finding at a time. Errors are findings; nothing is started."""


@runtime_checkable
class JobDiagnosed(Protocol):
    """A provider that checks for ``cloud-train doctor JOB`` whether a job's machines may be used. Optional."""

    def diagnose_job(self, plan: "Plan") -> Iterator[Diagnosis]:
        """Check the quota for the exact machine of the plan, spot or not, times its nodes. Errors are findings; nothing is started."""
