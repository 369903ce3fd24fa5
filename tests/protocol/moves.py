"""Moves to other stores in the explorer: people at several homes resume a run where it is, or move it, all at once.

The run has begun in one store, and made a checkpoint. Each person is a home; a capital letter moves the run, a small one resumes it where
the home's ledger has it, ``x`` has found it in the new place, and ``w`` is the worker of the first attempt, which is alive. A person who is
refused follows the advice of the message. The explorer decides where the run is from the writes that close a claim: see ``Whereabouts``.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import CloudTrainError, ConflictError, CorruptError
from cloud_train.job.models import JobSpec
from cloud_train.orchestrator import adopting, moving, reconcile, resuming, state
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.run_directory import read_record_bytes
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import UNMANAGED
from cloud_train.run.plan import Plan
from cloud_train.run.record import AttemptStatus, Program, RunRecord, sha256_of
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.base import Store
from tests.protocol import explorer
from tests.protocol.explorer import MOST_ATTEMPTS, RUN, STORE, Limits, MemoryLedger, Place, ViolationError, World

TARGETS = ("s3://there/runs", "s3://third/runs")
_LONGEST_WAY = 6
"""Refusals, each with advice, after which a person has lost the run."""


@dataclass
class Whereabouts:
    """Where the run is: it moves when the claim of a move is closed, and nowhere else may an attempt begin."""

    world: World
    store: str = STORE
    _carried: dict[str, int] = field(default_factory=dict)
    """The newest step when the run was claimed, by the store that it is about to move to."""

    def written(self, url: str, key: str, data: bytes) -> None:
        """Follow a write."""
        if not key.endswith("/status.json"):
            return
        status = AttemptStatus.from_json(data, key)
        if not status.moved_to:
            return
        target = status.moved_to.removesuffix(f"/{RUN}")
        if not status.closed:
            self._carried[target] = self._newest(url)
        elif url != self.store:
            raise ViolationError(f"{url} says that the run was moved to {target}, and it was in {self.store}")
        else:
            self.store = target
            if self._newest(target) < self._carried[target]:
                raise ViolationError(f"step {self._carried[target]} was left behind in {url}")

    def claimed(self, url: str, number: int, token: str) -> None:
        """A worker has claimed an attempt."""
        if url != self.store:
            raise ViolationError(f"attempt {number} of {token} begins in {url}, and the run is in {self.store}")

    def _newest(self, url: str) -> int:
        return max(explorer.branch_in(self.world, url), default=0)


@dataclass
class Person:
    """Someone at one home."""

    world: World
    home: Home
    ledger: Ledger
    target: str | None
    """The store to which this person moves the run; None resumes it where it is."""
    locks: set[str]
    """The homes in which a submission is under way."""
    numbers: Iterator[int]

    def act(self, looks: int) -> None:
        """Continue the run so many times, and follow the advice of what refuses that."""
        for _ in range(looks):
            try:
                if self.ledger.get(RUN) is None:
                    adopting.adopt(self.home, f"{TARGETS[0]}/{RUN}")
                self.go_on()
            except CloudTrainError as error:
                with suppress(CloudTrainError):  # the run may have moved again meanwhile: this person gives up
                    self.follow(error)

    def go_on(self) -> None:
        """Start the next attempt as ``resume`` does, without its trust and its provider. Raises ConflictError."""
        run = self.look()
        if not run.state.is_end or run.state is State.SUCCEEDED or run.attempt >= MOST_ATTEMPTS:
            return
        with self._lock():
            run = reconcile.reconcile(self.home, self.ledger, RUN)
            if not run.state.is_end or run.state is State.SUCCEEDED:
                return
            plan = self.admitted(run)
            if self.target is None:
                self.ledger.add_attempt(RUN, plan.attempt, "place", {}, plan.token)
            else:
                plan = moving.move(self.ledger, plan, run.store, lambda _: None)
            self.world.spawn(f"worker-{plan.token}", lambda: launched(self.world, plan, plan.store != run.store), is_worker=True)
            self.ledger.launched(RUN, plan.attempt, {"worker": f"worker-{plan.token}"})

    def admitted(self, run: RunView) -> Plan:
        """The plan of the next attempt, once the one before is closed. Raises ConflictError."""
        written, record = read_record_bytes(self.world.shared(run.store), RUN)
        plan = Plan.of_attempt(record, run.attempt + 1, sha256_of(written))
        token = f"{self.home.folder.name}{run.attempt + 1}.{next(self.numbers)}"
        plan = replace(plan, store=self.target or run.store, provider="place", token=token)
        resuming._refuse_moved(run, plan, record)
        reconcile.close(self.ledger, run)
        return plan

    def look(self) -> RunView:
        """The run; a silent attempt, which another home launched, is declared lost."""
        run = reconcile.reconcile(self.home, self.ledger, RUN)
        if run.is_unmanaged and not run.state.is_end:
            entry = self.ledger.get(RUN)
            assert entry is not None
            run = reconcile.declare_lost(self.home, self.ledger, entry, run.heartbeat, "no heartbeat")
        return run

    def follow(self, error: CloudTrainError) -> bool:
        """Adopt the run directory that the error's advice names, if it names one."""
        advice = re.search(r"cloud-train adopt (\S+)", error.hint or "")
        self.world.events.append(f"{self.home.folder.name} is told: {error.message}; {error.hint}")
        if advice:
            adopting.adopt(self.home, advice[1])
        return advice is not None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if self.home.folder.name in self.locks:
            raise ConflictError("it is being resumed by another command")
        self.locks.add(self.home.folder.name)
        try:
            yield
        finally:
            self.locks.discard(self.home.folder.name)


def launched(world: World, plan: Plan, has_moved: bool) -> None:
    """A worker, which runs what was submitted with it, and nothing else. After a move it finds that, unless another worker was faster."""
    try:
        written, _ = read_record_bytes(world.shared(plan.store), RUN)
    except CloudTrainError as error:
        raise ViolationError(f"the worker of {plan.token} finds no run: {error.message}") from error
    if sha256_of(written) == plan.record_sha256:
        explorer.worker(world, plan.attempt, plan.token, plan.store)
    elif has_moved and plan.attempt not in explorer.statuses(world, plan.store):
        raise ViolationError(f"the worker of {plan.token} finds the run.json of another command")


def one_order(
    limits: Limits, prefix: list[int], cast: str, patch: pytest.MonkeyPatch, choose: Callable[[int], int] = lambda options: 0
) -> World:
    """Run one order of events; ``cast`` are the people, and ``w`` the first attempt's worker."""
    world = World(limits, prefix, choose)
    place = Whereabouts(world)
    world.on_write, world.on_claim = place.written, place.claimed
    ledgers = {name: MemoryLedger(Path(f"/nowhere/{name}")) for name in dict.fromkeys(cast.lower().replace("w", ""))}
    _patch(world, ledgers, patch)
    _begin(world, ledgers, ended="w" not in cast)
    if "w" in cast:
        world.spawn("worker-a1", lambda: explorer.worker(world, 1, "a1"), is_worker=True)
    if "x" in cast:  # someone who has found the run in the new place
        ledgers["x"].forget(RUN)
    locks: set[str] = set()
    numbers, targets = count(1), iter([*TARGETS, *TARGETS])
    people: list[Person] = []
    for number, name in enumerate(cast.replace("w", "")):
        target = None if name.islower() else TARGETS[0] if limits.targets == 1 else next(targets)
        people.append(Person(world, Home(Path(f"/nowhere/{name.lower()}")), ledgers[name.lower()], target, locks, numbers))
        world.spawn(f"{name}{number}", lambda each=people[-1]: each.act(limits.looks), is_mortal=True)  # type: ignore[misc]  # defaults
    explorer.run_to_the_end(world, ledgers.values(), lambda: check_end(world, place, people))
    return world


def check_end(world: World, place: Whereabouts, people: Sequence[Person]) -> None:
    """After everything has happened: one success at most, and everyone finds the run in the same place, where it can be continued."""
    found = {url: explorer.statuses(world, url) for url in list(world.stores)}
    succeeded = [(url, number) for url, statuses in found.items() for number, status in statuses.items() if status.state is State.SUCCEEDED]
    if len(succeeded) > 1:
        raise ViolationError(f"several attempts have succeeded: {succeeded}")
    for person in people:
        where, attempt, is_over = _found_by(person)
        if where != place.store:
            raise ViolationError(f"the run is in {place.store}, and {person.home.folder.name} finds it in {where}")
        if is_over != bool(succeeded):
            raise ViolationError(f"{person.home.folder.name} finds attempt {attempt}, and {succeeded or 'none'} has succeeded")
    if not succeeded:
        _continue_alone(world, place, max(explorer.statuses(world, place.store)) + 1)


def _found_by(person: Person) -> tuple[str, int, bool]:
    """Where a person could continue the run, its newest attempt, and whether it has succeeded."""
    if person.ledger.get(RUN) is None:  # its move was not complete when this person looked there
        adopting.adopt(person.home, f"{STORE}/{RUN}")
    for _ in range(_LONGEST_WAY):
        run = person.look()
        if run.state is State.SUCCEEDED:
            return run.store, run.attempt, True
        try:
            person.target = None
            person.admitted(run)
        except CloudTrainError as error:
            try:
                is_led_on = person.follow(error)
            except CloudTrainError as another:
                raise ViolationError(f"{person.home.folder.name} is told what does not work: {another.message}") from another
            if not is_led_on:
                raise ViolationError(f"the run is lost for {person.home.folder.name}: {error.message}") from error
        else:
            return run.store, run.attempt, False
    raise ViolationError(f"{person.home.folder.name} is sent around in circles")


def _continue_alone(world: World, place: Whereabouts, number: int) -> None:
    """One more attempt, undisturbed, brings the run to its end, from its newest checkpoint."""
    before = explorer.branch_in(world, place.store)
    explorer.worker(world, number, "last", place.store)
    if (place.store, number) not in world.successes:
        raise ViolationError(f"attempt {number} in {place.store} cannot begin")
    lineage = explorer.branch_in(world, place.store)[max(explorer.branch_in(world, place.store))].fingerprint["lineage"]
    if before and before[max(before)].fingerprint["lineage"] != lineage[:-1]:
        raise ViolationError(f"attempt {number} did not continue step {max(before)}: {lineage}")


def _begin(world: World, ledgers: dict[str, MemoryLedger], *, ended: bool) -> None:
    """The run as it is when people come: submitted by home ``a``, and with ``ended`` interrupted after its first checkpoint."""
    for name, ledger in ledgers.items():
        ledger.add(RUN, name="n", provider="place", store=STORE, job_file=None, created=1.0, settings={}, record_sha256="0", token="a1")
        ledger.launched(RUN, 1, {"worker": "worker-a1"} if name == "a" and not ended else UNMANAGED)
    store = world.stores[STORE]
    store.put(f"{RUN}/{layout.RUN}", record().to_json())
    if ended:
        weights = json.dumps(["1.1"]).encode()
        store.put(explorer.place_of(1, 1, "weights"), weights)
        store.put(explorer.place_of(1, 1, layout.MANIFEST), explorer.manifest_of(1, 1, ["1.1"], weights))
        status = AttemptStatus(State.RUNNING, started=1.0, heartbeat=2.0, host="a", pid=1, token="a1", origin=0)
        store.put(f"{RUN}/{layout.status(1)}", status.ended_with(Cause.INFRASTRUCTURE, "gone", 3.0).to_json())


def record() -> RunRecord:
    """What was submitted."""
    model = {"kind": "script", "command": ["true"]}
    job = JobSpec.model_validate_json(json.dumps({"name": "explored", "model": model, "provider": "local", "store": STORE}))
    program = Program(("true",), "/nowhere")
    plan = Plan(
        RUN, 1, job, "/nowhere/job.yaml", "place", {}, STORE, program,
        layers=(), data=None, steps_per_epoch=None, total_steps=None, origins={}, notes=(),
    )  # fmt: skip
    return RunRecord(RUN, 1.0, job.model_dump(mode="json"), program, plan.facts(), {})


def _patch(world: World, ledgers: dict[str, MemoryLedger], patch: pytest.MonkeyPatch) -> None:
    place = Place(world)
    for module in (state, reconcile, moving, adopting):
        patch.setattr(module, "store_at", world.shared)
    for module in (state, reconcile, adopting):
        patch.setattr(module, "provider_at", lambda *_: place)
    patch.setattr(state, "_is_retried", lambda *_: False)
    patch.setattr(adopting, "open_ledger", lambda home: nullcontext(ledgers[home.folder.name]))
    patch.setattr(adopting, "_own_settings", lambda *_: {})
    patch.setattr(moving, "download", _download)
    patch.setattr(moving, "upload", _upload)


def _download(source: Store, files: Sequence[Any]) -> None:
    """One file after another, in the actor's thread."""
    for each in files:
        data = source.get(each.key)
        if hashlib.sha256(data).hexdigest() != each.sha256:
            raise CorruptError(f"{each.key} is another one")
        each.path.write_bytes(data)


def _upload(target: Store, files: Sequence[Any]) -> None:
    for each in files:
        target.put(each.key, each.path.read_bytes())
