"""``cloud-train doctor``: check what is installed and what is missing."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption, open_client
from cloud_train.cli.output.terminal import Painter, clean, say, say_aside, say_json
from cloud_train.cli.output.words import STATE_COLOURS, count
from cloud_train.errors import MissingDependencyError

_MARKS = {"ok": "✔", "warning": "!", "error": "✘"}


def doctor(
    job: Annotated[
        Path | None, typer.Argument(metavar="[JOB.yaml]", help="Also check whether this job can run, and its quota.", show_default=False)
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A store to test: a folder, or s3://…, gs://…, az://…. Repeatable.", show_default=False),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Check the provider configured in configs/NAME.yaml, or in a file.", show_default=False),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair a damaged ledger: keep its intact records, and find the other runs in their stores.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Check what is installed and what is missing, and how to fix it.

    With --store, a store is tested too: whether objects can be listed, written, read, uploaded in parts and deleted, and which permission
    is missing. The test writes a small object named cloud-train-probe-… and deletes it again.

    With --config, everything named in a config file is checked at its provider: credentials, role, bucket, registry, quota.

    With a job file, its store and its provider are checked: whether the job would be refused, and whether the quota allows its machines,
    on demand or spot, times its nodes.

    With --repair, a damaged ledger is moved aside and replaced by a new one. Intact records are kept, also those that only a ledger has
    that was moved aside earlier; this machine's other runs are looked up in the stores that the old ledger still mentions, in
    ~/.cloud-train/runs, and in each --store.

    Exits with 0 if all built-in parts work, even if optional ones are missing, and with 5 otherwise.

    Examples:
      cloud-train doctor
      cloud-train doctor --json
      cloud-train doctor --store s3://my-bucket/runs
      cloud-train doctor --config aws
      cloud-train doctor job.yaml --config aws
      cloud-train doctor --repair --store s3://my-bucket/runs
    """
    if repair:
        return _repair(store or [], as_json)
    findings = open_client(as_json).examine(store or (), config=config, job=job)
    healthy = all(finding.status != "error" for finding in findings)
    if as_json:
        say_json({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            _show(finding.name.ljust(width), finding.status, finding.detail, finding.remedy)
    return 0 if healthy else MissingDependencyError.exit_code


def _show(name: str, status: str, detail: str, remedy: str) -> None:
    """Print a finding on one line, and its remedy, if any, on the next."""
    paint = Painter.of(sys.stdout)
    say(f"{paint(_MARKS[status], STATE_COLOURS[status])} {clean(name)}  {clean(detail)}")
    if remedy:
        say(f"  {' ' * len(name)}  {paint('→', 'cyan')} {clean(remedy)}")


def _repair(stores: list[str], as_json: bool) -> int:
    done = open_client(as_json).repair_ledger(stores)
    if as_json:
        say_json({**asdict(done), "moved_to": None if done.moved_to is None else str(done.moved_to)})
        return 0
    if done.moved_to is None and not (done.returned or done.handles or done.adopted):
        say(f"the ledger is not damaged; it has {count(len(done.kept), 'run')}")
        return 0
    if done.moved_to is not None:
        say(f"moved the damaged ledger to {done.moved_to}")
    returned = f"brought back {count(len(done.returned), 'run')} from ledgers that were moved aside earlier, " if done.returned else ""
    say(f"kept {count(len(done.kept), 'run')}, {returned}adopted {count(len(done.adopted), 'run')} from their stores")
    if done.moved_to is not None:
        say_aside("look for runs in another store with: cloud-train doctor --repair --store URL")
    if done.handles:
        say(f"asked the providers again for the handles of {count(len(done.handles), 'run')}")
    for url, number in done.others.items():
        say_aside(f"{url} has {count(number, 'run')} from other machines; track one with: cloud-train adopt URL")
    return 0
