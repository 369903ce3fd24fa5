"""``cloud-train list``: list the runs and their states."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.options import JsonOption, open_client
from cloud_train.cli.output.runs import run_table, run_table_pages
from cloud_train.cli.output.terminal import Painter, is_terminal, say, say_aside, say_json, say_json_list
from cloud_train.client import Client
from cloud_train.run.states import State
from cloud_train.spec.secret_names import without_credentials

if TYPE_CHECKING:
    from cloud_train import RunView, Unreadable

_SHOWN = 20


def list_runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="List the newest N runs.", metavar="N")] = _SHOWN,
    everything: Annotated[bool, typer.Option("--all", "-a", help="List every run.")] = False,
    state: Annotated[State | None, typer.Option(help="List only runs in this state.", show_default=False)] = None,
    store: Annotated[
        str | None, typer.Option(help="List the runs in this store, from any machine.", metavar="URL", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """List the runs and their states, newest first.

    Runs that have ended are shown from the ledger; the others are checked with their provider and in their run directory. New ends are
    recorded, and whatever an ended run left at its provider is cleaned up; with --json nothing is changed.

    With --store, the runs in a store are listed instead, from all machines; track one from here with `adopt`. A run
    directory that cannot be read is listed as unreadable, with the reason. Nothing is changed.

    Examples:
      cloud-train list
      cloud-train list --all --state failed --json
      cloud-train list --store s3://my-bucket/runs
    """
    client = open_client(as_json)
    if everything and not store:
        _print_all(client, state, as_json)
        return 0
    wanted = None if everything else limit
    # One more than is shown, to see whether there are more. A run's state is known only after the run was checked.
    most = None if wanted is None or state else wanted + 1
    found, unreadable = _found(client, store, most, record=not as_json)
    runs = [run for run in found if state is None or run.state is state]
    unreadable = [] if state else unreadable
    if as_json:
        _print_json(runs, unreadable, wanted, in_store=bool(store))
    elif runs or unreadable:
        _print(runs, unreadable, wanted)
    else:
        _say_none(store, bool(found))
    return 0


def _print_all(client: Client, state: State | None, as_json: bool) -> None:
    """Print every run in the ledger as it is read: there may be more than memory takes."""
    views = (run.view for run in client.each_run(record=not as_json))
    if as_json:
        say_json_list({"more": False}, "runs", (view.to_json() for view in views if state is None or view.state is state))
        return
    seen = 0

    def wanted() -> "Iterator[RunView]":
        nonlocal seen
        for view in views:
            seen += 1
            if state is None or view.state is state:
                yield view

    is_empty = True
    for page in run_table_pages(wanted(), time.time(), is_terminal(sys.stdout), Painter.of(sys.stdout)):
        say(page)
        is_empty = False
    if is_empty:
        _say_none(None, seen > 0)


def _say_none(store: str | None, others: bool) -> None:
    """Say that no run is listed; ``others``: although there are runs in other states."""
    if others:
        say_aside("no runs in this state")
    else:
        say_aside(f"no runs in {without_credentials(store)}" if store else "no runs yet; start one with: cloud-train submit JOB.yaml")


def _found(client: Client, store: str | None, most: int | None, *, record: bool) -> "tuple[list[RunView], list[Unreadable]]":
    """The runs in the store, or else the newest ``most`` in the ledger, and the run directories that cannot be read."""
    if store is None:
        return [run.view for run in client.each_run(most, record=record)], []
    listed = client.runs_in(store)
    return listed.runs, listed.unreadable


def _print_json(runs: "list[RunView]", unreadable: "list[Unreadable]", wanted: int | None, in_store: bool) -> None:
    shown, bad = runs[:wanted], unreadable[:wanted]
    more = len(runs) > len(shown) or len(unreadable) > len(bad)
    say_json({"runs": [run.to_json() for run in shown], "more": more, **({"unreadable": [vars(run) for run in bad]} if in_store else {})})


def _print(runs: "list[RunView]", unreadable: "list[Unreadable]", wanted: int | None) -> None:
    shown, bad = runs[:wanted], unreadable[:wanted]
    say(run_table(shown, time.time(), is_terminal(sys.stdout), Painter.of(sys.stdout), bad))
    if len(unreadable) > len(bad):
        say_aside(f"{len(unreadable) - len(bad)} more run directories cannot be read; list them with: --all")
    if len(runs) > len(shown):
        say_aside(f"showing the newest {len(shown)}; list every run with: cloud-train list --all")
