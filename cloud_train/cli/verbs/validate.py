"""``cloud-train validate``: check job files."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli import errors
from cloud_train.cli.options import ConfigOption, JsonOption, OverridesOption
from cloud_train.cli.output.terminal import Painter, clean, say, say_json
from cloud_train.errors import JobError, NotFoundError
from cloud_train.job.config import find_config, load_config
from cloud_train.job.loading import load_job


def validate(
    jobs: Annotated[list[Path], typer.Argument(metavar="JOB.yaml...", help="Job files.", show_default=False)],
    overrides: OverridesOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check job files and report every mistake with its position.

    Notes tell what of the data on this machine would not be read.

    Exits with 0 if every file is valid, with 3 if one is not, and with 4 if one does not exist.

    Examples:
      cloud-train validate job.yaml
      cloud-train validate jobs/*.yaml --json
    """
    failures: dict[Path, errors.Failure | None] = {}
    remarks: dict[Path, tuple[str, ...]] = {}
    for job in jobs:
        try:
            loaded = load_job(job, overrides or (), load_config(find_config(config, job.parent)) if config else None)
            failures[job], remarks[job] = None, loaded.data.remarks if loaded.data else ()
        except (JobError, NotFoundError) as error:
            failures[job] = errors.explain(error)
    wrong = [failure for failure in failures.values() if failure]
    if as_json:
        files = [
            {"file": str(job), "valid": failure is None, "error": failure and errors.to_json(failure), "notes": list(remarks.get(job, ()))}
            for job, failure in failures.items()
        ]
        say_json({"valid": not wrong, "files": files})
    else:
        paint = Painter.of(sys.stdout)
        for job, failure in failures.items():
            if failure is None:
                say(f"{clean(str(job))}: {paint('valid', 'green')}")
                for remark in remarks[job]:
                    say(f"  note: {clean(remark)}")
            else:
                errors.show(failure, as_json=False)
    return wrong[0].exit_code if wrong else 0
