"""Reading never acts: every reading verb and shell completion, on every kind of unfinished run, with writing forbidden."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cloud_train.cli.main import main
from cloud_train.cli.options import complete_run
from cloud_train.errors import CloudTrainError, ProviderError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reconcile import reconcile
from cloud_train.orchestrator.state import RecordStatus, WriteStatus, look
from cloud_train.providers.base import TAKEN, Capabilities, Handle, Observation
from cloud_train.run import layout, locks
from cloud_train.run.ledger import UNMANAGED, Ledger, LedgerReader
from cloud_train.run.record import AttemptStatus, Program, RunRecord
from cloud_train.run.states import Cause, State
from tests.storage.memory_store import MemoryStore

RUN = "unfinished-261124-120000-abcd"
STORE = "s3://bucket/runs"
WRITES = {"put", "create", "delete", "begin", "send", "finish", "abort"}
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

    def submit(self, *, written: bool = True, sent_seconds_ago: float | None = None) -> None:
        with Ledger(self.home.ledger_path) as ledger:
            ledger.add(
                RUN, name="unfinished", provider="place", store=STORE, job_file=None, created=1.0, settings={}, record_sha256="0" * 64
            )
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


def readings(folder: Path) -> list[list[str]]:
    """Every verb that only reads."""
    return [
        ["list", "--json"],
        ["list", "--all", "--json"],
        ["list", "--store", STORE],
        ["list", "--store", STORE, "--json"],
        ["status", RUN, "--json"],
        ["logs", RUN],
        ["logs", RUN, "--json"],
        ["logs", RUN, "--tail", "3"],
        ["logs", RUN, "--attempt", "1"],
        ["metrics", RUN],
        ["metrics", RUN, "--json"],
        ["metrics", RUN, "--plot"],
        ["fetch-model", RUN, "--to", str(folder / "model")],
        ["fetch-model", RUN, "--checkpoint", "last", "--to", str(folder / "model")],
        ["sync", RUN, "--to", str(folder / "copy")],
        ["predict", RUN, "--text", "a line"],
    ]


@pytest.fixture(params=PLACES)
def desk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for room in ("reading", "reconcile", "adopting", "following", "prediction"):  # the verbs import these later
        import_module(f"cloud_train.orchestrator.{room}")
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")  # a command sets this for its process, here that of the tests
    with ExitStack() as stack:
        desk = Desk(Home(tmp_path / "home"), MemoryStore(STORE), Place(PLACES[request.param]), stack)
        for name, module in list(sys.modules.items()):
            if name.startswith("cloud_train.orchestrator."):
                for opener, opened in (("store_at", desk.store), ("provider_at", desk.place)):
                    if hasattr(module, opener):
                        monkeypatch.setattr(module, opener, lambda *_, opened=opened: opened)
        yield desk


def snapshot(desk: Desk) -> dict[str, str]:
    """The SHA-256 of every file in the home and the store, except those in which ``sync`` remembers its copies."""
    files = (path for path in desk.home.folder.rglob("*") if path.is_file() and "transfers" not in path.parts)
    contents = {str(path): path.read_bytes() for path in files}
    contents |= {key: data for key, (data, _) in desk.store.objects.items()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def refuse(*_: object) -> NoReturn:
    raise AssertionError("a look opened the ledger for changes")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_reading_verbs_and_completion_write_nothing(
    kind: Callable[[Desk], None], desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind(desk)
    before = snapshot(desk)
    desk.store.calls.clear()
    monkeypatch.setattr("cloud_train.run.ledger_file.connect", refuse)
    statuses = {}
    for verb in readings(tmp_path):
        statuses[" ".join(verb)] = main(verb)
        captured = capsys.readouterr()
        assert "bug in cloud-train" not in captured.out + captured.err, (verb, captured)
        if "--json" in verb:
            json.loads(captured.out)
    completed = complete_run(RUN[:5])
    written = [call for call in desk.store.calls if call[0] in WRITES]
    assert (written, desk.place.done) == ([], [])
    assert snapshot(desk) == before
    assert set(statuses.values()) <= {0, 4, 8}, statuses  # not found, and corrupt for the unreadable
    assert [run_id for run_id, _ in completed] == ([] if kind is never_written else [RUN])


@pytest.mark.parametrize("kind", [cut_off, never_shown, vanished, cancelled_and_vanished], ids=lambda kind: kind.__name__)
def test_following_a_log_as_json_writes_nothing(
    kind: Callable[[Desk], None], desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind(desk)
    before = snapshot(desk)
    desk.store.calls.clear()
    monkeypatch.setattr("cloud_train.run.ledger_file.connect", refuse)
    status = main(["logs", RUN, "--follow", "--json"])
    assert "bug in cloud-train" not in "".join(capsys.readouterr())
    assert ([call for call in desk.store.calls if call[0] in WRITES], desk.place.done) == ([], [])
    assert snapshot(desk) == before
    assert status in {0, 1, 4, 5, 6, 10}, status


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (never_written, unreadable)], ids=lambda kind: kind.__name__)
def test_the_state_shown_is_the_state_recorded_afterwards(
    kind: Callable[[Desk], None], desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    kind(desk)
    assert main(["status", RUN, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    with Ledger(desk.home.ledger_path) as ledger:
        recorded = reconcile(desk.home, ledger, RUN)
        kept = ledger.get(RUN)
    assert (shown["state"], shown["cause"], shown["attempt"]) == (recorded.state, recorded.cause, recorded.attempt)
    assert recorded.is_recorded
    assert kept is not None
    assert kept.state.is_end == recorded.state.is_end
    if shown["is_recorded"]:
        assert shown["message"] == recorded.message


@pytest.mark.parametrize("kind", [cut_off, never_shown, vanished, cancelled_and_vanished], ids=lambda kind: kind.__name__)
def test_an_unrecorded_end_is_shown_as_such(kind: Callable[[Desk], None], desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    kind(desk)
    state = "cancelled" if kind is cancelled_and_vanished else "interrupted"
    assert complete_run(RUN) == [(RUN, f"{state} (not yet recorded)")]
    assert main(["status", RUN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_recorded"] is False
    assert main(["status", RUN]) == 0  # which records it
    capsys.readouterr()
    assert complete_run(RUN) == [(RUN, state)]


def test_a_submission_that_was_never_written_is_forgotten_by_the_verbs_that_record(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    never_written(desk)
    assert main(["status", RUN, "--json"]) == 4
    with LedgerReader(desk.home.ledger_path) as reader:
        assert reader.get(RUN) is not None
    assert main(["list"]) == 0
    capsys.readouterr()
    with LedgerReader(desk.home.ledger_path) as reader:
        assert reader.get(RUN) is None


def test_findings_name_the_launch_that_was_observed(desk: Desk) -> None:
    vanished(desk)
    with LedgerReader(desk.home.ledger_path) as reader:
        findings = look(desk.home, reader, RUN)
    assert findings.launch == Handle(RUN, 1, "place", STORE, {"job": RUN})
    assert findings.observation == VANISHED
    written, recorded = (action for action in findings.pending if isinstance(action, WriteStatus | RecordStatus))
    assert isinstance(written, WriteStatus)
    assert (written.launch, written.attempt, recorded.attempt) == (findings.launch, 1, 1)


def test_processes_of_a_vanished_worker_are_stopped_on_a_shared_machine(desk: Desk) -> None:
    vanished(desk)
    with Ledger(desk.home.ledger_path) as ledger:
        reconcile(desk.home, ledger, RUN)
    assert desk.place.done == (["clean up"] if desk.place.capabilities.leaves_no_processes else ["cancel True", "clean up"])


def test_the_read_only_ledger_refuses_every_change(desk: Desk) -> None:
    running(desk)
    with LedgerReader(desk.home.ledger_path) as reader, pytest.raises(CloudTrainError, match="readonly"):
        reader._rows("DELETE FROM runs RETURNING run_id", ())
