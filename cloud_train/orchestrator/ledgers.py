"""The ledger that a command works with: this machine's, or one in memory for a run that is named by its run directory."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cloud_train.orchestrator.home import Home
from cloud_train.run.ledger import Ledger, LedgerInMemory
from cloud_train.run.ledger_reader import LedgerReader


@dataclass(frozen=True)
class Visit(Home):
    """This machine's home for one run that its ledger does not track, or cannot: nothing is recorded, and looking changes nothing."""

    ledger: LedgerInMemory = field(default_factory=LedgerInMemory, compare=False, repr=False)
    """The run alone."""


def open_ledger(home: Home, unwritable: Callable[[str], None] | None = None) -> Ledger:
    """The ledger, open for changes, as a context manager. Raises StoreError; with ``unwritable`` only if it cannot be read either."""
    return home.ledger if isinstance(home, Visit) else Ledger(home.ledger_path, unwritable)


def read_ledger(home: Home) -> LedgerReader:
    """The ledger, open for reading, as a context manager. Raises StoreError."""
    return home.ledger if isinstance(home, Visit) else LedgerReader(home.ledger_path)
