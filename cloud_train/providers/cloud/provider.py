"""Shared by all cloud providers: launch a job once, observe one job or many, and report findings for ``doctor``."""

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cloud_train.docker import container_paths
from cloud_train.errors import CloudTrainError
from cloud_train.providers.base import (
    SHOWS_WITHIN_SECONDS,
    AlreadyLaunchedError,
    Capabilities,
    Diagnosis,
    Handle,
    LaunchUnknownError,
    Observation,
    Request,
    unknown,
)
from cloud_train.providers.cloud.errors import TRANSIENT, CloudError, ExistsError, UnansweredError
from cloud_train.retry import RetryPolicy

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

Client = TypeVar("Client")
"""The type of the adapter's client."""
Job = TypeVar("Job")


def cloud_capabilities(
    stores: tuple[str, ...],
    *,
    max_nodes: int,
    spot: bool = True,
    enforces: tuple[str, ...] = ("accelerator",),
    starts_as_root: bool = False,
) -> Capabilities:
    """The capabilities of a cloud, whose service starts and stops machines that have their own identity and pull the image."""
    return Capabilities(
        stores=stores,
        max_nodes=max_nodes,
        spot=spot,
        enforces=enforces,
        containers=True,
        pulls_images=True,
        starts_as_root=starts_as_root,
        machine_types=True,
        named_config=True,
        limits_runtime=True,
        polling_costs=True,
        shows_late=True,
        starts_slowly=True,
        stops_slowly=True,
        explains_stops=True,
        leaves_no_processes=True,
    )


class CloudProvider(ABC, Generic[Client]):
    """A provider whose jobs run in the cloud, in an image. A handle's ``reference["job"]`` is the job's name.

    A request has ``run_id``, ``attempt``, ``store`` and ``secret``, the location of the job's secrets, if any.
    """

    name: str

    def interpreter(self, settings: Mapping[str, Any]) -> str:
        """The Python on the image's PATH."""
        return container_paths.PYTHON

    def remarks(self, plan: "Plan") -> Iterator[str]:
        """The accelerators that will be paid for and not used, and the network between the machines."""
        from cloud_train.networks.base import ScriptModel  # imports pydantic, which only plans need
        from cloud_train.providers.cloud.machines import between_nodes, machine_of, unused

        resources = plan.job.resources
        machine = machine_of(self.name, plan.provider_settings, resources)
        if machine and (remark := unused(machine, resources, trains=not isinstance(plan.job.model, ScriptModel))):
            yield remark
        if machine and (remark := between_nodes(self.name, machine, resources)):
            yield remark

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Store the job's secrets in the cloud, if any, then create the job exactly once. A refused launch leaves neither behind."""
        with self._client(request) as client:
            self._prepare(client, request)
            owns_secrets = bool(request["secret"] and secrets) and self._put_secrets(client, request, secrets)
            try:
                reference = self._create(client, request)
            except LaunchUnknownError:
                raise  # the job may exist, and read its secrets
            except AlreadyLaunchedError:
                if owns_secrets:
                    self._withdraw(client, request)
                raise
            except CloudTrainError:
                if owns_secrets:
                    with suppress(CloudTrainError):  # the refusal is the error to report
                        self._delete_secrets(client, request)
                raise
        return Handle(request["run_id"], request["attempt"], self.name, request["store"], {**reference, "launched": time.time()})

    def observe(self, handle: Handle) -> Observation:
        """The state that the cloud reports. While the cloud cannot be reached, the attempt counts as running, with the cause *unknown*."""
        return asked(lambda: self._observed(handle))

    def observe_all(self, handles: Sequence[Handle]) -> list[Observation]:
        """Like ``observe``, with one listing per place, such as a region. Jobs missing from it are observed singly, unless it failed."""
        places: dict[Hashable, list[Handle]] = defaultdict(list)
        for handle in handles:
            places[self._place(handle)].append(handle)
        seen: dict[tuple[Hashable, str], Observation] = {}
        for place, there in places.items():
            try:
                for job, observation in self._listed(there):
                    seen[place, job] = observation
            except CloudTrainError as error:
                for handle in there:
                    seen.setdefault((place, handle.reference["job"]), unknown(error.message))
        return [seen.get((self._place(handle), handle.reference["job"])) or self.observe(handle) for handle in handles]

    @abstractmethod
    def _client(self, about: Mapping[str, Any]) -> AbstractContextManager[Client]:
        """A client for this request, or for this reference of a handle."""

    def _prepare(self, client: Client, request: Request) -> None:
        """Raise AlreadyLaunchedError if the job exists, for clouds on which creating it again would not fail."""

    @abstractmethod
    def _put_secrets(self, client: Client, request: Request, secrets: Mapping[str, str]) -> bool:
        """Store the secrets; returns whether this launch created them, and so may delete them. Raises CloudError."""

    @abstractmethod
    def _create(self, client: Client, request: Request) -> dict[str, Any]:
        """Create the job once (see ``create_once``), and return the handle's reference."""

    def _withdraw(self, client: Client, request: Request) -> None:
        """Delete the secrets after another launch of the attempt was faster, unless its job needs them."""

    @abstractmethod
    def _delete_secrets(self, client: Client, about: Mapping[str, Any]) -> None:
        """Delete the secrets of a request or of a handle's reference, if there are any. Raises CloudError."""

    @abstractmethod
    def _observed(self, handle: Handle) -> Observation:
        """The state that the cloud reports. Raises CloudTrainError if the cloud cannot be reached."""

    @abstractmethod
    def _place(self, handle: Handle) -> Hashable:
        """The place, such as a project and a region, whose listing includes the job."""

    @abstractmethod
    def _listed(self, handles: Sequence[Handle]) -> Iterable[tuple[str, Observation]]:
        """The name and observation of each job in a place for which a listing is enough. Raises CloudTrainError if listing fails."""


def asked(look: Callable[[], Observation]) -> Observation:
    """The observation of ``look``, or *unknown* if it raises an error."""
    try:
        return look()
    except CloudTrainError as error:
        return unknown(error.message)


def is_young(handle: Handle) -> bool:
    """Whether the job was launched, or found, less than ``SHOWS_WITHIN_SECONDS`` ago, so that the cloud may not show it yet."""
    return abs(time.time() - float(handle.reference.get("launched", 0.0))) < SHOWS_WITHIN_SECONDS


def create_once(
    create: Callable[[], Job], look: Callable[[], Job | None], policy: RetryPolicy, *, job: str, can_repeat: bool = True
) -> Job | None:
    """Create a job exactly once; return the result of ``create`` or ``look``, or None if the job is not shown yet.

    ``create`` sends the request once; it raises ExistsError if the job already exists. After a lost response, ``look`` returns the job if
    it was created, otherwise None. ``can_repeat`` allows the request to be repeated then, because the cloud never creates a job twice.
    ``job`` is the job's name in messages.

    Raises AlreadyLaunchedError for a job that existed before, LaunchUnknownError if it is unknown whether the job was created, and
    CloudError if it was certainly not created.
    """
    left, is_lost = policy.attempts_left(), False
    while True:
        try:
            return create()
        except ExistsError as error:
            if not is_lost:
                raise AlreadyLaunchedError(f"{job} was already launched", hint="see its state with: cloud-train status") from error
            return _looked(look, job)
        except TRANSIENT as error:
            if isinstance(error, UnansweredError):
                is_lost = True
                if (found := _looked(look, job)) is not None:
                    return found
            if not (is_lost and not can_repeat) and left.wait(error.retry_after):
                continue
            if is_lost:
                raise _unknown(job, error) from error
            raise


def _looked(look: Callable[[], Job | None], job: str) -> Job | None:
    try:
        return look()
    except CloudError as error:
        raise _unknown(job, error) from error


def _unknown(job: str, error: CloudError) -> LaunchUnknownError:
    return LaunchUnknownError(f"it is unknown whether {job} was launched: {error.message}", hint="check later with: cloud-train list")


def looked(name: str, look: Callable[[], Diagnosis], remedy: str = "") -> Diagnosis:
    """The finding of ``look``, or one for the error that it raised; ``remedy`` is used for an error without a hint."""
    try:
        return look()
    except CloudTrainError as error:
        return wrong(name, error, remedy)


def wrong(name: str, error: CloudTrainError, remedy: str = "") -> Diagnosis:
    """The finding for an error."""
    return Diagnosis(name, "error", error.message, error.hint or remedy)


def unasked(name: str, error: CloudTrainError, remedy: str = "") -> Diagnosis:
    """The finding for a failed check of something that a submission does not need."""
    return Diagnosis(name, "warning", f"cannot be checked: {error.message}", remedy or error.hint or "")
