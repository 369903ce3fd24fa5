"""Data from a store: brought into a cache of this machine once, verified, and shared by all runs that want the same.

The place in the cache is named after what the store shows: keys, sizes and versions. Data that changes there gets a new place, so nobody's
files change under a training. It takes one listing to see that all is there already.
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.errors import CorruptError, StoreError
from cloud_train.storage.registry import scheme_of

if TYPE_CHECKING:
    from cloud_train.storage.base import ObjectInfo, Store
    from cloud_train.storage.progress import Progress

Note = Callable[[str], None]

_TELL_SECONDS = 30.0


def is_in_store(data: str | None) -> bool:
    """Whether the job's data lies in a store that is no folder of this machine, and has to be fetched."""
    return data is not None and scheme_of(data) != "file"


def bring(url: str, cache: Path, note: Note) -> Path:
    """The file or folder on this machine that is the object, or all objects, at ``url``.

    Of several processes that want the same at once, one fetches it and the others wait; one that was cut off goes on. Raises StoreError if
    there is nothing at ``url`` or the disk cannot take it, CorruptError if what came is not what was written.
    """
    from cloud_train.storage.registry import bucket_and_prefix, open_store

    bucket, prefix = bucket_and_prefix(url)
    store, name = open_store(bucket), url.rstrip("/").rpartition("/")[2]
    objects = [info for info in store.list(prefix) if not prefix or info.key == prefix or info.key.startswith(f"{prefix}/")]
    if not objects:
        raise StoreError(f"there is nothing at {url}", hint="correct data.path: one object, or a folder of them")
    is_file = any(info.key == prefix for info in objects)
    place = cache / "stores" / _name_of(url, objects) / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place.parent / ".lock", lambda: note(f"data: waiting for another process that fetches {url}")):
            if not place.exists():
                _fetch(store, prefix, place, is_file=is_file, note=note)
                note(f"data: {len(objects):,} objects of {url} are in {place}")
    except OSError as error:
        raise StoreError(f"cannot write {place}: {os.strerror(error.errno or 0).lower()}", hint="free some space there") from error
    return place


def _fetch(store: Store, prefix: str, place: Path, *, is_file: bool, note: Note) -> None:
    from cloud_train.storage.folders import download_folder
    from cloud_train.storage.transfer import Download, Options, download

    arriving = place.with_name(f".{place.name}.arriving")
    options = Options(report=_Teller(note), durable=False)
    if is_file:
        summary = download(store, [Download(prefix, arriving, store.stat(prefix).size)], options)
    else:
        summary = download_folder(store, f"{prefix}/" if prefix else "", arriving, options)
    for key, reason in summary.skipped:
        note(f"data: passed over {key!r}: {reason}")
    if summary.unverified:
        note(f"data: {len(summary.unverified):,} objects carry no SHA-256, so only their sizes could be compared")
    if not arriving.exists():
        raise CorruptError(f"nothing under {store.url}/{prefix} can become a file")
    os.sync()  # once, for thousands of files: a place that has its name is complete, also after a power cut
    arriving.rename(place)


def _name_of(url: str, objects: list[ObjectInfo]) -> str:
    import hashlib  # 3 ms, and only here

    digest = hashlib.sha256(url.encode())
    for info in objects:
        digest.update(f"\n{info.key!r} {info.size} {info.version}".encode())
    return digest.hexdigest()[:24]


@contextmanager
def _alone(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _Teller:
    """Says in the worker's log how far a long transfer is."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._next = time.monotonic() + _TELL_SECONDS

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TELL_SECONDS
            share = f"{progress.bytes_done / 1e6:,.0f} of {progress.bytes / 1e6:,.0f} MB"
            self._note(f"data: {share}, {progress.rate / 1e6:,.1f} MB/s")
