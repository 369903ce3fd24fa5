"""Running a trained model: classifying images or lines of text, continuing a prompt, forecasting series, or evaluating it on data.

The model runs in a separate process (``python -m cloud_train.training.predict``), since only ``training`` may import torch. That process
prints one JSON object.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloud_train.environment import with_safe_python_path
from cloud_train.errors import CloudTrainError, NotFoundError, UsageError
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.results import fetch_model, model_folder

_LONGEST_TEXT_BYTES = 100_000  # Linux limits one argument of a command to 128 KiB


class PredictionError(CloudTrainError):
    """The model could not be used; ``code`` and ``exit_code`` come from the predicting process."""

    def __init__(self, message: str, hint: str | None, code: str, exit_code: int) -> None:
        super().__init__(message, hint)
        # Instance attributes on purpose: the predicting process decides which documented error this is.
        self.__dict__.update(code=code, exit_code=exit_code)


def predict_images(
    home: Home,
    run_id: str,
    files: Sequence[Path],
    checkpoint: str | None = None,
    invert: bool = False,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """The prediction for each image file: its class, that class's probability, and the probability of every class.

    ``note`` is told if the model is not the result of an attempt that succeeded, here and below.
    """
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise NotFoundError(f"no such file: {', '.join(missing)}")
    arguments = [*(["--invert"] if invert else []), "--images", *(str(file.absolute()) for file in files)]
    with _model(home, run_id, checkpoint, note) as folder:
        result = _run(folder, arguments)
    return list(result["predictions"])


def predict_lines(
    home: Home, run_id: str, texts: Sequence[str], checkpoint: str | None = None, *, note: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """The prediction for each line of text, as ``predict_images`` returns it."""
    _check_texts("the texts", texts)
    with _model(home, run_id, checkpoint, note) as folder:
        result = _run(folder, [f"--text={text}" for text in texts])
    return list(result["predictions"])


def forecast(
    home: Home, run_id: str, file: Path, checkpoint: str | None = None, *, note: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """The rows that follow each series of a CSV file: what ``training.forecasting.forecast`` returns."""
    if not file.is_file():
        raise NotFoundError(f"no such file: {file}")
    with _model(home, run_id, checkpoint, note) as folder:
        return list(_run(folder, ["--series", str(file.absolute())])["predictions"])


def continue_text(
    home: Home,
    run_id: str,
    prompt: str,
    *,
    length: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    checkpoint: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The prompt's continuation: ``length`` characters, each sampled at ``temperature`` from the ``top_k`` likeliest ones."""
    _check_texts("the prompt", [prompt])
    arguments = [f"--prompt={prompt}", "--length", str(length), "--temperature", str(temperature), "--seed", str(seed)]
    if top_k is not None:
        arguments += ["--top-k", str(top_k)]
    with _model(home, run_id, checkpoint, note) as folder:
        return _run(folder, arguments)


def evaluate(
    home: Home,
    run_id: str,
    data: Path,
    checkpoint: str | None = None,
    invert: bool = False,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """How good the model is on the data in the file or folder ``data``: what ``training.assessment.assess`` returns."""
    if not data.exists():
        raise NotFoundError(f"no such file or folder: {data}")
    with _model(home, run_id, checkpoint, note) as folder:
        return _run(folder, ["--data", str(data.absolute()), *(["--invert"] if invert else [])])


def _check_texts(what: str, texts: Sequence[str]) -> None:
    """Raise UsageError for texts that cannot be passed to a process as arguments."""
    if any("\0" in text for text in texts) or sum(len(text.encode(errors="replace")) for text in texts) > _LONGEST_TEXT_BYTES:
        raise UsageError(f"{what} must not contain NUL or exceed {_LONGEST_TEXT_BYTES:,} bytes")


@contextmanager
def _model(home: Home, run_id: str, checkpoint: str | None, note: Callable[[str], None]) -> Iterator[Path]:
    folder = model_folder(home, run_id, checkpoint, note=note)
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield fetch_model(home, run_id, Path(temporary, "model"), checkpoint).folder


def _run(folder: Path, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "cloud_train.training.predict", str(folder.absolute()), *arguments]
    # Not in the current folder: `python -m` would import modules from there, such as someone else's numpy.py.
    ended = subprocess.run(
        command, cwd="/", env=with_safe_python_path(os.environ), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    try:
        result = json.loads(ended.stdout)
    except ValueError as error:
        raise PredictionError(
            f"prediction failed with exit status {ended.returncode} and no result: {ended.stderr[-500:].decode(errors='replace').strip()}",
            None,
            "internal",
            1,
        ) from error
    if "error" in result:
        failure = result["error"]
        raise PredictionError(failure["message"], failure.get("hint"), failure.get("code", "internal"), ended.returncode or 1)
    return dict(result)
