"""The uploader: a forked process that uploads the worker's workspace to a cloud's store.

It is a separate process so that a slow network never delays the worker's signals and heartbeats, and because a store's client has threads,
with which a process cannot fork safely. It outlives a worker that is killed, and still uploads everything written by then.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cloud_train.errors import CloudTrainError
from cloud_train.retry import RetryPolicy
from cloud_train.run.record import RunRecord
from cloud_train.storage.local import LocalStore
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.processes.subprocesses import Signals

if TYPE_CHECKING:
    from cloud_train.worker.uploads.attempts import AttemptUploads
    from cloud_train.worker.uploads.folders import FolderUploads

_FINISH = b"finish\n"
_WAIT_SECONDS = 1.0  # a signal interrupts the wait when the process ends
_LOOK_SECONDS = 0.5
_LOOK_POLICY = RetryPolicy(time_limit=20.0)  # of requests within one look
_BLOCKED_POLICY = RetryPolicy(time_limit=None, first_wait=1.0, longest_wait=15.0, jitter=lambda: 1.0)
"""Between looks while the store is unreachable, and between starts of the process."""
_LAST_STARTS = 3  # if the process is killed during the last uploads

_ALL_THERE, _BROKEN, _GIVEN_UP = 0, 1, 2  # its exit statuses

Note = Callable[[str], None]
NoteOf = Callable[[int], Note]
"""Attempt number → a function that writes into that attempt's worker log."""


@dataclass(frozen=True)
class WorkspaceUpload:
    """The workspace and its destination."""

    workspace: LocalStore
    url: str
    record: RunRecord
    first: int
    """The first attempt of this worker."""
    node: NodeContext
    token: str
    """The token of the launch."""
    patience: float
    """Seconds without a successful upload, after the end, until the remaining uploads are abandoned."""


class Uploader:
    """Starts, restarts and ends the process. There is one, from the first attempt's claim to the worker's end."""

    def __init__(self, upload: WorkspaceUpload, signals: Signals, note_of: NoteOf) -> None:
        """Start the process; ``note_of`` returns the function that logs an attempt's notes."""
        self._signals, self._upload, self._note_of = signals, upload, note_of
        self._exit_code: int | None = None
        self._restarts = _BLOCKED_POLICY.attempts_left()
        self._next_start = 0.0
        self._start(again=False)

    def reaped(self, status: int) -> None:
        """Record that the process ended with this wait status."""
        self._exit_code = os.waitstatus_to_exitcode(status)

    def keep_going(self, attempt: int, in_child: Callable[[], None]) -> None:
        """During an attempt: if the process ended, start another one, each time after a longer wait.

        ``in_child`` closes the attempt's descriptors.
        """
        if self._exit_code is not None and time.monotonic() >= self._next_start:
            self._start_another(attempt, in_child)

    def finish(self, attempt: int) -> bool:
        """Wait until everything is uploaded, handling signals meanwhile; returns False if that failed."""
        for _ in range(_LAST_STARTS):
            if self._exit_code is not None:
                self._start_another(attempt)
            with suppress(BrokenPipeError):
                os.write(self._writing, _FINISH)
            while not (reaped := os.waitpid(self.pid, os.WNOHANG))[0]:
                self._signals.wait(_WAIT_SECONDS)
            self.reaped(reaped[1])
            if self._exit_code in (_ALL_THERE, _GIVEN_UP):
                break
        os.close(self._writing)
        return self._exit_code == _ALL_THERE

    def close(self) -> None:
        """Close the pipe in a forked child of the worker: the end of the pipe tells the uploader that the worker died."""
        os.close(self._writing)

    def _start_another(self, attempt: int, in_child: Callable[[], None] = lambda: None) -> None:
        self._note_of(attempt)("the process that uploads to the store was killed; starting another one")
        os.close(self._writing)
        self._start(again=True, in_child=in_child)

    def _start(self, again: bool, in_child: Callable[[], None] = lambda: None) -> None:
        """``again``: an earlier process has uploaded a part already."""
        reading, self._writing = os.pipe()
        self._exit_code = None
        self._next_start = time.monotonic() + (self._restarts.next_wait() or 0.0)
        self.pid = os.fork()
        if self.pid == 0:
            code = _BROKEN
            try:
                os.close(self._writing)
                in_child()
                self._signals.close_in_child()
                os.setsid()  # leave the worker's process group, which may be stopped as a whole
                code = _ALL_THERE if _upload_all(self._upload, reading, self._note_of, again) else _GIVEN_UP
            finally:
                os._exit(code)  # never return into the worker's code, nor wait for a client library's threads
        os.close(reading)


def _upload_all(upload: WorkspaceUpload, reading: int, note_of: NoteOf, again: bool) -> bool:
    from cloud_train.run.fencing import ancestor_in
    from cloud_train.run.succession import Branch
    from cloud_train.storage.registry import open_store
    from cloud_train.worker.uploads.attempts import AttemptUploads
    from cloud_train.worker.uploads.folders import FolderUploads

    store, run_id = open_store(upload.url, _LOOK_POLICY), upload.record.run_id
    uploads = AttemptUploads(upload.workspace, store, run_id, upload.first, node=upload.node, token=upload.token, again=again)
    one_at_a_time = threading.Lock()

    def note(text: str) -> None:
        with one_at_a_time:
            note_of(uploads.newest)(text)

    branch = Branch(upload.first, ancestor_in(store, run_id))
    folders = FolderUploads(
        upload.workspace, store, run_id, upload.record.program, node=upload.node, note=note, check=uploads.check, branch=branch
    )
    over = threading.Event()
    threading.Thread(target=_listen, args=(reading, uploads, over), daemon=True).start()
    streams_way, folders_way = _Way(note), _Way(note)
    threading.Thread(target=_upload_folders, args=(uploads, folders, folders_way, over), daemon=True).start()
    patient_until: float | None = None
    while True:
        is_last = over.is_set()  # read before the look, which then uploads everything that the worker wrote before it finished
        if streams_way.did(uploads.look) and is_last:
            return True
        if is_last:
            patient_until = patient_until or time.monotonic() + upload.patience
            is_late = time.monotonic() > patient_until
            if is_late and max(streams_way.failing_seconds, folders_way.failing_seconds) > upload.patience:
                return False
        _rest(over, streams_way)


def _upload_folders(uploads: "AttemptUploads", folders: "FolderUploads", way: "_Way", over: threading.Event) -> None:
    while True:
        waiting = uploads.waiting()
        if uploads.is_superseded or way.did(partial(folders.look, uploads.begun(), waiting)):
            uploads.folders_arrived(waiting)
        _rest(over, way)


def _rest(over: threading.Event, way: "_Way") -> None:
    pause = max(_LOOK_SECONDS, way.wait)
    if over.is_set():
        time.sleep(max(_LOOK_SECONDS / 10, way.wait))
    else:
        over.wait(pause)


def _listen(reading: int, uploads: "AttemptUploads", over: threading.Event) -> None:
    """Wait until the worker reports that it has finished, or dies; in that case the attempt's end will never be recorded."""
    word = b""
    with suppress(OSError):
        word = os.read(reading, len(_FINISH))
    if word != _FINISH:
        uploads.expect_no_end()
    over.set()


class _Way:
    """One kind of upload with retries: an error is logged once, and retried after increasing waits."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._reason = ""
        self._failing_since: float | None = None
        self._failures = _BLOCKED_POLICY.attempts_left()
        self.wait = 0.0
        """Seconds until the next retry."""

    @property
    def failing_seconds(self) -> float:
        """For how long uploads have been failing."""
        return 0.0 if self._failing_since is None else time.monotonic() - self._failing_since

    def did(self, action: Callable[[], bool]) -> bool:
        """The result of ``action``; False if it failed."""
        try:
            result = action()
        except Exception as error:  # noqa: BLE001 -- a client library may raise anything, the thread must not end silently, and a retry may help
            said = str(error) if isinstance(error, CloudTrainError | OSError) else f"{type(error).__name__}: {error}"
            hint = (error.hint if isinstance(error, CloudTrainError) else None) or ""
            # A problem with the store shows at any file, so errors with the same hint count as the same error.
            reason = f"{type(error).__name__} {hint or said}"
            if reason != self._reason:
                self._note(f"cannot upload: {said}" + (f" ({hint})" if hint else ""))
                self._reason = reason
            self._failing_since = self._failing_since or time.monotonic()
            self.wait = self._failures.next_wait() or 0.0
            return False
        self._reason, self._failing_since, self.wait = "", None, 0.0
        self._failures.restart()
        return result
