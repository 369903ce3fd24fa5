"""Working with a run without recording anything on this machine: one that is named by its run directory, or whose record is damaged.

So what costs money can be stopped, and what it made fetched, while the ledger is damaged or lost, and from a machine that does not track
the run. The run is adopted into a ledger in memory, by the same checks as for ``adopt``: its provider is asked with the settings from
this machine's own configuration, and the handle is the one that the provider finds. Neither is taken from the run directory.
"""

from collections.abc import Callable
from dataclasses import replace

from cloud_train.errors import CorruptError, StoreError
from cloud_train.orchestrator.adopting import adopt, found_reference, has_directory, place_of, tracked_in
from cloud_train.orchestrator.configs import Configs
from cloud_train.orchestrator.connections import provider_names
from cloud_train.orchestrator.consent import refuse
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.ledgers import Visit, read_ledger


def visit(
    home: Home, url: str, config: str | None = None, configs: Configs | None = None, note: Callable[[str], None] = lambda _: None
) -> tuple[Home, str]:
    """The home through which to work with the run whose directory is at ``url``, and the run's id.

    It is ``home`` itself if its ledger has the run there; otherwise nothing is recorded, which ``note`` is told. Raises the same errors as
    ``adopt``.
    """
    store_url, run_id = place_of(url)
    try:
        with read_ledger(home) as ledger:
            directory = ledger.run_directory(run_id)
            here = f"{store_url}/{run_id}"
            if directory == here and ledger.get(run_id) is not None:
                return home, run_id
        if directory not in (None, here) and has_directory(known := directory.rpartition("/")[0], run_id):
            raise tracked_in(known, run_id)  # what this machine started is not touched through another directory
        reason = "the ledger does not have it"
    except (StoreError, CorruptError) as error:
        reason = error.message
    visiting = Visit(home.folder)
    adopt(visiting, url, config, configs or Configs(home, refuse), needs_status=False)
    note(f"reading {run_id} from its run directory and recording nothing on this machine: {reason}")
    return visiting, run_id


def visit_damaged(home: Home, run_id: str, note: Callable[[str], None]) -> Home | None:
    """The same for a run whose record in the ledger is damaged, with as much of the record as is whole; None if that is too little."""
    with read_ledger(home) as ledger:
        known, directory = ledger.without_handle(run_id), ledger.run_directory(run_id)
    if known is not None and known.provider in provider_names(home):
        here = Visit(home.folder)
        here.ledger.adopt(replace(known, is_unmanaged=False).launched(found_reference(home, known, known.settings)))
    elif directory is not None:
        here = Visit(home.folder)
        adopt(here, directory, configs=Configs(home, refuse), needs_status=False)
    else:
        return None
    note(f"the ledger's record of {run_id} is damaged: working without it, and recording nothing on this machine")
    return here
