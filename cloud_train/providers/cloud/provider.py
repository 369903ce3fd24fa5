"""What the providers of clouds do alike: observe one job by a question, and many by listings."""

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from cloud_train.docker import container_paths
from cloud_train.errors import CloudTrainError
from cloud_train.providers.base import SHOWS_WITHIN_SECONDS, Capabilities, Handle, Observation
from cloud_train.providers.cloud.observations import unknown


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


class CloudProvider(ABC):
    """A provider whose jobs run elsewhere, in the project's image. A handle's ``reference["job"]`` is the job's name in its place."""

    def interpreter(self, settings: Mapping[str, Any]) -> str:
        """The Python on the image's PATH."""
        return container_paths.PYTHON

    def observe(self, handle: Handle) -> Observation:
        """What the cloud says of the job; while it cannot be asked, the attempt is taken to go on, with the cause *unknown*."""
        return asked(lambda: self._observed(handle))

    def observe_all(self, handles: Sequence[Handle]) -> list[Observation]:
        """The same from one listing a place. Whatever that does not show is asked for alone, unless the place cannot be asked at all."""
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
    def _observed(self, handle: Handle) -> Observation:
        """What the cloud says of the job; raises CloudTrainError where it cannot be asked."""

    @abstractmethod
    def _place(self, handle: Handle) -> Hashable:
        """Where one listing finds the job."""

    @abstractmethod
    def _listed(self, handles: Sequence[Handle]) -> Iterable[tuple[str, Observation]]:
        """Jobs of a place by their names, as far as a listing says enough of them; raises CloudTrainError where there is none to be had."""


def asked(look: Callable[[], Observation]) -> Observation:
    """What ``look`` observes, or that it cannot."""
    try:
        return look()
    except CloudTrainError as error:
        return unknown(error.message)


def is_young(handle: Handle) -> bool:
    """Whether the cloud may not show the job yet: it was launched, or found, a moment ago by the clock of whoever did."""
    return abs(time.time() - float(handle.reference.get("launched", 0.0))) < SHOWS_WITHIN_SECONDS
