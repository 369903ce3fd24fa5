"""Uploads and downloads of many files: fast and verified; downloads resume after a crash.

Whatever a store is, the promises are the same. Every object is written with its SHA-256 and looked at afterwards; every file is checked
against it before it gets its name. Files and parts move side by side, within a bound on memory. Of a download, what arrived before
a crash, Ctrl-C or a network failure does not move again. ``folders`` compares whole folders first.
"""

from collections.abc import Iterable

from cloud_train.storage.base import Store
from cloud_train.storage.transfer.downloading import Download, download_step
from cloud_train.storage.transfer.engine import Engine, Options, Summary
from cloud_train.storage.transfer.paths import explained
from cloud_train.storage.transfer.progress import Progress
from cloud_train.storage.transfer.remembered import Memory
from cloud_train.storage.transfer.uploading import Upload, upload_step

__all__ = ["Download", "Options", "Progress", "Summary", "Upload", "download", "upload"]


def upload(store: Store, files: Iterable[Upload], options: Options | None = None) -> Summary:
    """Write local files as objects, each with its SHA-256, replacing what was there.

    Raises the first error that there is, when no other file is under way any more: StoreError, CorruptError for a file that is not what its
    given SHA-256 says. Files that were done by then are whole in the store; the next call sends the others.
    """
    engine = Engine(store, options or Options())
    todo = list(files)
    sizes = []
    for file in todo:
        with explained(f"read {file.path}"):
            sizes.append(file.path.stat().st_size)
    engine.meter.expect(len(todo), sum(sizes))
    engine.run(upload_step(engine, file, size) for file, size in zip(todo, sizes, strict=True))
    return engine.summary()


def download(store: Store, files: Iterable[Download], options: Options | None = None, memory: Memory | None = None) -> Summary:
    """Write objects as local files, each checked first, replacing what was there; folders are made as needed. ``memory`` learns them.

    Raises the first error that there is: StoreError, CorruptError for an object that did not arrive, twice, as it was written. Then no file
    but whole and checked ones has its name, and the next call resumes.
    """
    engine = Engine(store, options or Options())
    todo = list(files)
    engine.meter.expect(len(todo), sum(max(0, file.size) for file in todo))
    try:
        engine.run(download_step(engine, file) for file in todo)
    finally:
        if memory is not None:
            memory.learn(engine.done)
    return engine.summary()
