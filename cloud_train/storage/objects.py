"""Shared by all cloud stores: reading, writing, listing and deleting through obstore, a Rust client for S3, GCS and Azure.

A request takes about a tenth of the CPU time of the clouds' own SDKs (docs/benchmarks.md). The SDKs, in one module per cloud, are used for
credentials, multipart uploads, and listing keys that are not proper paths.

The SHA-256 of every object is in its user metadata under ``sha256``. obstore attempts each request once; ``storage.retrying`` retries. Only
its synchronous calls are used, which release the interpreter lock, so that threads run in parallel.

Errors of obstore and of the SDKs (``ObjectStorage.failure``) are explained alike: ``Explain`` turns a cloud's error codes into our errors,
and ``ObjectStorage.permission``, which each cloud's store overrides, names the missing permission if access is denied.
"""

import hashlib
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from cloud_train.errors import StoreError
from cloud_train.storage.base import (
    AccessDeniedError,
    Buffer,
    CredentialsEndedError,
    InvalidKeyError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    TransientStoreError,
)
from cloud_train.storage.http_errors import BEYOND_THE_END, answer_in, error_of

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

SHA256 = "sha256"
"""Name of the user metadata with an object's SHA-256 in hexadecimal."""

CLIENT_OPTIONS: "ClientConfig" = {"allow_http": True, "connect_timeout": "10s", "read_timeout": "30s", "timeout": "5min"}
"""Options for obstore's client. Unencrypted endpoints are for emulators; the timeouts prevent a silent server from blocking a caller."""

ONE_TRY: "RetryConfig" = {"max_retries": 0}
"""obstore's ``retry_config``."""

_PAGE = 1000
_PIECE_BYTES = 1 << 18  # fits the CPU's cache: with 1 MiB, writing a piece takes nearly twice as long
_LOOKED_AT_SINGLY = 10
_UNDER_WAY_SECONDS = 60.0  # requests signed before a renewal may still be refused after it
_PAUSE_SECONDS = 5.0  # threads that are refused together ask the chain only once

Explain = Callable[[int, str, str], StoreError | None]
"""Explains a cloud's response: HTTP status (0 without a response), the service's error code, its message → an error, or None."""

Listing = Callable[[str, str], Iterator[ObjectInfo]]
"""The SDK's listing: full prefix, full key to begin after → objects with full keys."""


class ObjectStorage:
    """The objects under ``prefix`` of one bucket (or container)."""

    def __init__(self, url: str, client: "ObjectStore", prefix: str, *, explain: Explain, listing: Listing) -> None:
        """``client`` sees the whole bucket; ``prefix`` is empty or ends with '/'."""
        self.url = url
        self._client = client
        self._prefix = prefix
        self._explain = explain
        self._listing = listing
        self._bucket_seen = False
        self._renewal = Renewal(self._renew_credentials)

    def permission(self, action: str) -> str:
        """The permission for 'read', 'write', 'list', 'delete' or 'abort', such as 's3:GetObject on arn:…'."""
        return ""

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object with its SHA-256, replacing an existing one; returns its version."""
        return self._write(key, data, "overwrite")

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object that must not exist yet."""
        return self._write(key, data, "create")

    def replace(self, seen: ObjectInfo, data: bytes) -> ObjectInfo:
        """Write an object only if it is still as ``seen`` describes it: S3 and Azure compare the ETag, Google the generation."""
        condition = {"e_tag": seen.version, "version": seen.generation} if seen.generation else {"e_tag": seen.version}
        try:
            return self._write(seen.key, data, condition)
        except ObjectMissingError as error:
            raise ObjectChangedError(f"{self.url}/{seen.key} no longer exists") from error

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of an object."""
        path = self.full_key(key)
        if end is not None and end <= start:
            return self._nothing(key, version)
        options: GetOptions = {} if version is None else {"if_match": version}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        try:
            result = self._client.get(path, options=options)
            data = bytes(result.bytes())
        except Exception as error:  # obstore raises built-in errors as well; all of them are explained, here and below
            if answer_in(error)[0] == BEYOND_THE_END:
                return self._nothing(key, version)
            raise self.explained(error, "read", key) from error
        first, behind = result.range
        if len(data) != behind - first:
            raise TransientStoreError(f"{self.url}/{key} ended early: received {len(data):,} of {behind - first:,} bytes")
        return data

    def read(self, key: str, end: int | None = None) -> tuple[ObjectInfo, bytes]:
        """A whole object, or its first ``end`` bytes, with its information, in one request."""
        options: GetOptions = {} if end is None else {"range": (0, end)}
        try:
            result = self._client.get(self.full_key(key), options=options)
            info, data = _info(key, result), bytes(result.bytes())
        except Exception as error:
            if answer_in(error)[0] == BEYOND_THE_END:  # a range of an empty object
                return self.stat(key), b""
            raise self.explained(error, "read", key) from error
        size = info.size if end is None else min(end, info.size)
        if len(data) != size:
            raise TransientStoreError(f"{self.url}/{key} ended early: received {len(data):,} of {size:,} bytes")
        return info, data

    def pieces(self, key: str, start: int, end: int | None, *, version: str | None = None) -> Iterator[Buffer]:
        """A range of an object, piece by piece, as it arrives."""
        path, at = self.full_key(key), start
        options: GetOptions = {"range": {"offset": start} if end is None else (start, end)}
        if version is not None:
            options["if_match"] = version
        try:
            result = self._client.get(path, options=options)
            end = result.meta["size"] if end is None else end
            for piece in result.stream(min_chunk_size=_PIECE_BYTES):
                at += len(piece)
                yield memoryview(piece)
        except Exception as error:
            raise self.explained(error, "read", key) from error
        if at < end:
            raise TransientStoreError(f"{self.url}/{key} ended early: received {at - start:,} of {end - start:,} bytes")

    def stat(self, key: str) -> ObjectInfo:
        """Information about one object."""
        path = self.full_key(key)
        try:
            result = self._client.get(path, options={"head": True})
        except Exception as error:
            raise self._explained_head(error, path, key) from error
        self._bucket_seen = True
        return _info(key, result)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix`` and is greater than ``after``, sorted by key."""
        begin = self._prefix + after if after else ""
        for info in self._listed(self._full_prefix(prefix), begin):
            yield ObjectInfo(info.key[len(self._prefix) :], info.size, info.modified, info.version, info.sha256)

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The names of the folders directly under the folder ``prefix``, in order."""
        import obstore

        above = self._full_prefix(prefix)
        if above and not above.endswith("/"):
            above += "/"
        try:
            found = self._client.list_with_delimiter(above or None)["common_prefixes"]
        except obstore.exceptions.InvalidPathError:
            return iter(
                sorted({info.key[len(above) :].split("/")[0] for info in self._listing(above, "") if "/" in info.key[len(above) :]})
            )
        except Exception as error:
            raise self.explained(error, "list", prefix) from error
        return iter(sorted(path.rstrip("/").rpartition("/")[2] for path in found))

    def delete(self, key: str) -> None:
        """Delete an object; no error if it does not exist."""
        path = self.full_key(key)
        try:
            self._client.delete(path)
        except Exception as error:
            explained = self.explained(error, "delete", key)
            if not isinstance(explained, ObjectMissingError):
                raise explained from error

    def local_path(self, key: str) -> Path | None:
        """None: programs cannot write here directly."""
        self.full_key(key)
        return None

    def full_key(self, key: str) -> str:
        """The key with the store's prefix; raises InvalidKeyError."""
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\\" in key or not key.isprintable():
            raise InvalidKeyError(f"the key {key!r} is outside the store {self.url}")
        return self._prefix + key

    def explained(self, error: Exception, action: str, key: str) -> StoreError:
        """The StoreError for an error of obstore."""
        import obstore

        if isinstance(error, StoreError):
            return error
        answer = answer_in(error)
        place = f"{self.url}/{key}".rstrip("/")
        if (own := self._in_own_words(action, key, *answer)) is not None:
            return own
        if isinstance(error, obstore.exceptions.AlreadyExistsError):
            return ObjectExistsError(f"cannot {action} {place}: it already exists")
        if isinstance(error, obstore.exceptions.PreconditionError):
            return ObjectChangedError(f"cannot {action} {place}: it has changed meanwhile", hint="retry")
        if isinstance(error, FileNotFoundError):
            return ObjectMissingError(f"cannot {action} {place}: no such object")
        return self._in_general_words(action, key, *answer)

    def failure(self, action: str, key: str, status: int, code: str, message: str) -> StoreError:
        """The error for an SDK's response: the cloud's own explanation, or a general one; with the missing permission if access is denied.

        ``status`` is 0 without a response; ``code`` and ``message`` are the service's.
        """
        return self._in_own_words(action, key, status, code, message) or self._in_general_words(action, key, status, code, message)

    def _in_own_words(self, action: str, key: str, status: int, code: str, message: str) -> StoreError | None:
        own = self._explain(status, code, message)
        if isinstance(own, CredentialsEndedError):
            own = self._renewed(own)
        if own is not None:
            own.message = f"cannot {action} {self.url}/{key}".rstrip("/") + f": {own.message}"
            own.args = (own.message,)
        return own

    def _renewed(self, ended: CredentialsEndedError) -> StoreError:
        """The same error, marked if there are new credentials; or the error of the credential chain, such as for an expired login."""
        try:
            ended.renewed = self._renewal.came()
        except StoreError as error:
            return error
        return ended

    def _renew_credentials(self) -> bool:
        """Ask the cloud's credential chain again; if it returns other credentials, use them and return True. Raises StoreError."""
        return False

    def _in_general_words(self, action: str, key: str, status: int, code: str, message: str) -> StoreError:
        error = error_of(status, code, message, f"cannot {action} {self.url}/{key}".rstrip("/"))
        if isinstance(error, AccessDeniedError) and (permission := self.permission(action)):
            error.hint = f"required: {permission}; see what is allowed with: cloud-train doctor --store {shlex.quote(self.url)}"
        return error

    def _explained_head(self, error: Exception, path: str, key: str) -> StoreError:
        """The error for a refused HEAD request. Its response has no body, so a missing bucket looks like a missing object.

        Therefore a GET of one byte is tried for its error response, unless access is denied or the bucket is known to exist.
        """
        explained = self.explained(error, "read", key)
        clear = isinstance(explained, (AccessDeniedError, TransientStoreError))
        if clear or (isinstance(explained, ObjectMissingError) and self._bucket_seen):
            return explained
        try:
            self._client.get(path, options={"range": (0, 1)})
        except Exception as same:  # noqa: BLE001 - any error is the explanation
            if answer_in(same)[0] != BEYOND_THE_END:
                explained = self.explained(same, "read", key)
        self._bucket_seen = isinstance(explained, ObjectMissingError)
        return explained

    def _write(self, key: str, data: bytes, mode: Any) -> ObjectInfo:
        path, sha256 = self.full_key(key), hashlib.sha256(data).hexdigest()
        attributes: Any = {SHA256: sha256}
        try:
            written = self._client.put(path, data, attributes=attributes, mode=mode, use_multipart=False)
        except Exception as error:
            raise self.explained(error, "write", key) from error
        return ObjectInfo(key, len(data), time.time(), written["e_tag"] or "", sha256, written["version"] or "")

    def _nothing(self, key: str, version: str | None) -> bytes:
        if version not in (None, self.stat(key).version):
            raise ObjectChangedError(f"{self.url}/{key} changed while being read", hint="retry")
        return b""

    def _full_prefix(self, prefix: str) -> str:
        parts = prefix.split("/")
        if any(part in ("", ".", "..") for part in parts[:-1]) or parts[-1] in (".", "..") or "\\" in prefix:
            raise InvalidKeyError(f"the prefix {prefix!r} is outside the store {self.url}")
        return self._prefix + prefix

    def _listed(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Obstore's listing, as far as it is accurate.

        It refuses keys that are not proper paths, and shows ``folder/`` as ``folder`` and, at the top level, ``/x`` as ``x``. In these
        cases the SDK lists instead, with ten times the CPU time; a few empty objects, which may be such folders, are checked one by one.
        A prefix that is not a folder is filtered here.
        """
        import obstore

        folder = prefix[: prefix.rfind("/") + 1]
        if not folder:
            yield from self._sdk_listed(prefix, after)
            return
        begin = max(after, prefix[:-1] if prefix != folder else "")
        looked_at: set[str] = set()
        try:
            for page in self._client.list(folder, offset=begin or None, chunk_size=_PAGE):
                for meta in page:
                    key = meta["path"]
                    if meta["size"] == 0:
                        if len(looked_at) == _LOOKED_AT_SINGLY:
                            yield from self._sdk_listed(prefix, max(after, begin))
                            return
                        if key in looked_at or not self._is_empty_object(key):
                            key += "/"
                        looked_at.add(key)
                    begin = key
                    if key.startswith(prefix) and key > after:
                        yield ObjectInfo(key, meta["size"], meta["last_modified"].timestamp(), meta["e_tag"] or "")
                    elif key > prefix and not key.startswith(prefix):
                        return
        except obstore.exceptions.InvalidPathError:
            yield from self._sdk_listed(prefix, max(after, begin))
        except StoreError:
            raise
        except Exception as error:
            raise self.explained(error, "list", prefix[len(self._prefix) :]) from error

    def _is_empty_object(self, path: str) -> bool:
        try:
            return self._client.head(path)["size"] == 0
        except FileNotFoundError:
            return False

    def _sdk_listed(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        return (info for info in self._listing(prefix, after) if info.key.startswith(prefix) and info.key > after)


class Renewal:
    """Renews one store's credentials after a refusal; thread-safe.

    Each SDK renews temporary credentials before they expire, but it cannot know that a key was replaced, that the user logged in again, or
    that a token was revoked early. If the credential chain finds other credentials after a refusal, the request is retried; otherwise the
    refusal is final.
    """

    def __init__(self, renew: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """``renew`` asks the credential chain and switches to other credentials if there are any; it returns whether it did."""
        self._renew, self._clock = renew, clock
        self._lock = Lock()
        self._renewed = self._asked = float("-inf")

    def came(self) -> bool:
        """Look for other credentials after a refusal; returns whether there are any. Raises StoreError if the chain fails."""
        with self._lock:
            if self._clock() - self._renewed < _UNDER_WAY_SECONDS:
                return True
            if self._clock() - self._asked < _PAUSE_SECONDS:
                return False
            self._asked = self._clock()
            if self._renew():
                self._renewed = self._clock()
                return True
            return False


def _info(key: str, result: "GetResult") -> ObjectInfo:
    meta = result.meta
    sha256 = {str(name).lower(): str(value) for name, value in result.attributes.items()}.get(SHA256)
    return ObjectInfo(key, meta["size"], meta["last_modified"].timestamp(), meta["e_tag"] or "", sha256, meta["version"] or "")
