"""``cloud-train fetch-model``: copy a run's model to this machine."""

import sys

from cloud_train.cli.options import CheckpointOption, JsonOption, RunArgument, ToOption, open_client
from cloud_train.cli.output import words
from cloud_train.cli.output.live import RERUN, copy_progress
from cloud_train.cli.output.runs import metrics_line
from cloud_train.cli.output.terminal import is_terminal, say, say_aside, say_json


def fetch_model(run: RunArgument = None, to: ToOption = None, checkpoint: CheckpointOption = None, as_json: JsonOption = False) -> int:
    """Copy a run's model into a folder and verify it.

    Every file is checked against its SHA-256, and the folder appears complete or not at all. Prints the folder's path.

    Examples:
      cloud-train fetch-model
      cloud-train fetch-model digits-cnn --to model --checkpoint best
    """
    chosen = open_client(as_json).run(run, latest=True)
    with copy_progress(as_json, RERUN) as report:
        model = chosen.fetch_model(to, checkpoint=checkpoint, report=report)
    if as_json:
        say_json({**vars(model), "folder": str(model.folder), "metrics": dict(model.metrics)})
        return 0
    say(str(model.folder))
    if is_terminal(sys.stderr):
        step = f", step {model.step:,}" if model.step is not None else ""
        say_aside(f"{model.source} of {model.run_id}{step}: {words.count(len(model.files), 'file')}, {words.size(model.bytes)}, verified")
        if model.metrics:
            say_aside(metrics_line(dict(model.metrics)))
    return 0
