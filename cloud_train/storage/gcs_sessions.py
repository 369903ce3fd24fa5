"""Multipart uploads to Google Cloud Storage: resumable sessions (https://cloud.google.com/storage/docs/performing-resumable-uploads).

A session takes an object's bytes in order, in multiples of 256 KiB, and ends with the piece that states the object's size. Anyone who has
its URI may write without credentials, so messages contain neither the URI nor the HTTP client's error texts, which include it.

To keep the object invisible before ``finish``, the bytes after the last multiple of 256 KiB stay in this process until then.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, Protocol

from cloud_train.errors import StoreError
from cloud_train.storage.base import TransientStoreError, UploadGoneError
from cloud_train.storage.objects import SHA256

UNIT = 256 << 10
"""Bytes; all pieces but the last have to be a multiple of this."""

PART_BYTES = 16 << 20

TIMEOUTS = (10, 60)
"""Seconds to connect and to send each piece of a body, and to wait for a response."""

_INCOMPLETE = 308
_GONE = (404, 410, 499)


@dataclass
class _Session:
    """The state of a session, as far as this process knows it."""

    received: int | None = None
    """Bytes that the server has; None if unknown."""
    tail: bytes = b""
    """The last bytes, which are sent with ``finish``."""


class Bucket(Protocol):
    """The part of the store that sessions need."""

    url: str
    bucket: str

    def full_key(self, key: str) -> str:
        """The key in the bucket; raises InvalidKeyError."""

    def request(self, key: str, action: str, method: str, path: str, **options: Any) -> Any:
        """Send one signed request; returns requests' ``Response`` with status 200."""

    def refused(self, answer: Any, action: str, key: str) -> StoreError:
        """The error for an unsuccessful response."""


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
        answer = self._store.request(
            key,
            "write",
            "POST",
            f"/upload/storage/v1/b/{self._store.bucket}/o",
            params={"uploadType": "resumable", "name": self._store.full_key(key)},
            json={"metadata": {SHA256: sha256}, "contentType": "application/octet-stream"},
        )
        return str(answer.headers["Location"])

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        """Send the bytes of a part that the server does not have yet."""
        session = self._session(token)
        whole = len(data) - len(data) % UNIT
        received = self._received(key, token)
        if received < offset:
            raise UploadGoneError(f"{self._what(key)}: the store has {received:,} bytes of the upload, not the {offset:,} before this part")
        while received < offset + whole:
            piece = data[received - offset : whole]
            before = received
            received = self._put(key, token, piece, f"bytes {received}-{received + len(piece) - 1}/*")
            if received <= before:
                self._forget(token)
                raise TransientStoreError(f"{self._what(key)}: the store accepted none of {len(piece):,} bytes")
        session.tail = data[whole:]
        return str(offset + len(data))

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        """Send the last bytes with the object's size."""
        size = max((int(receipt) for receipt in receipts.values()), default=0)
        received = self._received(key, token, fresh=True)
        tail = self._session(token).tail
        if not size - len(tail) <= received <= size:
            raise UploadGoneError(f"{self._what(key)}: the store has {received:,} of the {size:,} bytes")
        rest = tail[len(tail) - (size - received) :] if received < size else b""
        span = f"bytes {received}-{size - 1}/{size}" if rest else f"bytes */{size}"
        answer = self._ask("PUT", key, token, rest, span)
        self._forget(token, session_too=answer.status_code in (200, 201))
        if answer.status_code == _INCOMPLETE:
            raise TransientStoreError(f"{self._what(key)}: the store has not accepted the last bytes yet")

    def abort(self, key: str, token: str) -> None:
        """Cancel the session."""
        try:
            self._ask("DELETE", key, token)
        except UploadGoneError:
            return
        finally:
            self._forget(token, session_too=True)

    def _received(self, key: str, token: str, *, fresh: bool = False) -> int:
        session = self._session(token)
        if session.received is None or fresh:
            session.received = self._put(key, token, b"", "bytes */*")
        return session.received

    def _put(self, key: str, token: str, piece: bytes, span: str) -> int:
        """Send a piece; returns the number of bytes that the server has of the unfinished session."""
        answer = self._ask("PUT", key, token, piece, span)
        if answer.status_code != _INCOMPLETE:
            self._forget(token, session_too=True)
            raise UploadGoneError(f"{self._what(key)}: the upload is already finished")
        _, _, last = str(answer.headers.get("Range", "")).rpartition("-")
        received = int(last) + 1 if last.isdecimal() else 0
        self._session(token).received = received
        return received

    def _ask(self, method: str, key: str, token: str, piece: bytes = b"", span: str | None = None) -> Any:
        """Send one request to a session; returns a response with status 200, 201, 204 or 308.

        After any other result, the next request first asks the server how many bytes it has.
        """
        from requests.exceptions import RequestException

        # A file-like body is sent piece by piece, each with its own timeout; for a bytes body the timeout would cover the whole.
        body = io.BytesIO(piece) if piece else None
        headers = {"Content-Range": span} if span else {}
        problem: StoreError | None = None
        try:
            answer = self._plain.request(method, token, data=body, headers=headers, timeout=TIMEOUTS, allow_redirects=False)
        except RequestException as error:
            problem = TransientStoreError(f"{self._what(key)}: the connection was lost ({type(error).__name__})", hint="check the network")
        else:
            if answer.status_code in (200, 201, 204, _INCOMPLETE):
                return answer
            if answer.status_code in _GONE:
                problem = UploadGoneError(f"{self._what(key)}: the store no longer knows the upload")
            else:
                problem = self._store.refused(answer, "write", key)
        self._forget(token, session_too=isinstance(problem, UploadGoneError))
        raise problem  # outside the handler, so that the client's own error, whose text contains the session's URI, is not chained

    def _session(self, token: str) -> _Session:
        with self._lock:
            return self._known.setdefault(token, _Session())

    def _forget(self, token: str, *, session_too: bool = False) -> None:
        with self._lock:
            if session_too:
                self._known.pop(token, None)
            elif token in self._known:
                self._known[token].received = None

    def _what(self, key: str) -> str:
        return f"cannot write {self._store.url}/{key}"

    @cached_property
    def _plain(self) -> Any:
        """A client without credentials, because the session's URI replaces them."""
        import requests
        from requests.adapters import HTTPAdapter

        class LargePieces(HTTPAdapter):
            """Sends bodies in pieces of 256 KiB; with the default 16 KiB, sending takes 50% more CPU time."""

            def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
                super().init_poolmanager(*arguments, blocksize=UNIT, **options)

        client = requests.Session()
        for scheme in ("http://", "https://"):
            client.mount(scheme, LargePieces(pool_maxsize=32))
        return client
