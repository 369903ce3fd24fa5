"""An explorer of the protocol that keeps two attempts of a run from writing at once: it runs the real functions in many orders.

Workers and observers are threads, of which only one runs at a time. At each request to the store and each question to a provider, the
explorer decides who runs next, whether the response is lost, whether the request is delivered late, and whether the worker dies there. A
decision other than "the same one continues" costs one of a few, so that a small number of them is explored completely. An actor that is
not chosen is a process that is suspended, for however long: there is no clock.

A worker is ``run.fencing`` and ``run.succession`` as the uploader uses them. Its program is an actor of its own, which writes the files of
checkpoints and asks nobody: it continues while its worker is suspended, and after its death, until a worker that has been overtaken kills
it. A request that is delivered late is one more actor, and its sender sees a time-out. An observer is ``orchestrator.reconcile`` with a
ledger in memory, in the order in which ``resume`` calls it.
"""

import hashlib
import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import ConflictError, StoreError
from cloud_train.orchestrator import reconcile, state
from cloud_train.orchestrator.home import Home
from cloud_train.providers.base import Capabilities, Handle, Observation
from cloud_train.retry import RetryPolicy
from cloud_train.run import layout, ledger_file
from cloud_train.run.checkpoints import places_in_store
from cloud_train.run.fencing import Lease, ancestor_in, publish
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import UNMANAGED
from cloud_train.run.manifest import Manifest, parse_manifest
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.succession import Branch, SupersededError
from cloud_train.storage.base import ObjectMissingError, TransientStoreError
from cloud_train.storage.retrying import RetryingStore
from tests.storage.memory_store import MemoryStore

RUN = "explored-261130-120000-abcd"
STORE = "s3://bucket/runs"
WRITES = ("create", "replace", "put")
MOST_ATTEMPTS = 3
VANISHED = Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, "the worker is gone")
NO_WAITS = RetryPolicy(attempts=6, time_limit=None, first_wait=0.0, longest_wait=0.0, sleep=lambda _: None)


class ViolationError(AssertionError):
    """A state that the protocol rules out."""


class _Killed(BaseException):
    """Ends the thread of a worker that dies, and those that are left at the end."""


@dataclass(frozen=True)
class Limits:
    """How many decisions of each kind one order of events may have."""

    switches: int = 2
    """Times that another actor runs although the present one could continue."""
    deaths: int = 0
    lost: int = 0
    """Responses that are lost after the write was carried out."""
    lies: int = 0
    """Times that a provider calls a living worker ended."""
    late: int = 0
    """Writes that are carried out some time after their sender has given up on them."""
    programs: bool = False
    """Whether programs are actors of their own, which continue while their workers are suspended. Otherwise each runs within its worker."""
    steps: int = 1
    """Checkpoints that each attempt makes; their steps are as far apart as the attempt's number."""
    looks: int = 2
    """How often each observer or person comes."""
    targets: int = 1
    """The stores to which people move a run."""


class Actor:
    """One worker or observer, in a thread that runs only while the explorer lets it."""

    def __init__(self, name: str, action: Callable[[], None], is_worker: bool, is_mortal: bool) -> None:
        self.name, self.is_worker, self.is_mortal = name, is_worker, is_mortal
        self.go, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.is_over = self.is_killed = False
        self.waits_for: Actor | None = None
        self.error: BaseException | None = None
        self._action = action
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.go.acquire()
        try:
            if not self.is_killed:
                self._action()
        except _Killed:
            pass
        except BaseException as error:  # noqa: BLE001 -- reported by the explorer's own thread
            self.error = error
        self.is_over = True
        self.back.release()

    def let_run(self) -> None:
        """Run to the actor's next request, or to its end."""
        self.go.release()
        self.back.acquire()

    def pause(self) -> None:
        """In the actor's thread: let the explorer decide."""
        if self.is_killed:  # it is on its way out
            raise _Killed
        self.back.release()
        self.go.acquire()
        if self.is_killed:
            raise _Killed


@dataclass
class Choice:
    """One decision: the option that was taken, and the number of options."""

    taken: int
    options: int


class Place:
    """A provider that knows which workers are alive."""

    name = "place"
    capabilities = Capabilities(stores=("s3",), max_nodes=1, spot=False, enforces=())

    def __init__(self, world: "World") -> None:
        self._world = world

    def observe(self, launch: Handle) -> Observation:
        return self._world.observed(launch.reference["worker"])

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> None:
        """None: a home that has not launched an attempt does not find it."""

    def cancel(self, launch: Handle, force: bool = False) -> None:
        pass  # the observer thinks that the worker is gone

    def clean_up(self, launch: Handle) -> None:
        pass


class MemoryLedger(Ledger):
    """A ledger of one home in memory; the actors of that home share it."""

    def _connect(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        ledger_file._execute_all(connection, ledger_file._SCHEMA)
        return connection


@dataclass
class World:
    """Everything in one order of events; ``prefix`` are the decisions to repeat."""

    limits: Limits
    prefix: list[int]
    choose: Callable[[int], int] = lambda options: 0
    """Takes the decisions after the prefix."""
    stores: dict[str, MemoryStore] = field(default_factory=lambda: defaultdict(MemoryStore))
    """By URL. A run begins in ``STORE``."""
    choices: list[Choice] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    workers: dict[str, Actor] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    successes: set[tuple[str, int]] = field(default_factory=set)
    """Attempts, each with the URL of its store, whose worker has recorded its success, and left."""
    on_write: Callable[[str, str, bytes], None] = lambda url, key, data: None
    """Is told of each write that was carried out: the store's URL, the key and the bytes."""
    on_claim: Callable[[str, int, str], None] = lambda url, number, token: None
    """Is told when a worker has claimed an attempt: the store's URL, the attempt and the token."""
    _present: Actor | None = None
    _spent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("switches", "deaths", "lost", "lies", "late"), 0))
    _is_over: bool = False

    def shared(self, url: str = STORE) -> RetryingStore:
        """A store as actors see it."""
        return RetryingStore(Requests(self, url), NO_WAITS)

    def spawn(self, name: str, action: Callable[[], None], is_worker: bool = False, is_mortal: bool = False) -> Actor:
        """Add an actor. One that is mortal can die, as workers can."""
        actor = Actor(name, action, is_worker, is_mortal or is_worker)
        if is_worker:
            self.workers[name] = actor
        self.actors.append(actor)
        actor.thread.start()
        return actor

    def wait_for(self, other: Actor) -> None:
        """In an actor's thread: wait until another one is over."""
        actor = self._present
        if actor is not None and not other.is_over:
            actor.waits_for = other
            actor.pause()

    def deliver_late(self, what: str, action: Callable[[], object]) -> bool:
        """Whether the present write is delivered late, as one more actor. Then what it finds concerns nobody any more."""
        if not self._happens("late"):
            return False

        def arrive() -> None:
            self.request(what)
            with suppress(StoreError):
                action()
            self.check_results()

        self.spawn(f"network-{len(self.actors)}", arrive)
        return True

    def request(self, what: str) -> None:
        """In an actor's thread: it is about to ask the store or a provider."""
        if self._is_over or self._present is None or threading.current_thread() is not self._present.thread:
            return
        actor = self._present
        actor.pause()
        self.events.append(f"{actor.name} {what}")

    def check_results(self) -> None:
        """Check what is visible in each store."""
        for url in list(self.stores):
            check_results(self, url)

    def check_end_in_place(self, key: str, data: bytes) -> None:
        """An observer whose provider tells the truth ends no living worker's attempt. A resume may: it closes the end, after a silence."""
        if self._present is None or self._present.is_worker or not key.endswith("/status.json") or self._spent["lies"]:
            return
        status = AttemptStatus.from_json(data, key)
        owner = self.workers.get(f"worker-{status.token}")
        if status.state.is_end and not status.closed and owner is not None and owner in self._begun and not owner.is_over:
            raise ViolationError(f"{self._present.name} ended the attempt of {owner.name}, which is alive")

    def is_lost(self) -> bool:
        """Whether the response to the present write is lost."""
        return self._happens("lost")

    def observed(self, worker: str) -> Observation:
        """What a provider says about a worker."""
        self.request(f"observes {worker}")
        actor = self.workers.get(worker)
        if actor is None or not actor.is_over:
            return VANISHED if actor is not None and self._happens("lies") else Observation(State.RUNNING)
        return VANISHED

    def run(self) -> None:
        """Let all actors run to their ends."""
        while running := [actor for actor in self.actors if not actor.is_over and (actor.waits_for is None or actor.waits_for.is_over)]:
            self._present = self._next(running)
            if self._present.is_mortal and not self._is_over and self._present in self._begun and self._happens("deaths"):
                self.kill(self._present)
                self.events.append(f"{self._present.name} dies")
                continue
            self._begun.add(self._present)
            self._present.let_run()
            if self._present.error is not None:
                raise self._present.error
        self._is_over = True

    _begun: set[Actor] = field(default_factory=set)

    def kill(self, actor: Actor) -> None:
        """End an actor where it is."""
        if not actor.is_over:
            actor.is_killed = True
            actor.go.release()
            actor.thread.join()

    def close(self) -> None:
        """End every thread that is left."""
        for actor in self.actors:
            self.kill(actor)

    def _next(self, running: list[Actor]) -> Actor:
        continues = self._present in running
        if continues and self._spent["switches"] >= self.limits.switches:
            assert self._present is not None
            return self._present
        order = sorted(running, key=lambda actor: actor is not self._present)
        chosen = order[self._decide(len(order))]
        if continues and chosen is not self._present:
            self._spent["switches"] += 1
        return chosen

    def _happens(self, what: str) -> bool:
        if self._is_over or self._spent[what] >= getattr(self.limits, what) or not self._decide(2):
            return False
        self._spent[what] += 1
        return True

    def _decide(self, options: int) -> int:
        if options == 1:
            return 0
        number = len(self.choices)
        taken = self.prefix[number] if number < len(self.prefix) else self.choose(options)
        self.choices.append(Choice(taken, options))
        return taken


class Requests:
    """The store as actors see it: every request is a point at which the explorer decides."""

    def __init__(self, world: World, url: str) -> None:
        self._world, self.url = world, url

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._world.stores[self.url], name)

        def request(*arguments: Any, **named: Any) -> Any:
            key = getattr(arguments[0], "key", arguments[0]) if arguments else ""
            place = "" if self.url == STORE else f"{self.url}/"
            self._world.request(f"{name} {place}{str(key).removeprefix(f'{RUN}/')}")

            def carry_out() -> Any:
                result = method(*arguments, **named)
                if name in WRITES:
                    self._world.on_write(self.url, str(key), arguments[1])
                return result

            if name in WRITES and self._world.deliver_late(f"{name} {place}{key} arrives", carry_out):
                raise TransientStoreError("no response")
            result = carry_out()
            if name in WRITES:
                self._world.check_results()
                self._world.check_end_in_place(str(key), arguments[1])
                if self._world.is_lost():
                    raise TransientStoreError("the response was lost")
            return result

        return request

    def local_path(self, key: str) -> None:
        """None, as of every bucket. That is not a request."""


def worker(world: World, number: int, token: str, url: str = STORE) -> None:
    """An attempt: claim it, find the checkpoint, seal what the program makes with heartbeats in between, publish the model, and end."""
    store = world.shared(url)
    lease = Lease(store, RUN, number, token)
    status = AttemptStatus(State.STARTING, started=1.0, heartbeat=1.0, host=token, pid=1, token=token)
    if not lease.claim(status.to_json()):
        return
    world.on_claim(url, number, token)
    started: Actor | None = None
    try:
        step, origin, lineage = _start(store, number)
        status = replace(status, state=State.RUNNING, resumed_step=step or None, origin=origin)
        beats = iter(range(2, 100))

        def beat() -> None:
            nonlocal status
            status = replace(status, heartbeat=float(next(beats)))
            if not lease.write(status.to_json()):
                lease.check()

        beat()
        if world.limits.programs:
            started = world.spawn(f"program-{token}", lambda: program(world, store, number, step, lineage))
            _seal(world, url, number, lease)
            beat()
            world.wait_for(started)
        else:
            program(world, store, number, step, lineage)
        made = _seal(world, url, number, lease, beat)
        beat()
        publish(store, f"{RUN}/{layout.MODEL}/{layout.MANIFEST}", manifest_of(None, number, made or lineage, b""), lease.check)
        status = status.ended_with(Cause.SUCCEEDED, "", float(next(beats)))
        if lease.write(status.to_json()):
            world.successes.add((url, number))
        else:
            lease.check()
    except SupersededError as error:
        if started is not None:
            world.kill(started)
        lease.conclude(replace(status.ended_with(Cause.INFRASTRUCTURE, error.message, 99.0), closed=True).to_json())


def observer(world: World, home: Home, ledger: Ledger) -> None:
    """A person at one home: looks, and resumes what has ended or is silent."""
    heartbeat: float | None = -1.0
    for _ in range(world.limits.looks):
        run = reconcile.reconcile(home, ledger, RUN)
        if run.is_unmanaged and not run.state.is_end:
            entry = ledger.get(RUN)
            assert entry is not None
            if run.heartbeat != heartbeat:
                heartbeat = run.heartbeat
            run = reconcile.declare_lost(home, ledger, entry, heartbeat, "no heartbeat")
        if run.state.is_end and run.state is not State.SUCCEEDED and run.attempt < MOST_ATTEMPTS:
            _resume(world, home, ledger)


def _resume(world: World, home: Home, ledger: Ledger) -> None:
    run = reconcile.reconcile(home, ledger, RUN)
    if not run.state.is_end or run.state is State.SUCCEEDED:
        return
    number, token = run.attempt + 1, f"{home.folder.name}{run.attempt + 1}"
    try:
        reconcile.close(ledger, run)
        ledger.add_attempt(RUN, number, "place", {}, token)
    except ConflictError:
        return
    world.spawn(f"worker-{token}", lambda: worker(world, number, token), is_worker=True)
    ledger.launched(RUN, number, {"worker": f"worker-{token}"})


def program(world: World, store: RetryingStore, number: int, step: int, lineage: Sequence[str]) -> None:
    """The program of an attempt: it writes the files of checkpoints where its environment says, whatever has become of its worker."""
    for _ in range(world.limits.steps):
        step += number
        lineage = [*lineage, f"{number}.{step}"]
        store.put(place_of(number, step, "weights"), json.dumps(lineage).encode())


def place_of(attempt: int, step: int, name: str) -> str:
    return f"{RUN}/{layout.checkpoints(attempt)}/{layout.step_folder(step)}/{name}"


def _seal(world: World, url: str, number: int, lease: Lease, beat: Callable[[], None] = lambda: None) -> list[str]:
    """Write the manifests of what is in the attempt's own folder without one; returns what the newest was made from."""
    newest: list[str] = []
    store = world.stores[url]
    for folder in store.folders(f"{RUN}/{layout.checkpoints(number)}/"):
        step = layout.step_of(folder) or 0
        if (found := store.objects.get(place_of(number, step, "weights"))) is None:  # it is still on its way
            continue
        newest = json.loads(found[0])
        if place_of(number, step, layout.MANIFEST) not in store.objects:
            publish(world.shared(url), place_of(number, step, layout.MANIFEST), manifest_of(step, number, newest, found[0]), lease.check)
            beat()
    return newest


def _start(store: RetryingStore, number: int) -> tuple[int, int, list[str]]:
    """The checkpoint to start from: its step, its attempt, and what it was made from."""
    branch = Branch(number, ancestor_in(store, RUN))
    for step, attempt, name in places_in_store(store, RUN):
        with suppress(ObjectMissingError):
            manifest = parse_manifest(store.get(place_of(attempt, step, layout.MANIFEST)), name)
            data = store.get(place_of(attempt, step, "weights"))
            if branch.holds(manifest.attempt, step, attempt) and _is_as_listed(manifest, data):
                return step, manifest.attempt or 0, json.loads(data)
    return 0, 0, []


def _is_as_listed(manifest: Manifest, data: bytes) -> bool:
    return manifest.files["weights"].sha256 == hashlib.sha256(data).hexdigest()


def manifest_of(step: int | None, attempt: int, lineage: list[str], data: bytes) -> bytes:
    files = {"weights": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    document = {"format": 1, "step": step, "metrics": {}, "fingerprint": {"lineage": lineage}, "files": files, "attempt": attempt}
    return json.dumps(document).encode()


def statuses(world: World, url: str = STORE) -> dict[int, AttemptStatus]:
    """The statuses in a store, by attempt."""
    found, objects = {}, world.stores[url].objects
    for number in range(1, MOST_ATTEMPTS + 3):
        key = f"{RUN}/{layout.status(number)}"
        if key in objects:
            found[number] = AttemptStatus.from_json(objects[key][0], key)
    return found


def _complete(store: MemoryStore) -> Iterator[tuple[int, Manifest]]:
    """Every complete checkpoint in a store, oldest step first, with the attempt in whose folder it is.

    Raises ViolationError for one whose files were changed, or that another attempt's program made.
    """
    for step, attempt, _ in sorted(places_in_store(store, RUN)):
        sealed = store.objects.get(place_of(attempt, step, layout.MANIFEST))
        weights = store.objects.get(place_of(attempt, step, "weights"))
        if sealed is None or weights is None:
            continue
        manifest = parse_manifest(sealed[0], "manifest")
        if not _is_as_listed(manifest, weights[0]):
            raise ViolationError(f"step {step} of attempt {manifest.attempt} was overwritten: {weights[0].decode()}")
        if not manifest.fingerprint["lineage"][-1].startswith(f"{manifest.attempt}."):
            raise ViolationError(f"step {step} of attempt {manifest.attempt} is {manifest.fingerprint['lineage'][-1]}")
        yield attempt, manifest


def check_results(world: World, url: str) -> None:
    """After each write: what a resume would find is one line of checkpoints, each made from the one before and complete as it was."""
    found = statuses(world, url)
    if lost := {number for place, number in world.successes if place == url and found[number].state is not State.SUCCEEDED}:
        raise ViolationError(f"the success of {lost} was overwritten")
    visible = branch_in(world, url)
    for earlier, later in pairwise(visible.values()):
        if f"{earlier.attempt}.{earlier.step}" not in later.fingerprint["lineage"]:
            raise ViolationError(f"step {later.step} of attempt {later.attempt} was not made from step {earlier.step} of {earlier.attempt}")


def branch_in(world: World, url: str) -> dict[int, Manifest]:
    """The checkpoints that the next attempt in a store would find, by step, the oldest first."""
    store, newest = world.stores[url], max(statuses(world, url), default=0)
    if not newest:
        return {}

    class Plain:
        """The store without decisions."""

        url = STORE
        read = staticmethod(lambda key, end=None: tuple(reversed(store._object(key))))

    branch = Branch(newest + 1, ancestor_in(Plain(), RUN))  # type: ignore[arg-type]  # it only reads
    return {
        manifest.step or 0: manifest for folder, manifest in _complete(store) if branch.holds(manifest.attempt, manifest.step or 0, folder)
    }


def check_end(world: World, homes: Sequence[tuple[Home, Ledger]]) -> None:
    """After everything has happened: one success at most, its model in place, no living attempt called ended, and everyone agrees."""
    found = statuses(world)
    succeeded = [number for number, status in found.items() if status.state is State.SUCCEEDED]
    if not {number for _, number in world.successes} <= set(succeeded):
        raise ViolationError(f"the workers of {world.successes} have recorded their success, and the store has {succeeded}")
    if len(succeeded) > 1 or (succeeded and max(found) > succeeded[0]):
        raise ViolationError(f"attempts {sorted(found)} exist, and {succeeded} have succeeded")
    model = world.stores[STORE].objects.get(f"{RUN}/{layout.MODEL}/{layout.MANIFEST}")
    if succeeded and (model is None or parse_manifest(model[0], "model").attempt != succeeded[0]):
        raise ViolationError(f"attempt {succeeded[0]} succeeded, and the model is another one's")
    if len({f"{status.token}" for status in found.values()}) != len(found):
        raise ViolationError("two attempts have the same token")
    views = [reconcile.reconcile(home, ledger, RUN) for home, ledger in homes]
    for number, (view, (home, ledger)) in enumerate(zip(views, homes, strict=True)):
        if not view.state.is_end:  # its worker died, and no provider of this home knows it: a person resumes it, which ends it
            entry = ledger.get(RUN)
            assert entry is not None
            views[number] = reconcile.declare_lost(home, ledger, entry, view.heartbeat, "no heartbeat")
    views = [reconcile.reconcile(home, ledger, RUN) for home, ledger in homes]
    if not all(view.state.is_end for view in views):
        raise ViolationError(f"a run without an end: {views}")
    if len({(view.attempt, view.state) for view in views}) != 1:
        raise ViolationError(f"the observers do not agree: {[(view.attempt, view.state.value) for view in views]}")


def one_order(
    limits: Limits, prefix: list[int], cast: str, patch: pytest.MonkeyPatch, choose: Callable[[int], int] = lambda options: 0
) -> World:
    """Run one order of events. ``cast``: the home of each observer, such as ``ab``; ``a`` launched the first attempt."""
    world = World(limits, prefix, choose)
    place = Place(world)
    for module in (state, reconcile):
        patch.setattr(module, "store_at", world.shared)
        patch.setattr(module, "provider_at", lambda *_: place)
    patch.setattr(state, "_is_retried", lambda *_: False)
    ledgers = {name: MemoryLedger(Path(f"/nowhere/{name}")) for name in dict.fromkeys(cast)}
    homes = [(Home(Path(f"/nowhere/{name}")), ledger) for name, ledger in ledgers.items()]
    for name, ledger in ledgers.items():
        ledger.add(RUN, name="n", provider="place", store=STORE, job_file=None, created=1.0, settings={}, record_sha256="0", token="a1")
        ledger.launched(RUN, 1, {"worker": "worker-a1"} if name == "a" else UNMANAGED)
    world.spawn("worker-a1", lambda: worker(world, 1, "a1"), is_worker=True)
    for number, name in enumerate(cast):
        home = Home(Path(f"/nowhere/{name}"))
        world.spawn(f"observer-{name}{number}", lambda home=home, name=name: observer(world, home, ledgers[name]))  # type: ignore[misc]  # defaults
    run_to_the_end(world, ledgers.values(), lambda: check_end(world, homes))
    return world


def run_to_the_end(world: World, ledgers: Iterable[Ledger], check: Callable[[], None]) -> None:
    """Let everything happen, and check what came of it. A ViolationError says in which order it happened."""
    try:
        world.run()
        check()
    except (ViolationError, StoreError) as error:
        raise ViolationError(
            f"{error}\n  decisions: {[choice.taken for choice in world.choices]}\n  " + "\n  ".join(world.events)
        ) from error
    finally:
        world.close()
        for ledger in ledgers:
            ledger._connection.close()


def every_order(
    limits: Limits, cast: str, patch: pytest.MonkeyPatch, play: Callable[[Limits, list[int], str, pytest.MonkeyPatch], World] = one_order
) -> Iterator[World]:
    """All orders of events within the limits. Raises ViolationError for the first one that breaks the protocol."""
    prefix: list[int] | None = []
    while prefix is not None:
        world = play(limits, prefix, cast, patch)
        yield world
        prefix = _following(world.choices)


def _following(choices: list[Choice]) -> list[int] | None:
    """The decisions of the next order of events, depth first; None after the last one."""
    while choices and choices[-1].taken + 1 >= choices[-1].options:
        choices.pop()
    return [*(choice.taken for choice in choices[:-1]), choices[-1].taken + 1] if choices else None
