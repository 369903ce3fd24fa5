"""``cloud-train list``: the runs and where they stand."""

import sys
import time
from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption
from cloud_train.cli.terminal import Painter, is_terminal, say, say_aside, say_json
from cloud_train.run.states import State

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
    of a store are read instead, as they are: `adopt` takes one of them into the ledger.

    Examples:
      cloud-train list
      cloud-train list --all --state failed --json
      cloud-train list --store s3://my-bucket/runs
    """
    from cloud_train.cli.render.runs import run_json, run_table
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.observing import list_runs as look

    wanted = None if everything else limit
    if store is not None:
        from cloud_train.orchestrator.adopting import runs_in

        found = runs_in(store, say_aside)
    else:
        # One more than is shown tells whether there are more; a state is known only after the look.
        found = look(Home.from_environment(), None if wanted is None or state else wanted + 1, say_aside)
    fitting = [run for run in found if state is None or run.state is state]
    shown = fitting[:wanted]
    if as_json:
        say_json({"runs": [run_json(run) for run in shown], "more": len(fitting) > len(shown)})
        return 0
    if not shown:
        none = f"there is no run in {store}" if store else "there is no run yet; start one with: cloud-train submit JOB.yaml"
        say_aside("no run is in this state" if found else none)
        return 0
    say(run_table(shown, time.time(), is_terminal(sys.stdout), Painter.of(sys.stdout)))
    if len(fitting) > len(shown):
        say_aside(f"these are the newest {len(shown)}; see every run with: cloud-train list --all")
    return 0
