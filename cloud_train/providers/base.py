"""The provider protocol: the interface between cloud-train and a place to run.

*Rendering* is pure (plan → request) and *sending* is thin, so that a dry run takes the path of a submission and adapter tests compare
requests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from cloud_train.errors import ProviderError
from cloud_train.exit_status import TAKEN as TAKEN_STATUS
from cloud_train.run.states import Cause, State

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan  # imports pydantic, which observing runs does without

SHOWS_WITHIN_SECONDS = 600.0
"""How long a cloud may take to show a new job; until then, a missing job counts neither as never started nor as deleted."""

Request = dict[str, Any]
"""What a provider sends to start an attempt: JSON-able, without secret values."""


class AlreadyLaunchedError(ProviderError):
    """This attempt was launched before: nothing was started a second time."""

    code = "already-launched"


class LaunchUnknownError(ProviderError):
    """The provider's response to a launch was lost: whether the attempt was started is found out later by looking for it."""

    code = "launch-unknown"


@dataclass(frozen=True)
class Capabilities:
    """What a provider can do; the feature table in docs/providers.md and the checks of a plan follow from it."""

    stores: tuple[str, ...]
    """Schemes of the stores that its machines reach: ``file``, ``s3``, ``gs``, ``az``."""
    max_nodes: int
    spot: bool
    enforces: tuple[str, ...]
    """Names of ``resources`` that it enforces: ``cpus``, ``memory``, ``accelerator``."""
    containers: bool = False
    """Whether it runs images: the plan then holds one, and the program finds code and data at the places of ``container_paths``."""
    pulls_images: bool = False
    """Its machines pull the image from a registry, the setting ``repository``. Otherwise the image is built in a Docker Engine."""
    mounts_folders: bool = False
    """Its containers see folders of this machine, such as ``data.path``."""
    forwards_credentials: bool = False
    """An attempt is handed the credentials for its store; otherwise it uses those of its machine."""
    named_config: bool = False
    """The config file that has the provider's name is used where none is chosen."""
    limits_runtime: bool = False
    """It ends a job without ``limits.duration`` itself, after the setting ``max_runtime``."""
    polling_costs: bool = False
    """Polling is slow, costs money or counts against a limit, so it is done less and less often."""
    shows_late: bool = False
    """A job may show up to ``SHOWS_WITHIN_SECONDS`` after its launch."""
    starts_slowly: bool = False
    """A start takes minutes, so its own log is shown until the worker reports."""
    stops_slowly: bool = False
    """A stop takes minutes, so commands do not wait for it."""
    explains_stops: bool = False
    """It reports why it told a worker to stop: a time limit, or a user at its console."""
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
    """How the provider finds it: a process, a container, a job's ARN."""


@dataclass(frozen=True)
class Observation:
    """The provider's view of an attempt, independent of the run directory."""

    state: State
    cause: Cause | None = None
    message: str = ""
    is_elsewhere: bool = False
    """Whether another worker began this attempt first, so that the exit of the one launched from here means nothing for the attempt."""


TAKEN = Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, "another worker began this attempt first", is_elsewhere=True)
"""The observation of a launch whose worker exited because another one had begun the attempt."""

_CAUSES = {cause.exit_code: cause for cause in Cause if cause is not Cause.REJECTED}


def ended(cause: Cause, message: str = "") -> Observation:
    """The attempt has ended, with this cause and, unless there is a better message, with the cause's own text."""
    return Observation(cause.state, cause, message or cause.text)


def unknown(message: str) -> Observation:
    """The attempt's state is unknown, so it counts as running."""
    return Observation(State.RUNNING, Cause.UNKNOWN, message)


def said_by(exit_status: int) -> Observation | None:
    """The observation for a worker's exit status; None for a status that workers do not use."""
    if exit_status == TAKEN_STATUS:
        return TAKEN
    cause = _CAUSES.get(exit_status)
    return None if cause is None else ended(cause)


def worker_arguments(plan: "Plan") -> list[str]:
    """The arguments that every worker gets: run, attempt, the digest of the ``run.json`` that it may run, and the token of the launch."""
    token = ["--token", plan.token] if plan.token else []
    return ["--run", plan.run_id, "--attempt", str(plan.attempt), "--record", plan.record_sha256, *token]


class Provider(Protocol):
    """A place to run."""

    name: str
    capabilities: Capabilities

    def interpreter(self, settings: Mapping[str, Any]) -> str:
        """The Python on this provider's machines that runs the worker and the built-in trainers."""

    def render(self, plan: "Plan") -> Request:
        """The exact request that would start this plan's attempt. Pure: it reads nothing but its arguments and writes nothing."""

    def check(self, request: Request) -> list[str]:
        """The problems for which the provider would refuse this request, each with the field and the rule."""

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Start the attempt; ``secrets`` are handed to it and kept nowhere. Raises AlreadyLaunchedError if it was started before."""

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        """The attempt, if it was ever launched: recovers a launch that was never recorded.

        ``settings`` come from this machine's config file, never from a run directory. Raises ProviderError if the provider cannot
        be asked.
        """

    def observe(self, handle: Handle) -> Observation:
        """The attempt's state, as the provider sees it. For a state that it does not know, it returns the cause *unknown*."""

    def cancel(self, handle: Handle, force: bool = False) -> None:
        """Tell the attempt to stop within its grace period, without waiting; ``force`` kills it and all its processes immediately."""

    def clean_up(self, handle: Handle) -> None:
        """Remove everything that an ended attempt left at the provider (containers, networks), if it can be reached.

        It is called once the end is recorded, when the worker may still be exiting: give it a moment. A second call changes nothing;
        a running attempt is left alone.
        """

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        """The provider's own log from ``cursor`` on, with the output from before the worker started; and the next cursor."""


@runtime_checkable
class ManyObserved(Protocol):
    """A provider that observes many attempts with one listing. Optional."""

    def observe_all(self, handles: Sequence[Handle]) -> list[Observation]:
        """The observations that ``observe`` would return, in the same order."""


@runtime_checkable
class RegistryLogin(Protocol):
    """A provider whose machines pull images from a registry of its own, with a login that is not in Docker's config file."""

    def registry_login(self, settings: Mapping[str, Any]) -> tuple[str, str] | None:
        """User and password for the registry of ``settings["repository"]``, which is created first if the settings ask for it. It is
        called again if a push outlasts the login. The login is bound to the host that the repository begins with.

        None for a registry that is not the provider's own: Docker's own login is used. Raises ProviderError.
        """


@dataclass(frozen=True)
class Diagnosis:
    """One thing that a provider needs, and whether it exists."""

    name: str
    """Its name, such as ``role``; the provider's name is prefixed."""
    status: Literal["ok", "warning", "error"]
    detail: str
    remedy: str = ""


@runtime_checkable
class Diagnosed(Protocol):
    """A provider that checks that what its settings name exists and is permitted, for ``cloud-train doctor --config``. Optional."""

    def diagnose(self, settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
        """Check credentials, machines, role, registry and quota, one finding at a time. Errors are findings; nothing is started."""
