"""The findings of a check: one fact for each expectation."""

from dataclasses import dataclass, field
from enum import Enum

from cloud_train.run.states import State
from cloud_train.run.view import RunView


class Verdict(Enum):
    """The result of comparing an observation with an expectation."""

    HOLDS = "holds"
    DIFFERS = "differs"
    NOT_TRIED = "could not be tried"


@dataclass(frozen=True)
class Fact:
    """One expectation, and what was observed."""

    expected: str
    observed: str
    verdict: Verdict
    rows: tuple[str, ...] = ()
    """Ids of the rows of evidence that the expectation comes from."""


@dataclass(frozen=True)
class Result:
    """All facts of a check."""

    check: str
    facts: tuple[Fact, ...]
    seconds: float = 0.0
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)
    """Operation → status of its responses → number of them."""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its facts; without facts, it could not be tried."""
        found = {fact.verdict for fact in self.facts}
        if Verdict.DIFFERS in found:
            return Verdict.DIFFERS
        return Verdict.HOLDS if Verdict.HOLDS in found else Verdict.NOT_TRIED


def compared(expected: str, observed: object, holds: bool, *rows: str) -> Fact:
    """A fact that holds or differs."""
    return Fact(expected, str(observed), Verdict.HOLDS if holds else Verdict.DIFFERS, rows)


def succeeded(expected: str, view: RunView, *rows: str) -> Fact:
    """A fact about a run that should succeed. Without a machine for it, nothing is known."""
    seen = f"{view.state}: {view.message}" if view.message else str(view.state)
    if view.state is not State.SUCCEEDED and lacks_machine(view.message):
        return Fact(expected, seen, Verdict.NOT_TRIED, rows)
    return compared(expected, seen, view.state is State.SUCCEEDED, *rows)


def lacks_machine(message: str) -> bool:
    """Whether a message says that there was no machine: no capacity, or no quota for it."""
    return any(words in message.casefold() for words in ("capacity", "quota", "limit exceeded", "resourcelimitexceeded"))


def untried(expected: str, why: object, *rows: str) -> Fact:
    """A fact that could not be tried."""
    return Fact(expected, str(why), Verdict.NOT_TRIED, rows)
