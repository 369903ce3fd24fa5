"""Data from a store: brought into a cache of this machine once, verified, and shared by all runs that want the same.

Of a sharded image set only the index is brought here, for a program that can begin with it: ``worker.fetcher`` brings the shards meanwhile.

The place in the cache is named after what the store shows: keys, sizes and versions. Data that changes there gets a new place, so nobody's
files change under a training. It takes one listing to see that all is there already, and one look at the files to see that they are as they
were when they were verified (``run.cached``); otherwise each is compared with its object, and what the store does not hold is removed.
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.cached import is_sealed, open_lock, own_folder, remove, seal
from cloud_train.storage.registry import scheme_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloud_train.storage.base import ObjectInfo, Store
    from cloud_train.storage.transfer.progress import Progress

Note = Callable[[str], None]

_TELL_SECONDS = 30.0


def is_in_store(data: str | None) -> bool:
    """Whether the job's data lies in a store that is no folder of this machine, and has to be fetched."""
    return data is not None and scheme_of(data) != "file"


def can_begin_early(job: Mapping[str, Any]) -> bool:
    """Whether a job's program waits for shards that have not arrived: the trainers of image sets do, a script knows nothing of them."""
    return job.get("model", {}).get("kind", "script") != "script" and (job.get("data") or {}).get("dataset") == "images"


def bring(url: str, cache: Path, note: Note, *, early: bool = False) -> Path:
    """The file or folder on this machine that is the object, or all objects, at ``url``.

    With ``early``, a sharded image set is a folder that holds its index, and its shards as ``worker.fetcher`` brings them. Of several
    processes that want the same at once, one fetches it and the others wait; one that was cut off goes on. Raises StoreError if there is
    nothing at ``url`` or the disk cannot take it, CorruptError if what came is not what was written.
    """
    from cloud_train.job.shards import INDEX
    from cloud_train.storage.registry import bucket_and_prefix, open_store

    bucket, prefix = bucket_and_prefix(url)
    store, name = open_store(bucket), url.rstrip("/").rpartition("/")[2]
    objects = [info for info in store.list(prefix) if not prefix or info.key == prefix or info.key.startswith(f"{prefix}/")]
    if not objects:
        raise StoreError(f"there is nothing at {url}", hint="correct data.path: one object, or a folder of them")
    is_file = any(info.key == prefix for info in objects)
    arrives = early and any(info.key == below(prefix, INDEX) for info in objects)
    # A folder of the same name, with all shards, may be there for programs that do not wait for any.
    own = "stores", _name_of(url, objects)
    place = cache.joinpath(*own, f"{name}.arriving-shards" if arrives else name)
    try:
        own_folder(cache, *own)
        with _alone(place.parent / ".lock", lambda: note(f"data: waiting for another process that fetches {url}")):
            if arrives:
                if not is_sealed(place / INDEX):
                    remove(place)
                    _fetch_index(store, url, prefix, objects, place)
                    note(f"data: the shards of {url} come to {place} while the program is at work")
            elif not is_sealed(place):
                _fetch(store, prefix, place, [info.key for info in objects], is_file=is_file, note=note)
                note(f"data: {len(objects):,} objects of {url} are in {place}")
    except OSError as error:
        raise StoreError(f"cannot write {place}: {os.strerror(error.errno or 0).lower()}", hint="free some space there") from error
    return place


def below(prefix: str, name: str) -> str:
    """The key of what is called ``name`` in a folder of a bucket; of the bucket itself the prefix is empty."""
    return f"{prefix}/{name}" if prefix else name


def _fetch_index(store: Store, url: str, prefix: str, objects: list[ObjectInfo], place: Path) -> None:
    """Make the place for the shards, with their index, once it is certain that all of them are in the store."""
    from cloud_train.job.shards import INDEX, MOST_INDEX_BYTES, read_index
    from cloud_train.run.arrivals import Arrivals
    from cloud_train.storage.transfer.files import Download, download

    sizes = {info.key: info.size for info in objects}
    key = below(prefix, INDEX)
    if sizes[key] > MOST_INDEX_BYTES:
        raise CorruptError(f"{store.url}/{key} is larger than {MOST_INDEX_BYTES >> 20} MiB, the most that an index may have")
    beginning = place.with_name(f".{place.name}.beginning")
    remove(beginning)
    download(store, [Download(key, beginning / INDEX, sizes[key])])
    for shard in read_index(beginning / INDEX).shards:
        found = sizes.get(below(prefix, shard.name))
        if found != shard.size:
            there = "is not there" if found is None else f"has {found:,} bytes there"
            raise CorruptError(
                f"{url}: {shard.name}, of {shard.size:,} bytes by {INDEX}, {there}", hint="copy it there anew, or pack the images anew"
            )
    Arrivals(beginning, "").come_from(url)
    seal(beginning / INDEX)
    beginning.rename(place)


def _fetch(store: Store, prefix: str, place: Path, keys: list[str], *, is_file: bool, note: Note) -> None:
    from cloud_train.storage.transfer.files import Download, Options, download
    from cloud_train.storage.transfer.folders import download_folder

    arriving = place.with_name(f".{place.name}.arriving")
    if place.is_dir() and not place.is_symlink() and not is_file:
        note(f"data: {place} is not as it was when it was verified: each of its files is compared with the store")
        remove(arriving)
        place.rename(arriving)
    for other in (place, *([arriving] if is_file or arriving.is_symlink() else [])):
        remove(other)
    options = Options(report=Teller(note), durable=False)
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
    if not is_file:
        skipped = {key for key, _ in summary.skipped}
        _remove_others(arriving, {key[len(prefix) :].lstrip("/") for key in keys if key not in skipped})
    os.sync()  # once, for thousands of files: a place that has its name is complete, also after a power cut
    arriving.rename(place)
    seal(place)


def _remove_others(folder: Path, paths: set[str]) -> None:
    """Leave only the files of these ``paths``, which go from the folder with '/', and the folders that they are in."""
    from cloud_train.storage.transfer.paths import ignores_case

    if ignores_case(folder):
        return  # names may be spelt otherwise here than in the store
    folders = {above.as_posix() for path in paths for above in PurePosixPath(path).parents}
    for inside, names, files in os.walk(folder):  # links to folders are among the names, and not followed
        here = Path(inside).relative_to(folder)
        for name in [*names, *files]:
            path = Path(inside, name)
            kept = folders if name in names and not path.is_symlink() else paths
            if (here / name).as_posix() not in kept:
                remove(path)
                if name in names:
                    names.remove(name)


def _name_of(url: str, objects: list[ObjectInfo]) -> str:
    import hashlib  # 3 ms, and only here

    digest = hashlib.sha256(url.encode())
    for info in objects:
        digest.update(f"\n{info.key!r} {info.size} {info.version}".encode())
    return digest.hexdigest()[:24]


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
    """Says in the worker's log how far a long transfer is."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._next = time.monotonic() + _TELL_SECONDS

    def __call__(self, progress: Progress) -> None:
        """Say it, unless that was done a moment ago."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TELL_SECONDS
            share = f"{progress.bytes_done / 1e6:,.0f} of {progress.bytes / 1e6:,.0f} MB"
            self._note(f"data: {share}, {progress.rate / 1e6:,.1f} MB/s")
