"""Multipart uploads to Google Cloud Storage: resumable sessions (https://cloud.google.com/storage/docs/performing-resumable-uploads).

google-cloud-storage's ``ResumableUpload`` speaks the protocol: offsets, what the server has after a fault, and the CRC32C of the whole
object, which the server compares before the object exists. This module feeds it part by part. The library offers that class only for whole
files (``Blob.upload_from_file``), so it is imported from a module with an underscore; pyproject.toml therefore limits the major version.

A session takes an object's bytes in order. Anyone who has its URI may write without credentials, so messages contain neither the URI nor
the HTTP client's error texts, which include it. To keep the object invisible before ``finish``, the last part stays in this process.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, Protocol

from cloud_train.errors import StoreError
from cloud_train.storage.base import TransientStoreError, UploadGoneError
from cloud_train.storage.objects import SHA256

PART_BYTES = 16 << 20

TIMEOUTS = (10, 60)
"""Seconds to connect and to send each piece of a body, and to wait for a response."""

_SENT_BYTES = 256 << 10
_INCOMPLETE = 308
_FINE = (200, 201, _INCOMPLETE)
_CANCELLED = (200, 204, 499)
_GONE = (404, 410, 499)
_CHECKSUM = "crc32c"
_CONTENT_TYPE = "application/octet-stream"


class Bucket(Protocol):
    """The part of the store that sessions need."""

    url: str

    def sessions_url(self, key: str) -> str:
        """The URL that begins a session for an object; raises InvalidKeyError."""

    def request(self, key: str, action: str, method: str, url: str, **options: Any) -> Any:
        """Send one signed request; returns requests' ``Response`` with a status below 300. Raises StoreError."""

    def refused(self, answer: Any, action: str, key: str) -> StoreError:
        """The error for an unsuccessful response."""


@dataclass
class _Window(io.RawIOBase):
    """The object as the file that ``ResumableUpload`` reads, of which only one part is in memory."""

    start: int = 0
    """Offset of ``data`` in the object."""
    data: bytes = b""
    at: int = 0

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        piece = self.data[self.at - self.start :][: size if size >= 0 else None]
        self.at += len(piece)
        return piece


@dataclass
class _Session:
    """One upload of this process."""

    upload: Any
    """The library's ``ResumableUpload``."""
    size: int
    """Bytes of the whole object."""
    window: _Window = field(default_factory=_Window)
    in_step: bool = True
    """Whether ``upload`` knows how many bytes the server has."""


class ResumableSessions:
    """``Multipart`` for Google Cloud Storage. A receipt is the offset at which its part ends."""

    in_order = True

    def __init__(self, store: Bucket) -> None:
        self._store = store
        self._known: dict[str, _Session] = {}
        self._lock = Lock()

    def part_bytes(self, size: int) -> int:
        """16 MiB; sessions do not limit the number of parts."""
        return PART_BYTES

    def begin(self, key: str, size: int, sha256: str) -> str:
        """Begin a session; its token is its URI, which must be kept secret."""
        from google.cloud.storage._media.requests import ResumableUpload

        upload: Any = ResumableUpload(self._store.sessions_url(key), PART_BYTES, checksum=_CHECKSUM, retry=None)
        session = _Session(upload, size)
        description = {"metadata": {SHA256: sha256}}
        sender = _Sender(lambda method, url, **options: self._store.request(key, "write", method, url, **options))
        self._explained(key, lambda: upload.initiate(sender, session.window, description, _CONTENT_TYPE, total_bytes=size))
        with self._lock:
            self._known[upload.resumable_url] = session
        return str(upload.resumable_url)

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        """Send the bytes of a part that the server does not have yet; the last part is sent by ``finish``."""
        session = self._session(key, token)
        session.window.start, session.window.data = offset, data
        if offset + len(data) < session.size:
            self._send_until(key, token, session, offset + len(data))
        return str(offset + len(data))

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        """Send the last part. The server compares the CRC32C of the whole object before it shows the object."""
        session = self._session(key, token)
        if max((int(receipt) for receipt in receipts.values()), default=0) != session.size:
            raise UploadGoneError(f"{self._what(key)}: the upload was begun for {session.size:,} bytes")
        self._send_until(key, token, session, session.size)
        if not session.upload.finished:
            session.in_step = False
            raise TransientStoreError(f"{self._what(key)}: the store has not accepted the last bytes yet")
        self._forget(token)

    def abort(self, key: str, token: str) -> None:
        """Cancel the session."""
        self._forget(token)
        try:
            self._explained(key, lambda: self._unsigned(key, _CANCELLED).request("DELETE", token))
        except UploadGoneError:
            return

    def _send_until(self, key: str, token: str, session: _Session, end: int) -> None:
        """Send the part in the window up to ``end``, from the first byte that the server does not have."""
        upload, sender = session.upload, self._unsigned(key, _FINE)
        try:
            if not session.in_step:
                self._explained(key, lambda: upload.recover(sender))
                session.in_step = True
            while not upload.finished and (upload.bytes_uploaded < end or session.size == 0):
                before = upload.bytes_uploaded
                if before < session.window.start:
                    there = f"the store has {before:,} bytes of the upload, not the {session.window.start:,} before this part"
                    raise UploadGoneError(f"{self._what(key)}: {there}")
                session.window.seek(before)
                session.in_step = False  # until the response is read
                self._explained(key, lambda: upload.transmit_next_chunk(sender))
                session.in_step = True
                if not upload.finished and upload.bytes_uploaded <= before:
                    raise TransientStoreError(f"{self._what(key)}: the store accepted none of {end - before:,} bytes")
        except UploadGoneError:
            self._forget(token)
            raise

    def _explained(self, key: str, act: Callable[[], object]) -> None:
        """Call the library; its errors become StoreErrors, raised outside the handler: their chain would contain the session's URI."""
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

        problem: StoreError
        try:
            act()
        except DataCorruption:
            problem = UploadGoneError(f"{self._what(key)}: checksum mismatch: other bytes arrived than were sent")
        except InvalidResponse as error:
            if error.response.status_code == _INCOMPLETE:
                problem = TransientStoreError(f"{self._what(key)}: the store accepted none of the bytes")
            elif error.response.request.method == "PUT":  # asked what has arrived, the server describes the whole object
                problem = UploadGoneError(f"{self._what(key)}: the upload is already finished")
            else:
                problem = TransientStoreError(f"{self._what(key)}: the response begins no upload")
        else:
            return
        raise problem

    def _session(self, key: str, token: str) -> _Session:
        with self._lock:
            if token not in self._known:
                raise UploadGoneError(f"{self._what(key)}: the upload has ended, or was begun by another process")
            return self._known[token]

    def _forget(self, token: str) -> None:
        with self._lock:
            self._known.pop(token, None)

    def _what(self, key: str) -> str:
        return f"cannot write {self._store.url}/{key}"

    def _unsigned(self, key: str, fine: tuple[int, ...]) -> "_Sender":
        return _Sender(lambda method, url, **options: self._sent(key, fine, method, url, **options))

    def _sent(self, key: str, fine: tuple[int, ...], method: str, url: str, **options: Any) -> Any:
        """Send one request to a session; returns a response whose status is among ``fine``."""
        from requests.exceptions import RequestException

        problem: StoreError | None = None
        try:
            answer = self._plain.request(method, url, timeout=TIMEOUTS, allow_redirects=False, **options)
        except RequestException as error:
            problem = TransientStoreError(f"{self._what(key)}: the connection was lost ({type(error).__name__})", hint="check the network")
        else:
            if answer.status_code in fine:
                return answer
            if answer.status_code in _GONE:
                problem = UploadGoneError(f"{self._what(key)}: the store no longer knows the upload")
            elif answer.status_code == 400 and _CHECKSUM in answer.text.lower():
                problem = UploadGoneError(f"{self._what(key)}: checksum mismatch: other bytes arrived than were sent")
            else:
                problem = self._store.refused(answer, "write", key)
        raise problem  # outside the handler, so that the client's own error, whose text contains the session's URI, is not chained

    @cached_property
    def _plain(self) -> Any:
        """A client without credentials, because the session's URI replaces them."""
        import requests
        from requests.adapters import HTTPAdapter

        class LargePieces(HTTPAdapter):
            """Sends bodies in pieces of 256 KiB; with the default 16 KiB, sending takes 50% more CPU time."""

            def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
                super().init_poolmanager(*arguments, blocksize=_SENT_BYTES, **options)

        client = requests.Session()
        for scheme in ("http://", "https://"):
            client.mount(scheme, LargePieces(pool_maxsize=32))
        return client


@dataclass(frozen=True)
class _Sender:
    """What the library calls a transport. Refusals are raised as StoreErrors here, before the library sees them."""

    send: Callable[..., Any]

    def request(
        self, method: str, url: str, data: bytes | None = None, headers: Mapping[str, str] | None = None, timeout: object = None
    ) -> Any:
        # A file-like body is sent piece by piece, each with its own timeout; for a bytes body the timeout would cover the whole.
        return self.send(method, url, data=io.BytesIO(data) if data else None, headers=dict(headers or {}))
