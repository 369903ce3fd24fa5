"""Upload of one blob into a repository: in pieces, continued after a broken connection from what has arrived.

The requests are those of https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-blobs.
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
# The registry has forgotten the upload, or has another idea of how much has arrived: asking it mends both.
_MENDED_BY_ASKING = frozenset({404, 416})


@dataclass(frozen=True)
class Uploader:
    """How blobs are sent into a repository. ``path`` is /v2/NAME/blobs/, ``scope`` the right to write there."""

    connection: Connection
    path: str
    scope: str
    about: str
    """What an error calls it."""

    def send(self, blob: Blob) -> int:
        """Upload a blob, and return the bytes that were sent. Raises RegistryError if the registry refuses, or drops every connection."""
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
                raise BrokenConnectionError(f"{host} closed the connection of an upload {where}, {left.failures} times", hint="retry later")
        elif response.status_code not in TRANSIENT_STATUSES | _MENDED_BY_ASKING or not waited(left, response):
            raise refusal(host, self.about, response)

    def _ask(self, location: str) -> tuple[int, str]:
        """How much has arrived, and the URL for the rest; an upload that the registry has forgotten starts again."""
        response = self.connection.request("GET", location, self.scope, expect=(204, 404), about=self.about)
        arrived = response.headers.get("Range", "").rpartition("-")[2]
        # "0-0" stands for nothing as well as for one byte.
        if response.status_code == 404 or not _NUMBER.fullmatch(arrived) or int(arrived) == 0:
            return 0, self._start()
        return int(arrived) + 1, location_of(self.connection, response, location)

    def _finish(self, location: str, blob: Blob) -> None:
        address = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': blob.digest})}"
        try:
            response = self.connection.request("PUT", address, self.scope, expect=(201, 204), about=self.about)
        except RegistryError as error:
            # If only the response was lost, the upload is finished and the blob exists.
            if error.status != 404 or not self._is_there(blob):
                raise
            return
        if response.headers.get("Docker-Content-Digest", blob.digest) != blob.digest:
            raise CorruptError(f"{self.connection.host} stored a different blob than {blob.digest}")

    def _is_there(self, blob: Blob) -> bool:
        response = self.connection.request("HEAD", f"{self.path}{blob.digest}", self.scope, expect=(200, 404), about=self.about)
        return response.status_code == 200


def location_of(connection: Connection, response: Answer, default: str = "") -> str:
    """The URL of the rest of an upload. Raises RegistryError if the registry does not name one, or one where it may not send its client."""
    location = response.headers.get("Location", default)
    if not location:
        raise RegistryError(f"the registry does not name the URL of an upload: {response.url.partition('?')[0]}")
    return connection.addresses.joined(response.url, location)


def _piece(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.read(_PIECE)
