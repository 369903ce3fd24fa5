"""``cloud-train doctor``: what is installed, what is missing, what to do."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from cloud_train.cli.consent import asking
from cloud_train.cli.options import JsonOption
from cloud_train.cli.output.terminal import Painter, clean, say, say_json
from cloud_train.errors import MissingDependencyError

_MARKS = {"ok": "✔", "warning": "!", "error": "✘"}


def doctor(
    store: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="A store to try: a folder, or s3://…, gs://…, az://…; may be given several times.", show_default=False
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Try the place that configs/NAME.yaml, or a file, describes.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check what is installed, what is missing, and what to do about it.

    With --store, a store is tried too: whether objects can be listed, written, read, uploaded in parts and deleted, and which permission is
    missing. For that, a small object named cloud-train-probe-… is written there, and deleted again.

    With --config, everything that a config file names is looked for at its provider: credentials, role, bucket, registry, quota.

    Exits with 0 if everything that is built in works, and with 5 otherwise; what is optional may be missing.

    Examples:
      cloud-train doctor
      cloud-train doctor --json
      cloud-train doctor --store s3://my-bucket/runs
      cloud-train doctor --config aws
    """
    from cloud_train.cli.output.table import STATE_COLOURS
    from cloud_train.orchestrator.doctor import examine
    from cloud_train.orchestrator.home import Home

    findings = examine(Home.from_environment(), store or (), config, ask=asking(as_json))
    healthy = all(finding.status != "error" for finding in findings)
    if as_json:
        say_json({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        paint = Painter.of(sys.stdout)
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark = paint(_MARKS[finding.status], STATE_COLOURS[finding.status])
            say(f"{mark} {clean(finding.name).ljust(width)}  {clean(finding.detail)}")
            if finding.remedy:
                say(f"  {' ' * width}  {paint('→', 'cyan')} {clean(finding.remedy)}")
    return 0 if healthy else MissingDependencyError.exit_code
