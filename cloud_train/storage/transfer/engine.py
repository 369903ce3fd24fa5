"""The state shared by all steps of one transfer: the store, the limits, the counters and the summary."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cloud_train.errors import StoreError
from cloud_train.spec.paths import home_folder
from cloud_train.storage.base import Multipart, Store
from cloud_train.storage.transfer.local_files import SmallFiles
from cloud_train.storage.transfer.pool import Bounds, Signals, Step, run_steps
from cloud_train.storage.transfer.progress import Meter, Progress

_ABORT_SECONDS = 5.0

TRIES = 3
"""Attempts at a whole file that changed during the transfer, or that was acknowledged but is missing."""


@dataclass(frozen=True)
class Options:
    """Options of a transfer."""

    threads: int = 16
    """Maximum; fewer are used as long as they keep this machine busy (``pool.run_steps``)."""
    memory_bytes: int = 64 << 20
    """Limit on the memory of all parts in flight; a larger part is transferred alone."""
    part_bytes: int | None = None
    """Size of a part; by default the store's for uploads, 16 MiB for downloads. Files of up to two parts are transferred whole."""
    state: Path | None = None
    """Private folder for remembered folder contents; by default ``transfers`` in CLOUD_TRAIN_HOME."""
    durable: bool = True
    """Whether to sync a downloaded file before it gets its name. Not doing so is faster for many small files, but after a power failure
    (not after a mere crash of the process) files may lack their content."""
    time_limit: float | None = None
    """Seconds for the whole transfer, or None. The store limits the time of single requests."""
    report: Callable[[Progress], None] | None = None
    """Called a few times a second on the calling thread, and once at the end."""
    clock: Callable[[], float] = time.monotonic

    @property
    def state_folder(self) -> Path:
        """Folder for remembered folder contents."""
        return self.state or home_folder() / "transfers"


@dataclass(frozen=True)
class Summary:
    """The result of a transfer."""

    files: int = 0
    """Number of files transferred."""
    bytes: int = 0
    """Bytes transferred, including repetitions."""
    unchanged: int = 0
    """Files that are the same on both sides."""
    resumed_parts: int = 0
    """Parts that an earlier, interrupted download left, and that were not downloaded again."""
    unverified: tuple[str, ...] = ()
    """Keys of objects without a SHA-256, of which only the size was compared."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Skipped keys, or paths for uploads, each with the reason."""


@dataclass(frozen=True)
class Identity:
    """Identifies the state of a local file: not by its modification time alone, which any program can set."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        """The identity from a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def is_settled(self, looked_ns: int) -> bool:
        """Whether a write after ``looked_ns`` would certainly change the identity, given the resolution of timestamps."""
        newest = max(self.modified_ns, self.changed_ns)
        return newest < looked_ns - (2_000_000_000 if self.changed_ns % 1_000_000_000 == 0 else 50_000_000)


@dataclass(frozen=True)
class Known:
    """A file and an object with identical content."""

    key: str
    sha256: str | None
    version: str
    """Of the object."""
    identity: Identity
    """Of the local file."""
    looked_ns: int
    """When the file had this identity, by this machine's clock."""


class HasFile(Protocol):
    """An owner of an open local file."""

    def close(self) -> None:
        """Close the file; no error if it is closed already."""


@dataclass
class Engine:
    """One call's state; every field is safe to use from the pool's threads."""

    store: Store
    options: Options
    meter: Meter = field(init=False)
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set to make long operations stop."""
    done: list[Known] = field(default_factory=list)
    """The files that were transferred."""
    remembered: list[str] = field(default_factory=list)
    """Keys of files and objects that are unchanged since an earlier call."""
    unchanged: list[Known] = field(default_factory=list)
    """Files found to be identical on both sides."""
    unverified: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    """Numbers of parts that had arrived earlier."""

    small_files: SmallFiles = field(default_factory=SmallFiles)
    """Writes files that are downloaded in one request."""
    open_files: "list[HasFile]" = field(default_factory=list)
    """Everything to close at the end."""

    def __post_init__(self) -> None:
        self._multipart: Multipart | None = None
        self._making = threading.Lock()
        self._uploads: dict[str, str] = {}  # unfinished multipart uploads: token → key
        self.open_files.append(self.small_files)
        self.meter = Meter(self.options.report, self.options.clock)

    @property
    def multipart(self) -> Multipart:
        """The store's multipart uploads, created on first use, because some SDKs take long to import."""
        with self._making:
            if self._multipart is None:
                self._multipart = self.store.multipart()
            return self._multipart

    def begin_upload(self, key: str, size: int, sha256: str) -> str:
        """Begin a multipart upload, which ``run`` aborts at the end if it is unfinished; returns its token."""
        token = self.multipart.begin(key, size, sha256)
        self._uploads[token] = key
        return token

    def end_upload(self, token: str) -> None:
        """Record that an upload is finished and must not be aborted."""
        self._uploads.pop(token, None)

    def abort_upload(self, token: str) -> None:
        """Delete the parts of an upload from the store, if possible."""
        if (key := self._uploads.pop(token, None)) is not None:
            with suppress(StoreError):
                self.multipart.abort(key, token)

    def run(self, steps: Iterator[Step]) -> None:
        """Run the steps and all steps that follow from them."""
        bounds = Bounds(self.options.threads, self.options.memory_bytes, self.options.time_limit, self.options.clock)
        self.stopped = threading.Event()
        idle = threading.Event()
        try:
            run_steps(steps, bounds, Signals(self.stopped, idle), self.meter.tell)
            self.meter.tell(last=True)
        finally:
            self._abort_unfinished()
            if idle.is_set():  # otherwise an abandoned thread may still be using them
                for file in self.open_files:
                    file.close()

    def _abort_unfinished(self) -> None:
        """Abort uploads on another thread, so that an unresponsive store does not delay the end, or Ctrl-C, for long."""
        if self._uploads:
            thread = threading.Thread(target=self._abort_uploads, daemon=True)
            thread.start()
            thread.join(_ABORT_SECONDS)

    def _abort_uploads(self) -> None:
        for token in tuple(self._uploads):
            self.abort_upload(token)

    def summary(self) -> Summary:
        """The summary so far."""
        return Summary(
            len(self.done),
            self.meter.moved,
            len(self.remembered) + len(self.unchanged),
            len(self.resumed),
            tuple(sorted(self.unverified)),
            tuple(sorted(self.skipped)),
        )


def check_tries(tries: int, why: str) -> None:
    """Raise StoreError if a file has used up its attempts; ``why`` is what went wrong each time."""
    if tries >= TRIES:
        raise StoreError(f"{why} ({tries} times)", hint="check whether another program writes to it, then rerun")
