"""A registry's responses, read with a limit on their size."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cloud_train.errors import CorruptError
from cloud_train.image.errors import BrokenConnectionError

if TYPE_CHECKING:
    from requests import Response

LARGEST_BYTES = 4 << 20
"""The most that is read into memory; a larger response is refused. The specification requires this limit for manifests."""

_PIECE = 64 * 1024
_LARGE_PIECE = 1 << 20


class Answer:
    """A response with its body in ``content``; the body of a ``streamed`` success is read with ``pieces`` instead.

    Bodies are never decompressed, because a few bytes could decompress to any size.

    Raises CorruptError for a body that is too large or compressed; that of an error or a redirect is truncated instead. Raises
    BrokenConnectionError if the connection ends early.
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
        """Release the connection, or close it if the body was not read completely."""
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
                raise CorruptError(f"{self._host} sent a response with the content encoding {encoding[:40]!r}, which was not requested")
            data += piece
        if len(data) > LARGEST_BYTES:
            self.close()
            if self._is_success:
                raise CorruptError(f"{self._host} sent a response of more than {LARGEST_BYTES >> 20} MiB, but a small one was expected")
        return bytes(data[:LARGEST_BYTES])

    def _read(self, most: int) -> bytes:
        from urllib3.exceptions import HTTPError

        try:
            # Not ``iter_content``, which reads chunk lengths without a limit.
            piece: bytes = self._response.raw.read(most, decode_content=False)
        except (HTTPError, OSError) as error:
            self.close()
            raise BrokenConnectionError(
                f"the registry {self._host} closed the connection in the middle of a response", hint="retry"
            ) from error
        return piece


def read_json(data: bytes, what: str) -> Any:
    """Parse a JSON document, called ``what`` in errors. Raises CorruptError if it is malformed or too deeply nested."""
    try:
        document = json.loads(data)
        if b"\\u" in data:
            json.dumps(document, ensure_ascii=False).encode()  # fails for a lone surrogate, with which no text could be written
        return document
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{what} is not valid JSON") from error
