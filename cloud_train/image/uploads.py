"""Uploads a blob to a repository in pieces, and resumes after a broken connection.

The requests follow https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-blobs.
"""

import re
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urlencode

from cloud_train.errors import CorruptError
from cloud_train.image.answers import Answer
from cloud_train.image.connection import Connection, refusal, waited
from cloud_train.image.errors import BrokenConnectionError, RegistryError
from cloud_train.image.layers import Blob
from cloud_train.retry import TRANSIENT_STATUSES, Attempts

_PIECE = 16 << 20
_NUMBER = re.compile(r"[0-9]{1,18}")
# The registry has lost the upload, or received a different amount. Asking for the upload's status resolves both.
_MENDED_BY_ASKING = frozenset({404, 416})


@dataclass(frozen=True)
class Uploader:
    """Uploads to one repository. ``path`` is /v2/NAME/blobs/, ``scope`` the permission to write there."""

    connection: Connection
    path: str
    scope: str
    about: str
    """The description of the request in errors."""

    def send(self, blob: Blob) -> int:
        """Upload a blob, and return its size in bytes. Raises RegistryError if the registry refuses it, or closes every connection."""
        location = self._start()
        offset, left = 0, self.connection.policy.attempts_left()
        with blob.file.open("rb") as file:
            while offset < blob.size:
                piece = _piece(file, offset)
                response = self._send_piece(location, piece, offset)
                if response is not None and response.status_code in (202, 204):
                    offset, location = offset + len(piece), location_of(self.connection, response, location)
                    left.restart()
                    continue
                self._wait_or_give_up(response, left, f"at {offset:,} of {blob.size:,} bytes")
                offset, location = self._ask(location)
        self._finish(location, blob)
        return blob.size

    def _start(self) -> str:
        return location_of(
            self.connection, self.connection.request("POST", f"{self.path}uploads/", self.scope, expect=(202,), about=self.about)
        )

    def _send_piece(self, location: str, piece: bytes, offset: int) -> Answer | None:
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{offset}-{offset + len(piece) - 1}"}
        try:
            return self.connection.once("PATCH", location, self.scope, data=piece, headers=headers)
        except BrokenConnectionError:
            return None

    def _wait_or_give_up(self, response: Answer | None, left: Attempts, where: str) -> None:
        host = self.connection.host
        if response is None:
            if not left.wait():
                raise BrokenConnectionError(f"{host} closed the connection of an upload {left.failures} times, {where}", hint="retry later")
        elif response.status_code not in TRANSIENT_STATUSES | _MENDED_BY_ASKING or not waited(left, response):
            raise refusal(host, self.about, response)

    def _ask(self, location: str) -> tuple[int, str]:
        """The number of bytes that have arrived, and the URL for the rest. An upload that the registry has lost starts over."""
        response = self.connection.request("GET", location, self.scope, expect=(204, 404), about=self.about)
        arrived = response.headers.get("Range", "").rpartition("-")[2]
        # "0-0" means either nothing or one byte.
        if response.status_code == 404 or not _NUMBER.fullmatch(arrived) or int(arrived) == 0:
            return 0, self._start()
        return int(arrived) + 1, location_of(self.connection, response, location)

    def _finish(self, location: str, blob: Blob) -> None:
        address = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': blob.digest})}"
        try:
            response = self.connection.request("PUT", address, self.scope, expect=(201, 204), about=self.about)
        except RegistryError as error:
            # If only the response was lost, the upload is complete and the blob exists.
            if error.status != 404 or not self._is_there(blob):
                raise
            return
        if response.headers.get("Docker-Content-Digest", blob.digest) != blob.digest:
            raise CorruptError(f"{self.connection.host} stored a blob whose digest is not {blob.digest}")

    def _is_there(self, blob: Blob) -> bool:
        response = self.connection.request("HEAD", f"{self.path}{blob.digest}", self.scope, expect=(200, 404), about=self.about)
        return response.status_code == 200


def location_of(connection: Connection, response: Answer, default: str = "") -> str:
    """The URL for the rest of an upload. Raises RegistryError if the registry sent none, or one that is not allowed."""
    location = response.headers.get("Location", default)
    if not location:
        raise RegistryError(f"the registry sent no URL for an upload: {response.url.partition('?')[0]}")
    return connection.addresses.joined(response.url, location)


def _piece(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.read(_PIECE)
