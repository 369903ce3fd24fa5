"""Data from a store or a web server: downloaded into this machine's cache once, verified, and shared by all runs that use it.

If the program can start with just the index of a sharded image set, only that is downloaded here; ``worker.fetcher`` downloads the shards.

The cache folder is named after the objects' keys, sizes and versions, so data that changes in the store gets a new folder, and files
never change during a training. If the data is already here, that takes one listing, and a check that the files are unchanged since they
were verified (``run.cached``). Otherwise each file is compared with its object and replaced only if it differs, because other runs may be
reading it. For the same reason, files that a program left there stay; the worker's log names them.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cloud_train.data.downloads import FOLDER as DOWNLOADS
from cloud_train.data.downloads import unpacked_place
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.cached import is_folder, is_sealed, open_lock, open_to_read, others, own_folder, remove, seal
from cloud_train.spec.secret_names import without_credentials
from cloud_train.storage.registry import bucket_and_prefix, open_store, scheme_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cloud_train.data.downloads import Download as DownloadedFile
    from cloud_train.storage.base import ObjectInfo, Store
    from cloud_train.storage.transfer.engine import Summary
    from cloud_train.storage.transfer.progress import Progress

Note = Callable[[str], None]

_LOCK = ".lock"
_TELL_SECONDS = 30.0


def is_in_store(data: str | None) -> bool:
    """Whether the job's data is in a cloud's store and has to be downloaded."""
    return data is not None and scheme_of(data) != "file"


def can_begin_early(job: Mapping[str, Any]) -> bool:
    """Whether a job's program can wait for shards that have not arrived: the image trainers can, scripts cannot."""
    return job.get("model", {}).get("kind", "script") != "script" and (job.get("data") or {}).get("dataset") == "images"


def bring(url: str, cache: Path, note: Note, *, early: bool = False) -> Path:
    """Download the object, or all objects, at ``url``; returns the file or folder on this machine.

    With ``early``, a sharded image set is a folder with its index, into which ``worker.fetcher`` downloads the shards; any other folder
    then contains exactly the store's objects, because the image trainers read every file. If several processes need the same data, one
    downloads it and the others wait; an interrupted download resumes. Raises StoreError if nothing is found at ``url`` or the disk is full,
    CorruptError on a checksum mismatch.
    """
    from cloud_train.data.shards import INDEX

    bucket, prefix = bucket_and_prefix(url)
    store, name = open_store(bucket), url.rstrip("/").rpartition("/")[2]
    folder = below(prefix, "")
    objects = [info for info in store.list(prefix) if info.key == prefix or info.key.startswith(folder)]
    if not objects:
        raise StoreError(f"no objects found at {url}", hint="set data.path to an object or a folder of objects")
    is_file = any(info.key == prefix for info in objects)
    arrives = early and any(info.key == below(prefix, INDEX) for info in objects)
    # The plain name is for the folder with all shards, for programs that cannot wait for them.
    own = "stores", _name_of(url, objects)
    place = cache.joinpath(*own, f"{name}.arriving-shards" if arrives else name)
    try:
        own_folder(cache, *own)
        with _alone(place.with_name(_LOCK), lambda: note(f"data: waiting for another process that is downloading {url}")):
            if arrives:
                if not is_sealed(place / INDEX):
                    _fetch_index(store, url, prefix, objects, place, note=note)
                    note(f"data: the shards of {url} are downloaded to {place} while the program runs")
            elif not is_file:
                return _bring_folder(store, prefix, [info.key for info in objects], place, note, exact=early)
            elif not is_sealed(place):
                _fetch_file(store, prefix, place, note)
                note(f"data: {url} is in {place}")
    except OSError as error:
        raise StoreError(f"cannot write {place}: {os.strerror(error.errno or 0).lower()}", hint="free some space there") from error
    return place


def download_all(files: Collection[DownloadedFile], cache: Path, note: Note, *, allow_loopback: bool = True) -> None:
    """Download a data set's files from web servers into ``cache``, verifying each by its SHA-256, unless they are already there.

    An archive is not needed again if it was unpacked and its folder is unchanged. If several processes need the same file, one downloads it
    and the others wait; after a crash, a download resumes. Do not ``allow_loopback`` on a cloud's machine. Raises StoreError if the disk is
    full, and the errors of ``storage.https.fetch_url``.
    """
    for file in files:
        place = file.place_in(cache)
        try:
            own_folder(cache, DOWNLOADS)
            with _alone(
                place.with_name(f"{place.name}.lock"), lambda: note("data: waiting for another process that is downloading the same file")
            ):
                if not is_sealed(unpacked_place(file.sha256, cache)) and not is_sealed(place):
                    _download_file(file, place, note, allow_loopback)
        except OSError as error:
            raise StoreError(f"cannot write {place}: {os.strerror(error.errno or 0).lower()}", hint="free some space there") from error


def _download_file(file: DownloadedFile, place: Path, note: Note, allow_loopback: bool) -> None:
    from cloud_train.storage.https import fetch_url

    if not is_file_of(place, file.sha256):
        note(f"data: downloading {without_credentials(file.url)}")
        arriving = place.with_name(f".{place.name}.arriving")
        fetch_url(
            file.url,
            arriving,
            sha256=file.sha256,
            most_bytes=file.most_bytes,
            progress=Teller(note),
            allow_loopback=allow_loopback,
        )
        if is_folder(place):
            remove(place)
        arriving.replace(place)
        note(f"data: {without_credentials(file.url)} is in {place}")
    seal(place)


def below(prefix: str, name: str) -> str:
    """The key of ``name`` in the folder ``prefix`` of a bucket; the prefix of the bucket itself is empty."""
    return f"{prefix}/{name}" if prefix else name


def _fetch_index(store: Store, url: str, prefix: str, objects: list[ObjectInfo], place: Path, *, note: Note) -> None:
    """Create the folder for the shards, with their index, after checking that all of them are in the store."""
    from cloud_train.data.shards import INDEX, MOST_INDEX_BYTES, read_index
    from cloud_train.run.shard_exchange import ShardExchange
    from cloud_train.storage.transfer.downloading import Download, download

    sizes = {info.key: info.size for info in objects}
    key = below(prefix, INDEX)
    if sizes[key] > MOST_INDEX_BYTES:
        raise CorruptError(f"{store.url}/{key} is larger than {MOST_INDEX_BYTES >> 20} MiB, the limit for an index")
    beginning = place.with_name(f".{place.name}.beginning")
    remove(beginning)
    download(store, [Download(key, beginning / INDEX, sizes[key])])
    shards = read_index(beginning / INDEX).shards
    for shard in shards:
        found = sizes.get(below(prefix, shard.name))
        if found != shard.size:
            there = "is missing" if found is None else f"has {found:,} bytes"
            raise CorruptError(
                f"{url}: {shard.name} {there}; {INDEX} says {shard.size:,} bytes", hint="copy it there again, or pack the images again"
            )
    if is_folder(place):  # another run may be reading the shards in it
        note(f"data: {place} has changed since it was verified: comparing its shards with the index in the store")
        for shard in shards:
            if not is_file_of(place / shard.name, shard.sha256 or ""):
                remove(place / shard.name)
        if is_folder(place / INDEX):
            remove(place / INDEX)
        (beginning / INDEX).replace(place / INDEX)
        remove(beginning)
    else:
        remove(place)
        beginning.rename(place)
    ShardExchange(place, "").come_from(url)
    seal(place / INDEX)


def _fetch_file(store: Store, key: str, place: Path, note: Note) -> None:
    """Download an object to ``place``, unless it is already there."""
    from cloud_train.storage.transfer.downloading import Download, download
    from cloud_train.storage.transfer.engine import Options

    info = store.stat(key)
    if info.sha256 is None or not is_file_of(place, info.sha256):
        arriving = place.with_name(f".{place.name}.arriving")
        remove(arriving)
        _tell(download(store, [Download(key, arriving, info.size)], Options(report=Teller(note), durable=False)), note)
        os.sync()
        if is_folder(place):
            remove(place)
        arriving.replace(place)
    seal(place)


def _bring_folder(store: Store, prefix: str, keys: list[str], place: Path, note: Note, *, exact: bool) -> Path:
    """The folder of these objects: ``place``, or one next to it if ``place`` has other files as well and it has to be ``exact``."""
    from cloud_train.storage.transfer.paths import place as placed

    paths = None  # if the disk ignores case, names may be spelt differently from the store's, so every file counts
    if not place.with_name(_LOCK.upper()).exists():
        paths = frozenset(placed(keys, below(prefix, ""), ignores_case=False).paths.values())
    for folder in (place, place.with_name(f"{place.name}.exact")):
        if not is_sealed(folder, paths):
            _fetch_folder(store, prefix, folder, paths, note)
            note(f"data: {len(keys):,} objects of {store.url}/{prefix} are in {folder}")
        unknown = others(folder, paths) if paths is not None else []
        if not unknown:
            return folder
        what = f"{folder} contains files that are not in the store: {', '.join(unknown[:3])}{', …' * (len(unknown) > 3)}"
        note(f"data: {what}")
        if not exact:
            return folder
    raise CorruptError(what, hint="remove it: the trainer would read it as an image")


def _fetch_folder(store: Store, prefix: str, place: Path, paths: Collection[str] | None, note: Note) -> None:
    """Download the objects into a new folder, or repair the existing one in place, file by file."""
    from cloud_train.storage.transfer.engine import Options
    from cloud_train.storage.transfer.folders import download_folder

    is_new = not is_folder(place)
    folder = place.with_name(f".{place.name}.arriving") if is_new else place
    for planted in (place, folder):
        if not is_folder(planted):
            remove(planted)
    if not is_new:
        note(f"data: {place} has changed since it was verified: comparing each of its files with the store")
        _clear_the_way(place, paths or ())
    _tell(download_folder(store, below(prefix, ""), folder, Options(report=Teller(note), durable=False)), note)
    if not any(folder.iterdir()):
        raise CorruptError(f"no object under {store.url}/{prefix} has a usable file name")
    if is_new and paths is not None:
        for path in others(folder, paths):
            remove(folder / path)
    os.sync()  # once for all files, so that a folder with its final name is complete even after a power cut
    if is_new:
        folder.rename(place)
    seal(place, paths)


def _clear_the_way(folder: Path, paths: Collection[str]) -> None:
    """Remove links and files where ``paths`` need a folder, and folders where they need a file."""
    above = {each.as_posix() for path in paths for each in PurePosixPath(path).parents}
    for path in sorted(above):  # a folder comes before what is in it
        if not is_folder(folder / path):
            remove(folder / path)
    for path in paths:
        if is_folder(folder / path):
            remove(folder / path)


def is_file_of(path: Path, sha256: str) -> bool:
    """Whether ``path`` is a regular file with this SHA-256."""
    from cloud_train.storage.transfer.local_files import hash_file

    descriptor = open_to_read(path)
    if descriptor is None:
        return False
    try:
        return hash_file(descriptor, os.fstat(descriptor).st_size, threading.Event()) == sha256
    finally:
        os.close(descriptor)


def _tell(summary: Summary, note: Note) -> None:
    for key, reason in summary.skipped:
        note(f"data: skipped {key!r}: {reason}")
    if summary.unverified:
        note(f"data: {len(summary.unverified):,} objects carry no SHA-256, so only their sizes could be compared")


def _name_of(url: str, objects: list[ObjectInfo]) -> str:
    import hashlib  # takes 3 ms, and is only needed here

    lines = "".join(f"\n{info.key!r} {info.size} {info.version}" for info in objects)
    return hashlib.sha256(f"{url}{lines}".encode()).hexdigest()[:24]


@contextmanager
def _alone(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    descriptor = open_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Teller:
    """Logs the progress of a long transfer."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._next = time.monotonic() + _TELL_SECONDS

    def __call__(self, progress: Progress) -> None:
        """Log the progress, unless that was done a moment ago."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TELL_SECONDS
            share = f"{progress.bytes_done / 1e6:,.0f} of {progress.bytes / 1e6:,.0f} MB"
            self._note(f"data: {share}, {progress.rate / 1e6:,.1f} MB/s")
