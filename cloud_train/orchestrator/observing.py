"""Where the runs stand: what the ledger has, brought up to date from the provider and from the run directory.

A run that ended is read from the ledger alone, so listing thousands costs one query. For the others, in this order: a submission that was
cut off is settled, the provider is asked whether the attempt lives, and then the run directory what became of it.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from cloud_train.errors import CloudTrainError, CorruptError, MissingDependencyError, NotFoundError, ProviderError, StoreError
from cloud_train.orchestrator.asking import Answered, Asker, ask_about_all
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.places import provider_at
from cloud_train.orchestrator.stores import store_at
from cloud_train.providers.base import SHOWS_WITHIN_SECONDS, Handle, Observation, Provider
from cloud_train.run import documents, layout, locks
from cloud_train.run.ledger import ELSEWHERE, Entry, Ledger
from cloud_train.run.record import AttemptStatus, RunRecord
from cloud_train.run.states import Cause, State
from cloud_train.storage.base import NotPlainError, ObjectExistsError, ObjectMissingError, Store

_REASON_SECONDS = 150.0
"""How long after a worker's end a cloud may take to say why it stopped the job: SageMaker leaves 120 s to the containers."""
_MOST_FOLLOWING = 32
"""Attempts that one look goes on to: a run directory may hold as many as somebody likes to make, and the next look goes on from there."""
_CUT_OFF = "the submission was cut off before anything was started"


@dataclass(frozen=True)
class RunView:
    """One run as a person sees it: its newest attempt, and where it stands. Times are seconds since the epoch."""

    run_id: str
    name: str
    provider: str
    store: str
    run_directory: str
    job_file: str | None
    created: float
    attempt: int
    state: State
    cause: Cause | None
    message: str
    started: float | None
    ended: float | None
    heartbeat: float | None
    """The worker's last sign of life; None for an attempt that ended before this look."""
    host: str
    resumed_step: int | None
    is_elsewhere: bool = False
    """Whether the attempt was launched from another machine, so that its sign of life is all that is known of it here."""

    @classmethod
    def of(cls, entry: Entry, heartbeat: float | None = None) -> Self:
        """The run as the ledger has it."""
        return cls(
            run_id=entry.run_id,
            name=entry.name,
            provider=entry.provider,
            store=entry.store,
            run_directory=f"{entry.store.rstrip('/')}/{entry.run_id}",
            job_file=entry.job_file,
            created=entry.created,
            attempt=entry.attempt,
            state=entry.state,
            cause=entry.cause,
            message=entry.message,
            started=entry.started,
            ended=entry.ended,
            heartbeat=heartbeat,
            host=entry.host,
            resumed_step=entry.resumed_step,
            is_elsewhere=entry.reference == ELSEWHERE,
        )


def select(home: Home, text: str | None) -> str:
    """The id of the run that ``text`` begins (or that ends with it), the newest run for None; raises NotFoundError, also if several fit."""
    with Ledger(home.ledger_path) as ledger:
        if text is None:
            newest = ledger.newest(1)
            if not newest:
                raise NotFoundError("there is no run yet", hint="start one with: cloud-train submit JOB.yaml")
            return newest[0].run_id
        fitting = ledger.matching(text)
    if text in fitting:
        return text
    if not fitting:
        raise NotFoundError(f"no run's id begins with {text!r}", hint="see which there are with: cloud-train list --all")
    if len(fitting) > 1:
        shown = "\n  ".join(fitting)
        raise NotFoundError(f"{text!r} fits several runs:\n  {shown}", hint="give more of the id; its last four characters are enough")
    return fitting[0]


def view(home: Home, run_id: str) -> RunView:
    """Where one run stands now."""
    with Ledger(home.ledger_path) as ledger:
        return look(home, ledger, run_id)


def list_runs(home: Home, limit: int | None = None, note: Callable[[str], None] = lambda _: None) -> list[RunView]:
    """The newest runs and where they stand now, the newest first.

    A run that cannot be looked at is shown as the ledger has it, and ``note`` is told why; a store that cannot be reached is tried once.
    """
    with Ledger(home.ledger_path) as ledger:
        views: list[RunView] = []
        away: set[str] = set()
        entries = ledger.newest(limit)
        answered = Answered(_ask_clouds(home, entries, note))
        for entry in entries:
            if entry.state.is_end or entry.store in away:
                views.append(RunView.of(entry))
                continue
            try:
                views.append(look(home, ledger, entry.run_id, answered))
            except NotFoundError:
                continue  # a submission that never came to be is forgotten on the way
            except CloudTrainError as error:
                if isinstance(error, StoreError) and not isinstance(error, NotPlainError):
                    away.add(entry.store)
                note(f"{entry.run_id} is shown as it was when last seen: {error.message}")
                views.append(RunView.of(entry))
        return views


def _ask_clouds(home: Home, entries: Sequence[Entry], note: Callable[[str], None]) -> dict[tuple[str, int], Observation]:
    """What the clouds say of all these runs, with a listing instead of a question for each."""
    answers: dict[tuple[str, int], Observation] = {}
    going_on = [entry for entry in entries if not entry.state.is_end and entry.reference not in (None, ELSEWHERE)]
    for name in dict.fromkeys(entry.provider for entry in going_on):
        handles = [_handle(entry) for entry in going_on if entry.provider == name]
        try:
            provider = provider_at(home, name)
        except CloudTrainError:
            continue  # whoever looks at one of its runs is told
        try:
            answers |= ask_about_all(provider, handles)
        except CloudTrainError as error:
            note(f"{name} cannot be asked: {error.message}")
            unknown = Observation(State.RUNNING, Cause.UNKNOWN, error.message)
            answers |= {(handle.run_id, handle.attempt): unknown for handle in handles}
    return answers


def look(home: Home, ledger: Ledger, run_id: str, asker: Asker | Answered | None = None) -> RunView:
    """Where one run stands now, through a ledger that is open already. Whoever looks often has an ``asker``, which spares the provider."""
    entry = ledger.get(run_id)
    if entry and entry.reference is None and not entry.state.is_end and not locks.is_held(home.submission_lock(run_id)):
        # Read again: between the reading and the look at its lock the submission may have come to its end.
        entry = _settle(home, ledger, ledger.get(run_id))
    if entry is None:
        raise NotFoundError(f"there is no run {run_id}", hint="see which there are with: cloud-train list --all")
    if entry.state.is_end or entry.reference is None:
        return RunView.of(entry)
    if entry.reference == ELSEWHERE:
        return _observe_from_afar(ledger, entry)
    provider = provider_at(home, entry.provider)
    return _observe(ledger, provider, entry, asker or Asker())


def read_record(store: Store, run_id: str) -> RunRecord:
    """The run's ``run.json``, to be shown: whoever acts on it goes through ``trust``. Raises NotFoundError or CorruptError."""
    return read_record_bytes(store, run_id)[1]


def read_record_bytes(store: Store, run_id: str) -> tuple[bytes, RunRecord]:
    """The run's ``run.json`` as it was written, and what it says; raises NotFoundError or CorruptError."""
    key = f"{run_id}/{layout.RUN}"
    try:
        written = documents.read(store, key, documents.LARGEST_RECORD)
        return written, RunRecord.from_json(written, f"{store.url}/{key}")
    except ObjectMissingError as error:
        raise NotFoundError(
            f"the run directory {store.url}/{run_id} is gone", hint="nothing can be read from it; `cloud-train list` still knows the run"
        ) from error


def _settle(home: Home, ledger: Ledger, entry: Entry | None) -> Entry | None:
    """What became of a submission whose process is gone: launched after all, not launched, or never written."""
    if entry is None or entry.reference is not None or entry.state.is_end:
        return entry
    with locks.held(home.submission_lock(entry.run_id)) as mine:
        if not mine:
            return entry
        try:
            store_at(entry.store).stat(f"{entry.run_id}/{layout.RUN}")
        except ObjectMissingError:  # it is written before anything is launched
            ledger.forget(entry.run_id)
            return None
        try:
            handle = provider_at(home, entry.provider).find(entry.run_id, entry.attempt, entry.store, entry.settings)
        except (ProviderError, MissingDependencyError):  # it cannot be asked now: whether the attempt was launched shows another time
            return entry
        if handle is not None:
            ledger.launched(entry.run_id, entry.attempt, handle.reference)
        elif entry.started is not None and abs(time.time() - entry.started) < SHOWS_WITHIN_SECONDS:
            when = time.strftime("%H:%M:%SZ", time.gmtime(entry.started))
            return replace(entry, message=f"{entry.provider} was asked at {when} to start it, and shows no job so far: look again later")
        elif entry.started is not None and not _place_taken(entry):  # its worker was faster: what it says is all that is known
            ledger.launched(entry.run_id, entry.attempt, ELSEWHERE)
        else:
            ledger.observed(entry.run_id, entry.attempt, Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, _CUT_OFF, ended=time.time())
    return ledger.get(entry.run_id)


def _place_taken(entry: Entry) -> bool:
    """Write the attempt's end into the run directory, so that a worker that comes all the same leaves; False if it is there already."""
    now = time.time()
    status = AttemptStatus(State.STARTING, started=now, heartbeat=now, host="", pid=0)
    try:
        ended = status.ended_with(Cause.INFRASTRUCTURE, _CUT_OFF, now).to_json()
        store_at(entry.store).create(f"{entry.run_id}/{layout.status(entry.attempt)}", ended)
    except ObjectExistsError:
        return False
    return True


def _handle(entry: Entry) -> Handle:
    return Handle(entry.run_id, entry.attempt, entry.provider, entry.store, entry.reference or {})


def _observe(ledger: Ledger, provider: Provider, entry: Entry, asker: Asker | Answered) -> RunView:
    handle = _handle(entry)
    # The provider first: a worker writes its end before it goes, so an attempt that is gone by now has its last word in the run directory.
    observation = asker.observe(provider, handle)
    if observation.is_elsewhere:  # somebody on another machine was faster: what was launched from here has left, and means nothing
        provider.tidy(handle)
        ledger.launched(entry.run_id, entry.attempt, ELSEWHERE)
        return _observe_from_afar(ledger, replace(entry, reference=ELSEWHERE))
    if isinstance(asker, Answered) and provider.capabilities.polling_costs and observation.state is entry.state is State.RUNNING:
        return RunView.of(entry)  # nothing has changed, and a look into the run directory would cost as much as the question
    store = store_at(entry.store)
    number, status = _newest_status(store, entry)
    if status and status.cause is Cause.PREEMPTED and provider.capabilities.explains_stops:
        observation = provider.observe(handle)  # anew: the worker was told to stop, and does not know by whom
        status = _with_reason(store, f"{entry.run_id}/{layout.status(number)}", status, observation)
    if observation.state.is_end and (status is None or not status.state.is_end):
        if not provider.capabilities.leaves_no_processes:
            provider.cancel(handle, force=True)
        status = _ended_without_a_word(store, entry.run_id, number, status, observation)
    elif status is None:
        return RunView.of(replace(entry, state=_before_the_worker(observation.state), message=observation.message))
    elif status.cause and not observation.state.is_end and _is_retried(store, entry.run_id, status.cause, number):
        message = f"attempt {number} ended ({status.cause}: {status.message}); attempt {number + 1} follows"
        status = replace(status, state=State.STARTING, cause=None, ended=None, message=message)
    seen = _write_down(ledger, entry, number, status)
    if seen.state.is_end:
        provider.tidy(handle)
    return RunView.of(seen, status.heartbeat)


def _with_reason(store: Store, key: str, status: AttemptStatus, observation: Observation) -> AttemptStatus:
    """The end of a worker that was told to stop, with what its cloud says of the reason; while that is on its way, it is still stopping."""
    if observation.state.is_end and observation.cause in (Cause.TIMED_OUT, Cause.CANCELLED):
        status = replace(status, state=observation.cause.state, cause=observation.cause, message=observation.message)
        with suppress(StoreError):  # the ledger still gets it
            store.put(key, status.to_json())
    elif observation.state in (State.RUNNING, State.STOPPING) and abs(time.time() - (status.ended or 0.0)) < _REASON_SECONDS:
        message = "the machine was told to stop, and the worker has; the cloud has not said yet why"
        status = replace(status, state=State.STOPPING, cause=None, ended=None, message=message)
    return status


def _before_the_worker(state: State) -> State:
    """Running, to a provider, is also who pulls an image or starts a container."""
    return State.STARTING if state is State.RUNNING else state


def declare_dead(ledger: Ledger, entry: Entry, message: str) -> RunView:
    """Give an attempt that nobody hears of any more its end, in the run directory and in the ledger."""
    store = store_at(entry.store)
    number, status = _newest_status(store, entry)
    observation = Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, message)
    ended = status if status and status.state.is_end else _ended_without_a_word(store, entry.run_id, number, status, observation)
    return RunView.of(_write_down(ledger, entry, number, ended), ended.heartbeat)


def _observe_from_afar(ledger: Ledger, entry: Entry) -> RunView:
    """An attempt of another machine: what its worker says of itself. That it says nothing may mean anything, so no end is made up."""
    number, status = _newest_status(store_at(entry.store), entry)
    if status is None:
        return RunView.of(entry)
    return RunView.of(_write_down(ledger, entry, number, status), status.heartbeat)


def _write_down(ledger: Ledger, entry: Entry, number: int, status: AttemptStatus) -> Entry:
    seen = entry.shown_by(number, status)
    if seen != entry:
        ledger.observed(
            seen.run_id,
            seen.attempt,
            seen.state,
            seen.cause,
            seen.message,
            started=seen.started,
            ended=seen.ended,
            host=seen.host,
            resumed_step=seen.resumed_step,
        )
    return seen


def _newest_status(store: Store, entry: Entry) -> tuple[int, AttemptStatus | None]:
    """The newest attempt's status: the worker may have begun further attempts by itself."""
    number, newest = entry.attempt, read_status(store, entry.run_id, entry.attempt)
    for following in range(number + 1, number + 1 + _MOST_FOLLOWING):
        if newest is None or not newest.state.is_end or (status := read_status(store, entry.run_id, following)) is None:
            break
        number, newest = following, status
    return number, newest


def read_status(store: Store, run_id: str, number: int) -> AttemptStatus | None:
    """Where an attempt stands by its run directory; None if it has not begun. Raises CorruptError."""
    key = f"{run_id}/{layout.status(number)}"
    try:
        return AttemptStatus.from_json(documents.read(store, key, documents.LARGEST_STATUS), f"{store.url}/{key}")
    except ObjectMissingError:
        return None


def _ended_without_a_word(store: Store, run_id: str, number: int, status: AttemptStatus | None, observation: Observation) -> AttemptStatus:
    """Give an attempt its end in the worker's place, in the run directory too."""
    now = time.time()
    status = status or AttemptStatus(State.STARTING, started=now, heartbeat=now, host="", pid=0)
    cause, message = observation.cause or Cause.UNKNOWN, observation.message
    if cause is Cause.SUCCEEDED:  # the provider knows of the machine alone
        cause, message = Cause.UNKNOWN, f"the provider says that it ended well, and the worker has not said so; {message}".rstrip("; ")
    with suppress(StoreError):
        store.stat(f"{run_id}/{layout.cancel(number)}")
        cause, message = Cause.CANCELLED, "cancelled; the worker had to be killed"
    seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.heartbeat))
    ended = status.ended_with(cause, f"{message} (last sign of life {seen})", now)
    with suppress(StoreError):  # the ledger still gets it, and the next reader finds out for itself
        store.put(f"{run_id}/{layout.status(number)}", ended.to_json())
    return ended


def _is_retried(store: Store, run_id: str, cause: Cause, number: int) -> bool:
    try:
        return read_record(store, run_id).program.retries(cause, number)
    except (NotFoundError, CorruptError):
        return False
