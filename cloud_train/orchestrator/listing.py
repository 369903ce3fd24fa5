"""Finding runs in the ledger: one by its id, or the newest with their current states."""

from collections.abc import Callable, Iterable, Iterator

from cloud_train.errors import CloudTrainError, NotFoundError, StoreError
from cloud_train.orchestrator.connections import provider_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.ledgers import read_ledger
from cloud_train.orchestrator.polling import Listing, Observer, observe_all
from cloud_train.orchestrator.side_by_side import Directories
from cloud_train.orchestrator.state import has_continued, launch_of, read
from cloud_train.providers.base import Observation
from cloud_train.run.ledger_entry import Entry
from cloud_train.run.ledger_file import REPAIR
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.base import NotPlainError

Look = Callable[[Home, LedgerReader, str, Observer | None], RunView]
"""Checks a run: ``read``, which only reads, or ``reconcile``, which also acts."""

_MOST_CHECKED = 200
"""Of the listed runs that ended without success, so many of the newest are checked for an attempt from another machine."""


def select(home: Home, text: str | None, *, latest: bool = False) -> str:
    """The id of the run whose id begins or ends with ``text``; the last submitted one for None. Raises NotFoundError, also for several.

    With ``latest``, the name of a job alone means its newest run.
    """
    with read_ledger(home) as ledger:
        if text is None:
            last = ledger.last_submitted()
            if last is None:
                raise NotFoundError("no runs yet", hint="start one with: cloud-train submit JOB.yaml")
            return last
        if latest and (newest := ledger.newest_called(text)) is not None:
            return newest
        fitting = ledger.matching(text)
    if text in fitting:
        return text
    if not fitting:
        raise NotFoundError(f"no run's id begins or ends with {text!r}", hint="list all runs with: cloud-train list --all")
    if len(fitting) > 1:
        shown = "\n  ".join(fitting)
        raise NotFoundError(f"{text!r} matches several runs:\n  {shown}", hint="give more of the id; its last four characters are enough")
    return fitting[0]


def read_runs(
    home: Home, limit: int | None = None, note: Callable[[str], None] = lambda _: None, *, name: str | None = None, check_ended: bool = True
) -> Iterator[RunView]:
    """The current state of the newest runs, as ``each_of`` yields them."""
    with read_ledger(home) as ledger:
        yield from each_of(home, ledger, read, limit, note, name=name, check_ended=check_ended)


def each_of(
    home: Home,
    ledger: LedgerReader,
    look_at: Look,
    limit: int | None,
    note: Callable[[str], None],
    *,
    name: str | None = None,
    check_ended: bool = True,
) -> Iterator[RunView]:
    """The newest runs, with ``name`` only those of that job, newest first, each checked with ``look_at`` when it is needed.

    With ``check_ended``, the newest 200 of the runs that ended without success are checked too, because another machine may have resumed
    them. A run that cannot be checked is yielded as the ledger has it, and ``note`` is told why. An unreachable store is tried once.
    """
    unreachable: set[str] = set()
    damaged: list[str] = []
    entries: Iterable[Entry] = ledger.each(limit, damaged, name=name)
    if limit is not None:
        entries = list(entries)
    listing = Listing(_observe_clouds(home, ledger.unfinished() if limit is None else entries, note))
    directories = Directories(note)
    for entry, is_continued in directories.each(entries, has_continued, _can_be_resumed(_MOST_CHECKED if check_ended else 0)):
        if (entry.state.is_end and not is_continued) or entry.store in unreachable:
            yield entry.view()
            continue
        try:
            yield look_at(home, ledger, entry.run_id, listing)
        except NotFoundError:
            continue  # a submission that never became a run
        except CloudTrainError as error:
            if isinstance(error, StoreError) and not isinstance(error, NotPlainError):
                unreachable.add(entry.store)
            note(f"showing the last known state of {entry.run_id}: {error.message}")
            yield entry.view()
    for run_id in damaged:
        note(f"the ledger's record of {run_id} is damaged; {REPAIR}")


def _can_be_resumed(most: int) -> Callable[[Entry], bool]:
    """Whether another machine may have resumed a run that has ended; never for more than ``most`` runs."""
    left = most

    def is_wanted(entry: Entry) -> bool:
        nonlocal left
        if not entry.state.is_end or entry.state is State.SUCCEEDED or left == 0:
            return False
        left -= 1
        return True

    return is_wanted


def _observe_clouds(home: Home, entries: Iterable[Entry], note: Callable[[str], None]) -> dict[tuple[str, int], Observation]:
    """The clouds' observations of all these runs, from one listing per provider instead of one request per run."""
    observations: dict[tuple[str, int], Observation] = {}
    active = [entry for entry in entries if not (entry.state.is_end or entry.is_unlaunched or entry.is_unmanaged)]
    for name in dict.fromkeys(entry.provider for entry in active):
        launches = [launch_of(entry) for entry in active if entry.provider == name]
        try:
            provider = provider_at(home, name)
        except CloudTrainError:
            continue  # reported when each of its runs is checked
        try:
            observations |= observe_all(provider, launches)
        except (KeyError, TypeError, AttributeError, ValueError):
            continue  # one of the handles is damaged; which one, is found out when each of its runs is checked
        except CloudTrainError as error:
            note(f"cannot reach {name}: {error.message}")
            unknown = Observation(State.RUNNING, Cause.UNKNOWN, error.message)
            observations |= {(launch.run_id, launch.attempt): unknown for launch in launches}
    return observations
