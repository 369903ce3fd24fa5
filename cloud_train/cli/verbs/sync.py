"""``cloud-train sync``: bring a run's whole directory here."""

import sys

from cloud_train.cli.options import JsonOption, RunArgument, ToOption
from cloud_train.cli.output.progress import GOES_ON, copy_progress
from cloud_train.cli.output.terminal import clean, is_terminal, say, say_aside, say_json


def sync(run: RunArgument = None, to: ToOption = None, as_json: JsonOption = False) -> int:
    """Copy a run's whole directory into a folder; again copies only what is new.

    Logs, metrics, checkpoints and the model; files that a manifest lists are checked against it. Nothing is deleted. The folder
    has to be new, empty, or an earlier copy of the same run. Prints its path.

    Examples:
      cloud-train sync
      cloud-train sync digits-cnn --to backup/digits
    """
    from cloud_train.cli.output import words
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.results import sync as copy
    from cloud_train.orchestrator.state import select

    home = Home.from_environment()
    run_id = select(home, run)
    with copy_progress(as_json, GOES_ON) as report:
        result = copy(home, run_id, to, report)
    if as_json:
        say_json(
            {
                "run_id": result.run_id,
                "folder": str(result.folder),
                "copied": result.copied,
                "unchanged": result.unchanged,
                "bytes": result.bytes,
                "skipped": [{"key": key, "reason": reason} for key, reason in result.skipped],
            }
        )
        return 0
    for key, reason in result.skipped:
        say_aside(f"passed over {clean(key)}: {reason}")
    say(str(result.folder))
    if is_terminal(sys.stderr):
        say_aside(f"{words.count(len(result.copied), 'file')} copied, {words.size(result.bytes)}; {result.unchanged:,} unchanged")
    return 0
