"""What happens to a run: drawn from a seed, and the same for every play of it. The timing of the real processes is not."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

StoreKind = Literal["folder", "s3", "gs", "az"]
MACHINES = ("a", "b")


@dataclass(frozen=True)
class Action:
    """One step of a scenario."""

    kind: str
    """A method of ``play.Play``."""
    machine: str = ""
    what: str = ""
    seconds: float = 0.0
    clock: int = 0
    """Seconds by which the command's clock is wrong."""
    also: "Action | None" = None
    """What happens at the same time."""

    def __str__(self) -> str:
        words = [self.machine and f"{self.machine}:", self.kind, self.what, f"{self.seconds:.2f} s" if self.seconds else ""]
        words.append(f"clock {self.clock:+d} s" if self.clock else "")
        return " ".join(word for word in words if word) + (f" | {self.also}" if self.also else "")


@dataclass(frozen=True)
class Scenario:
    """One run and what befalls it."""

    seed: int
    store: StoreKind
    one_host: bool
    """Both homes are on one machine, as its name says."""
    actions: tuple[Action, ...]
    cancels: bool
    """The run is cancelled before it is finished."""
    in_containers: bool = False
    """It runs in containers, and what befalls a machine befalls the newest container, or the way to the engine."""


def draw_more(seed: int, motifs: int = 3) -> Scenario:
    """The scenario of a seed, which also chooses among all stores and containers, with dice of their own."""
    apart = random.Random(f"place {seed}")  # so that it changes nothing else that a seed draws
    place: StoreKind | None = apart.choice(["folder", "s3", "gs", "az", None])
    return draw(seed, place, motifs) if place else draw_in_containers(seed, motifs)


def draw_in_containers(seed: int, motifs: int = 3) -> Scenario:
    """The scenario of a seed in containers: both machines have the same engine, and the store is a folder."""
    dice = random.Random(f"docker {seed}")
    kinds = [_contained, _engine_away, _overtaken, _race, _cut_off]
    actions = [Action("submit", "a", "", dice.choice([0, 0, 0, dice.uniform(0.5, 4.0)])), Action("progress", seconds=15)]
    for _ in range(dice.randint(1, motifs)):
        actions.extend(dice.choices(kinds, [4, 4, 2, 2, 2])[0](dice))
        if dice.random() < 0.25:
            actions.append(_look(dice))
    return Scenario(seed, "folder", dice.random() < 0.5, tuple(actions), dice.random() < 0.5, in_containers=True)


def _contained(dice: random.Random) -> Iterator[Action]:
    """Something happens to the container, and both machines do something about it."""
    first, second = _two(dice)
    if dice.random() < 0.6:
        yield _command(dice, second, "adopt")
    yield Action("container", what=dice.choice(["kill", "pause", "pause", "remove"]))
    yield _command(dice, first, dice.choice(["status", "resume", "cancel", "list"]))
    if dice.random() < 0.5:
        yield Action("container", what=dice.choice(["unpause", "kill", "remove"]))
    yield _command(dice, second, dice.choice(["adopt", "resume", "status", "cancel"]))
    yield Action("progress", seconds=4)


def _engine_away(dice: random.Random) -> Iterator[Action]:
    """A machine does not reach the engine, or does not get its answers, for a while."""
    first, second = _two(dice)
    yield Action("network", first, dice.choice(["cut", "flaky", "flaky", "unanswered", "held", "slow"]))
    if dice.random() < 0.3:
        yield Action("container", what=dice.choice(["kill", "pause", "remove"]))
    yield _command(dice, first, dice.choice(["resume", "cancel", "status", "adopt"]))
    yield _command(dice, second, dice.choice(["adopt", "resume", "status"]))
    if dice.random() < 0.5:
        yield _command(dice, first, dice.choice(["resume", "status"]))
    yield Action("network", first, "calm")
    yield Action("progress", seconds=4)


def draw(seed: int, store: StoreKind | None = None, motifs: int = 3) -> Scenario:
    """The scenario of a seed, with up to so many motifs; ``store`` None: the seed chooses a folder or S3."""
    dice = random.Random(f"chaos {seed}")
    chosen: StoreKind = dice.choice(["folder", "s3"])
    store = store or chosen
    kinds = [_overtaken, _race, _cut_off, _full_disk if store == "folder" else _weather]
    actions = [Action("submit", "a", "", dice.choice([0, 0, 0, dice.uniform(0.3, 2.0)])), Action("progress", seconds=8)]
    for _ in range(dice.randint(1, motifs)):
        motif = dice.choices(kinds, [5, 2, 2, 2])[0]
        actions.append(Action("cast", dice.choice("ab")))
        for action in motif(dice):
            actions.append(action)
            if dice.random() < 0.25:
                actions.append(_look(dice))
    apart = random.Random(f"clock {seed}")  # so that it changes nothing else that a seed draws
    if apart.random() < 0.3:
        clock = apart.choice([3600, -3600, 86400 * 4000, -86400 * 4000])
        actions.insert(apart.randint(2, len(actions)), Action("clock", apart.choice(MACHINES), clock=clock))
    return Scenario(seed, store, dice.random() < 0.5, tuple(actions), dice.random() < 0.5)


def _overtaken(dice: random.Random) -> Iterator[Action]:
    """A machine fails in one way or another, the other one takes the run over, and the first one comes back."""
    first, second = _two(dice)
    fault, remedy = dice.choice(
        [
            (Action("stall", first, "worker"), Action("wake", first)),
            (Action("stall", first, "worker"), Action("wake", first)),
            (Action("stall", first, "machine"), Action("wake", first)),
            (Action("stall", first, "uploader"), Action("wake", first)),
            (Action("stall", first, "program"), Action("wake", first)),
            (Action("kill", first, "worker"), None),
            (Action("kill", first, "machine"), None),
            (Action("kill", first, "program"), None),
            (Action("kill", first, "uploader"), None),
            (Action("network", first, "cut"), Action("network", first, "calm")),
            (Action("network", first, "held"), Action("network", first, "calm")),
        ]
    )
    yield fault
    yield _command(dice, second, "adopt")
    if dice.random() < 0.3:
        yield _look(dice)
    yield _command(dice, second, "resume")
    if dice.random() < 0.7:
        yield Action("progress", seconds=4)
    if remedy and dice.random() < 0.8:
        yield remedy
    yield _command(dice, first, dice.choice(["status", "status", "list", "resume", "cancel"]))


def _race(dice: random.Random) -> Iterator[Action]:
    """Two commands at the same time."""
    first, second = _two(dice)
    yield _command(dice, second, "adopt")
    yield dice.choice([Action("kill", first, "machine"), Action("kill", second, "machine"), _command(dice, first, "cancel"), _look(dice)])
    verbs = dice.choice([("resume", "resume"), ("resume", "cancel"), ("cancel", "resume"), ("status", "resume"), ("cancel", "cancel")])
    yield _command(dice, first, verbs[0], also=_command(dice, second, verbs[1]))
    if dice.random() < 0.5:
        yield Action("progress", seconds=4)


def _cut_off(dice: random.Random) -> Iterator[Action]:
    """A command is killed, or suspended, in the middle."""
    first, second = _two(dice)
    if dice.random() < 0.6:
        yield dice.choice([Action("kill", first, "machine"), Action("kill", first, "worker"), Action("command", first, "cancel")])
    kind = dice.choice(["killed", "killed", "suspended"])
    yield Action(kind, first, dice.choice(["resume", "resume", "cancel", "status"]), dice.uniform(0.2, 2.5))
    yield _command(dice, dice.choice([first, second]), dice.choice(["resume", "status", "adopt"]))


def _weather(dice: random.Random) -> Iterator[Action]:
    """The network between a machine and the store is bad for a while."""
    first, second = _two(dice)
    yield Action("network", first, dice.choice(["slow", "flaky", "unanswered", "held", "cut"]))
    yield _command(dice, dice.choice([first, second]), dice.choice(["resume", "cancel", "status", "list"]))
    yield Action("progress", seconds=3)
    if dice.random() < 0.5:
        yield _command(dice, second, "adopt")
        yield _command(dice, second, "resume")
    yield Action("network", first, "calm")


def _full_disk(dice: random.Random) -> Iterator[Action]:
    """The disk under the store is full for a while."""
    first, second = _two(dice)
    yield Action("disk", what="full")
    yield _command(dice, first, dice.choice(["status", "list", "resume", "cancel"]))
    yield Action("progress", seconds=1)
    if dice.random() < 0.5:
        yield _command(dice, second, dice.choice(["adopt", "resume"]))
    yield Action("disk", what="free")


def _two(dice: random.Random) -> tuple[str, str]:
    """Mostly, the machine that runs the program comes first."""
    return ("first", "second") if dice.random() < 0.8 else ("second", "first")


def _look(dice: random.Random) -> Action:
    return _command(dice, dice.choice(MACHINES), dice.choice(["status", "status --json", "list", "list --json", "logs"]))


def _command(dice: random.Random, machine: str, verb: str, also: Action | None = None) -> Action:
    if verb == "cancel":
        verb = dice.choice(["cancel", "cancel", "cancel --force", "cancel --no-wait"])
    clock = dice.choice([0, 0, 0, 0, 3600, -3600, 86400 * 4000, -86400 * 4000])
    return Action("command", machine, verb, clock=clock, also=also)
