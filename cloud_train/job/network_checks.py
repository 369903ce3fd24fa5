"""What no single field of the ``model`` section can decide."""

from collections.abc import Iterator
from pathlib import Path as FilePath

from cloud_train.job.datasets import is_there
from cloud_train.job.models import JobSpec, RnnModel, ScriptModel, SequencesData
from cloud_train.spec.problems import Finding


def check_model(spec: JobSpec, directory: FilePath) -> Iterator[Finding]:
    """What is wrong in the model by itself; ``directory`` is where its relative paths start."""
    model = spec.model
    if isinstance(model, ScriptModel):
        folder = directory / model.directory
        if not is_there(folder) or not folder.is_dir():
            yield ("model", "directory"), f"there is no folder {folder}", "a folder, relative to the job file"
        if spec.resources.processes > 1:
            yield ("resources", "processes"), "a script starts its own processes", "no processes"
    if isinstance(model, RnnModel) and model.bidirectional:
        if model.cell == "linear":
            yield ("model", "bidirectional"), "the linear cell reads in one direction", "cell: elman, gru or lstm, or no bidirectional"
        elif spec.data is not None and not isinstance(spec.data, SequencesData):
            wanted = "data: {dataset: sequences}, or no bidirectional"
            yield ("model", "bidirectional"), "a language model must not see what comes", wanted
