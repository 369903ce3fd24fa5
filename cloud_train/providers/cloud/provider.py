"""The common part of all cloud providers: launch a job once, observe one job or many, and report findings for ``doctor``."""

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Generic, TypeVar

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

Client = TypeVar("Client")
"""The adapter's client for requests."""
Job = TypeVar("Job")


def cloud_capabilities(
    stores: tuple[str, ...], *, max_nodes: int, spot: bool = True, enforces: tuple[str, ...] = ("accelerator",)
) -> Capabilities:
    """The capabilities of a cloud: a service starts and stops machines, which have their own identity and pull the image."""
    return Capabilities(
        stores=stores,
        max_nodes=max_nodes,
        spot=spot,
        enforces=enforces,
        containers=True,
        pulls_images=True,
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
    """A provider whose jobs run on a cloud, in the project's image. A handle's ``reference["job"]`` is the job's name.

    A request has ``run_id``, ``attempt``, ``store`` and ``secret``, the location of the job's secrets, if any.
    """

    name: str

    def interpreter(self, settings: Mapping[str, Any]) -> str:
        """The Python on the image's PATH."""
        return container_paths.PYTHON

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        """Store the job's secrets with the cloud, if it has any, then create the job, once. A refused launch leaves neither behind."""
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
        """The state that the cloud reports; while it cannot be reached, the attempt counts as running, with the cause *unknown*."""
        return asked(lambda: self._observed(handle))

    def observe_all(self, handles: Sequence[Handle]) -> list[Observation]:
        """The same with one listing per place, such as a region. Jobs missing from it are observed singly, unless the listing failed."""
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
        """A client for a request, or for a handle's reference."""

    def _prepare(self, client: Client, request: Request) -> None:
        """Before a launch, raise AlreadyLaunchedError for an existing job, unless creating it would fail anyway."""

    @abstractmethod
    def _put_secrets(self, client: Client, request: Request, secrets: Mapping[str, str]) -> bool:
        """Store the secrets; returns whether they are this launch's own, so that it may delete them again. Raises CloudError."""

    @abstractmethod
    def _create(self, client: Client, request: Request) -> dict[str, Any]:
        """Create the job once (see ``create_once``), and return the handle's reference."""

    def _withdraw(self, client: Client, request: Request) -> None:
        """After another launch of the attempt was faster, delete the secrets if its job does not need them."""

    @abstractmethod
    def _delete_secrets(self, client: Client, about: Mapping[str, Any]) -> None:
        """Delete the secrets of a request, or of a handle's reference; nothing if there are none. Raises CloudError."""

    @abstractmethod
    def _observed(self, handle: Handle) -> Observation:
        """The state that the cloud reports; raises CloudTrainError if it cannot be reached."""

    @abstractmethod
    def _place(self, handle: Handle) -> Hashable:
        """The place, such as a project and a region, whose listing includes the job."""

    @abstractmethod
    def _listed(self, handles: Sequence[Handle]) -> Iterable[tuple[str, Observation]]:
        """Jobs of a place by name, as far as a listing has enough information; raises CloudTrainError if listing fails."""


def asked(look: Callable[[], Observation]) -> Observation:
    """The observation of ``look``, or *unknown* if it raises an error."""
    try:
        return look()
    except CloudTrainError as error:
        return unknown(error.message)


def is_young(handle: Handle) -> bool:
    """Whether the cloud may not show the job yet: it was launched, or found, less than ``SHOWS_WITHIN_SECONDS`` ago."""
    return abs(time.time() - float(handle.reference.get("launched", 0.0))) < SHOWS_WITHIN_SECONDS


def create_once(
    create: Callable[[], Job], look: Callable[[], Job | None], policy: RetryPolicy, *, job: str, can_repeat: bool = True
) -> Job | None:
    """Create a job exactly once; returns the result of ``create`` or ``look``, or None for a job that exists but does not show yet.

    ``create`` sends the request once; it raises ExistsError if the job exists already. After a lost response, ``look`` finds the job if it
    was created, or returns None. ``can_repeat``: the request may then be sent again, because the cloud does not create a job twice. ``job``
    names the job in messages.

    Raises AlreadyLaunchedError for a job that existed before, LaunchUnknownError if it is unknown whether the job was created, CloudError
    if it was certainly not.
    """
    left, is_lost = policy.attempts_left(), False
    while True:
        try:
            return create()
        except ExistsError as error:
            if not is_lost:
                raise AlreadyLaunchedError(f"{job} was launched before", hint="see its state with: cloud-train status") from error
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
    return LaunchUnknownError(f"it is unknown whether {job} was launched: {error.message}", hint="see later with: cloud-train list")


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
    """The finding for something that cannot be checked, but is not required for a submission."""
    return Diagnosis(name, "warning", f"cannot be checked: {error.message}", remedy or error.hint or "")
