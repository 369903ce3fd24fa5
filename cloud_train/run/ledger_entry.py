"""An entry of the ledger: one run with its newest attempt, and how it is read from a row of the database."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, Self

from cloud_train.run.documents import LATEST, MOST_ATTEMPTS
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView

_OF_RUN = ("run_id", "name", "store", "job_file", "created")
_OF_ATTEMPT = (
    "provider",
    "state",
    "cause",
    "message",
    "started",
    "ended",
    "host",
    "resumed_step",
    "reference",
    "settings",
    "token",
    "elapsed",
)
COLUMNS = (*(f"runs.{name}" for name in _OF_RUN), "attempts.number", *(f"attempts.{name}" for name in _OF_ATTEMPT))
FIELDS = (*_OF_RUN, "attempt", *_OF_ATTEMPT)
"""The field of ``Entry`` that each column becomes."""
_TEXT, _NUMBER, _NOTHING = (str,), (float, int), type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("run_id", "name", "store", "provider", "state", "message", "host", "token"), _TEXT),
    **dict.fromkeys(("job_file", "cause", "reference", "settings"), (*_TEXT, _NOTHING)),
    **dict.fromkeys(("started", "ended", "elapsed"), (*_NUMBER, _NOTHING)),
    "created": _NUMBER,
    "attempt": (int,),
    "resumed_step": (int, _NOTHING),
}
"""Field of ``Entry`` → the types that its column may have."""

UNMANAGED: dict[str, Any] = {"elsewhere": True}
"""The reference of an attempt that was launched from another machine and that its provider cannot find from here."""


class RecordKind(Enum):
    """How this machine knows a ``run.json``."""

    OWN = "own"
    """This machine wrote it."""
    ACCEPTED = "accepted"
    """Another machine wrote it, and the user agreed to what it starts."""
    SEEN = "seen"
    """Another machine wrote it, and the user has not agreed to it."""


_SHOWN = tuple(each.name for each in fields(RunView))


@dataclass(frozen=True)
class Entry(RunView):
    """One run with its newest attempt, as the ledger records it: a ``RunView`` and what only this machine knows."""

    reference: dict[str, Any] | None = None
    """The provider's handle of the attempt; None until it is launched."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The provider settings from this machine's own configuration, for finding and resuming the attempt."""
    token: str = ""
    """The token with which the attempt was launched from here; empty without one, as for an attempt of another machine."""

    @property
    def is_unlaunched(self) -> bool:
        """Whether the attempt has neither a recorded launch nor an end: it is being submitted, or its submission was interrupted."""
        return self.reference is None and not self.state.is_end

    def launched(self, reference: dict[str, Any]) -> Self:
        """The run after its attempt was launched."""
        begins = self.state is State.SUBMITTING
        return replace(
            self,
            reference=reference,
            is_unmanaged=reference == UNMANAGED,
            state=State.STARTING if begins else self.state,
            started=None if begins else self.started,
        )

    def view(self, status: AttemptStatus | None = None, is_recorded: bool = True) -> RunView:
        """The run as it is displayed; ``status`` is that of its attempt in the run directory, if it was read."""
        shown = {name: getattr(self, name) for name in _SHOWN}
        measured = {"heartbeat": status.heartbeat, "elapsed": status.elapsed} if status else {"heartbeat": None}
        return RunView(**{**shown, **measured, "is_recorded": is_recorded})


def _entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(FIELDS, row, strict=True))
    _check_types(values)
    reference = json.loads(values["reference"]) if values["reference"] else None
    settings = json.loads(values["settings"]) if values["settings"] else {}
    if not isinstance(reference, dict | None) or not isinstance(settings, dict):
        raise TypeError("a handle or the settings in the ledger are not a mapping")
    return Entry(
        **{
            **values,
            "created": min(max(values["created"], 0.0), LATEST),
            "state": State(values["state"]),
            "cause": Cause(values["cause"]) if values["cause"] else None,
            "started": _time(values["started"]),
            "ended": _time(values["ended"]),
            "elapsed": _time(values["elapsed"]),
            "reference": reference,
            "settings": settings,
            "is_unmanaged": reference == UNMANAGED,
        }
    )


def entry_or_none(row: tuple[Any, ...], damaged: list[str]) -> Entry | None:
    """The entry; None for a damaged row, whose run is added to ``damaged``."""
    try:
        return _entry(row)
    except (ValueError, TypeError, RecursionError):
        damaged.append(str(row[0]))
        return None


def is_whole(run: dict[str, Any], attempts: list[dict[str, Any]], records: list[dict[str, Any]]) -> bool:
    """Whether a run has attempts, its newest one is with the run's provider, and all values can be read."""
    try:
        for attempt in attempts:
            values = {"settings": None, "token": "", "elapsed": None, **run, **attempt}
            _entry(tuple(values[name] for name in (*_OF_RUN, "number", *_OF_ATTEMPT)))
        for record in records:
            RecordKind(record["kind"])
        return bool(attempts) and max(attempts, key=lambda attempt: attempt["number"])["provider"] == run["provider"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def with_readable_handle(attempt: dict[str, Any]) -> dict[str, Any]:
    """The attempt's row; a handle that is not one of any provider is replaced by an empty one, which says that it has to be found again."""
    try:
        is_readable = attempt["reference"] is None or isinstance(json.loads(attempt["reference"]), dict)
    except (ValueError, TypeError, KeyError, RecursionError):
        is_readable = False
    return attempt if is_readable else {**attempt, "reference": "{}"}


def _check_types(values: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError if a row has values that no version of cloud-train wrote, as a damaged file may."""
    for name, kinds in _KINDS.items():
        if not isinstance(values[name], kinds):
            raise TypeError(f"the ledger has {type(values[name]).__name__} as {name}")
    if not 1 <= values["attempt"] <= MOST_ATTEMPTS:
        raise ValueError(f"the ledger has an attempt {values['attempt']}")


def _time(seconds: float | None) -> float | None:
    """A valid time, or None. An earlier version recorded times from run directories unchecked."""
    return seconds if seconds is not None and 0 <= seconds <= LATEST else None
