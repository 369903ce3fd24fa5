"""TensorBoard's event files: metrics for TensorBoard's charts.

A file is a sequence of records: length (uint64), CRC of the length, an ``Event`` as protocol buffer, CRC of the event, all little-endian;
the CRCs are CRC-32C, masked (TensorFlow's ``record_writer.h`` and ``event.proto``). The message and the checksum are tensorboardX's; its
own writer is not used, because it writes in a thread: when the disk is full the thread ends, and the training waits for it forever
(measured with 2.6.5).
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any

from cloud_train.beneath import IrregularError, held, open_plain
from cloud_train.errors import MissingDependencyError, StoreError

_VERSION = "brain.Event:2"
_CLOUD_CLIENTS = ("boto3", "google.cloud")


class EventFile:
    """A new event file in ``folder``, created by the first write. Each event is in the file when ``add`` returns.

    Files of earlier attempts stay in the folder: TensorBoard reads them in the order of their names, which contain the time.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        """``root`` is a folder above ``folder``, below which no link is followed."""
        self._folder, self._root = folder, root or folder
        self._writer: _Writer | None = None

    def add(self, step: int, time_seconds: float, values: Mapping[str, float]) -> None:
        """Write the values of one step, measured ``time_seconds`` after 1970-01-01 UTC; they may be infinite or NaN.

        Raises StoreError if the file cannot be written, for example because the disk is full, and MissingDependencyError if tensorboardX is
        not installed.
        """
        if self._writer is None:
            self._writer = _Writer(self._folder, self._root, step, time_seconds)
        self._writer.write(step, time_seconds, summary={"value": [{"tag": name, "simple_value": value} for name, value in values.items()]})

    def flush(self) -> None:
        """Sync what was written to the disk; raises StoreError."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Sync everything to the disk and close the file; raises StoreError."""
        if self._writer is not None:
            self._writer.close()


class _Writer:
    """The open file."""

    def __init__(self, folder: Path, root: Path, step: int, time_seconds: float) -> None:
        self._event, self._checksum = _tensorboardx()
        self._path = folder
        with self._disk_errors():
            with held(root, folder.relative_to(root).parts, make=True) as directory:
                self._path = _new_file(folder, int(time_seconds))
                descriptor = open_plain(self._path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, directory=directory)
            self._file = FileIO(descriptor, "w")  # unbuffered, so that the write that fills the disk fails
        self.write(0, time_seconds, file_version=_VERSION)
        # Tells TensorBoard to drop later steps of an earlier attempt: this attempt continues from a checkpoint before them.
        self.write(step, time_seconds, session_log={"status": "START"})

    def write(self, step: int, time_seconds: float, **content: Any) -> None:
        """Append one event."""
        record = memoryview(self._record(self._event(wall_time=time_seconds, step=step, **content).SerializeToString()))
        with self._disk_errors():
            while record:
                record = record[self._file.write(record) :]

    def flush(self) -> None:
        """Sync everything to the disk."""
        with self._disk_errors():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close; a closed file stays closed."""
        if self._file.closed:
            return
        try:
            self.flush()
        finally:
            self._file.close()

    def _record(self, event: bytes) -> bytes:
        length = struct.pack("<Q", len(event))
        return b"".join((length, struct.pack("<I", self._checksum(length)), event, struct.pack("<I", self._checksum(event))))

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except IrregularError as error:
            raise StoreError(f"cannot write TensorBoard's events to {self._path}: {error.path} is {error.what}") from error
        except OSError as error:
            raise StoreError(
                f"cannot write TensorBoard's events to {self._path}: {os.strerror(error.errno or 0).lower()}",
                hint="free some space or repair the disk, then resume the run; or set train.tensorboard to false",
            ) from error


def _new_file(folder: Path, second: int) -> Path:
    """An unused file name in ``folder``, in TensorBoard's form."""
    start = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
    return next(path for number in count() if not (path := folder / f"{start}.{number}").exists())


def _tensorboardx() -> tuple[Any, Any]:
    """The message ``Event``, and the masked CRC-32C of bytes."""
    try:
        with _hidden(_CLOUD_CLIENTS):
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.record_writer import masked_crc32c
    except ImportError as error:
        raise MissingDependencyError(
            "TensorBoard's event files need tensorboardX",
            hint="install it with: pip install 'cloud-train[train]', or set train.tensorboard to false",
        ) from error
    return Event, masked_crc32c


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Make importing these packages fail, as if they were not installed.

    tensorboardX imports the clients of S3 and GCS if they are installed: 0.35 s and 30 MB instead of 0.03 s and 2 MB (measured), which a
    file in a folder does not need.
    """
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # makes the import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
