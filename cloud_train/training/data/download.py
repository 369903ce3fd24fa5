"""Files from the network: in the cache whole and verified, or not at all.

Written with the standard library. What a data set needs beyond a plain download is to go on where a killed run stopped (a ``Range``
request, RFC 9110, section 14), to be shared by runs that start at once (a lock), and to be checked at the end (SHA-256). ``pooch`` and
``torch.hub`` check, but neither goes on nor locks; and a worker's image stays small.
"""

import hashlib
import os
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path, PurePosixPath
from ssl import SSLCertVerificationError
from string import punctuation
from typing import Self
from urllib import request as http
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit

from cloud_train.data.sequences import SequencesData
from cloud_train.data.text import TextData
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.cached import open_to_append, open_to_read, own_folder, remove, write_new
from cloud_train.spec.problems import FieldError
from cloud_train.spec.secret_names import without_credentials
from cloud_train.storage.url_safety import AddressRefusedError, opener
from cloud_train.training.data.cache import disk_errors, exclusive, shown_bytes
from cloud_train.worker import contract

_TRIES = 5
_LONGEST_PAUSE_SECONDS = 60.0
_PROGRESS_BYTES = 1 << 20
"""What a try has to bring, so that the failures before it are forgotten."""
_PIECE_BYTES = 1 << 20
_LINE_SECONDS = 10.0
_MOST_ETAG_CHARACTERS = 1000
_SCHEMES = ("http", "https")


class DownloadError(StoreError):
    """A file cannot be downloaded now, for a reason that may pass."""


def fetch(
    url: str,
    sha256: str,
    cache: Path,
    name: str | None = None,
    *,
    pause: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    timeout_seconds: float = 60.0,
) -> Path:
    """The file at ``url`` whose SHA-256 is ``sha256`` (hexadecimal), from ``cache`` or else from the network; ``name`` is what to call it.

    It lies at ``downloads/<first 16 of sha256>-<name>``. It is verified each time it is asked for, at about a second a gigabyte, and one
    that was damaged is downloaded again. A download that was cut off, by a kill as well, goes on from its ``.part``; of several processes
    that want the file at once, one downloads it and the others wait. What may pass (no connection, no answer for ``timeout_seconds``, an
    answer that ends early, status 429 and 5xx) is tried again after a ``pause``, up to 5 times in a row. Names and passwords inside the
    URL, and what follows a ``?``, are in no message.

    Raises StoreError where the server refuses or cannot be reached, or the disk is full; CorruptError if what came has another SHA-256.
    """
    source = _Source.of(url)
    label = name or PurePosixPath(unquote(urlsplit(url).path)).name
    name_in_cache = f"{sha256[:16]}-{re.sub('[^A-Za-z0-9._-]', '_', label)[-100:]}"
    with disk_errors(cache / "downloads"):
        path = own_folder(cache, "downloads") / name_in_cache
        with exclusive(path.with_name(f"{path.name}.lock"), f"downloading {source.shown}"):
            if _sha256(path) != sha256:
                part = _Part(path.with_name(f"{path.name}.part"))
                _Download(source, part, pause, clock, timeout_seconds).run(sha256)
                _put(part.path, path)
    return path


def path_or_download(data: TextData | SequencesData, place: Path) -> Path:
    """Where the job's file is: at ``place``, if the job names a path, and else it is fetched from its URL into the cache ``place``.

    Raises FieldError if the job has neither a path nor a URL with its checksum, and what ``fetch`` raises.
    """
    if data.path is not None:
        return place
    if data.url is None or data.sha256 is None:
        raise FieldError(("data",), "nothing says where the data comes from", hint="give path, or url and sha256")
    return fetch(data.url, data.sha256, place)


@dataclass(frozen=True)
class _Source:
    """Where a file comes from."""

    address: str
    authorization: str | None
    shown: str
    """The address without what may be secret in it."""

    @classmethod
    def of(cls, url: str) -> Self:
        try:
            parts = urlsplit(url)
            user, _, host = parts.netloc.rpartition("@")
            shown = without_credentials(url)
            if parts.scheme not in _SCHEMES or not parts.hostname or parts.port == 0:
                raise StoreError(f"{shown} cannot be downloaded", hint="give an address that begins with http:// or https://")
        except ValueError as error:  # a port that is no number, say
            raise StoreError("an address to download from cannot be read", hint="check the URL") from error
        credentials = unquote(user) + ("" if ":" in user else ":")
        authorization = f"Basic {b64encode(credentials.encode()).decode()}" if user else None
        return cls(quote(parts._replace(netloc=host, fragment="").geturl(), safe=punctuation), authorization, shown)


class _InterruptedError(StoreError):
    """A try that failed for a reason that may pass; ``wait_seconds`` is how long the server asks to be left alone."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _Part:
    """What has come of a file, and beside it the server's name for the version that it is a part of, its ETag."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._etag = path.with_name(f"{path.name}.etag")

    def size(self) -> int:
        """Bytes that are there."""
        with disk_errors(self.path.parent):
            descriptor = open_to_read(self.path)
            if descriptor is None:
                return 0
            with open(descriptor, "rb") as file:  # noqa: PTH123 -- of a descriptor
                return os.fstat(file.fileno()).st_size

    def etag(self) -> str | None:
        """The ETag, if the server gave one that promises the very same bytes."""
        with disk_errors(self.path.parent):
            descriptor = open_to_read(self._etag)
            if descriptor is None:
                return None
            with open(descriptor, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 -- of a descriptor
                return file.read(_MOST_ETAG_CHARACTERS)

    def begin(self, etag: str | None) -> None:
        """Start anew; a weak ETag promises too little (RFC 9110, section 13.1.5) and is not kept."""
        self.forget()
        if etag and etag.startswith('"'):
            with disk_errors(self.path.parent):
                write_new(self._etag, etag)

    def forget(self) -> None:
        """Delete what is there."""
        with disk_errors(self.path.parent):
            remove(self.path)
            remove(self._etag)

    def finish(self) -> None:
        """Leave the file alone, whole."""
        with disk_errors(self.path.parent):
            remove(self._etag)

    @contextmanager
    def appending(self) -> Iterator[Callable[[bytes], None]]:
        """A function that adds bytes at the end; each of them is kept, whatever happens to the next."""
        with disk_errors(self.path.parent):
            file = open(open_to_append(self.path), "ab", buffering=0)  # noqa: PTH123, SIM115 -- of a descriptor, and closed below
        with file:

            def append(piece: bytes) -> None:
                rest = memoryview(piece)
                with disk_errors(self.path.parent):
                    while rest:
                        rest = rest[file.write(rest) :]

            yield append


class _Download:
    """One file on its way into the cache."""

    def __init__(
        self, source: _Source, part: _Part, pause: Callable[[float], object], clock: Callable[[], float], timeout_seconds: float
    ) -> None:
        self._source, self._part, self._pause, self._clock, self._timeout_seconds = source, part, pause, clock, timeout_seconds

    def run(self, sha256: str) -> None:
        """Fill the part. One that an earlier run left and that leads to the wrong file is given up for a fresh one, once."""
        began = self._clock()
        left_behind = self._part.size()
        self._fill()
        found = _sha256(self._part.path)
        if found != sha256 and left_behind:
            print(f"what was left of an earlier download of {self._source.shown} does not fit it; once more from the beginning", flush=True)
            self._part.forget()
            self._fill()
            found = _sha256(self._part.path)
        if found != sha256:
            self._part.forget()
            raise CorruptError(
                f"{self._source.shown} is not the file that was expected: its SHA-256 is {found}, and not {sha256}",
                hint="compare the address and the sum with what the publisher says; the wrong file has been deleted",
            )
        self._part.finish()
        seconds = self._clock() - began
        print(f"downloaded {self._source.shown} ({shown_bytes(self._part.size())}) in {seconds:.1f} s", flush=True)

    def _fill(self) -> None:
        failures, most = 0, self._part.size()
        while True:
            try:
                self._try_once()
                return
            except _InterruptedError as error:
                size = self._part.size()
                failures = 1 if size >= most + _PROGRESS_BYTES else failures + 1
                most = max(most, size)
                if failures == _TRIES:
                    kept = f": the {shown_bytes(size)} that came are kept, and the download goes on from there" if size else ""
                    raise DownloadError(
                        f"cannot download {self._source.shown}: {error.message}, {_TRIES} times in a row", hint=f"try again later{kept}"
                    ) from error
                seconds = min(max(2.0 ** (failures - 1), error.wait_seconds), _LONGEST_PAUSE_SECONDS)
                print(f"{self._source.shown}: {error.message}; trying again in {seconds:g} s", flush=True)
            self._pause(seconds)

    def _try_once(self) -> None:
        start = self._part.size()
        try:
            with opener(loopback=not os.environ.get(contract.PLATFORM)).open(self._request(start), timeout=self._timeout_seconds) as answer:
                self._receive(answer, start)
        except HTTPError as error:
            with error:
                # 416: the part is as long as the file, or longer. Its sum will tell.
                if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
                    raise self._refusal(error) from error
        except AddressRefusedError as error:
            raise AddressRefusedError(f"cannot download {self._source.shown}: {error.message}", hint=error.hint) from error
        except (OSError, HTTPException) as error:
            raise self._failure(error) from error
        except ValueError as error:  # an address that cannot be read, or a name that cannot be one, after a redirection
            raise self._failure(URLError("unreadable")) from error

    def _request(self, start: int) -> http.Request:
        request = http.Request(self._source.address, headers={"User-Agent": "cloud-train"})
        if start:
            request.add_header("Range", f"bytes={start}-")
            if etag := self._part.etag():
                request.add_header("If-Range", etag)
        if self._source.authorization:
            # Unredirected: another server is told no password.
            request.add_unredirected_header("Authorization", self._source.authorization)
        return request

    def _receive(self, answer: HTTPResponse, start: int) -> None:
        offset, total = _extent(answer)
        if offset not in (0, start):
            self._part.forget()
            raise _InterruptedError("the server answered with another part of the file than it was asked for")
        if not offset:
            self._part.begin(answer.headers.get("ETag"))
        of_total = "" if total is None else f" ({shown_bytes(total)}{f', from {shown_bytes(offset)} on' if offset else ''})"
        print(f"downloading {self._source.shown}{of_total}", flush=True)
        with self._part.appending() as append:
            for piece in self._pieces(answer, offset, total):
                append(piece)
        if total is not None and (size := self._part.size()) < total:
            raise _InterruptedError(f"the answer ended after {shown_bytes(size)} of {shown_bytes(total)}")

    def _pieces(self, answer: HTTPResponse, offset: int, total: int | None) -> Iterator[bytes]:
        """What the answer brings, as it comes; now and then a line says how far it is."""
        began = said = self._clock()
        size = offset
        while piece := answer.read1(_PIECE_BYTES):
            yield piece
            size += len(piece)
            if (now := self._clock()) - said >= _LINE_SECONDS:
                of_total = "" if total is None else f" of {shown_bytes(total)}"
                pace = (size - offset) / (now - began)
                print(f"downloading {self._source.shown}: {shown_bytes(size)}{of_total}, {shown_bytes(pace)}/s", flush=True)
                said = now

    def _refusal(self, error: HTTPError) -> StoreError:
        """What a status other than 2xx means."""
        phrase = next((f" ({status.phrase})" for status in HTTPStatus if status == error.code), "")
        answered = f"the server answered {error.code}{phrase}"
        if error.code in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or error.code >= 500:
            wait = error.headers.get("Retry-After", "")
            return _InterruptedError(answered, float(wait) if wait.isdecimal() else 0.0)
        if 300 <= error.code < 400:
            answered += ", and sent on to nothing that can be read by http or https"
        return StoreError(f"cannot download {self._source.shown}: {answered}", hint="check the URL, and whether it may be read by everyone")

    def _failure(self, error: OSError | HTTPException) -> StoreError:
        """What an exception on the way means. Its text is not used: it may quote the address."""
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, str | InvalidURL):  # a text is what urllib says of an address itself
            return StoreError(
                f"cannot download {self._source.shown}: it leads to something other than an http(s) URL", hint="check the URL"
            )
        if isinstance(reason, SSLCertVerificationError):
            return StoreError(
                f"cannot download {self._source.shown}: the server's certificate is not trusted ({reason.verify_message})",
                hint="check the URL, and this machine's certificates and clock",
            )
        if isinstance(reason, TimeoutError):
            return _InterruptedError(f"no answer for {self._timeout_seconds:g} s")
        if isinstance(reason, OSError) and reason.strerror:
            return _InterruptedError(reason.strerror.lower())
        return _InterruptedError("the connection broke off")


def _extent(answer: HTTPResponse) -> tuple[int | None, int | None]:
    """Where in the file the answer begins, and how long the file is; None for what it does not say."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    return (None, None) if extent is None else (int(extent[1]), None if extent[2] == "*" else int(extent[2]))


def _sha256(path: Path) -> str | None:
    """Of a plain file; None where there is none."""
    descriptor = open_to_read(path)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123 -- of a descriptor
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(part: Path, path: Path) -> None:
    """Give the whole file its name, in place of whatever has it."""
    if path.is_dir():
        remove(path)
    part.replace(path)
