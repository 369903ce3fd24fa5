"""What all steps of one transfer share: the store, the bounds, the counters, and what is to be said at the end."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cloud_train.errors import StoreError
from cloud_train.storage.base import Multipart, Store
from cloud_train.storage.transfer.local_files import SmallFiles
from cloud_train.storage.transfer.pool import Bounds, Signals, Step, run_steps
from cloud_train.storage.transfer.progress import Meter, Progress

_ABORT_SECONDS = 5.0

TRIES = 3
"""How often a whole file is begun again, because it changed in the middle, or because what was acknowledged is not there."""


@dataclass(frozen=True)
class Options:
    """How a transfer is carried out."""

    threads: int = 16
    """At most; fewer as long as they keep this machine busy (``pool.run_steps``)."""
    memory_bytes: int = 64 << 20
    """Bound on the parts in flight, all together; a single part that is larger goes alone."""
    part_bytes: int | None = None
    """Size of a part; by default what the store says for uploads, 4 to 16 MiB for downloads. Files of up to two parts go whole."""
    state: Path | None = None
    """Private folder for notes on what folders looked like; ``transfers`` below CLOUD_TRAIN_HOME by default."""
    durable: bool = True
    """Whether a downloaded file is synced to the disk before it gets its name. Without that, which is faster for many small files, a
    machine that loses its power (a process that dies does no harm) may be left with names whose bytes never reached the disk."""
    time_limit: float | None = None
    """Seconds for everything, or None. Single requests have limits of their own, in the store."""
    report: Callable[[Progress], None] | None = None
    """Called a few times a second, on the calling thread, and once at the end."""
    clock: Callable[[], float] = time.monotonic

    @property
    def state_folder(self) -> Path:
        """Where notes are kept."""
        home = os.environ.get("CLOUD_TRAIN_HOME") or "~/.cloud-train"
        return self.state or Path(home).expanduser().absolute() / "transfers"


@dataclass(frozen=True)
class Summary:
    """What a transfer did."""

    files: int = 0
    """Transferred."""
    bytes: int = 0
    """That moved, in parts of files sent twice too."""
    unchanged: int = 0
    """Files that are the same on both sides."""
    resumed_parts: int = 0
    """Parts that an earlier, interrupted download had left, and that did not move again."""
    unverified: tuple[str, ...] = ()
    """Keys of objects that carry no SHA-256: only their size was compared."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Keys, or paths for uploads, that were skipped, each with the reason."""


@dataclass(frozen=True)
class Identity:
    """What tells that a local file is still the one that was looked at: not its time alone, which anybody can set."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        """The identity in a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def is_settled(self, looked_ns: int) -> bool:
        """Whether a write after ``looked_ns`` would surely show: a file's times only move every few milliseconds, or seconds."""
        newest = max(self.modified_ns, self.changed_ns)
        return newest < looked_ns - (2_000_000_000 if self.changed_ns % 1_000_000_000 == 0 else 50_000_000)


@dataclass(frozen=True)
class Known:
    """A file and an object that are the same bytes."""

    key: str
    sha256: str | None
    version: str
    """Of the object."""
    identity: Identity
    """Of the local file."""
    looked_ns: int
    """When the file had this identity, by this machine's clock."""
    looked_at: bool = True
    """Whether the object was seen in the store, rather than only sent there."""


class HasFile(Protocol):
    """Something that holds a local file open."""

    def close(self) -> None:
        """Let go of it; no error if that was done."""


@dataclass
class Engine:
    """One call's state; every field is safe to use from the pool's threads."""

    store: Store
    options: Options
    meter: Meter = field(init=False)
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set when what takes long shall give up."""
    done: list[Known] = field(default_factory=list)
    """Transferred."""
    remembered: list[str] = field(default_factory=list)
    """Keys of what is as it is remembered from an earlier call."""
    unchanged: list[Known] = field(default_factory=list)
    """Found to be the same on both sides."""
    unverified: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    """Numbers of parts that were there already."""

    small_files: SmallFiles = field(default_factory=SmallFiles)
    """What writes those that come whole."""
    open_files: "list[HasFile]" = field(default_factory=list)
    """What holds a local file open until the end, or until it is closed."""

    def __post_init__(self) -> None:
        self._multipart: Multipart | None = None
        self._making = threading.Lock()
        self._uploads: dict[str, str] = {}  # in parts, begun and not finished: token → key
        self.open_files.append(self.small_files)
        self.meter = Meter(self.options.report, self.options.clock)

    @property
    def multipart(self) -> Multipart:
        """How the store takes large files: asked for when there is one, because some SDKs are large, too."""
        with self._making:
            if self._multipart is None:
                self._multipart = self.store.multipart()
            return self._multipart

    def begin_upload(self, key: str, size: int, sha256: str) -> str:
        """Begin an upload in parts, which ``run`` aborts at its end unless it was finished; returns its token."""
        token = self.multipart.begin(key, size, sha256)
        self._uploads[token] = key
        return token

    def end_upload(self, token: str) -> None:
        """It is finished: nothing is left of it to abort."""
        self._uploads.pop(token, None)

    def abort_upload(self, token: str) -> None:
        """Free what the parts of an upload take in the store, as far as that is possible now."""
        if (key := self._uploads.pop(token, None)) is not None:
            with suppress(StoreError):
                self.multipart.abort(key, token)

    def run(self, steps: Iterator[Step]) -> None:
        """Run the steps and all that follow from them."""
        bounds = Bounds(self.options.threads, self.options.memory_bytes, self.options.time_limit, self.options.clock)
        self.stopped = threading.Event()
        idle = threading.Event()
        try:
            run_steps(steps, bounds, Signals(self.stopped, idle), self.meter.tell)
            self.meter.tell(last=True)
        finally:
            self._abort_unfinished()
            if idle.is_set():  # otherwise a thread that was left to itself may still use them
                for file in self.open_files:
                    file.close()

    def _abort_unfinished(self) -> None:
        """On another thread: a store that does not answer must not delay the end, or Ctrl-C, for long."""
        if self._uploads:
            thread = threading.Thread(target=self._abort_uploads, daemon=True)
            thread.start()
            thread.join(_ABORT_SECONDS)

    def _abort_uploads(self) -> None:
        for token in tuple(self._uploads):
            self.abort_upload(token)

    def summary(self) -> Summary:
        """What was done so far."""
        return Summary(
            len(self.done),
            self.meter.moved,
            len(self.remembered) + len(self.unchanged),
            len(self.resumed),
            tuple(sorted(self.unverified)),
            tuple(sorted(self.skipped)),
        )


def check_tries(tries: int, why: str) -> None:
    """Raises StoreError if a file was begun as often as it may be; ``why`` says what happened each time."""
    if tries >= TRIES:
        raise StoreError(f"{why} ({tries} times)", hint="check whether something else writes to it, then rerun")
