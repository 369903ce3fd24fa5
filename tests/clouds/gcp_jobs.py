"""Custom jobs of the simulated Vertex AI: their states on the clock, and their replicas, which are containers or stand on paper.

What is known of the real one is from https://cloud.google.com/vertex-ai/docs/training/understanding-training-service: a job waits as
QUEUED, then PENDING while machines come up; a replica that exits with another status than 0 is started again in place, at most 5 times,
then the whole job, at most 3 times; the job has succeeded when its primary replica exits with 0. ``restartJobOnWorkerRestart`` makes every
restart one of the whole job. ``disableRetries`` stops restarts of the whole job; that it stops those in place is not said, so it does not.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.clouds.clock import Clock
from tests.clouds.gcp_answers import timestamp
from tests.clouds.machine import ImagePullError, Machines
from tests.stores import LOOPBACK

IN_PLACE = 5
WHOLE = 3
CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE = 1, 4, 8, 14
"""Of google.rpc.Code."""
INVALID_ARGUMENT, FAILED_PRECONDITION = 3, 9


class Replica(Protocol):
    """What runs a replica: ``machine.Machine``, or ``Paper``."""

    def exit_code(self) -> int | None: ...

    def out_of_memory(self) -> bool: ...

    def output(self) -> bytes: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def remove(self) -> None: ...


class Paper:
    """A replica that runs until a test ends it."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.printed = b""
        self.heeds_sigterm = True
        self.lacked_memory = False

    def exit_code(self) -> int | None:
        return self.status

    def out_of_memory(self) -> bool:
        return self.lacked_memory

    def output(self) -> bytes:
        return self.printed

    def terminate(self) -> None:
        if self.heeds_sigterm and self.status is None:
            self.status = 143

    def kill(self) -> None:
        if self.status is None:
            self.status = 137

    def remove(self) -> None:
        """There is nothing."""


@dataclass(frozen=True)
class Timing:
    """How long things take at the simulated Vertex AI, in seconds of its clock."""

    queued: float = 0.0
    pending: float = 0.0
    restarting: float = 0.0
    """From a preemption, or the end of a whole try, until machines are there again."""
    grace: float = 30.0
    """Between SIGTERM and SIGKILL."""
    log_lag: float = 0.0


@dataclass
class _Place:
    """Where one replica runs."""

    pool: int
    index: int
    replica: Replica | None = None
    restarts: int = 0
    read: int = 0
    """Bytes of its output that were logged."""

    @property
    def task(self) -> str:
        return f"workerpool{self.pool}-{self.index}"


@dataclass
class CustomJob:
    """One job, and what it is made of."""

    identifier: str
    name: str
    body: dict[str, Any]
    created: float
    state: str = "JOB_STATE_QUEUED"
    changed: float = 0.0
    started: float | None = None
    ended: float | None = None
    error: dict[str, Any] | None = None
    retries: int = 0
    stopping_since: float | None = None
    stopping_for: tuple[str, int, str] | None = None
    """The end that a job that is being stopped will have: state, code, words."""
    places: list[_Place] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def scheduling(self) -> dict[str, Any]:
        scheduling: dict[str, Any] = self.body["jobSpec"].get("scheduling", {})
        return scheduling

    @property
    def is_over(self) -> bool:
        return self.ended is not None

    def document(self) -> dict[str, Any]:
        """The CustomJob as it is answered."""
        times = {"createTime": self.created, "startTime": self.started, "endTime": self.ended, "updateTime": self.changed or self.created}
        shown = {key: timestamp(seconds) for key, seconds in times.items() if seconds is not None}
        return {**self.body, "name": self.name, "state": self.state, **shown, **({"error": self.error} if self.error else {})}


class Runner:
    """Brings jobs from state to state. ``machines`` is None for replicas on paper; ``log`` takes a job, a task and a line."""

    def __init__(
        self,
        clock: Clock,
        timing: Timing,
        *,
        machines: Machines | None,
        environment: Callable[[], dict[str, str]],
        log: Callable[[CustomJob, str, str], None],
        lacks_capacity: Callable[[], bool],
    ) -> None:
        self.timing = timing
        self.lost_images: set[str] = set()
        """Parts of the names of images that are not in the registry any more."""
        self._clock, self._machines, self._environment = clock, machines, environment
        self._log, self._lacks_capacity = log, lacks_capacity

    def advance(self, job: CustomJob) -> None:
        """Whatever has become due. Called with the job's lock held."""
        now = self._clock.now()
        if job.state == "JOB_STATE_QUEUED" and now >= job.created + self.timing.queued:
            self._enter(job, "JOB_STATE_PENDING")
        if job.state == "JOB_STATE_PENDING" and now >= job.changed + (self.timing.restarting if job.started else self.timing.pending):
            self._begin(job)
        if job.state in ("JOB_STATE_RUNNING", "JOB_STATE_CANCELLING") and not job.is_over:
            self._look(job, now)

    def cancel(self, job: CustomJob) -> None:
        """SIGTERM for all replicas; whatever still runs after the grace period is killed."""
        if job.is_over or job.stopping_since is not None:
            return
        self._enter(job, "JOB_STATE_CANCELLING")
        self._stop(job, ("JOB_STATE_CANCELLED", CANCELLED, "CANCELED"))
        self.advance(job)

    def preempt(self, job: CustomJob, place: int = 0) -> None:
        """Take a replica's machine back, without a word to it."""
        with job.lock:
            taken = job.places[place]
            if taken.replica is None or taken.replica.exit_code() is not None:
                return
            self._collect(job, taken)
            taken.replica.kill()
            self._log(job, "service", f"The VM of replica {taken.task} was preempted.")
            if job.scheduling.get("disableRetries"):
                self._end(job, "JOB_STATE_FAILED", UNAVAILABLE, f"The VM of replica {taken.task} was preempted.")
            else:
                self._restart_whole(job)

    def collect(self, job: CustomJob) -> None:
        """Log what the replicas have printed since."""
        for place in job.places:
            self._collect(job, place)

    def _enter(self, job: CustomJob, state: str) -> None:
        job.state, job.changed = state, self._clock.now()
        self._log(job, "service", f"Job state changed to {state}.")

    def _begin(self, job: CustomJob) -> None:
        if self._lacks_capacity():
            region = job.name.split("/")[3]
            words = f"Resources are insufficient in region: {region}. Please try a different region or use a different accelerator."
            self._end(job, "JOB_STATE_FAILED", RESOURCE_EXHAUSTED, words)
            return
        if not job.places:
            counts = [int(pool.get("replicaCount", "1")) for pool in job.body["jobSpec"]["workerPoolSpecs"]]
            job.places = [_Place(pool, index) for pool, count in enumerate(counts) for index in range(count)]
        ports = [_free_port() for _ in job.places]
        try:
            for place in job.places:
                self._start(job, place, ports)
        except ImagePullError as error:
            image = job.body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["imageUri"]
            self._end(job, "JOB_STATE_FAILED", FAILED_PRECONDITION, f"Failed to pull image {image}: {error}")
            return
        job.started = job.started or self._clock.now()
        self._enter(job, "JOB_STATE_RUNNING")

    def _start(self, job: CustomJob, place: _Place, ports: list[int]) -> None:
        place.read = 0
        if self._machines is None:
            place.replica = Paper()
            return
        container = job.body["jobSpec"]["workerPoolSpecs"][place.pool]["containerSpec"]
        hosts = {self._host(job, each): LOOPBACK for each in job.places}
        variables = {**{each["name"]: each["value"] for each in container.get("env", ())}, **self._environment()}
        variables |= {"CLUSTER_SPEC": json.dumps(self._cluster(job, place, ports)), "CLOUD_ML_JOB_ID": job.identifier}
        command = [*container.get("command", ()), *container.get("args", ())]
        if any(part in container["imageUri"] for part in self.lost_images):
            raise ImagePullError("manifest unknown")
        place.replica = self._machines.start(container["imageUri"], command=command, environment=variables, hosts=hosts)

    def _host(self, job: CustomJob, place: _Place) -> str:
        return f"cmle-training-workerpool{place.pool}-{job.identifier[-10:]}-{place.index}"

    def _cluster(self, job: CustomJob, own: _Place, ports: list[int]) -> dict[str, Any]:
        pools: dict[str, list[str]] = {}
        for place, port in zip(job.places, ports, strict=True):
            pools.setdefault(f"workerpool{place.pool}", []).append(f"{self._host(job, place)}:{port}")
        task = {"type": f"workerpool{own.pool}", "index": own.index, "trial": ""}
        return {"cluster": pools, "environment": "cloud", "task": task, "job": json.dumps(job.body["jobSpec"])}

    def _look(self, job: CustomJob, now: float) -> None:
        timeout = float(job.scheduling.get("timeout", "604800s").rstrip("s"))
        if job.stopping_since is None and job.started is not None and now >= job.started + timeout:
            words = f"The job ran past its timeout of {timeout:g} seconds."
            self._stop(job, ("JOB_STATE_FAILED", DEADLINE_EXCEEDED, words))
        if job.stopping_since is not None:
            self._look_at_stopping(job, now)
            return
        for place, status in list(_exited(job)):
            self._collect(job, place)
            if status == 0 and place.pool == 0:
                self._end(job, "JOB_STATE_SUCCEEDED", 0, "")
                return
            if status != 0:
                self._failed(job, place, status)
                return

    def _look_at_stopping(self, job: CustomJob, now: float) -> None:
        running = [place.replica for place in job.places if place.replica is not None and place.replica.exit_code() is None]
        if running and now < (job.stopping_since or 0.0) + self.timing.grace:
            return
        for replica in running:
            replica.kill()
        assert job.stopping_for is not None
        self._end(job, *job.stopping_for)

    def _failed(self, job: CustomJob, place: _Place, status: int) -> None:
        assert place.replica is not None
        words = f"The replica {place.task} exited with a non-zero status of {status}."
        if place.replica.out_of_memory():
            words = f"The replica {place.task} ran out-of-memory and exited with a non-zero status of 9(SIGKILL)."
        self._log(job, "service", words)
        if place.restarts >= IN_PLACE:
            if job.retries >= WHOLE or job.scheduling.get("disableRetries"):
                self._end(job, "JOB_STATE_FAILED", INVALID_ARGUMENT, words)
            else:
                self._restart_whole(job)
        elif job.scheduling.get("restartJobOnWorkerRestart") and not job.scheduling.get("disableRetries"):
            place.restarts += 1
            self._restart_whole(job, counts=False)
        else:
            place.restarts += 1
            place.replica.remove()
            self._start(job, place, [_free_port() for _ in job.places])

    def _restart_whole(self, job: CustomJob, *, counts: bool = True) -> None:
        if counts:
            job.retries += 1
        for place in job.places:
            self._collect(job, place)
            if place.replica is not None:
                place.replica.kill()
                place.replica.remove()
                place.replica = None
            if counts:
                place.restarts = 0
        self._enter(job, "JOB_STATE_PENDING")

    def _stop(self, job: CustomJob, end: tuple[str, int, str]) -> None:
        job.stopping_since, job.stopping_for = self._clock.now(), end
        for place in job.places:
            if place.replica is not None:
                place.replica.terminate()

    def _end(self, job: CustomJob, state: str, code: int, words: str) -> None:
        for place in job.places:
            self._collect(job, place)
            if place.replica is not None:
                place.replica.kill()
                place.replica.remove()
                place.replica = None
        self._enter(job, state)
        job.ended = self._clock.now()
        if code:
            job.error = {"code": code, "message": words}

    def _collect(self, job: CustomJob, place: _Place) -> None:
        if place.replica is None:
            return
        printed = place.replica.output()
        whole = printed if place.replica.exit_code() is not None else printed[: printed.rfind(b"\n") + 1]
        for line in whole[place.read :].decode(errors="replace").splitlines():
            self._log(job, place.task, line)
        place.read = max(place.read, len(whole))


def _exited(job: CustomJob) -> Iterator[tuple[_Place, int]]:
    """The primary replica first: its end is that of the job."""
    for place in job.places:
        status = place.replica.exit_code() if place.replica is not None else None
        if status is not None:
            yield place, status


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port
