"""A scenario played with real processes: what happens is done, then everything is healed, and the run has to end well."""

import itertools
import json
import os
import random
import re
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

from tests.chaos.containers import IMAGE, Containers
from tests.chaos.invariants import History, damaged, history, violations
from tests.chaos.machines import Command, Machine, Passage, two_machines
from tests.chaos.scenario import Action, Scenario
from tests.chaos.witness import FolderWitness, ProxyWitness, S3Witness, Witness
from tests.stores import StoreServer
from tests.support import wait_until
from tests.worker.small_disk import fill, small_disk

SAVES = """
set -u
step=0; chain=""
if [ -n "$CLOUD_TRAIN_RESUME" ]; then chain=$(cat "$CLOUD_TRAIN_RESUME/chain"); step=${chain##*:}; fi
note() { echo "$1 $CLOUD_TRAIN_ATTEMPT $step $$ $CLOUD_TRAIN_HOME" >> "$HOME/notes"; }
save() {
    step=$((step + 1)); made="$CLOUD_TRAIN_CHECKPOINTS/.step-$step.tmp"
    chain="$chain${chain:+ }$CLOUD_TRAIN_ATTEMPT:$step"
    if mkdir "$made" && echo "$chain" > "$made/chain"; then
        note save
        mv "$made" "$CLOUD_TRAIN_CHECKPOINTS/$(printf step-%08d $step)"
    else
        exit 1
    fi
}
trap 'save; exit 143' TERM
note begin
while [ ! -e "$HOME/finish" ]; do save; sleep 0.25; done
note model
echo "$chain" > "$CLOUD_TRAIN_MODEL/chain"
"""
"""A program that makes a checkpoint every quarter of a second until it may finish. A checkpoint holds the attempt and the step of each of
its ancestors; every one is noted where no machine's failure reaches."""

DISK_KILOBYTES = 4096
HELD_SECONDS = 8.0
HEALING_SECONDS = 40.0
ENDING_SECONDS = 90.0
EXPECTED = {0, 4, 6, 7, 9, 10, 12, 13, 15, 17}
"""Exit statuses that may follow from what is done here; others are bugs."""


@dataclass
class Play:
    """The stage of one scenario."""

    scenario: Scenario
    folder: Path
    url: str
    machines: dict[str, Machine]
    witness: Witness
    disk: Path | None
    say: Callable[[str], None]
    record: list[str] = field(default_factory=list)
    """What was done, and what came of it."""
    run_id: str = ""
    _cast: dict[str, str] = field(default_factory=lambda: {"first": "a", "second": "b"})
    _ballast: Path | None = None
    _began: float = field(default_factory=monotonic)

    def tell(self, words: str) -> None:
        """Add to the record."""
        self.record.append(f"{monotonic() - self._began:6.1f} {words}")
        self.say(self.record[-1])

    def perform(self) -> None:
        """Everything, to the end of the run. Raises AssertionError for a rule that was broken."""
        for action in self.scenario.actions:
            getattr(self, f"do_{action.kind}")(action)
        self._heal()
        self._agree()
        if self.scenario.cancels:
            self._cancel()
        self._finish()
        self._judge()

    def do_submit(self, action: Action) -> None:
        """Start the run; the first ``submit`` may be killed after some seconds."""
        path = self.folder / "job.yaml"
        path.write_text(json.dumps({"name": "chaos", "store": self.url, "limits": {"grace": "2 s"}, **self._job()}))
        machine = self._machine(action)
        command = machine.start("submit", str(path))
        if action.seconds:
            self._disturb(command, action.seconds, is_killed=True)
        self._end_of(machine, command)
        if not (known := self._known(machine)):
            assert action.seconds, f"submit started nothing: {command.complaint}"
            self._end_of(machine, machine.start("submit", str(path)))
            known = self._known(machine)
        self.run_id = known[0]

    def _job(self) -> dict[str, Any]:
        return {"provider": "local", "model": {"kind": "script", "command": SAVES}}

    def do_cast(self, action: Action) -> None:
        """Whoever runs the program is ``first`` from now on; if nobody does, the machine that was drawn."""
        running = [name for name, machine in self.machines.items() if machine.processes("worker")]
        first = action.machine if action.machine in running or not running else running[0]
        self._cast = {"first": first, "second": "b" if first == "a" else "a"}

    def do_command(self, action: Action) -> None:
        """Run a command, beside another one if there is one."""
        started = []
        each: Action | None = action
        while each is not None:
            machine = self._machine(each)
            started.append((machine, machine.start(*self._words(each.what), clock=each.clock)))
            each = each.also
        for machine, command in started:
            self._end_of(machine, command)

    def do_killed(self, action: Action) -> None:
        """Run a command that is killed in the middle."""
        self._disturbed(action, is_killed=True)

    def do_suspended(self, action: Action) -> None:
        """Run a command that is suspended in the middle, while the other machine looks."""
        self._disturbed(action, is_killed=False)

    def do_kill(self, action: Action) -> None:
        """SIGKILL for a part of a machine."""
        self.tell(f"{action}: {self._machine(action).kill(action.what)} processes")

    def do_stall(self, action: Action) -> None:
        """SIGSTOP for a part of a machine."""
        self.tell(f"{action}: {self._machine(action).stall(action.what)} processes")

    def do_wake(self, action: Action) -> None:
        """SIGCONT."""
        self.tell(f"{action}: {self._machine(action).wake()} processes")

    def do_network(self, action: Action) -> None:
        """Change the network between a machine and the store."""
        self.tell(str(action))
        self._machine(action).link.become(action.what)

    def do_clock(self, action: Action) -> None:
        """Step the clock of the workers that are running on a machine, and of those that begin there."""
        self.tell(str(action))
        self._machine(action).step_clock(action.clock)

    def do_disk(self, action: Action) -> None:
        """Fill the disk under the store, or free it."""
        self.tell(f"{action}{'' if self.disk else ': not possible here'}")
        if self._ballast:
            self._ballast.unlink()
            self._ballast = None
        if self.disk and action.what == "full":
            self._ballast = fill(self.disk)

    def do_progress(self, action: Action) -> None:
        """Wait until a program makes two more checkpoints, at most so many seconds."""
        before, until = len(self._saved()), monotonic() + action.seconds
        try:
            wait_until(lambda: len(self._saved()) >= before + 2 or monotonic() > until, "progress", action.seconds + 5, pace=0.1)
        finally:
            self.tell(f"progress: {len(self._saved()) - before} checkpoints")

    def _machine(self, action: Action) -> Machine:
        return self.machines[self._cast.get(action.machine, action.machine)]

    def _words(self, verb: str) -> list[str]:
        """The arguments of a command about the run."""
        name, *options = verb.split()
        about = {"list": [], "adopt": [f"{self.url}/{self.run_id}"], "resume": [self.run_id, "--trust"]}
        return [name, *about.get(name, [self.run_id]), *options]

    def _disturbed(self, action: Action, is_killed: bool) -> None:
        machine = self._machine(action)
        command = machine.start(*self._words(action.what), clock=action.clock)
        self._disturb(command, action.seconds, is_killed=is_killed)
        if not is_killed:
            other = next(each for each in self.machines.values() if each is not machine)
            self._end_of(other, other.start(*self._words("status")))
            command.process.send_signal(signal.SIGCONT)
        self._end_of(machine, command)

    def _disturb(self, command: Command, seconds: float, is_killed: bool) -> None:
        """Send SIGKILL or SIGSTOP to a command after some seconds, if it still runs."""
        until = monotonic() + seconds
        wait_until(lambda: command.process.poll() is not None or monotonic() > until, "the moment", seconds + 5, pace=0.02)
        command.is_disturbed = command.process.poll() is None
        if command.is_disturbed:
            command.process.send_signal(signal.SIGKILL if is_killed else signal.SIGSTOP)

    def _end_of(self, machine: Machine, command: Command) -> None:
        if machine.link.state == "held":  # until the command is over, and a little longer than its patience
            until = monotonic() + HELD_SECONDS
            wait_until(lambda: command.process.poll() is not None or monotonic() > until, "the command", HELD_SECONDS + 5, pace=0.05)
            if command.process.poll() is None:
                self.tell(f"{machine.name}: network calm, since {command.words} waits for it")
                machine.link.become("calm")
        status = command.wait()
        last = next((line for line in command.complaint.splitlines() if line.startswith("error:")), "")
        disturbed = " (disturbed)" if command.is_disturbed else ""
        self.tell(f"{machine.name}: cloud-train {command.words}: {status}{disturbed} {last}")
        assert "Traceback" not in command.complaint, f"a traceback: {command.errors}"
        assert status in EXPECTED or command.is_disturbed, f"exit status {status} of {command.words}: {command.complaint}"

    def _known(self, machine: Machine) -> list[str]:
        """The ids of all runs in a machine's ledger."""
        return [run["run_id"] for run in self._asked(machine, "list", "--all", "--json")["runs"]]

    def _asked(self, machine: Machine, *arguments: str) -> dict[str, Any]:
        return _answer(machine.start(*arguments))

    def _on_both(self, verb: str) -> list[tuple[Machine, Command]]:
        """Start a command on each machine at the same time."""
        return [(machine, machine.start(*self._words(verb))) for machine in self.machines.values()]

    def _saved(self) -> list[str]:
        return [note for note in self._notes() if note.startswith("save")]

    def _notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def _heal(self) -> None:
        """Nothing is stalled, cut, full or disturbed any more."""
        if self._ballast:
            self._ballast.unlink()
            self._ballast = None
        for machine in self.machines.values():
            machine.link.become("calm")
            machine.wake()
        for machine in self.machines.values():
            machine.settle()
        for machine, command in self._on_both("adopt"):
            self._end_of(machine, command)
        self.tell("healed")

    def _agree(self) -> None:
        """Both machines come to say the same as the run directory."""
        said: list[str] = []

        def is_agreed() -> bool:
            for _, command in self._on_both("status"):
                command.wait()
            number, state = self._newest()
            views = [_answer(command) for _, command in self._on_both("status --json")]
            said[:] = [f"the run directory {number} {state}", *(f"{view.get('attempt')} {view.get('state')}" for view in views)]
            ends = {"succeeded", "failed", "cancelled", "interrupted"}
            states = {view.get("state") for view in views}
            is_one = states == {state} if states & ends or state in ends else True
            return {view.get("attempt") for view in views} == {number} and is_one

        try:
            wait_until(is_agreed, "both machines agree with the run directory", HEALING_SECONDS, pace=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}: {said}") from None
        self.tell(f"agreed: {', '.join(said)}")
        self._one_writer()

    def _newest(self) -> tuple[int, str]:
        """The newest attempt in the run directory, and its state."""
        found = {}
        for key, data in self.witness.now().items():
            if match := re.fullmatch(rf"{self.run_id}/attempts/(\d+)/status\.json", key):
                found[int(match[1])] = json.loads(data)["state"]
        return max(found.items())

    def _one_writer(self) -> None:
        """Programs of an attempt that was overtaken end."""

        def programs() -> set[str]:
            newest = str(self._newest()[0])
            return {attempt for attempt in self._running() if attempt != newest}

        wait_until(lambda: not programs(), "programs of attempts that were overtaken have ended", HEALING_SECONDS, pace=0.2)

    def _running(self) -> list[str]:
        """The attempt of each process of a program."""
        found = []
        for machine in self.machines.values():
            for process in machine.processes("program"):
                with suppress(psutil.Error):
                    found.append(process.environ().get("CLOUD_TRAIN_ATTEMPT", "?"))
        return found

    def _cancel(self) -> None:
        """A cancelled run leaves no process."""
        dice = random.Random(self.scenario.seed)
        machine = self.machines[dice.choice(["a", "b"])]
        self._end_of(machine, machine.start(*self._words("cancel")))
        self._nothing_runs()

    def _nothing_runs(self) -> None:
        def left() -> list[psutil.Process]:
            return [process for machine in self.machines.values() for process in machine.processes()]

        try:
            wait_until(lambda: not left(), "no process of the run is left", HEALING_SECONDS, pace=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}: {[process.pid for process in left()]}") from None

    def _finish(self) -> None:
        """The run can always be brought to success."""
        self._may_finish()
        turns = itertools.cycle(self.machines.values())
        until = monotonic() + ENDING_SECONDS
        while True:
            assert monotonic() < until, f"the run cannot be brought to success: {self._newest()}"
            machine = next(turns)
            command = machine.start(*self._words("resume"))
            self._end_of(machine, command)
            if "has succeeded" in command.complaint:
                break
        self._nothing_runs()
        for machine in self.machines.values():
            view = self._asked(machine, *self._words("status --json"))
            assert (view["attempt"], view["state"]) == (self._newest()[0], "succeeded"), f"{machine.name} says {view}"
            target = self.folder / f"model-{machine.name}"
            status, _ = machine.run("fetch-model", self.run_id, "--to", str(target))
            assert status == 0, f"{machine.name} cannot fetch the model: {machine.commands[-1].complaint}"
            chain = (target / "chain").read_bytes()
            assert chain == self.witness.now()[f"{self.run_id}/model/chain"], f"{target} is another model"
            last = self.folder / f"last-{machine.name}"
            status, _ = machine.run("fetch-model", self.run_id, "--checkpoint", "last", "--to", str(last))
            if status == 0:
                found = (last / "chain").read_bytes().strip()
                assert chain.startswith(found), f"the last checkpoint is of another branch than the model: {found!r}"

    def _may_finish(self) -> None:
        (self.folder / "finish").touch()

    def _judge(self) -> None:
        """Everything that the witness saw."""
        ledgers = {machine.name: self._known(machine) for machine in self.machines.values()}
        broken = [f"the ledger of {name} has {known}" for name, known in ledgers.items() if known != [self.run_id]]
        now = self.witness.now()
        if (runs := {key.partition("/")[0] for key in now if "/" in key}) != {self.run_id}:
            broken.append(f"the store has the runs {sorted(runs)}")
        seen = self.seen()
        broken += violations(seen, self._notes(), is_atomic=self.scenario.store == "folder")
        broken += damaged(now, self.run_id)
        model = [each for each in seen.published if each.step is None]
        if not model or model[-1].attempt != max(seen.claims):
            broken.append(f"the model is not the last attempt's: {[str(each) for each in model]}")
        assert not broken, "\n".join(broken)

    def seen(self) -> History:
        """What the witness saw of the run."""
        return history(self.run_id, self.witness.writes())


@dataclass
class ContainerPlay(Play):
    """The stage of a scenario in containers, of which the newest stands for the machine."""

    containers: Containers = field(kw_only=True)

    def do_submit(self, action: Action) -> None:
        """See ``Play``."""
        super().do_submit(action)
        self.containers.run_id = self.run_id

    def do_container(self, action: Action) -> None:
        """Kill, suspend or remove the newest container, or let it continue."""
        self.tell(f"{action}: {self.containers.do(action.what)}")

    def do_kill(self, action: Action) -> None:
        """Kill the newest container."""
        self.tell(f"{action}: {self.containers.do('kill')} containers")

    def do_stall(self, action: Action) -> None:
        """Suspend it."""
        self.tell(f"{action}: {self.containers.do('pause')} containers")

    def do_wake(self, action: Action) -> None:
        """Let all continue."""
        self.tell(f"{action}: {self.containers.unpause()} containers")

    def _job(self) -> dict[str, Any]:
        (self.folder / "code").mkdir(exist_ok=True)
        (self.folder / "code" / "nothing.txt").write_text("\n")
        command = SAVES.replace("$HOME", "$CLOUD_TRAIN_CHECKPOINTS/..").replace("$CLOUD_TRAIN_HOME", "container")
        return {"provider": "docker", "model": {"kind": "script", "command": command, "directory": "code"}, "image": {"base": IMAGE}}

    def _heal(self) -> None:
        self.containers.unpause()
        super()._heal()

    def _notes(self) -> list[str]:
        path = self.folder / "store" / self.run_id / "notes"
        return path.read_text().splitlines() if self.run_id and path.exists() else []

    def _running(self) -> list[str]:
        return self.containers.running()

    def _nothing_runs(self) -> None:
        wait_until(lambda: not self.containers.running(), "no container of the run is left", HEALING_SECONDS, pace=0.2)

    def _may_finish(self) -> None:
        (self.folder / "store" / self.run_id / "finish").touch()


def _answer(command: Command) -> dict[str, Any]:
    """What a command with ``--json`` printed."""
    status = command.wait()
    assert "Traceback" not in command.complaint, f"a traceback: {command.errors}"
    found = json.loads(command.said)
    assert isinstance(found, dict)
    return found if status in EXPECTED else {}


def play(
    scenario: Scenario,
    folder: Path,
    server: StoreServer | None,
    of_run: Containers | None = None,
    *,
    namespaces: bool,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Play a scenario in an empty folder, with a server for a cloud's store, and with a run's containers if it is played in them.

    Raises AssertionError, with all that is known, for a broken rule.
    """
    with ExitStack() as until_the_end:
        store = folder / "store"
        disk: Path | None = None
        witness: Witness
        passages: list[Passage] = []
        if server is not None:
            url = f"{server.new_url()}/runs"
            witness = (S3Witness if server.scheme == "s3" else ProxyWitness)(server, url, passages)
        else:
            url = str(store)
            if os.getuid() == 0 and not scenario.in_containers and any(action.kind == "disk" for action in scenario.actions):
                disk = until_the_end.enter_context(small_disk(store, DISK_KILOBYTES))
            witness = until_the_end.enter_context(FolderWitness(store).watching())
        machines = until_the_end.enter_context(
            two_machines(
                folder, server, scenario.seed, passages,
                one_host=scenario.one_host, namespaces=namespaces, in_containers=scenario.in_containers,
            )
        )  # fmt: skip
        stage = Play(scenario, folder, url, machines, witness, disk, say)
        if of_run is not None:
            stage = ContainerPlay(scenario, folder, url, machines, witness, disk, say, containers=of_run)
        try:
            stage.perform()
        except (AssertionError, KeyError, ValueError) as error:
            what = "\n".join([f"seed {scenario.seed} ({scenario.store}): {type(error).__name__}: {error}", "", "done:", *stage.record])
            told = str(stage.seen()) if stage.run_id else "no run"
            raise AssertionError(f"{what}\n\nseen by the witness:\n{told}\n\nfiles: {folder}") from error
