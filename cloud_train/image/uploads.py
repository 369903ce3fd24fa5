"""Uploads a blob to a repository: a POST, and one PUT of the whole blob, streamed from its file.

The requests follow https://github.com/opencontainers/distribution-spec/blob/main/spec.md#post-then-put. One PUT is what every registry
accepts: Artifact Registry takes no blob in chunks (https://cloud.google.com/artifact-registry/docs/reference/docker-api), and Amazon ECR
reports a wrong position within one, so that it cannot be resumed (https://github.com/aws/containers-roadmap/issues/2831). An upload that
breaks starts over, with a new POST, because registries refuse a second PUT to the same URL
(https://github.com/apple/containerization/issues/790, https://github.com/Azure/acr/issues/866).

Some registries and proxies limit the size of a request. They answer 413, as Azure Container Registry does for some clients
(https://github.com/goharbor/harbor/issues/23015), or close the connection (https://github.com/Azure/azure-sdk-for-net/pull/32059). Only
then is a blob sent in chunks.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from urllib.parse import urlencode

from cloud_train.errors import CorruptError
from cloud_train.image.answers import Answer
from cloud_train.image.connection import Connection, refusal, waited
from cloud_train.image.errors import BrokenConnectionError, RegistryError
from cloud_train.image.layers import Blob
from cloud_train.retry import TRANSIENT_STATUSES, Attempts

CHUNK_BYTES = 8 << 20
"""The size of a chunk: within Amazon ECR's limits of 5 and 10 MiB
(https://docs.aws.amazon.com/AmazonECR/latest/userguide/service-quotas.html), and below the 20 MB of Azure Container Registry.
"""
TOO_LARGE = 413
_BECAUSE_OF_ITS_SIZE = f"({TOO_LARGE})"

_CREATED = 201
_DONE = frozenset({_CREATED, 202, 204})
"""The specification requires 201 after a PUT and 202 after a PATCH. Amazon ECR answers a PATCH with 201
(https://github.com/jdx/mise/pull/11376), and other registries answer with 204 (https://github.com/pulp/pulp_container/issues/2199).
"""
_MENDED_BY_STARTING_OVER = frozenset({404, 416})
"""The registry has lost the upload, or already has a part of it."""
_LARGE_BYTES = 50_000_000
_TELL_SECONDS = 10.0
_STALLED_SECONDS = 60.0
"""For how long a registry may accept no bytes; urllib3 applies the limit for connecting to sending, too."""
_STORING_SECONDS, _SLOWEST_BYTES_PER_SECOND = 120.0, 10_000_000
"""How long a registry may need to store a blob before it answers: so long, and more for a large one."""
_LIMITS = "if there is a proxy before the registry, raise its limit for the size of a request, such as nginx's client_max_body_size"


@dataclass
class Uploader:
    """Uploads to one repository; thread-safe. ``path`` is /v2/NAME/blobs/, ``scope`` the permission to write there."""

    connection: Connection
    path: str
    scope: str
    about: str
    """The description of the request in errors."""
    note: Callable[[str], None] = lambda line: None
    """Receives a line when the upload of a large blob begins, and every ten seconds while it continues."""
    takes_chunks: bool = True
    """Whether the registry may accept a blob in chunks."""
    _in_chunks: bool = field(default=False, init=False)
    """Whether the registry, or a proxy before it, has refused a whole blob."""

    def send(self, blob: Blob) -> int:
        """Upload a blob, and return its size in bytes. Raises RegistryError if the registry refuses it, or closes every connection."""
        left, refused = self.connection.policy.attempts_left(), ""
        while True:
            in_chunks = self._in_chunks and blob.size > CHUNK_BYTES
            response = self._attempt(blob, in_chunks=in_chunks)
            if response is not None and self._is_complete(response, blob):
                return blob.size
            if response is None and self._is_there(blob):  # only the response was lost
                return blob.size
            why = self._reason_for_chunks(response, left, blob) if not in_chunks else None
            if why is not None:
                self._in_chunks, left, refused = True, self.connection.policy.attempts_left(), why
            else:
                self._wait_or_give_up(response, left, blob, refused)

    def _attempt(self, blob: Blob, *, in_chunks: bool) -> Answer | None:
        """Send the blob once; None if the connection broke."""
        location = self._start()
        with _Reporting(blob, self.connection.host, self.note) as file:
            try:
                return self._send_chunks(location, blob, file) if in_chunks else self._send_whole(location, blob, file)
            except BrokenConnectionError:
                return None

    def _start(self) -> str:
        return location_of(
            self.connection, self.connection.request("POST", f"{self.path}uploads/", self.scope, expect=(202,), about=self.about)
        )

    def _send_whole(self, location: str, blob: Blob, file: "_Reporting") -> Answer:
        # For an empty file, requests would announce no length, but chunks.
        return self._put(location, blob, file if blob.size else b"")

    def _send_chunks(self, location: str, blob: Blob, file: "_Reporting") -> Answer:
        """Send all chunks, the last one with the PUT: Amazon ECR refuses one without (https://github.com/openai/tart/pull/159)."""
        start = 0
        while True:
            chunk = file.read(CHUNK_BYTES)
            span = {"Content-Range": f"{start}-{start + len(chunk) - 1}"}
            start += len(chunk)
            if start >= blob.size or not chunk:
                return self._put(location, blob, chunk, **span)
            headers = {"Content-Type": "application/octet-stream", **span}
            response = self.connection.once("PATCH", location, self.scope, data=chunk, headers=headers)
            if response.status_code not in _DONE:
                return response
            location = location_of(self.connection, response, location)

    def _put(self, location: str, blob: Blob, data: "_Reporting | bytes", **headers: str) -> Answer:
        address = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': blob.digest})}"
        return self.connection.once(
            "PUT",
            address,
            self.scope,
            data=data,
            headers={"Content-Type": "application/octet-stream", **headers},
            timeout=(_STALLED_SECONDS, _STORING_SECONDS + blob.size / _SLOWEST_BYTES_PER_SECOND),
        )

    def _is_complete(self, response: Answer, blob: Blob) -> bool:
        """Whether the registry has stored the blob. Raises CorruptError if it has stored something else."""
        if response.status_code not in _DONE:
            return False
        if response.headers.get("Docker-Content-Digest", blob.digest) != blob.digest:
            raise CorruptError(f"{self.connection.host} stored a blob whose digest is not {blob.digest}")
        return response.status_code == _CREATED or self._is_there(blob)

    def _is_there(self, blob: Blob) -> bool:
        response = self.connection.request("HEAD", f"{self.path}{blob.digest}", self.scope, expect=(200, 404), about=self.about)
        return response.status_code == 200

    def _reason_for_chunks(self, response: Answer | None, left: Attempts, blob: Blob) -> str | None:
        """Why the blob has to be sent in chunks; None if it does not, or cannot be."""
        if blob.size <= CHUNK_BYTES or not self.takes_chunks:
            return None
        if response is not None and response.status_code == TOO_LARGE:
            return f"a request of {blob.size:,} bytes {_BECAUSE_OF_ITS_SIZE}"
        if response is None and left.failures + 1 == self.connection.policy.attempts:
            return f"a request of {blob.size:,} bytes ({left.failures + 1} connections broke)"
        return None

    def _wait_or_give_up(self, response: Answer | None, left: Attempts, blob: Blob, refused: str) -> None:
        host = self.connection.host
        if response is None:
            if not left.wait():
                words = f"{host} closed the connection of an upload {left.failures} times; the blob has {blob.size:,} bytes"
                raise BrokenConnectionError(words, hint="retry later")
        elif response.status_code not in TRANSIENT_STATUSES | _MENDED_BY_STARTING_OVER | _DONE or not waited(left, response):
            error = refusal(host, self.about, response)
            if refused:
                words = f"{host} refused {refused}, and refused the same in chunks of {CHUNK_BYTES:,} bytes: {error.message}"
                raise RegistryError(words, hint=_LIMITS, status=TOO_LARGE if refused.endswith(_BECAUSE_OF_ITS_SIZE) else error.status)
            raise error


def location_of(connection: Connection, response: Answer, default: str = "") -> str:
    """The URL for the rest of an upload. Raises RegistryError if the registry sent none, or one that is not allowed."""
    location = response.headers.get("Location", default)
    if not location:
        raise RegistryError(f"the registry sent no URL for an upload: {response.url.partition('?')[0]}")
    return connection.addresses.joined(response.url, location)


class _Reporting(FileIO):
    """A file that reports how much of it has been read. Reading again from the start, as after a redirect, counts again."""

    def __init__(self, blob: Blob, host: str, note: Callable[[str], None]) -> None:
        super().__init__(blob.file, "rb")
        self._blob, self._host, self._note = blob, host, note
        self._told = time.monotonic()
        if blob.size >= _LARGE_BYTES:
            note(f"uploading a layer ({blob.size / 1e6:,.1f} MB) to {host}")

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size)
        if self._blob.size >= _LARGE_BYTES and time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            self._note(f"uploaded {self.tell() / self._blob.size:.0%} of a layer ({self._blob.size / 1e6:,.1f} MB) to {self._host}")
        return data
