"""``cloud-train sync``: copy a run's whole directory to this machine."""

import sys

from cloud_train.cli.options import JsonOption, RunArgument, ToOption, open_client
from cloud_train.cli.output import words
from cloud_train.cli.output.live import RERUN, copy_progress
from cloud_train.cli.output.terminal import clean, is_terminal, say, say_aside, say_json


def sync(run: RunArgument = None, to: ToOption = None, as_json: JsonOption = False) -> int:
    """Copy a run's whole directory into a folder; repeat to copy only what changed.

    Copies logs, metrics, checkpoints and the model; files listed in a manifest are checked against it. Nothing is deleted. The folder must
    be new, empty, or an earlier copy of the same run. Prints its path.

    Examples:
      cloud-train sync
      cloud-train sync digits-cnn --to backup/digits
    """
    chosen = open_client(as_json).run(run, latest=True)
    with copy_progress(as_json, RERUN) as report:
        result = chosen.sync(to, report=report)
    if as_json:
        skipped = [{"key": key, "reason": reason} for key, reason in result.skipped]
        say_json({**vars(result), "folder": str(result.folder), "skipped": skipped})
        return 0
    for key, reason in result.skipped:
        say_aside(f"skipped {clean(key)}: {reason}")
    say(str(result.folder))
    if is_terminal(sys.stderr):
        say_aside(f"{words.count(len(result.copied), 'file')} copied, {words.size(result.bytes)}; {result.unchanged:,} unchanged")
    return 0
