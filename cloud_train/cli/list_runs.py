"""``cloud-train list``: the runs and where they stand."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.options import JsonOption
from cloud_train.cli.terminal import Painter, is_terminal, say, say_aside, say_json
from cloud_train.run.states import State
from cloud_train.spec.secret_names import without_credentials

if TYPE_CHECKING:
    from cloud_train.orchestrator.adopting import Unreadable

_SHOWN = 20


def list_runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show the newest N runs.", metavar="N")] = _SHOWN,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Show every run.")] = False,
    state: Annotated[State | None, typer.Option(help="Show only runs in this state.", show_default=False)] = None,
    store: Annotated[
        str | None, typer.Option(help="Show the runs that lie in this store, whoever submitted them.", metavar="URL", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show the runs and where they stand.

    The newest run comes first. A run that ended is shown from the ledger; the others are looked at anew. With --store the run directories
    of a store are read instead, as they are: `adopt` takes one of them into the ledger. One that cannot be read is shown
    as unreadable, with the reason.

    Examples:
      cloud-train list
      cloud-train list --all --state failed --json
      cloud-train list --store s3://my-bucket/runs
    """
    from cloud_train.cli.render.runs import run_json, run_table
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.observing import list_runs as look

    wanted, unreadable = None if everything else limit, list["Unreadable"]()
    if store is not None:
        from cloud_train.orchestrator.adopting import runs_in

        listed = runs_in(store)
        found, unreadable = listed.runs, listed.unreadable
    else:
        # One more than is shown tells whether there are more; a state is known only after the look.
        found = look(Home.from_environment(), None if wanted is None or state else wanted + 1, say_aside)
    fitting = [run for run in found if state is None or run.state is state]
    shown, bad = fitting[:wanted], [] if state else unreadable[:wanted]
    if as_json:
        more = len(fitting) > len(shown) or (not state and len(unreadable) > len(bad))
        say_json({"runs": [run_json(run) for run in shown], "more": more, **({"unreadable": [vars(run) for run in bad]} if store else {})})
        return 0
    if not shown and not bad:
        none = (
            f"there is no run in {without_credentials(store)}"
            if store
            else "there is no run yet; start one with: cloud-train submit JOB.yaml"
        )
        say_aside("no run is in this state" if found else none)
        return 0
    say(run_table(shown, time.time(), is_terminal(sys.stdout), Painter.of(sys.stdout), bad))
    if len(unreadable) > len(bad) and not state:
        say_aside(f"{len(unreadable) - len(bad)} more run directories cannot be read; see them with: --all")
    if len(fitting) > len(shown):
        say_aside(f"these are the newest {len(shown)}; see every run with: cloud-train list --all")
    return 0
