"""Two machines that share a store: each with its own home, name and network, and the processes that belong to it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic, time

import psutil

from tests.answers import Request
from tests.chaos.containers import EngineLink
from tests.faults import Cut, Fault, FaultProxy, Record, Refuse, Weather, calm
from tests.stores import LOOPBACK, StoreServer

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 90.0
"""A command that takes longer hangs."""
_HELD_SECONDS = 60.0


@dataclass
class Command:
    """A command of a machine, running or ended."""

    words: str
    process: "subprocess.Popen[bytes]"
    output: Path
    errors: Path
    began: float = field(default_factory=monotonic)
    is_disturbed: bool = False
    """It was killed or suspended, so that its end proves nothing."""

    def wait(self) -> int:
        """Its exit status; raises AssertionError if it hangs."""
        try:
            return self.process.wait(max(1.0, self.began + COMMAND_SECONDS - monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"cloud-train {self.words} takes more than {COMMAND_SECONDS:g} s") from None

    @property
    def said(self) -> str:
        """What it printed."""
        return self.output.read_text(errors="replace")

    @property
    def complaint(self) -> str:
        """What it printed to standard error."""
        return self.errors.read_text(errors="replace")


@dataclass(frozen=True)
class Passage:
    """A request that may have reached the store, between two times in seconds since the epoch."""

    method: str
    path: str
    began: float
    ended: float
    body: bytes = b""
    is_done: bool = True
    """Whether the store has said so."""


class Link:
    """The network between a machine and the store: a plan for the machine's fault proxy."""

    def __init__(self, seed: int) -> None:
        self.state = "calm"
        self.passed: dict[int, float] = {}
        """When a request went on to the store, by its number."""
        self._calm = Event()
        self._calm.set()
        self._plan: Callable[[Request], Fault | None] = calm
        self._seed = seed

    def __call__(self, request: Request) -> Fault | None:
        """The fault of a request. A held one arrives once the network is calm again, if its sender still waits or has sent it all."""
        fault = self._plan(request)
        self.passed[request.number] = time()
        return fault

    def become(self, state: str) -> None:
        """``calm``, ``cut``, ``held``, ``slow``, ``flaky`` or ``unanswered``: what is asked for is done, and the answer is lost."""
        self.state = state
        if state == "calm":
            self._calm.set()
        else:
            self._calm.clear()
        plans: dict[str, Callable[[Request], Fault | None]] = {
            "calm": calm,
            "cut": lambda request: Cut("request", 0),
            "held": lambda request: self._hold(_HELD_SECONDS),
            "slow": lambda request: self._hold(0.7),
            "flaky": Weather(self._seed, cut=0.15, busy=0.1, drip=0.1, most=60),
            "unanswered": Weather(self._seed, cut=0.0, most=40),
        }
        self._plan = _without_answer if state == "unanswered" else plans[state]

    def _hold(self, seconds: float) -> None:
        self._calm.wait(seconds)


class _WatchedProxy(FaultProxy):
    """A proxy that keeps the times of what may have reached the store."""

    def __init__(self, server: StoreServer, link: Link, passages: list[Passage], address: str) -> None:
        super().__init__(server, link, address=address)
        self._link, self._passages = link, passages

    def keeps(self, request: Request) -> bool:
        """Whether it writes, to a store whose server does not keep earlier versions itself."""
        return self.scheme != "s3" and request.method == "PUT"

    def end(self, record: Record) -> None:
        """Keep what became of a request."""
        began = self._link.passed.pop(record.request.number, time())
        is_lost = isinstance(record.fault, Refuse) or (isinstance(record.fault, Cut) and record.fault.direction == "request")
        if not is_lost and (record.status is None or record.status < 300):
            is_done = record.answered is not None and record.answered < 300
            self._passages.append(Passage(record.request.method, record.request.path, began, time(), record.body, is_done))
        super().end(record)


def _without_answer(request: Request) -> Fault | None:
    return Cut("response", -1) if request.method in ("PUT", "DELETE", "POST") and request.number % 2 else None


@dataclass
class Machine:
    """One machine."""

    name: str
    folder: Path
    environment: dict[str, str]
    """Of every process on it."""
    link: Link | EngineLink
    """The network to the store, or to the Docker Engine if the run is in containers."""
    prefix: tuple[str, ...] = ()
    """Enters the machine's network namespace."""
    commands: list[Command] = field(default_factory=list)
    stalled: list[psutil.Process] = field(default_factory=list)

    def start(self, *arguments: str, clock: int = 0) -> Command:
        """Start a command of the command line."""
        folder = self.folder.parent / "commands"
        folder.mkdir(exist_ok=True)
        stem = f"{len(list(folder.iterdir())) // 2:03d}-{self.name}-{arguments[0]}"
        output, errors = folder / f"{stem}.out", folder / f"{stem}.err"
        environment = {**self.environment, "CHAOS_CLOCK": str(clock)}
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "cloud_train", *arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=self.folder.parent, start_new_session=True,
            )  # fmt: skip
        self.commands.append(Command(" ".join(arguments), process, output, errors))
        return self.commands[-1]

    def run(self, *arguments: str, clock: int = 0) -> tuple[int, str]:
        """The exit status and the output of a command."""
        command = self.start(*arguments, clock=clock)
        return command.wait(), command.said

    def processes(self, what: str = "machine") -> list[psutil.Process]:
        """Of a run on this machine, without commands: its ``worker``, ``uploader`` (and other helpers), ``program``, or all."""
        own = {command.process.pid for command in self.commands}
        found: dict[int, tuple[psutil.Process, bool, int]] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_ours = process.pid not in own and process.environ().get("CLOUD_TRAIN_HOME") == str(self.folder)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = process, "cloud_train.worker" in process.cmdline(), process.ppid()
        workers = {pid for pid, (_, is_worker, _) in found.items() if is_worker}
        parts = {
            process: "program" if not is_worker else "uploader" if parent in workers else "worker"
            for process, is_worker, parent in found.values()
        }
        return [process for process, part in parts.items() if what in ("machine", part)]

    def kill(self, what: str) -> int:
        """SIGKILL for processes of the run; all of a machine at once, so that none has time to react. Returns how many they were."""
        found = self.processes(what)
        for process in found:
            with suppress(psutil.Error):
                process.suspend()
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, 10)
        return len(found)

    def stall(self, what: str) -> int:
        """SIGSTOP for processes of the run, until ``wake``."""
        found = self.processes(what)
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGSTOP)
        self.stalled += found
        return len(found)

    def wake(self) -> int:
        """SIGCONT for everything that was stalled."""
        found, self.stalled = self.stalled, []
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        return len(found)

    def step_clock(self, seconds: int) -> None:
        """Let the clock of this machine's workers be wrong by so many seconds from now on."""
        path = Path(self.environment["CHAOS_CLOCK_OF_WORKERS"])
        new = path.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(path)

    def settle(self) -> None:
        """Wait for the commands that are still running."""
        for command in self.commands:
            command.wait()

    def end(self) -> None:
        """End every process of this machine."""
        for command in self.commands:
            with suppress(OSError):
                command.process.kill()
            command.process.wait()
        self.kill("machine")


@contextmanager
def two_machines(
    folder: Path,
    server: StoreServer | None,
    seed: int,
    passages: list[Passage],
    *,
    one_host: bool,
    namespaces: bool,
    in_containers: bool = False,
) -> Iterator[dict[str, Machine]]:
    """The machines ``a`` and ``b``; with a server each reaches it through a proxy of its own, from its network namespace if asked.

    ``passages`` gets every request that may have reached the server.
    """
    patch = folder / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text("import tests.chaos.pace\n")
    with ExitStack() as until_the_end:
        machines = {}
        for number, name in enumerate(("a", "b")):
            environment = {
                **{
                    variable: value for variable, value in os.environ.items() if not variable.startswith(("CLOUD_TRAIN_", "AWS_", "CHAOS_"))
                },
                "HOME": str(folder),
                "CLOUD_TRAIN_HOME": str(folder / name),
                "PYTHONPATH": os.pathsep.join([str(patch), str(ROOT)]),
                "CHAOS_CLOCK_OF_WORKERS": str(folder / f"clock-{name}"),
                "CHAOS_HOST": "chaos" if one_host else f"chaos-{name}",
            }
            link: Link | EngineLink = Link(seed + number)
            prefix: tuple[str, ...] = ()
            if in_containers:
                link = EngineLink(folder / f"engine-{name}", seed + number)
                until_the_end.callback(link.close)
                environment["DOCKER_HOST"] = f"unix://{folder}/engine-{name}"
            elif server is not None:
                address = LOOPBACK
                if namespaces:
                    address, prefix = until_the_end.enter_context(_namespace(number))
                assert isinstance(link, Link)
                proxy = until_the_end.enter_context(_WatchedProxy(server, link, passages, address))
                until_the_end.callback(link.become, "calm")  # so that nothing is held while the proxy closes
                environment |= server.environment_at(proxy.endpoint)
            machines[name] = Machine(name, folder / name, environment, link, prefix)
        try:
            yield machines
        finally:
            for machine in machines.values():
                machine.link.become("calm")
                machine.end()


def may_make_namespaces() -> bool:
    """Whether this process may create network namespaces."""
    if os.getuid() != 0:
        return False
    try:
        with _namespace(2):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def _namespace(number: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A network namespace of its own; yields this process's address as seen from there, and the words that run a command in it."""
    name, place = f"ct-{os.getpid()}-{number}", (os.getpid() * 3 + number) % (1 << 15)
    first = (198 << 24) + (18 << 16) + place * 4  # 198.18.0.0/15 is for benchmarks between networks: RFC 2544
    here, there = (".".join(str(((first + offset) >> shift) & 255) for shift in (24, 16, 8, 0)) for offset in (1, 2))
    inside, outside = f"cti{os.getpid() % 10**7}-{number}", f"cto{os.getpid() % 10**7}-{number}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
        ip("addr", "add", f"{here}/30", "dev", outside)
        ip("link", "set", outside, "up")
        for words in (["addr", "add", f"{there}/30", "dev", inside], ["link", "set", inside, "up"], ["link", "set", "lo", "up"]):
            ip("-n", name, *words)
        yield here, ("ip", "netns", "exec", name)
    finally:
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", outside)  # a namespace takes its end with it only some time later
        ip("netns", "del", name)
