"""Files on web servers as a read-only store: ``https://`` and ``http://`` URLs, read with the standard library.

Servers may ignore ranges (RFC 9110, section 14), report no size, or send no ETag. ``url_safety`` checks the address of the URL and of every
redirect. Proxies are taken from the environment (``https_proxy``). User and password in a URL are only sent to its own server, and neither
they nor the query appear in messages.
"""

import re
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from ssl import SSLCertVerificationError
from string import punctuation
from typing import NoReturn
from urllib import request as http
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, quote, unquote, urlsplit

from cloud_train.errors import CorruptError, StoreError
from cloud_train.retry import TRANSIENT_STATUSES, RetryPolicy, retry_after_seconds
from cloud_train.spec.secret_names import without_credentials
from cloud_train.storage.base import (
    UNKNOWN_SIZE,
    AccessDeniedError,
    InvalidKeyError,
    Multipart,
    ObjectChangedError,
    ObjectInfo,
    ObjectMissingError,
    TransientStoreError,
)
from cloud_train.storage.retrying import DEFAULT_POLICY, RetryingStore
from cloud_train.storage.transfer.downloading import ONE_PART_BYTES, PART_BYTES, Download, download
from cloud_train.storage.transfer.engine import Options, Summary
from cloud_train.storage.transfer.progress import Progress
from cloud_train.storage.url_safety import AddressRefusedError, opener

SCHEMES = ("http", "https")

_TIMEOUT_SECONDS = 60.0
_THREADS = 4  # connections to one server
_PIECE_BYTES = 1 << 18
_LARGEST_IN_MEMORY = 64 << 20
_LEAST_PART_BYTES = 1 << 20
_LONGEST_ETAG = 1000
_KEPT_IN_KEYS = "".join(set(punctuation) - set("?#"))
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


def fetch_url(
    url: str,
    path: Path,
    *,
    most_bytes: int | None = None,
    sha256: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    allow_loopback: bool = True,
    policy: RetryPolicy = DEFAULT_POLICY,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Summary:
    """Download the file at ``url`` to ``path``, verified, or leave nothing under that name.

    ``sha256`` is the expected SHA-256 in hexadecimal, if known. A file larger than ``most_bytes`` is refused before the download; if the
    server does not report a size, the download fails at ``most_bytes``, or at nine tenths of the free disk space. ``progress`` is called a
    few times a second. Do not ``allow_loopback`` on a cloud's machine. A request without a response for ``timeout_seconds`` is retried
    according to ``policy``. A partial download stays next to ``path`` in a hidden file, and resumes after a crash if the server supports
    ranges.

    Raises StoreError if the server refuses, cannot be reached or must not be reached (AddressRefusedError), or if the disk is full;
    CorruptError if the SHA-256 does not match.
    """
    store, key = HttpStore.of_file(url, allow_loopback=allow_loopback, timeout_seconds=timeout_seconds)
    retrying = RetryingStore(store, policy)
    info = retrying.stat(key)
    if info.size == UNKNOWN_SIZE:
        path.parent.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(path.parent).free // 10 * 9
        store.most_bytes = room if most_bytes is None else min(room, most_bytes)
    elif most_bytes is not None and info.size > most_bytes:
        raise _too_large(f"{store.url}/{key}", f"has {info.size:,} bytes", most_bytes)
    part_bytes = min(max(info.size // 8, _LEAST_PART_BYTES), PART_BYTES) if store.has_ranges else ONE_PART_BYTES
    options = Options(threads=_THREADS, part_bytes=part_bytes, report=progress)
    return download(retrying, [Download(key, path, info.size, sha256)], options)


@dataclass(frozen=True)
class _Answer:
    """A response with a file or a part of it."""

    response: HTTPResponse
    start: int
    """Offset of the part in the file."""
    size: int
    """Size of the whole file in bytes, or ``UNKNOWN_SIZE``."""
    etag: str
    """The file's strong ETag, which guarantees identical bytes (RFC 9110, section 8.8.1); empty without one."""


class HttpStore:
    """The files below one URL. A key is a relative path; percent-encoded characters in it are kept."""

    def __init__(self, url: str, *, allow_loopback: bool = True, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """Raises StoreError unless ``url`` is an http(s) URL. Its query is sent with every request. Nothing is sent yet."""
        parts = _parts_of(url)
        user, _, host = parts.netloc.rpartition("@")
        self.url = without_credentials(parts._replace(query="", fragment="").geturl()).rstrip("/")
        self.has_ranges = True
        """Whether the server supports ranges; known after ``stat``."""
        self.most_bytes: int | None = None
        """The most that ``pieces`` reads of one file; None for no limit."""
        self._base = quote(parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/"), safe=punctuation)
        self._query = f"?{quote(parts.query, safe=punctuation)}" if parts.query else ""
        credentials = unquote(user) + ("" if ":" in user else ":")
        self._authorization = f"Basic {b64encode(credentials.encode()).decode()}" if user else None
        self._timeout_seconds = timeout_seconds
        self._opener = opener(loopback=allow_loopback)

    @classmethod
    def of_file(cls, url: str, *, allow_loopback: bool = True, timeout_seconds: float = _TIMEOUT_SECONDS) -> "tuple[HttpStore, str]":
        """The store of the file at ``url``, and its key in it."""
        parts = _parts_of(url)
        above, _, key = parts.path.rpartition("/")
        return cls(parts._replace(path=above).geturl(), allow_loopback=allow_loopback, timeout_seconds=timeout_seconds), key

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of a file, as far as they exist. For more than 64 MiB, use ``pieces``."""
        if end is not None and end <= start:
            return b""
        with self._opened(key, start, end, version) as answer:
            return b"" if answer is None else self._all_of(key, answer, start, end)

    def read(self, key: str, end: int | None = None) -> tuple[ObjectInfo, bytes]:
        """A whole file of up to 64 MiB with its information, or its first ``end`` bytes."""
        with self._opened(key, 0, None, None) as answer:
            if answer is None:
                raise TransientStoreError(f"cannot download {self.url}/{key}: the server rejected a range although none was requested")
            data = self._all_of(key, answer, 0, None)
        if answer.size not in (UNKNOWN_SIZE, len(data)):
            raise TransientStoreError(f"cannot download {self.url}/{key}: received only {len(data):,} of {answer.size:,} bytes")
        return ObjectInfo(key, len(data), _modified(answer.response), answer.etag), data if end is None else data[:end]

    def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[bytes]:
        """A range of a file, piece by piece, as it arrives."""
        at = start
        with self._opened(key, start, end, version) as answer:
            if answer is None and end is not None:
                raise self._changed(key)
            if answer is not None:
                expected = answer.size if end is None else end
                if UNKNOWN_SIZE != answer.size < expected:
                    raise self._changed(key)
                for piece in _pieces_of(answer, start, end):
                    at += len(piece)
                    if self.most_bytes is not None and at > self.most_bytes:
                        raise _too_large(f"{self.url}/{key}", "does not end", self.most_bytes)
                    yield piece
                if expected != UNKNOWN_SIZE and at < expected:
                    raise TransientStoreError(
                        f"cannot download {self.url}/{key}: received only {at - start:,} of {expected - start:,} bytes"
                    )

    def stat(self, key: str) -> ObjectInfo:
        """Size and ETag of one file, from the response headers to a request for its first byte."""
        with self._opened(key, 0, 1, None) as answer:
            if answer is None:  # no first byte: the file is empty
                return ObjectInfo(key, 0, 0.0)
            self.has_ranges = answer.response.status == HTTPStatus.PARTIAL_CONTENT
            return ObjectInfo(key, answer.size, _modified(answer.response), answer.etag)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Always refused."""
        self._refuse("write to it")

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Always refused."""
        self._refuse("write to it")

    def replace(self, seen: ObjectInfo, data: bytes) -> ObjectInfo:
        """Always refused."""
        self._refuse("write to it")

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Always refused: there is no standard way to list files on a web server."""
        self._refuse("list files")

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Always refused, like ``list``."""
        self._refuse("list folders")

    def delete(self, key: str) -> None:
        """Always refused."""
        self._refuse("delete files")

    def multipart(self) -> Multipart:
        """Always refused."""
        self._refuse("write to it")

    def local_path(self, key: str) -> Path | None:
        """None: the file is on another machine."""
        return None

    def _all_of(self, key: str, answer: _Answer, start: int, end: int | None) -> bytes:
        found = bytearray()
        for piece in _pieces_of(answer, start, end):
            found += piece
            if len(found) > _LARGEST_IN_MEMORY:
                raise StoreError(f"{self.url}/{key} is larger than {_LARGEST_IN_MEMORY >> 20} MiB", hint="download it to a file")
        return bytes(found)

    def _refuse(self, action: str) -> NoReturn:
        raise StoreError(
            f"cannot {action}: {self.url} is a web server, which can only be read", hint="use a folder, or an s3://, gs:// or az:// store"
        )

    @contextmanager
    def _opened(self, key: str, start: int, end: int | None, version: str | None) -> Iterator[_Answer | None]:
        """The response to a request for a range; None if the file ends before it. Errors in the block are explained as well."""
        place = f"{self.url}/{key}"
        try:
            with self._opener.open(self._request(key, start, end, version), timeout=self._timeout_seconds) as response:
                answer = _answer_of(response, place)
                if answer.start not in (0, start):
                    raise TransientStoreError(f"cannot download {place}: the server sent a different range than requested")
                if version and answer.etag != version and not (answer.etag == "" and answer.start == start != 0):
                    raise self._changed(key)
                yield answer
        except HTTPError as error:
            with error:
                if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise _refusal(error, place) from error
                yield None
        except AddressRefusedError as error:
            raise AddressRefusedError(f"cannot download {place}: {error.message}", hint=error.hint) from error
        except (OSError, HTTPException) as error:
            raise self._failure(error, place) from error
        except ValueError as error:  # redirected to something that is not a URL, or to an invalid host name
            raise self._failure(URLError("unreadable"), place) from error

    def _request(self, key: str, start: int, end: int | None, version: str | None) -> http.Request:
        if any(part in (".", "..") for part in key.split("/")) or key.startswith("/") or "\\" in key:
            raise InvalidKeyError(f"the key {key!r} is outside the store {self.url}")
        request = http.Request(f"{self._base}/{quote(key, safe=_KEPT_IN_KEYS)}{self._query}", headers={"User-Agent": "cloud-train"})
        if start or end is not None:
            request.add_header("Range", f"bytes={start}-{'' if end is None else end - 1}")
            if version:
                request.add_header("If-Range", version)
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)  # the password is not sent to other servers
        return request

    def _changed(self, key: str) -> ObjectChangedError:
        return ObjectChangedError(f"{self.url}/{key} changed while being read", hint="retry")

    def _failure(self, error: OSError | HTTPException, place: str) -> StoreError:
        """The error for a request without a usable response. The exception's own text is not used, because it may quote the URL."""
        reason = error.reason if isinstance(error, URLError) else error
        what = f"cannot download {place}"
        if isinstance(reason, (str, InvalidURL)):  # urllib uses strings for errors in the URL itself
            return StoreError(f"{what}: not an http(s) URL, or redirected to one that is not", hint="check the URL")
        if isinstance(reason, SSLCertVerificationError):
            return StoreError(
                f"{what}: the server's certificate is not trusted ({reason.verify_message})",
                hint="check the URL, and this machine's certificates and clock",
            )
        if isinstance(reason, TimeoutError):
            return TransientStoreError(f"{what}: no response for {self._timeout_seconds:g} s", hint="retry later")
        if isinstance(reason, OSError) and reason.strerror:
            return TransientStoreError(f"{what}: {reason.strerror.lower()}", hint="check the URL and the network")
        return TransientStoreError(f"{what}: the connection was lost", hint="retry later")


def _too_large(place: str, what: str, most: int) -> CorruptError:
    return CorruptError(f"{place} {what}, but at most {most:,} bytes are allowed", hint="check the URL, and the free space on this disk")


def _parts_of(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in SCHEMES and parts.hostname and parts.port != 0:
            return parts
    except ValueError as error:  # a port that is not a number, for example
        raise StoreError("the download URL is malformed", hint="check the URL") from error
    raise StoreError(f"{without_credentials(url)} cannot be downloaded", hint="use a URL that begins with http:// or https://")


def _answer_of(response: HTTPResponse, place: str) -> _Answer:
    etag = response.headers.get("ETag", "")
    strong = etag if etag.startswith('"') and len(etag) <= _LONGEST_ETAG else ""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length", "")
        return _Answer(response, 0, int(length) if length.isdecimal() else UNKNOWN_SIZE, strong)
    extent = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", ""))
    if extent is None:
        raise TransientStoreError(f"cannot download {place}: the server did not report which range it sent")
    return _Answer(response, int(extent[1]), UNKNOWN_SIZE if extent[2] == "*" else int(extent[2]), strong)


def _pieces_of(answer: _Answer, start: int, end: int | None) -> Iterator[bytes]:
    """The part of a response between ``start`` and ``end``; a server that ignores ranges sends the whole file."""
    at = answer.start
    while (end is None or at < end) and (piece := answer.response.read1(_PIECE_BYTES)):
        wanted = piece[max(0, start - at) : None if end is None else max(0, end - at)]
        at += len(piece)
        if wanted:
            yield wanted


def _refusal(error: HTTPError, place: str) -> StoreError:
    """The error for a status other than 2xx."""
    phrase = next((f" ({status.phrase})" for status in HTTPStatus if status == error.code), "")
    message = f"cannot download {place}: the server responded with {error.code}{phrase}"
    if error.code in TRANSIENT_STATUSES or error.code >= 500:
        transient = TransientStoreError(message, hint="retry later")
        transient.retry_after = retry_after_seconds(error.headers.get("Retry-After"))
        return transient
    hint = "check the URL, and that it is public"
    if error.code in _MISSING:
        return ObjectMissingError(message, hint=hint)
    if error.code in _REFUSED:
        return AccessDeniedError(message, hint=hint)
    return StoreError(message + (", a redirect to something that is not an http(s) URL" if 300 <= error.code < 400 else ""), hint=hint)


def _modified(response: HTTPResponse) -> float:
    try:
        return parsedate_to_datetime(response.headers.get("Last-Modified", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
