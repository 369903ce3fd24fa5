"""``cloud-train fetch-model``: bring a run's model here."""

import sys

from cloud_train.cli.options import CheckpointOption, JsonOption, RunArgument, ToOption
from cloud_train.cli.output.progress import GOES_ON, copy_progress
from cloud_train.cli.output.terminal import is_terminal, say, say_aside, say_json


def fetch_model(run: RunArgument = None, to: ToOption = None, checkpoint: CheckpointOption = None, as_json: JsonOption = False) -> int:
    """Copy a run's model, verified, into a folder.

    Every file is checked against its SHA-256, and the folder appears whole or not at all. Prints the folder's path.

    Examples:
      cloud-train fetch-model
      cloud-train fetch-model digits-cnn --to model --checkpoint best
    """
    from cloud_train.cli.output import words
    from cloud_train.cli.output.runs import metrics_line
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.results import fetch_model as fetch
    from cloud_train.orchestrator.state import select

    home = Home.from_environment()
    run_id = select(home, run)
    with copy_progress(as_json, GOES_ON) as report:
        model = fetch(home, run_id, to, checkpoint, report)
    if as_json:
        say_json(
            {
                "run_id": model.run_id,
                "folder": str(model.folder),
                "source": model.source,
                "files": model.files,
                "bytes": model.bytes,
                "step": model.step,
                "metrics": dict(model.metrics),
            }
        )
        return 0
    say(str(model.folder))
    if is_terminal(sys.stderr):
        step = f", step {model.step:,}" if model.step is not None else ""
        say_aside(f"{model.source} of {model.run_id}{step}: {words.count(len(model.files), 'file')}, {words.size(model.bytes)}, verified")
        if model.metrics:
            say_aside(metrics_line(dict(model.metrics)))
    return 0
