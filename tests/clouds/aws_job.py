"""One training job of the SageMaker simulator: its states on the clock, and the machines that it has.

What happens when, and what a failure is called, is what SageMaker's documentation says and what it was seen to say:
https://docs.aws.amazon.com/sagemaker/latest/dg/model-managed-spot-training-status.html and
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.clouds.clock import Clock
from tests.clouds.faults import Fault, Faults
from tests.clouds.machine import ContainerStartError, ImagePullError

STOP_SECONDS = 120.0
"""Between SIGTERM and SIGKILL (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_StopTrainingJob.html)."""
CAPACITY = "no capacity"
"""In place of an operation, for the fault NO_CAPACITY: the job finds no machine when it is to get one."""

_NO_MACHINE = "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
_NO_IMAGE = "ClientError: Cannot pull algorithm container. Either the image does not exist or its permissions are incorrect."
_MORE_MEMORY = "ClientError: Please use an instance type with more memory, or reduce the size of training data processed on an instance."
_INTERNAL = "InternalServerError: We encountered an internal error. Please try again."
_MESSAGES = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading the training image",
    "Training": "Training image download completed. Training in progress.",
    "Interrupted": "The training job was interrupted: the spot instances were reclaimed",
    "Restarting": "Restarting the training job",
    "Uploading": "Uploading generated training model",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "MaxWaitTimeExceeded": "Training job waited longer than MaxWaitTimeInSeconds provided",
}
_ENDS = frozenset({"Completed", "Failed", "Stopped"})


class Body(Protocol):
    """A machine, as far as a job has to do with it: ``tests.clouds.machine.Machine`` is one, ``Imaginary`` another."""

    def exit_code(self) -> int | None:
        """The exit status; None while it runs."""

    def out_of_memory(self) -> bool:
        """Whether something in it was killed for want of memory."""

    def output(self) -> bytes:
        """What it has printed."""

    def read(self, path: str) -> bytes | None:
        """The content of a file in it."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """End it."""

    def remove(self) -> None:
        """Take it away."""


class Supplier(Protocol):
    """Who has the machines."""

    def start(self, job: "TrainingJob") -> Sequence[Body]:
        """Start one for each node. Raises ImagePullError."""

    def ship(self, job: "TrainingJob", *, whole: bool) -> None:
        """Bring what the job's machines have printed to the log service."""

    def keep(self, job: "TrainingJob") -> None:
        """Keep the model."""


@dataclass
class Imaginary:
    """A machine without a container, for tests of questions and answers: it does what the test says."""

    status: int | None = None
    printed: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    lacked_memory: bool = False
    told: list[str] = field(default_factory=list)
    """The signals that came."""

    def exit_code(self) -> int | None:
        return self.status

    def out_of_memory(self) -> bool:
        return self.lacked_memory

    def output(self) -> bytes:
        return self.printed

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def terminate(self) -> None:
        self.told.append("SIGTERM")

    def kill(self) -> None:
        self.told.append("SIGKILL")
        self.status = 137 if self.status is None else self.status

    def remove(self) -> None:
        self.told.append("removed")


@dataclass(frozen=True)
class Timing:
    """How long the steps take, in seconds of the clock."""

    starting: float = 0.0
    downloading: float = 0.0
    interrupted: float = 0.0
    uploading: float = 0.0
    retrying: float = 1.0
    """Between two looks for capacity."""
    logs: float = 0.2
    """Until what was printed shows in the log service."""


class TrainingJob:
    """A job. ``step`` moves it on to where the clock says that it is; ``snapshot`` is what can be said of it, at any time."""

    def __init__(self, request: Mapping[str, Any], arn: str, supplier: Supplier, *, clock: Clock, timing: Timing, faults: Faults) -> None:
        self.request = request
        self.arn = arn
        self.machines: list[Body] = []
        """Those that it has now: one a node."""
        self.past: list[Body] = []
        """Those that it had."""
        self.shipped: dict[int, int] = {}
        """Node → bytes of its output that the log service has."""
        self.began: float = clock.now()
        """When its machines were started."""
        self._clock, self._timing, self._faults = clock, timing, faults
        self._supplier = supplier
        self._lock = threading.RLock()
        self._created = self._modified = self._since = self._logged = clock.now()
        self._training_began: float | None = None
        self._ended: float | None = None
        self._status, self._reason = "InProgress", ""
        self._end_wanted = "Stopped"
        self._reclaimed: float | None = None
        self._restarts = 0
        self._said: dict[str, Any] = {}
        self._transitions: list[dict[str, Any]] = []
        self._to("Starting")

    @property
    def name(self) -> str:
        return str(self.request["TrainingJobName"])

    @property
    def has_ended(self) -> bool:
        return self._status in _ENDS

    @property
    def nodes(self) -> int:
        return int(self.request["ResourceConfig"]["InstanceCount"])

    @property
    def kind(self) -> str:
        return str(self.request["ResourceConfig"]["InstanceType"])

    @property
    def is_spot(self) -> bool:
        return bool(self.request.get("EnableManagedSpotTraining"))

    def snapshot(self) -> dict[str, Any]:
        """The fields of DescribeTrainingJob that say where it is, without waiting for what it does at the moment."""
        return self._said

    def stop(self) -> bool:
        """StopTrainingJob; False if it has ended."""
        with self._lock:
            if self.has_ended:
                return False
            if self._status == "InProgress":
                self._begin_to_stop("Stopped")
            return True

    def lose(self) -> None:
        """Its machines die, as by a power cut: it starts anew if its RetryStrategy says so, and fails otherwise."""
        with self._lock:
            if self._transitions[-1]["Status"] == "Training":
                self._let_go()
                self._restarts += 1
                if self._restarts <= self.request.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0):
                    self._to("Restarting")
                else:
                    self._fail(_INTERNAL)
            self.step()

    def discard(self) -> None:
        """It is gone, with its machines, whatever it did."""
        with self._lock:
            self._let_go()
            if not self.has_ended:
                self._end("Stopped", "Stopped")

    def interrupt(self, notice_seconds: float = 0.0) -> None:
        """Its spot machines are taken back: at once, or so many seconds of the clock after SIGTERM."""
        with self._lock:
            assert self.is_spot, "only spot machines are taken back"
            self._reclaimed = self._clock.now() + notice_seconds
            if notice_seconds:
                for machine in self.machines:
                    machine.terminate()
            self.step()

    def step(self) -> None:
        """Go on as far as the clock says."""
        with self._lock:
            before = ""
            while before != self._transitions[-1]["Status"] and not self.has_ended:
                before = self._transitions[-1]["Status"]
                self._step(before, self._clock.now())

    def _step(self, secondary: str, now: float) -> None:
        waited = now - self._since
        if self._status == "InProgress" and self._is_over(now):
            return
        if secondary == "Starting" and waited >= self._timing.starting:
            self._find_capacity()
        elif secondary in ("Interrupted", "Restarting") and waited >= self._timing.interrupted:
            self._to("Starting")
        elif secondary == "Downloading" and waited >= self._timing.downloading:
            self._pull()
        elif secondary == "Training":
            self._train(now)
        elif secondary == "Uploading" and waited >= self._timing.uploading:
            self._supplier.keep(self)
            self._end("Completed", "Completed")
        elif secondary == "Stopping":
            self._go_on_stopping(waited)

    def _is_over(self, now: float) -> bool:
        """Whether a limit is reached: then it is stopped."""
        limits = self.request["StoppingCondition"]
        longest, wait = limits.get("MaxRuntimeInSeconds", 86400), limits.get("MaxWaitTimeInSeconds")
        if wait is not None and now - self._created >= wait:
            self._begin_to_stop("MaxWaitTimeExceeded")
        elif self._training_began is not None and now - self._training_began >= longest:
            self._begin_to_stop("MaxRuntimeExceeded")
        return self._status != "InProgress"

    def _find_capacity(self) -> None:
        if self._faults.take(CAPACITY, {Fault.NO_CAPACITY}) is None:
            self._to("Downloading")
        elif self.is_spot:
            self._transitions[-1]["StatusMessage"] = "Insufficient capacity error from EC2 while launching instances, retrying!"
            self._publish()
            self._since = self._clock.now() + self._timing.retrying
        else:
            self._fail(_NO_MACHINE)

    def _pull(self) -> None:
        try:
            self.machines = list(self._supplier.start(self))
        except ImagePullError:
            self._fail(_NO_IMAGE)
            return
        except ContainerStartError as error:
            self._fail(f"ClientError: Failed to start the training container: {error}")
            return
        self.began = self._logged = self._clock.now()
        self.shipped = {}
        self._training_began = self._training_began or self.began
        self._to("Training")

    def _train(self, now: float) -> None:
        if self._reclaimed is not None:
            if now >= self._reclaimed or all(machine.exit_code() is not None for machine in self.machines):
                self._reclaimed = None
                self._let_go()
                self._to("Interrupted")
            return
        codes = [machine.exit_code() for machine in self.machines]
        bad = [node for node, code in enumerate(codes) if code]
        if bad:
            reason = _reason(self.machines[bad[0]])
            self._let_go()
            self._fail(reason)
        elif all(code == 0 for code in codes):
            self._let_go()
            self._to("Uploading")
        elif now - self._logged >= self._timing.logs:
            self._logged = now
            self._supplier.ship(self, whole=False)

    def _begin_to_stop(self, end: str) -> None:
        self._end_wanted, self._status = end, "Stopping"
        self._to("Stopping")
        for machine in self.machines:
            machine.terminate()

    def _go_on_stopping(self, waited: float) -> None:
        if waited >= STOP_SECONDS or all(machine.exit_code() is not None for machine in self.machines):
            self._let_go()
            self._end("Stopped", self._end_wanted)

    def _let_go(self) -> None:
        """Its machines go, and what they printed last is shipped."""
        for machine in self.machines:
            machine.kill()
        if self.machines:
            self._supplier.ship(self, whole=True)
        for machine in self.machines:
            machine.remove()
        self.past += self.machines
        self.machines = []

    def _fail(self, reason: str) -> None:
        self._reason = reason[:1024]
        self._end("Failed", "Failed")

    def _end(self, status: str, secondary: str) -> None:
        self._status, self._ended = status, self._clock.now()
        self._to(secondary)
        self._transitions[-1]["EndTime"] = self._ended
        self._publish()

    def _to(self, secondary: str) -> None:
        now = self._clock.now()
        if self._transitions:
            self._transitions[-1]["EndTime"] = now
        self._since = self._modified = now
        self._transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": _MESSAGES[secondary]})
        self._publish()

    def _publish(self) -> None:
        said = {
            "TrainingJobName": self.name,
            "TrainingJobArn": self.arn,
            "TrainingJobStatus": self._status,
            "SecondaryStatus": self._transitions[-1]["Status"],
            "CreationTime": self._created,
            "LastModifiedTime": self._modified,
            "SecondaryStatusTransitions": [dict(each) for each in self._transitions],
        }
        more = {"TrainingStartTime": self._training_began, "TrainingEndTime": self._ended, "FailureReason": self._reason or None}
        self._said = {**said, **{name: value for name, value in more.items() if value is not None}}


def _reason(machine: Body) -> str:
    code = machine.exit_code()
    if code == 137 and machine.out_of_memory():
        return f"{_MORE_MEMORY}, exit code: {code}"
    said = (machine.read("/opt/ml/output/failure") or b"").decode(errors="replace").strip()
    return f"AlgorithmError: {said}, exit code: {code}"
