"""The weights that a run begins with: found and hashed for its plan, and copied into its run directory when it is submitted."""

import hashlib
import os
import shlex
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cloud_train.beneath import IrregularError, open_plain
from cloud_train.errors import CloudTrainError, CorruptError, NotFoundError, StoreError
from cloud_train.job.loading import LoadedJob
from cloud_train.job.start_from import WANTED, WEIGHTS_FILE, local_place, store_url, web_weights, weights_at
from cloud_train.orchestrator.connections import store_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.listing import select
from cloud_train.orchestrator.results import chosen_model, manifest_at
from cloud_train.orchestrator.state import read_run
from cloud_train.run import layout
from cloud_train.run.manifest import Manifest
from cloud_train.run.plan import Plan
from cloud_train.run.starting_point import DESCRIPTION, WEIGHTS, StartFile, StartingPoint
from cloud_train.spec.problems import JobFileError, Place, Problem
from cloud_train.spec.secret_names import without_credentials
from cloud_train.storage.base import ObjectMissingError, Store
from cloud_train.storage.registry import bucket_and_prefix, folder_of
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.uploading import Upload, upload

_NAMES = {WEIGHTS: WEIGHTS_FILE, DESCRIPTION: DESCRIPTION}
"""The name in the run directory, and the name in a model of the built-in trainers."""


def find_start(home: Home, loaded: LoadedJob) -> StartingPoint | None:
    """The weights that the job's ``train.start_from`` names, with their SHA-256. Nothing is copied, or downloaded from a web server.

    Raises JobFileError if there are none, and StoreError.
    """
    written = loaded.spec.train.start_from
    if written is None:
        return None
    if (web := web_weights(written)) is not None:
        return StartingPoint(web[0], {WEIGHTS: StartFile(*web)})
    try:
        if (url := store_url(written)) is not None:
            return _on_machine(folder_of(url)) if url.startswith("file://") else _in_store(url)
        place = local_place(written, loaded.directory)
        return _of_run(home, str(written)) if place is None else _on_machine(place)
    except (NotFoundError, CorruptError, ValueError) as error:
        message = f"{error.message}; {error.hint}" if isinstance(error, CloudTrainError) and error.hint else str(error)
        where = loaded.places.get(("train", "start_from"), Place(str(loaded.file)))
        raise JobFileError([Problem(where, f"train.start_from: {message}", WANTED)]) from error


def copy_start(plan: Plan, store: Store, note: Callable[[str], None]) -> None:
    """Copy the plan's weights into its run directory, each file checked against its SHA-256. Raises StoreError and CorruptError."""
    if plan.start is None or plan.start.is_on_web:
        return
    for name, file in plan.start.files.items():
        key = f"{plan.run_id}/{layout.START_FROM}/{name}"
        if file.url.startswith("/"):
            _upload(store, key, Path(file.url), file)
            continue
        bucket, source_key = bucket_and_prefix(file.url)
        _copy(store_at(bucket), source_key, store, key, file)
    note(f"copied the weights of {plan.start.source} into the run directory")


def copy_between(source: Store, target: Store, plan: Plan) -> None:
    """Copy the weights that a run begins with from its run directory in one store to that in another, for a run that moves."""
    if plan.start is None or plan.start.is_on_web:
        return
    for name, file in plan.start.files.items():
        key = f"{plan.run_id}/{layout.START_FROM}/{name}"
        _copy(source, key, target, key, file)


def remove_start(run_id: str, store: Store) -> None:
    """Delete what ``copy_start`` has copied for a run that was not submitted after all, as far as that is possible."""
    with suppress(CloudTrainError):
        for name in _NAMES:
            store.delete(f"{run_id}/{layout.START_FROM}/{name}")


def _of_run(home: Home, text: str) -> StartingPoint:
    try:
        run_id = select(home, text, latest=True)
    except NotFoundError as error:
        raise NotFoundError(f"{text!r} is not a file or folder here, and not a run: {error.message}", hint=error.hint) from error
    run = read_run(home, run_id)
    store = store_at(run.store)
    prefix, manifest = chosen_model(store, run)
    return _in_folder(store, prefix, manifest, run_id)


def _in_store(url: str) -> StartingPoint:
    """The weights at a URL of a run directory, of a model's folder or of a file."""
    bucket, key = bucket_and_prefix(url)
    store = store_at(bucket)
    for prefix in (f"{key}/{layout.MODEL}", key):
        with suppress(ObjectMissingError):
            return _in_folder(store, prefix, manifest_at(store, prefix), url)
    try:
        info = store.stat(key)
    except ObjectMissingError as error:
        raise ValueError(f"there is no model, and no file of weights, at {url}") from error
    sha256 = info.sha256 or _hashed(store, key)
    return StartingPoint(url, {WEIGHTS: StartFile(url, sha256, info.size)})


def _in_folder(store: Store, prefix: str, manifest: Manifest, source: str) -> StartingPoint:
    """The weights of a complete model."""
    if WEIGHTS_FILE not in manifest.files:
        held = ", ".join(list(manifest.files)[:3])
        hint = f"copy it here with: cloud-train fetch-model {shlex.quote(source)}, and name the file of weights in it"
        raise NotFoundError(f"the model of {source} has no {WEIGHTS_FILE}: it was not made by a built-in trainer ({held})", hint=hint)
    found = {}
    for name, file in _NAMES.items():
        if (entry := manifest.files.get(file)) is not None:
            key = f"{prefix}/{file}"
            place = store.local_path(key)
            found[name] = StartFile(f"{store.url}/{key}" if place is None else str(place), entry.sha256, entry.size)
    return StartingPoint(source, found)


def _on_machine(place: Path) -> StartingPoint:
    weights = weights_at(place)
    found = {WEIGHTS: _hashed_here(weights)}
    beside = weights.with_name(DESCRIPTION)
    if weights.name == WEIGHTS_FILE and beside.is_file():
        found[DESCRIPTION] = _hashed_here(beside.resolve())
    return StartingPoint(str(place), found)


def _hashed_here(path: Path) -> StartFile:
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            return StartFile(str(path), hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)
    except IrregularError as error:
        raise ValueError(f"{path} is {error.what}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {os.strerror(error.errno or 0).lower()}") from error


def _hashed(store: Store, key: str) -> str:
    """The SHA-256 of an object that was stored without one."""
    with tempfile.TemporaryDirectory(prefix="cloud-train-") as folder:
        path = Path(folder) / WEIGHTS
        download(store, [Download(key, path, store.stat(key).size)])
        return _hashed_here(path).sha256


def _copy(source: Store, source_key: str, target: Store, key: str, file: StartFile) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix="cloud-train-") as folder:
            path = Path(folder) / WEIGHTS
            download(source, [Download(source_key, path, file.size or 0, file.sha256)])
            _upload(target, key, path, file)
    except OSError as error:
        hint = "name a folder with more room in TMPDIR"
        raise StoreError(f"cannot keep a copy of the weights on this machine: {error.strerror}", hint=hint) from error


def _upload(store: Store, key: str, path: Path, file: StartFile) -> None:
    try:
        upload(store, [Upload(path, key, file.sha256)])
    except CorruptError as error:
        raise CorruptError(f"{without_credentials(file.url)} was changed while it was copied", hint="submit the job again") from error
