"""A registry's answers, of which only so much is read into memory as an honest one has."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cloud_train.errors import CorruptError
from cloud_train.image.errors import BrokenConnectionError

if TYPE_CHECKING:
    from requests import Response

LARGEST_BYTES = 4 << 20
"""Of a manifest, as the specification asks of registries, and of everything else that is read into memory: a larger answer is refused."""

_PIECE = 64 * 1024
_LARGE_PIECE = 1 << 20


class Answer:
    """An answer whose body is in ``content``, unless it is a ``streamed`` success: then it is still to be read, by ``pieces``.

    Bodies are read as they are sent: nothing is unpacked, since a few bytes could unpack to any number.

    Raises CorruptError for a body that is too large or packed; that of a refusal or a redirect is cut off instead. Raises
    BrokenConnectionError where the connection ends early.
    """

    def __init__(self, host: str, response: "Response", *, streamed: bool = False) -> None:
        self._host = host
        self._response = response
        self.status_code: int = response.status_code
        self.headers = response.headers
        self.reason: str = response.reason or ""
        self.url: str = response.url
        self.is_redirect: bool = response.is_redirect
        self._is_success = 200 <= self.status_code < 300
        self.content = b"" if streamed and self._is_success else self._limited()

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; one with an unread body is closed."""
        self._response.close()

    def pieces(self) -> Iterator[bytes]:
        """The body, piece by piece."""
        while piece := self._read(_LARGE_PIECE):
            yield piece

    def _limited(self) -> bytes:
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        data = bytearray()
        while len(data) <= LARGEST_BYTES and (piece := self._read(_PIECE)):
            if encoding not in ("", "identity"):
                self.close()
                if not self._is_success:
                    return b""
                raise CorruptError(f"{self._host} sends an answer that is packed with {encoding[:40]!r}, which was not asked for")
            data += piece
        if len(data) > LARGEST_BYTES:
            self.close()
            if self._is_success:
                raise CorruptError(f"{self._host} sends an answer of more than {LARGEST_BYTES >> 20} MiB where a small one belongs")
        return bytes(data[:LARGEST_BYTES])

    def _read(self, most: int) -> bytes:
        from urllib3.exceptions import HTTPError

        try:
            # Not ``iter_content``, which reads the length of a chunk without a limit.
            piece: bytes = self._response.raw.read(most, decode_content=False)
        except (HTTPError, OSError) as error:
            self.close()
            raise BrokenConnectionError(f"the registry {self._host} closed the connection within an answer", hint="retry") from error
        return piece


def read_json(data: bytes, what: str) -> Any:
    """A JSON document. Raises CorruptError, which calls it ``what``, for anything else, such as a list in a list a million times."""
    try:
        document = json.loads(data)
        if b"\\u" in data:
            json.dumps(document, ensure_ascii=False).encode()  # fails for half a character, with which no text could be written
        return document
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{what} is not a JSON document") from error
