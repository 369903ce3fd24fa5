"""Every kind of unfinished run, with a store and a provider that record what is done to them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cloud_train import locks
from cloud_train.errors import ProviderError
from cloud_train.orchestrator.home import Home
from cloud_train.providers.base import TAKEN, Capabilities, Handle, Observation
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import UNMANAGED
from cloud_train.run.record import AttemptStatus, Program, RunRecord
from cloud_train.run.states import Cause, State
from tests.storage.memory_store import MemoryStore

RUN = "unfinished-261124-120000-abcd"
STORE = "s3://bucket/runs"
WRITES = {"put", "create", "replace", "delete", "begin", "send", "finish", "abort"}
VANISHED = Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, "the machine is gone")
PLACES = {
    "local": Capabilities(stores=("s3",), max_nodes=1, spot=False, enforces=()),
    "docker": Capabilities(stores=("s3",), max_nodes=1, spot=False, enforces=(), containers=True),
    "cloud": Capabilities(
        stores=("s3",),
        max_nodes=1,
        spot=True,
        enforces=(),
        containers=True,
        polling_costs=True,
        shows_late=True,
        starts_slowly=True,
        explains_stops=True,
        leaves_no_processes=True,
    ),
}


@dataclass
class Place:
    """A provider with preset answers that records the actions requested of it."""

    capabilities: Capabilities
    name: str = "place"
    observation: Observation = field(default_factory=lambda: Observation(State.RUNNING))
    found: bool = False
    is_silent: bool = False
    done: list[str] = field(default_factory=list)

    def observe(self, _launch: Handle) -> Observation:
        return self.observation

    def find(self, run_id: str, attempt: int, store: str, _settings: object) -> Handle | None:
        if self.is_silent:
            raise ProviderError("the login has expired")
        return Handle(run_id, attempt, self.name, store, {"job": run_id}) if self.found else None

    def logs(self, _launch: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        return b"", cursor

    def cancel(self, _launch: Handle, force: bool = False) -> None:
        self.done.append(f"cancel {force}")

    def clean_up(self, _launch: Handle) -> None:
        self.done.append("clean up")

    def launch(self, *_: object) -> NoReturn:
        raise AssertionError("a look started an attempt")


@dataclass
class Desk:
    """A home, a store and a provider, with one run that has not finished."""

    home: Home
    store: MemoryStore
    place: Place
    locks: ExitStack

    def submit(self, *, written: bool = True, sent_seconds_ago: float | None = None, token: str = "") -> None:
        run: dict[str, Any] = {"name": "unfinished", "provider": "place", "store": STORE, "job_file": None, "created": 1.0, "settings": {}}
        with Ledger(self.home.ledger_path) as ledger:
            ledger.add(RUN, **run, record_sha256="0" * 64, token=token)
            if sent_seconds_ago is not None:
                ledger.sending(RUN, 1, time.time() - sent_seconds_ago)
        if written:
            program = Program(("true",), "/", attempts=3, retry_on=(Cause.PREEMPTED,))
            self.store.place(f"{RUN}/{layout.RUN}", RunRecord(RUN, 1.0, {"name": "unfinished"}, program, {}, {}).to_json())

    def launch(self, reference: dict[str, Any] | None = None) -> None:
        self.submit()
        with Ledger(self.home.ledger_path) as ledger:
            ledger.launched(RUN, 1, reference or {"job": RUN})

    def status(self, cause: Cause | None = None, attempt: int = 1) -> None:
        now = time.time()
        status = AttemptStatus(State.RUNNING, started=now - 60, heartbeat=now - 5, host="there", pid=7)
        ended = status if cause is None else status.ended_with(cause, "it said so", now - 5)
        self.store.place(f"{RUN}/{layout.status(attempt)}", ended.to_json())


def submitting(desk: Desk) -> None:
    desk.submit()
    desk.locks.enter_context(locks.held(desk.home.submission_lock(RUN)))


def never_written(desk: Desk) -> None:
    desk.submit(written=False)


def cut_off(desk: Desk) -> None:
    desk.submit()


def launched_after_all(desk: Desk) -> None:
    desk.submit()
    desk.place.found = True


def launch_unknown(desk: Desk) -> None:
    desk.submit()
    desk.place.is_silent = True


def not_shown_yet(desk: Desk) -> None:
    desk.submit(sent_seconds_ago=5)


def never_shown(desk: Desk) -> None:
    desk.submit(sent_seconds_ago=3600)


def never_shown_but_running(desk: Desk) -> None:
    desk.submit(sent_seconds_ago=3600)
    desk.status()


def starting(desk: Desk) -> None:
    desk.launch()


def running(desk: Desk) -> None:
    desk.launch()
    desk.status()


def vanished(desk: Desk) -> None:
    running(desk)
    desk.place.observation = VANISHED


def vanished_before_it_spoke(desk: Desk) -> None:
    desk.launch()
    desk.place.observation = VANISHED


def cancel_asked(desk: Desk) -> None:
    running(desk)
    desk.store.place(f"{RUN}/{layout.cancel(1)}", b"")


def cancelled_and_vanished(desk: Desk) -> None:
    cancel_asked(desk)
    desk.place.observation = VANISHED


def ended_unseen(desk: Desk) -> None:
    desk.launch()
    desk.status(Cause.SUCCEEDED)
    desk.place.observation = Observation(State.SUCCEEDED, Cause.SUCCEEDED)


def preempted(desk: Desk) -> None:
    desk.launch()
    desk.status(Cause.PREEMPTED)
    desk.place.observation = Observation(Cause.TIMED_OUT.state, Cause.TIMED_OUT, "the longest time was reached")


def retried_by_the_worker(desk: Desk) -> None:
    desk.launch()
    desk.status(Cause.PREEMPTED)
    desk.status(attempt=2)


def between_two_attempts(desk: Desk) -> None:
    desk.launch()
    desk.status(Cause.PREEMPTED)


def begun_elsewhere(desk: Desk) -> None:
    running(desk)
    desk.place.observation = TAKEN


def unreadable(desk: Desk) -> None:
    desk.launch()
    desk.store.place(f"{RUN}/{layout.status(1)}", b"{")


def unmanaged(desk: Desk) -> None:
    desk.launch(UNMANAGED)
    desk.status()


KINDS: tuple[Callable[[Desk], None], ...] = (
    submitting,
    never_written,
    cut_off,
    launched_after_all,
    launch_unknown,
    not_shown_yet,
    never_shown,
    never_shown_but_running,
    starting,
    running,
    vanished,
    vanished_before_it_spoke,
    cancel_asked,
    cancelled_and_vanished,
    ended_unseen,
    preempted,
    retried_by_the_worker,
    between_two_attempts,
    begun_elsewhere,
    unreadable,
    unmanaged,
)


@contextmanager
def opened_desk(place: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A desk with a provider of ``PLACES``, which every part of the orchestrator gets until the context ends."""
    for room in ("reading", "reconcile", "adopting", "following", "prediction"):  # the verbs import these later
        import_module(f"cloud_train.orchestrator.{room}")
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(folder / "home"))
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")  # a command sets this for its process, here that of the tests
    with ExitStack() as stack:
        desk = Desk(Home(folder / "home"), MemoryStore(STORE), Place(PLACES[place]), stack)
        for name, module in list(sys.modules.items()):
            if name.startswith("cloud_train.orchestrator."):
                for opener, opened in (("store_at", desk.store), ("provider_at", desk.place)):
                    if hasattr(module, opener):
                        monkeypatch.setattr(module, opener, lambda *_, opened=opened: opened)
        yield desk
