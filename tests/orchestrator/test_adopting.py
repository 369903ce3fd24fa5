"""Runs from another machine: found in their store, adopted, resumed, and never declared lost while they are alive."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from cloud_train.cli.verbs.resume import resume as resume_verb
from cloud_train.errors import CloudTrainError, ConflictError, CorruptError, NotFoundError, ProviderError, StoreError, UsageError
from cloud_train.orchestrator import connections, resuming
from cloud_train.orchestrator.adopting import adopt, runs_in
from cloud_train.orchestrator.following import glance
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import follow_logs, read_logs, read_metrics
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.results import fetch_model
from cloud_train.orchestrator.resuming import Waiting, resume
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.submitting import launch, submit
from cloud_train.orchestrator.syncing import sync
from cloud_train.providers.base import Handle, Provider
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.ledger_entry import UNMANAGED
from cloud_train.run.plan import Plan
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.streams import segment_key
from cloud_train.run.view import RunView
from cloud_train.storage.base import Store
from tests.orchestrator.conftest import Submit, run_folder, wait_for_file
from tests.stores import StoreServer, server_or_skip, use
from tests.support import accepting, wait_until

FOREVER = "touch started; exec sleep 600"
SAVES = (
    'echo "from ${CLOUD_TRAIN_RESUME##*/}"\n'
    'if [ -n "$CLOUD_TRAIN_RESUME" ]; then cp $CLOUD_TRAIN_RESUME/state $CLOUD_TRAIN_MODEL/state; exit 0; fi\n'
    "cd $CLOUD_TRAIN_CHECKPOINTS; mkdir .new; echo 7 > .new/state; mv .new step-00000007\n"
)


class FakeTime:
    """A clock that advances only by waiting; ``happens`` is called at every wait."""

    def __init__(self, happens: Callable[[float], None] = lambda now: None) -> None:
        self.now = 0.0
        self.happens = happens

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.happens(self.now)

    def clock(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server() -> StoreServer:
    """Started before the first home, because processes started under a home end with it."""
    return server_or_skip("s3")


@pytest.fixture
def other_home(home: Home, tmp_path: Path) -> Home:
    """Another machine's home: the two share only the store."""
    return Home(tmp_path / "other-home")


def end_of(home: Home, run: RunView) -> RunView:
    wait_until(lambda: update_run(home, run.run_id).state.is_end, f"{run.run_id} has ended", 60)
    return update_run(home, run.run_id)


def status_of(run: RunView, attempt: int = 1) -> AttemptStatus:
    return AttemptStatus.from_json((run_folder(run) / layout.status(attempt)).read_bytes(), "status")


def write_status(run: RunView, status: AttemptStatus) -> None:
    (run_folder(run) / layout.status(1)).write_bytes(status.to_json())


def kill_all_of(run: RunView) -> None:
    """Lose the machine: SIGKILL for the worker and all processes that it started."""
    worker = psutil.Process(status_of(run).pid)
    family = [worker, *worker.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=30)


@pytest.fixture
def dead_elsewhere(other_home: Home, start: Submit) -> RunView:
    """A run that was killed on the first machine, and that the other machine has adopted."""
    run = start(SAVES + "cd -; touch started; exec sleep 600")
    wait_for_file(run_folder(run).parent.parent / "started")
    wait_until(lambda: status_of(run).state is State.RUNNING, "it runs")
    wait_for_file(run_folder(run) / layout.CHECKPOINTS / "step-00000007" / layout.MANIFEST)
    kill_all_of(run)
    return adopt(other_home, run.run_directory)


def test_the_runs_in_a_store_are_listed_newest_first_without_a_ledger(home: Home, other_home: Home, start: Submit) -> None:
    runs = [end_of(home, start(command)) for command in ("true", "false", "true")]
    found = runs_in(runs[0].store).runs
    assert [(run.run_id, run.state, run.cause) for run in found] == [(run.run_id, run.state, run.cause) for run in reversed(runs)]
    assert not other_home.ledger_path.exists()


def test_other_folders_are_left_out_and_unreadable_runs_are_reported(home: Home, start: Submit, tmp_path: Path) -> None:
    run = end_of(home, start("true"))
    store = Path(run.store)
    (store / "no-run").mkdir()
    (store / "no-run" / "file").write_text("else")
    for name in ("torn", "of-another"):
        (store / name).mkdir()
    (store / "torn" / layout.RUN).write_text('{"format": 1, ')
    (store / "of-another" / layout.RUN).write_bytes((run_folder(run) / layout.RUN).read_bytes())
    found = runs_in(run.store)
    assert [each.run_id for each in found.runs] == [run.run_id]
    assert [each.run_id for each in found.unreadable] == ["of-another", "torn"]
    assert "torn/run.json is not a run record" in found.unreadable[1].why


def test_an_empty_store_has_no_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert runs_in(str(tmp_path / "empty")).runs == []


def test_an_adopted_run_can_be_read_from_another_home(home: Home, other_home: Home, start: Submit, tmp_path: Path) -> None:
    metric = '{"step": 1, "name": "loss", "value": 0.5}'
    run = end_of(home, start(f"echo hello; echo '{metric}' > $CLOUD_TRAIN_METRICS; echo w > $CLOUD_TRAIN_MODEL/weights"))
    with pytest.raises(NotFoundError):
        update_run(other_home, run.run_id)
    adopted = adopt(other_home, run.run_directory)
    assert (adopted.run_id, adopted.state, adopted.cause, adopted.name, adopted.job_file) == (
        run.run_id,
        State.SUCCEEDED,
        Cause.SUCCEEDED,
        run.name,
        run.job_file,
    )
    assert b"".join(read_logs(other_home, run.run_id)) == b"hello\n"
    assert [point.value for point in read_metrics(other_home, run.run_id)] == [0.5]
    assert (fetch_model(other_home, run.run_id, tmp_path / "model").folder / "weights").read_text() == "w\n"
    assert [each.run_id for each in update_runs(other_home)] == [run.run_id]


def test_adopting_a_run_twice_changes_nothing(home: Home, other_home: Home, start: Submit) -> None:
    run = end_of(home, start("false"))
    assert adopt(other_home, run.run_directory) == adopt(other_home, run.run_directory + "/")
    assert adopt(home, run.run_directory).attempt == 1
    assert not adopt(home, run.run_directory).is_unmanaged


def test_only_a_run_directory_can_be_adopted(home: Home, start: Submit) -> None:
    run = end_of(home, start("true"))
    for url, error in ((f"{run.store}/none", NotFoundError), ("word", UsageError), (f"{run.store}/torn", CorruptError)):
        (Path(run.store) / "torn").mkdir(exist_ok=True)
        (Path(run.store) / "torn" / layout.RUN).write_text("{")
        with pytest.raises(error):
            adopt(home, url)
    (Path(run.store) / "copy").mkdir()
    (Path(run.store) / "copy" / layout.RUN).write_bytes((run_folder(run) / layout.RUN).read_bytes())
    with pytest.raises(NotFoundError, match="another run"):
        adopt(home, f"{run.store}/copy")


def test_a_run_is_adopted_in_one_change(home: Home, other_home: Home, start: Submit) -> None:
    run = end_of(home, start("true"))
    adopt(other_home, run.run_directory)
    with Ledger(other_home.ledger_path) as ledger:
        entry = ledger.get(run.run_id)
        assert entry is not None
        assert entry.reference == UNMANAGED
        ledger.forget(run.run_id)
        broken = replace(entry, message=None)  # type: ignore[arg-type]  # refused by the second table, like a full disk
        with pytest.raises(StoreError):
            ledger.adopt(broken)
        assert ledger.get(run.run_id) is None
        assert ledger.matching(run.run_id) == []


def test_a_live_run_on_another_machine_is_shown_as_running_whatever_its_clock_says(home: Home, other_home: Home, start: Submit) -> None:
    run = start(FOREVER)
    wait_for_file(run_folder(run).parent.parent / "started")
    wait_until(lambda: update_run(home, run.run_id).state is State.RUNNING, "it runs")
    for heartbeat in (0.0, 4e9):
        write_status(run, replace(status_of(run), heartbeat=heartbeat))
        adopted = adopt(other_home, run.run_directory)
        assert (adopted.state, adopted.is_unmanaged) == (State.RUNNING, True)
        assert [each.state for each in update_runs(other_home)] == [State.RUNNING]
    cancel(home, run.run_id)
    assert update_run(other_home, run.run_id).state is State.CANCELLED


def test_a_live_run_on_another_machine_cannot_be_resumed(home: Home, other_home: Home, start: Submit) -> None:
    run = start(FOREVER)
    wait_for_file(run_folder(run).parent.parent / "started")
    wait_until(lambda: update_run(home, run.run_id).state is State.RUNNING, "it runs")
    adopt(other_home, run.run_directory)
    alive, notes = status_of(run), list[str]()

    def lives(now: float) -> None:
        if now >= 44:  # the only heartbeat, at the last moment, by a clock that is years slow
            write_status(run, replace(alive, heartbeat=12.0))

    write_status(run, replace(alive, heartbeat=11.0))
    fake = FakeTime(lives)
    with pytest.raises(ConflictError, match="is still active"):
        resume(other_home, run.run_id, notes.append, ask=accepting, sleep=fake.sleep, clock=fake.clock)
    assert fake.now == 44
    assert "waiting 45 s for a heartbeat" in notes[0]
    assert not status_of(run).state.is_end
    assert not (run_folder(run) / layout.attempt(2)).exists()


def test_a_run_without_a_heartbeat_is_resumed_from_its_newest_checkpoint(other_home: Home, dead_elsewhere: RunView) -> None:
    assert (dead_elsewhere.state, dead_elsewhere.is_unmanaged) == (State.RUNNING, True)
    fake = FakeTime()
    again = resume(other_home, dead_elsewhere.run_id, ask=accepting, sleep=fake.sleep, clock=fake.clock)
    assert 45 <= fake.now < 50
    assert (again.attempt, again.is_unmanaged) == (2, False)
    first = status_of(dead_elsewhere)
    assert (first.cause, "no heartbeat" in first.message) == (Cause.INFRASTRUCTURE, True)
    end = end_of(other_home, again)
    assert (end.state, end.resumed_step) == (State.SUCCEEDED, 7)
    assert b"".join(read_logs(other_home, end.run_id)) == b"from step-00000007\n"
    assert b"".join(follow_logs(other_home, end.run_id)) == b"from step-00000007\n"


def test_the_wait_for_a_heartbeat_is_told_as_an_event_before_it_begins(other_home: Home, dead_elsewhere: RunView) -> None:
    fake, told, notes = FakeTime(), list[tuple[Waiting, float]](), list[str]()
    again = resume(
        other_home,
        dead_elsewhere.run_id,
        notes.append,
        ask=accepting,
        on_wait=lambda waiting: told.append((waiting, fake.now)),
        sleep=fake.sleep,
        clock=fake.clock,
    )
    assert told == [(Waiting(again.run_id, 1, status_of(dead_elsewhere).host, 45.0), 0.0)]
    assert not any("waiting" in note for note in notes)
    end_of(other_home, again)


def test_resume_with_json_prints_the_wait_as_one_line_of_json_on_standard_error(
    other_home: Home, dead_elsewhere: RunView, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(other_home.folder))
    monkeypatch.setattr(resuming, "_SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(resuming, "CLOUD_PAUSE_SECONDS", 0.1)
    assert resume_verb(dead_elsewhere.run_id, trust=True, as_json=True) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["attempt"] == 2
    event = json.loads(next(line for line in err.splitlines() if line.startswith("{")))
    host = status_of(dead_elsewhere).host
    assert event == {"event": "waiting", "run_id": dead_elsewhere.run_id, "attempt": 1, "host": host, "seconds": 0.2}
    end_of(other_home, update_run(other_home, dead_elsewhere.run_id))


def test_a_run_that_ends_during_the_wait_for_a_heartbeat_keeps_its_own_end(other_home: Home, dead_elsewhere: RunView) -> None:
    ended = status_of(dead_elsewhere).ended_with(Cause.PREEMPTED, "its own words", 1.0, None)
    fake = FakeTime(lambda now: write_status(dead_elsewhere, ended) if now == 20 else None)
    again = resume(other_home, dead_elsewhere.run_id, ask=accepting, sleep=fake.sleep, clock=fake.clock)
    assert fake.now == 20
    assert (again.attempt, status_of(dead_elsewhere).message) == (2, "its own words")
    assert end_of(other_home, again).state is State.SUCCEEDED


def test_the_first_machine_sees_the_attempt_that_another_one_started(home: Home, other_home: Home, dead_elsewhere: RunView) -> None:
    fake = FakeTime()
    end_of(other_home, resume(other_home, dead_elsewhere.run_id, ask=accepting, sleep=fake.sleep, clock=fake.clock))
    seen = update_run(home, dead_elsewhere.run_id)
    assert (seen.state, seen.attempt) == (State.SUCCEEDED, 2)
    with pytest.raises(ConflictError, match="succeeded"):
        resume(home, dead_elsewhere.run_id)


def test_when_two_machines_resume_at_once_one_of_them_starts_the_attempt(
    home: Home, other_home: Home, start: Submit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = end_of(home, start(f'echo $$ >> {tmp_path}/begun; if [ -z "$(sed -n 2p {tmp_path}/begun)" ]; then exit 1; fi; sleep 1'))
    adopt(other_home, run.run_directory)
    both = threading.Barrier(2, timeout=30)

    def launch_at_once(ledger: Ledger, provider: Provider, plan: Plan, secrets: dict[str, str]) -> Handle:
        both.wait()
        return launch(ledger, provider, plan, secrets)

    monkeypatch.setattr(resuming, "launch", launch_at_once)
    failures: list[CloudTrainError] = []
    seen: list[State] = []

    def resume_there(place: Home) -> None:
        try:
            resume(place, run.run_id, ask=accepting)
        except CloudTrainError as error:
            failures.append(error)

    resumers = [threading.Thread(target=resume_there, args=(place,)) for place in (home, other_home)]
    for resumer in resumers:
        resumer.start()
    for resumer in resumers:
        resumer.join()

    def has_ended(place: Home) -> bool:
        seen.append(update_run(place, run.run_id).state)
        return seen[-1].is_end

    for place in (home, other_home):
        wait_until(partial(has_ended, place), "it has ended")
        end = update_run(place, run.run_id)
        assert (end.state, end.attempt) == (State.SUCCEEDED, 2)
    assert len(failures) <= 1, "one of them resumed the run"
    assert all("another command resumed" in failure.message for failure in failures)
    assert State.INTERRUPTED not in seen
    assert len((tmp_path / "begun").read_text().splitlines()) == 2
    assert not (run_folder(run) / layout.attempt(3)).exists()


@pytest.mark.slow
def test_a_run_on_another_machine_is_cancelled_through_its_mark(home: Home, other_home: Home, start: Submit) -> None:
    run = start(FOREVER)
    wait_for_file(run_folder(run).parent.parent / "started")
    adopt(other_home, run.run_directory)
    cancel(other_home, run.run_id, wait=False)
    assert (run_folder(run) / layout.cancel(1)).exists()
    assert end_of(other_home, run).state is State.CANCELLED
    assert update_run(home, run.run_id).state is State.CANCELLED


def test_cancelling_a_run_on_another_machine_waits_while_it_has_a_heartbeat(home: Home, other_home: Home, start: Submit) -> None:
    run = start(FOREVER, "limits: {grace: 5 s}")
    wait_for_file(run_folder(run).parent.parent / "started")
    wait_until(lambda: status_of(run).state is State.RUNNING, "it runs")
    kill_all_of(run)
    adopt(other_home, run.run_directory)
    alive = status_of(run)

    def sends_its_last_checkpoint(now: float) -> None:
        if now % 40 == 0:
            write_status(run, replace(alive, heartbeat=now))
        if now == 300:
            write_status(run, alive.ended_with(Cause.CANCELLED, "cancelled", 1.0, None))

    fake = FakeTime(sends_its_last_checkpoint)
    assert cancel(other_home, run.run_id, sleep=lambda _: fake.sleep(1), clock=fake.clock).state is State.CANCELLED
    assert fake.now == 300


def test_an_attempt_that_begins_during_a_cancellation_is_cancelled_too(other_home: Home, dead_elsewhere: RunView) -> None:
    run, first = dead_elsewhere, status_of(dead_elsewhere)
    folder = run_folder(run)
    second = replace(first, host="third-machine", token="ab" * 8)

    def resumed_by_a_third_machine(now: float) -> None:
        if now == 3:
            write_status(run, first.ended_with(Cause.INFRASTRUCTURE, "superseded by attempt 2", 1.0, None))
            (folder / layout.attempt(2)).mkdir()
            (folder / layout.status(2)).write_bytes(second.to_json())
        if now > 3 and (folder / layout.cancel(2)).exists():
            (folder / layout.status(2)).write_bytes(second.ended_with(Cause.CANCELLED, "cancelled", 2.0, None).to_json())

    fake = FakeTime(resumed_by_a_third_machine)
    ended = cancel(other_home, run.run_id, sleep=lambda _: fake.sleep(1), clock=fake.clock)
    assert (ended.state, ended.attempt) == (State.CANCELLED, 2)
    assert fake.now < 20


def test_cancelling_a_run_on_another_machine_without_a_heartbeat_is_an_error(other_home: Home, dead_elsewhere: RunView) -> None:
    fake = FakeTime()
    with pytest.raises(ProviderError, match="does not stop"):
        cancel(other_home, dead_elsewhere.run_id, sleep=lambda _: fake.sleep(1), clock=fake.clock)
    assert 40 < fake.now < 120


def test_an_unreachable_store_is_reported_and_the_other_runs_are_listed(
    home: Home, start: Submit, monkeypatch: pytest.MonkeyPatch, server: StoreServer
) -> None:
    use(server, monkeypatch, "http://127.0.0.1:9")  # nothing listens on the discard port
    monkeypatch.setattr(connections, "_PATIENCE_SECONDS", 0.2)
    here, live = end_of(home, start("true")), start(FOREVER)
    away = [replace(update_run(home, live.run_id), run_id=f"away-26112{day}-120000-abcd", store="s3://away/runs") for day in (3, 4)]
    with Ledger(home.ledger_path) as ledger:
        entry = ledger.get(live.run_id)
        assert entry is not None
        for run in away:
            ledger.adopt(replace(entry, run_id=run.run_id, store=run.store, state=State.RUNNING, reference=UNMANAGED))
    notes: list[str] = []
    found = {run.run_id: run.state for run in update_runs(home, note=notes.append)}
    assert set(found) == {here.run_id, live.run_id, *(run.run_id for run in away)}
    assert (found[here.run_id], found[away[0].run_id]) == (State.SUCCEEDED, State.RUNNING)
    assert len(notes) == 1
    assert "s3://away/runs" in notes[0]
    with pytest.raises(StoreError, match="s3://away/runs"):
        update_run(home, away[0].run_id)
    with pytest.raises(StoreError, match="s3://away/runs"):
        runs_in("s3://away/runs")


@pytest.fixture
def far_store(monkeypatch: pytest.MonkeyPatch, server: StoreServer) -> Iterator[str]:
    use(server, monkeypatch)
    yield f"{server.new_url()}/runs"
    connections.store_at.cache_clear()


def test_a_run_in_a_bucket_moves_from_a_lost_machine_to_a_new_one(
    home: Home, other_home: Home, write_job: Callable[..., Path], far_store: str
) -> None:
    job = write_job(SAVES + "exec sleep 600")
    run = submit(home, make_plan(home, job, [f"store={far_store}"]))
    key = f"{run.run_id}/{layout.CHECKPOINTS}/step-00000007/{layout.MANIFEST}"
    store = connections.store_at(far_store)
    wait_until(lambda: any(info.key == key for info in store.list(run.run_id)), "the checkpoint is in the store", 60)
    pid = AttemptStatus.from_json(store.get(f"{run.run_id}/{layout.status(1)}"), "status").pid
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=30)
    assert [each.run_id for each in runs_in(far_store).runs] == [run.run_id]
    adopted = adopt(other_home, f"{far_store}/{run.run_id}")
    assert (adopted.state.is_end, adopted.is_unmanaged) == (False, True)
    fake = FakeTime()
    end = end_of(other_home, resume(other_home, run.run_id, ask=accepting, sleep=fake.sleep, clock=fake.clock))
    assert (end.state, end.attempt, end.resumed_step) == (State.SUCCEEDED, 2, 7)
    assert b"".join(read_logs(other_home, run.run_id)) == b"from step-00000007\n"
    with suppress(NotFoundError):  # the machine may be lost before anything of its log is in the store
        assert b"from \n".startswith(b"".join(read_logs(other_home, run.run_id, attempt=1)))
    assert update_run(home, run.run_id).state is State.SUCCEEDED


def test_a_copy_has_each_log_as_one_file_and_reports_missing_parts(
    home: Home, write_job: Callable[..., Path], far_store: str, tmp_path: Path
) -> None:
    command = (
        "echo one; mkdir $CLOUD_TRAIN_CHECKPOINTS/.new; cd $CLOUD_TRAIN_CHECKPOINTS; echo s > .new/part.000000000000007; mv .new step-7"
    )
    run = end_of(home, submit(home, make_plan(home, write_job(command), [f"store={far_store}"])))
    assert run.state is State.SUCCEEDED
    log = f"{run.run_id}/{layout.output_log(1)}"
    connections.store_at(far_store).put(segment_key(log, 4), b"two\n")
    copy = sync(home, run.run_id, tmp_path / "copy")
    assert (copy.folder / layout.output_log(1)).read_bytes() == b"one\ntwo\n"
    assert (copy.folder / layout.CHECKPOINTS / "step-7" / "part.000000000000007").read_text() == "s\n"
    assert copy.skipped == ()
    assert not [path for path in copy.folder.rglob("*") if path.name.startswith((".output", f"{Path(log).name}."))]
    again = sync(home, run.run_id, tmp_path / "copy")
    assert (again.copied, again.bytes, again.unchanged) == ((), 0, len(copy.copied))
    connections.store_at(far_store).put(segment_key(log, 12), b"four\n")
    torn = sync(home, run.run_id, tmp_path / "copy")
    assert torn.skipped == ((layout.output_log(1), "cut off at byte 8: the bytes up to 12 are missing from the store"),)
    assert (copy.folder / layout.output_log(1)).read_bytes() == b"one\ntwo\n"


def test_a_refused_launch_is_recorded_in_the_store_too(
    home: Home, write_job: Callable[..., Path], server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(server, monkeypatch)
    store = server.new_url()

    def refuse(self: object, request: object, secrets: object) -> Handle:
        raise ProviderError("no room")

    monkeypatch.setattr("cloud_train.providers.local.LocalProvider.launch", refuse)
    with pytest.raises(ProviderError, match="no room"):
        submit(home, make_plan(home, write_job("true"), [f"store={store}"]))
    (found,) = runs_in(store).runs
    assert (found.cause, found.message) == (Cause.REJECTED, "no room")


def test_data_missing_from_its_store_is_refused_before_anything_is_written(
    home: Home, tmp_path: Path, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(server, monkeypatch)
    bucket = server.new_url()
    server.put_raw(bucket, "photos2/x", b"beside it")
    job = tmp_path / "job.yaml"
    job.write_text(f"name: far\nmodel: {{kind: script, command: 'true'}}\ndata: {{dataset: files, path: '{bucket}/photos'}}\nstore: runs\n")
    plan = make_plan(home, job)
    with pytest.raises(UsageError, match="nothing found at"):
        submit(home, plan)
    assert not (tmp_path / "runs").exists()
    server.put_raw(bucket, "photos/x", b"there")
    run = submit(home, plan)
    assert end_of(home, run).state is State.SUCCEEDED


def test_a_missing_run_directory_is_an_error_with_a_hint(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no run directory at"):
        adopt(home, str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="is not the URL of a run directory"):
        adopt(home, "s3://bucket")


class Away:
    """A store behind a network that is down for some reads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.looks = 0

    def __getattr__(self, name: str) -> object:
        if self.looks > 0 and name in ("get", "stat", "list", "folders"):
            self.looks -= 1
            raise StoreError("the network is away")
        return getattr(self._store, name)


def test_a_follower_waits_for_an_unreachable_store_and_loses_no_line(
    home: Home, write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(home, make_plan(home, write_job("for i in 1 2 3; do echo line $i; done")))
    end_of(home, run)
    with Ledger(home.ledger_path) as ledger:
        ledger.observed(run.run_id, 1, State.RUNNING)
    away = Away(connections.store_at(run.store))
    for room in ("reading", "state", "reconcile", "following"):
        monkeypatch.setattr(f"cloud_train.orchestrator.{room}.store_at", lambda url: away)
    notes: list[str] = []
    away.looks = 3
    assert b"".join(follow_logs(home, run.run_id, sleep=lambda _: None, note=notes.append)) == b"line 1\nline 2\nline 3\n"
    assert set(notes) == {"the network is away; retrying while the run continues"}  # once for each read that had to wait


def test_a_store_that_stays_unreachable_ends_the_following_with_its_error(home: Home) -> None:
    waits: list[float] = []

    def look() -> None:
        raise StoreError("the network is away")

    with pytest.raises(StoreError, match="the network is away"):
        connections.patiently(look, lambda _: None, waits.append)
    assert len(waits) == 19


def test_the_status_of_a_run_that_has_ended_is_known_without_its_store(
    home: Home, write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(home, make_plan(home, write_job("true")))
    end_of(home, run)
    away = Away(connections.store_at(run.store))
    away.looks = 1000
    monkeypatch.setattr("cloud_train.orchestrator.following.store_at", lambda url: away)
    notes: list[str] = []
    assert glance(home, run.run_id, notes.append, record=True).view.state is State.SUCCEEDED
    assert notes == ["the network is away"]


def test_the_slower_of_two_resuming_machines_tracks_the_attempt_as_unmanaged(
    home: Home, start: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = end_of(home, start("exit 1"))
    ours = status_of(run)
    faster = replace(ours, state=State.RUNNING, host="another-machine", cause=None, ended=None, token="of the other")

    def launch_too_late(ledger: Ledger, provider: Provider, plan: Plan, secrets: dict[str, str]) -> Handle:
        (run_folder(run) / layout.attempt(2)).mkdir()
        (run_folder(run) / layout.status(2)).write_bytes(faster.to_json())
        return launch(ledger, provider, plan, secrets)

    with monkeypatch.context() as patch:
        patch.setattr(resuming, "launch", launch_too_late)
        with pytest.raises(ConflictError, match="its attempt 2 is running on another-machine"):
            resume(home, run.run_id)

    def is_recorded() -> bool:
        update_run(home, run.run_id)
        with Ledger(home.ledger_path) as ledger:
            entry = ledger.get(run.run_id)
        return entry is not None and entry.reference == UNMANAGED

    wait_until(is_recorded, "the worker has found its attempt taken, and has left")
    seen = update_run(home, run.run_id)
    assert (seen.state, seen.attempt, seen.host, seen.is_unmanaged) == (State.RUNNING, 2, "another-machine", True)
    assert status_of(run, 2) == faster
    fake = FakeTime()
    assert resume(home, run.run_id, ask=accepting, sleep=fake.sleep, clock=fake.clock).attempt == 3
