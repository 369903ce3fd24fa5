"""``cloud-train list``: list the runs and their states."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.options import JsonOption, complete_name, complete_state, open_client
from cloud_train.cli.output.runs import run_table, run_table_pages, table_columns
from cloud_train.cli.output.terminal import Painter, is_terminal, say, say_aside, say_json, say_json_list
from cloud_train.client import Client
from cloud_train.run.states import State
from cloud_train.spec.secret_names import without_credentials

if TYPE_CHECKING:
    from cloud_train import RunView, Summary, Unreadable

_SHOWN = 20


def list_runs(
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="List the newest N runs.", metavar="N")] = _SHOWN,
    everything: Annotated[bool, typer.Option("--all", "-a", help="List every run.")] = False,
    name: Annotated[
        str | None,
        typer.Option(help="List only runs of the job with this name.", metavar="NAME", autocompletion=complete_name, show_default=False),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            help=f"List only runs in this state: {', '.join(State)}. Repeatable.",
            metavar="STATE",
            autocompletion=complete_state,
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="List the runs in this store, from any machine.", metavar="URL", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """List the runs and their states, newest first.

    Each is shown with its progress, and with the last value of the metric that decides which checkpoint is the best, or else of a loss:
    those of the newest attempt, of at most 200 runs. On a narrow terminal, the columns of least use are left out; --json has everything.

    Runs that have not ended are checked with their provider and in their run directory, and so are the newest 200 that did not succeed,
    which another machine may have resumed. New ends are recorded, and whatever an ended run left at its provider is cleaned up; with --json
    nothing is changed.

    With --store, the runs in a store are listed instead, from all machines; track one from here with `adopt`. A run
    directory that cannot be read is listed as unreadable, with the reason. Nothing is changed.

    Examples:
      cloud-train list
      cloud-train list --name digits-cnn --state running --state queued
      cloud-train list --all --state failed --json
      cloud-train list --store s3://my-bucket/runs
    """
    client = open_client(as_json)
    if everything and not store:
        _print_all(client, name, state or [], as_json)
        return 0
    wanted = None if everything else limit
    # One more than is shown, to see whether there are more.
    most = None if wanted is None else wanted + 1
    unreadable: list[Unreadable] = []
    if store is None:
        found = [run.view for run in client.each_run(most, name=name, states=state or (), record=not as_json)]
    else:
        found, unreadable = _in_store(client, store, name, state or [])
    shown = list(client.summaries(found[:wanted]))
    more = len(found) > len(shown)
    if as_json:
        _print_json(shown, unreadable, wanted, more=more, in_store=store is not None)
    elif shown or unreadable:
        _print(shown, unreadable, wanted, more=more)
    else:
        _say_none(client, store, name)
    return 0


def _print_all(client: Client, name: str | None, states: list[str], as_json: bool) -> None:
    """Print every run in the ledger as it is read: there may be more than memory takes."""
    found = client.summaries(client.each_run(name=name, states=states, record=not as_json))
    if as_json:
        say_json_list({"more": False}, "runs", (run.to_json() for run in found))
        return
    is_empty = True
    for page in run_table_pages(found, time.time(), is_terminal(sys.stdout), Painter.of(sys.stdout), table_columns(sys.stdout)):
        say(page)
        is_empty = False
    if is_empty:
        _say_none(client, None, name)


def _in_store(client: Client, store: str, name: str | None, states: list[str]) -> "tuple[list[RunView], list[Unreadable]]":
    """The chosen runs in the store, and the run directories that cannot be read, unless runs are chosen."""
    listed = client.runs_in(store, name=name, states=states)
    return listed.runs, [] if states or name else listed.unreadable


def _say_none(client: Client, store: str | None, name: str | None) -> None:
    """Say that no run is listed, and whether that is because of its name or of its state."""

    def is_there(chosen: str | None = None) -> bool:
        if store is None:
            return any(client.each_run(1, name=chosen, check_ended=False))
        return bool(_in_store(client, store, chosen, [])[0])

    if not is_there():
        say_aside(f"no runs in {without_credentials(store)}" if store else "no runs yet; start one with: cloud-train submit JOB.yaml")
    elif name is not None and not is_there(name):
        say_aside(f"no runs of a job named {name}")
    else:
        say_aside("no runs in this state")


def _print_json(runs: "list[Summary]", unreadable: "list[Unreadable]", wanted: int | None, *, more: bool, in_store: bool) -> None:
    bad = unreadable[:wanted]
    more = more or len(unreadable) > len(bad)
    say_json({"runs": [run.to_json() for run in runs], "more": more, **({"unreadable": [vars(run) for run in bad]} if in_store else {})})


def _print(runs: "list[Summary]", unreadable: "list[Unreadable]", wanted: int | None, *, more: bool) -> None:
    bad = unreadable[:wanted]
    say(run_table(runs, time.time(), is_terminal(sys.stdout), Painter.of(sys.stdout), bad, columns=table_columns(sys.stdout)))
    if len(unreadable) > len(bad):
        say_aside(f"{len(unreadable) - len(bad)} more run directories cannot be read; list them with: --all")
    if more:
        say_aside(f"showing the newest {len(runs)}; list every run with: cloud-train list --all")
