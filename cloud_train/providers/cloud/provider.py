"""What all cloud providers do: launch a job once, observe one job by a request, and many by listings."""

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
"""What the adapter sends its requests with."""
Job = TypeVar("Job")


def cloud_capabilities(
    stores: tuple[str, ...], *, max_nodes: int, spot: bool = True, enforces: tuple[str, ...] = ("accelerator",)
) -> Capabilities:
    """What any cloud can do: machines with an identity of their own that pull the image, started and stopped by a service over HTTP."""
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
    """A provider whose jobs run elsewhere, in the project's image. A handle's ``reference["job"]`` is the job's name in its place.

    A request has ``run_id``, ``attempt``, ``store`` and ``secret``, the address of the job's secrets, None if it has none.
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
                    with suppress(CloudTrainError):  # the refusal is what the caller has to hear
                        self._delete_secrets(client, request)
                raise
        return Handle(request["run_id"], request["attempt"], self.name, request["store"], {**reference, "launched": time.time()})

    def observe(self, handle: Handle) -> Observation:
        """What the cloud reports of the job; while it cannot be asked, the attempt counts as running, with the cause *unknown*."""
        return asked(lambda: self._observed(handle))

    def observe_all(self, handles: Sequence[Handle]) -> list[Observation]:
        """The same from one listing a place. A job that it does not show is asked for alone, unless the place cannot be asked at all."""
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
        """Before a launch, raise AlreadyLaunchedError for an existing job; not needed where creating it finds that out."""

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
        """What the cloud reports of the job; raises CloudTrainError where it cannot be asked."""

    @abstractmethod
    def _place(self, handle: Handle) -> Hashable:
        """Where one listing finds the job."""

    @abstractmethod
    def _listed(self, handles: Sequence[Handle]) -> Iterable[tuple[str, Observation]]:
        """Jobs of a place by their names, as far as a listing has enough about them; raises CloudTrainError where there is no listing."""


def asked(look: Callable[[], Observation]) -> Observation:
    """What ``look`` observes, or that it cannot."""
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
    """Create a job, and return what ``create`` or ``look`` returned; None for a job that exists and does not show yet.

    ``create`` sends the request once; it raises ExistsError where the cloud has this job already. After a lost response, ``look`` tells
    whether the job was created; it returns None if it finds none. ``can_repeat`` says whether the request may be sent again then, because
    the cloud itself does not create a job twice. ``job`` names the job in messages.

    Raises AlreadyLaunchedError for a job that existed before, LaunchUnknownError where that cannot be settled, CloudError where certainly
    nothing was created.
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
    """The finding of ``look``, or that of the error that it raised; ``remedy`` is for an error without a hint."""
    try:
        return look()
    except CloudTrainError as error:
        return wrong(name, error, remedy)


def wrong(name: str, error: CloudTrainError, remedy: str = "") -> Diagnosis:
    """The finding for an error."""
    return Diagnosis(name, "error", error.message, error.hint or remedy)


def unasked(name: str, error: CloudTrainError, remedy: str = "") -> Diagnosis:
    """The finding for something that cannot be checked and that a submission does not need."""
    return Diagnosis(name, "warning", f"cannot be checked: {error.message}", remedy or error.hint or "")
