"""The jobs of the Azure simulator: their states on the clock, and the real containers that they are.

A job goes NotStarted → Queued → Provisioning → Preparing → Running → Finalizing → Completed, Failed or Canceled. A preempted one (low
priority) is killed without a warning and goes back to Queued, as the same job. What Azure ML tells of a failure is said in its own words,
as public reports have them.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.clouds.clock import Clock
from tests.clouds.faults import Fault, Faults
from tests.clouds.machine import ContainerStartError, ImagePullError, Machine, Machines
from tests.stores import LOOPBACK

ENDS = ("Completed", "Failed", "Canceled")
START = "jobs/start"
"""The operation by which ``Fault.NO_CAPACITY`` is ordered: the job then waits in its queue for ``Pace.capacity``."""

_PACE_SECONDS = 0.05
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")


@dataclass
class Pace:
    """How long things take, in seconds of the clock; a change holds for what waits already."""

    queued: float = 0.0
    provisioning: float = 0.0
    preparing: float = 0.0
    finalizing: float = 0.0
    requeued: float = 0.0
    """From a preemption to the next machines."""
    capacity: float = 0.0
    """Until there is capacity, where a test ordered that there is none."""
    grace: float = 30.0
    """From SIGTERM to SIGKILL."""
    log_lag: float = 0.0
    """Until what a program prints is shown."""


@dataclass
class Job:
    """One job. Tests without machines set ``status`` and ``error`` themselves."""

    id: str
    properties: dict[str, Any]
    created: float
    status: str = "NotStarted"
    error: dict[str, Any] | None = None
    machines: list[Machine] = field(default_factory=list)
    starts: int = 0
    """How often containers were started for it."""
    logs: dict[str, bytes] = field(default_factory=dict)
    """What the containers before the present ones have printed, by file."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    preempted: threading.Event = field(default_factory=threading.Event)

    @property
    def nodes(self) -> int:
        return int((self.properties.get("resources") or {}).get("instanceCount", 1))

    @property
    def is_low_priority(self) -> bool:
        """Whether serverless machines may be taken back; of a cluster that is the cluster's own setting."""
        return bool((self.properties.get("queueSettings") or {}).get("jobTier") == "Spot")

    def log_name(self, rank: int) -> str:
        return f"user_logs/std_log_process_{rank}.txt" if self.properties.get("distribution") else "user_logs/std_log.txt"

    def printed(self) -> dict[str, bytes]:
        """All log files, as far as they were written."""
        now = {self.log_name(rank): machine.output() for rank, machine in enumerate(list(self.machines))}
        return {name: self.logs.get(name, b"") + now.get(name, b"") for name in {*self.logs, *now}}


class JobRunner:
    """Runs jobs on ``machines``, each on a thread of its own; ``close`` ends them all.

    ``environment`` is what the platform gives to every container, in place of an identity that reaches the store too.
    """

    def __init__(
        self, machines: Machines, clock: Clock, faults: Faults, pace: Pace, environment: Callable[[Job], Mapping[str, str]]
    ) -> None:
        self._machines = machines
        self._clock = clock
        self._faults = faults
        self._pace = pace
        self._environment = environment
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self.mistakes: list[BaseException] = []
        """What went wrong in a thread: a bug of the simulator."""

    def start(self, job: Job, image: Callable[[], str]) -> None:
        """Start a job; ``image`` is asked when its containers are made."""
        thread = threading.Thread(target=self._guarded, args=(job, image), name=job.id)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        if self.mistakes:
            raise AssertionError("the simulator made mistakes while it ran jobs") from self.mistakes[0]

    def _guarded(self, job: Job, image: Callable[[], str]) -> None:
        try:
            self._live(job, image)
        except Exception as error:  # noqa: BLE001 -- raised again by close, on the test's thread
            self.mistakes.append(error)

    def _live(self, job: Job, image: Callable[[], str]) -> None:
        deadline = self._clock.now() + _seconds((job.properties.get("limits") or {}).get("timeout"))
        waits = [("Queued", "queued"), ("Provisioning", "provisioning"), ("Preparing", "preparing")]
        while not self._closing.is_set():
            if self._faults.take(START, {Fault.NO_CAPACITY}):
                waits.insert(0, ("Queued", "capacity"))
            for status, pace in waits:
                job.status = status
                if self._wait(job, pace):
                    job.status = "Canceled"
                    return
            if not self._started(job, image()):
                return
            if not self._ended(job, deadline):
                return
            waits = [("Queued", "requeued")]
        if job.status not in ENDS:
            job.status = "Canceled"

    def _wait(self, job: Job, pace: str) -> bool:
        """Wait as long as this field of the pace says; whether the job was cancelled meanwhile, or the simulator closes."""
        start = self._clock.now()
        while self._clock.now() < start + getattr(self._pace, pace) and not job.cancelled.is_set():
            if self._closing.wait(_PACE_SECONDS):
                return True
        return job.cancelled.is_set() or self._closing.is_set()

    def _started(self, job: Job, image: str) -> bool:
        distributed, port = bool(job.properties.get("distribution")), _free_port()
        started = []
        try:
            for rank in range(job.nodes):
                machine = self._machines.start(
                    image,
                    command=["/bin/bash", "-c", job.properties["command"]],
                    environment={
                        **self._environment(job),
                        **_place(rank, job.nodes, port, distributed),
                        **job.properties["environmentVariables"],
                    },
                    hosts={f"node-{each}": LOOPBACK for each in range(job.nodes)},
                )
                started.append(machine)
        except ImagePullError as error:
            text = f"FailedPullingImage: Unable to pull docker image\n\timageName: {image}\n\terror: Error response from daemon: {error}"
            self._fail(job, "UserError", f"AzureMLCompute job failed.\n{text}")
            return False
        except ContainerStartError as error:
            self._fail(job, "UserError", f"AzureMLCompute job failed.\nJobContainerStartFailed: {error}")
            return False
        job.machines, job.starts = started, job.starts + 1
        job.status = "Running"
        return True

    def _ended(self, job: Job, deadline: float) -> bool:
        """Wait for the end of its containers; whether the job is to be started again."""
        while True:
            codes = [machine.exit_code() for machine in job.machines]
            if job.preempted.is_set():
                return self._preempt(job)
            if job.cancelled.is_set():
                self._stop(job)
                job.status = "Canceled"
                return False
            if self._clock.now() > deadline:
                self._stop(job)
                job.error = _error("UserError", "The job was canceled because it exceeded its time limit (limits.timeout)")
                job.status = "Canceled"
                return False
            if codes[0] is not None or any(codes):  # node 0 waits for the others; any failure ends the job
                break
            if self._closing.wait(_PACE_SECONDS):
                return False
        for machine in job.machines:  # the others get a moment to leave by themselves
            if machine.wait(5) is None:
                machine.kill()
        job.status = "Finalizing"
        self._wait(job, "finalizing")
        failed = next((code for code in [codes[0], *codes] if code), 0)
        if failed:
            said = f"Execution failed. User process 'python3' exited with status code {failed}. Please check log file '{job.log_name(0)}'."
            self._fail(job, "UserError", said)
        else:
            job.status = "Completed"
        return False

    def _preempt(self, job: Job) -> bool:
        for machine in job.machines:
            machine.kill()
        job.logs, job.machines = job.printed(), []
        job.preempted.clear()
        job.status = "Queued"
        return True

    def _stop(self, job: Job) -> None:
        job.status = "CancelRequested"
        for machine in job.machines:
            machine.terminate()
        end = self._clock.now() + self._pace.grace
        while any(machine.is_running() for machine in job.machines) and self._clock.now() < end:
            if self._closing.wait(_PACE_SECONDS):
                break
        for machine in job.machines:
            machine.kill()

    def _fail(self, job: Job, code: str, message: str) -> None:
        job.error = _error(code, message)
        job.status = "Failed"


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "messageFormat": message, "details": []}


def _place(rank: int, nodes: int, port: int, distributed: bool) -> dict[str, str]:
    """The variables by which a container learns its place; with PyTorch's distribution its processes are counted too."""
    place = {"AZUREML_CR_NODE_RANK": str(rank), "AZUREML_NODE_COUNT": str(nodes), "AZ_BATCHAI_JOB_MASTER_NODE_IP": LOOPBACK}
    if distributed:
        ranks = {"NODE_RANK": str(rank), "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(nodes)}
        place |= {**ranks, "MASTER_ADDR": "node-0", "MASTER_PORT": str(port)}
    return place


def _seconds(duration: str | None) -> float:
    match = _DURATION.fullmatch(duration or "P7D")
    assert match, duration
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        return int(listening.getsockname()[1])


def timestamp(seconds: float) -> str:
    """RFC 3339, as Azure writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(seconds))
