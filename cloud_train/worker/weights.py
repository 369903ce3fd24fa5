"""The weights that a run begins with, as its plan names them: on this machine, each file verified, before the program starts."""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloud_train.data.downloads import Download, downloads_of
from cloud_train.errors import CorruptError
from cloud_train.run import layout
from cloud_train.run.starting_point import DESCRIPTION, WEIGHTS, StartFile, StartingPoint
from cloud_train.spec.secret_names import without_credentials
from cloud_train.worker.data import Note, download_all, is_file_of
from cloud_train.worker.remote import Remote


def weights_of(plan: Mapping[str, Any]) -> StartingPoint | None:
    """The weights that the ``plan`` of a ``run.json`` names; None for a run that begins with random ones. Raises CorruptError."""
    try:
        return StartingPoint.from_plan(plan)
    except ValueError as error:
        raise CorruptError(f"run.json does not say which weights to start from: {error}") from error


def bring_weights(start: StartingPoint, run: Path, remote: Remote | None, cache: Path, note: Note, *, allow_loopback: bool) -> Path:
    """The file of weights on this machine, verified; the model's description, if there is one, is beside it.

    They are in the run directory ``run``, or in the one in the ``remote`` store, and are downloaded into ``cache`` from a web server.
    Raises CorruptError if a file is missing or differs, and the errors of ``download_all`` and of the store.
    """
    note(f"starting from the weights of {without_credentials(start.source)}, SHA-256 {start.weights.sha256}")
    if start.is_on_web:
        wanted = _download_of(start.weights)
        download_all([wanted], cache, note, allow_loopback=allow_loopback)
        return wanted.place_in(cache)
    folder = run / layout.START_FROM
    for name in (DESCRIPTION, WEIGHTS):
        file = start.files.get(name)
        if file is None:
            continue
        if remote is not None and not is_file_of(folder / name, file.sha256):
            remote.bring_file(f"{layout.START_FROM}/{name}", folder / name, file.size or 0, file.sha256)
        if not is_file_of(folder / name, file.sha256):
            raise CorruptError(
                f"{folder / name}, a copy of {without_credentials(file.url)}, is missing or was changed after the run was submitted",
                hint="submit the job again",
            )
    return folder / WEIGHTS


def _download_of(file: StartFile) -> Download:
    (wanted,) = downloads_of({"url": file.url, "sha256": file.sha256})
    return wanted
