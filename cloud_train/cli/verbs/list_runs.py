"""``cloud-train list``: show the runs and their state."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.options import JsonOption
from cloud_train.cli.output.runs import run_table
from cloud_train.cli.output.terminal import Painter, is_terminal, say, say_aside, say_json
from cloud_train.cli.session import open_client
from cloud_train.run.states import State
from cloud_train.spec.secret_names import without_credentials

if TYPE_CHECKING:
    from cloud_train import Unreadable

_SHOWN = 20


def list_runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show the newest N runs.", metavar="N")] = _SHOWN,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Show every run.")] = False,
    state: Annotated[State | None, typer.Option(help="Show only runs in this state.", show_default=False)] = None,
    store: Annotated[
        str | None, typer.Option(help="Show the runs in this store, from any machine.", metavar="URL", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show the runs and their state, the newest first.

    A run that has ended is shown from the ledger; the others are checked with their provider and their run directory. Ends that are found
    are recorded, and what an ended run left at its provider is cleaned up; with --json nothing is changed.

    With --store the run directories of a store are shown instead, whichever machine submitted them: `adopt` tracks one of them from here.
    One that cannot be read is shown as unreadable, with the reason. Nothing is changed.

    Examples:
      cloud-train list
      cloud-train list --all --state failed --json
      cloud-train list --store s3://my-bucket/runs
    """
    client = open_client(as_json)
    wanted, unreadable = None if everything else limit, list["Unreadable"]()
    if store is not None:
        listed = client.runs_in(store)
        found, unreadable = listed.runs, listed.unreadable
    else:
        # One more than is shown tells whether there are more; a state is known only after the look.
        most = None if wanted is None or state else wanted + 1
        found = [run.view for run in client.runs(most, record=not as_json)]
    fitting = [run for run in found if state is None or run.state is state]
    shown, bad = fitting[:wanted], [] if state else unreadable[:wanted]
    if as_json:
        more = len(fitting) > len(shown) or (not state and len(unreadable) > len(bad))
        say_json({"runs": [run.to_json() for run in shown], "more": more, **({"unreadable": [vars(run) for run in bad]} if store else {})})
        return 0
    if not shown and not bad:
        none = f"no runs in {without_credentials(store)}" if store else "no runs yet; start one with: cloud-train submit JOB.yaml"
        say_aside("no runs in this state" if found else none)
        return 0
    say(run_table(shown, time.time(), is_terminal(sys.stdout), Painter.of(sys.stdout), bad))
    if len(unreadable) > len(bad) and not state:
        say_aside(f"{len(unreadable) - len(bad)} more run directories cannot be read; show them with: --all")
    if len(fitting) > len(shown):
        say_aside(f"showing the newest {len(shown)}; list every run with: cloud-train list --all")
    return 0
