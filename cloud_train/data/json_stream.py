"""Reads a large JSON document piece by piece, in memory that does not grow with it.

``json.loads`` takes up to twelve times a document's size. This reader takes only what its caller keeps, plus a buffer of a few MiB. It is
stricter than RFC 8259: keys may not repeat, and strings are short. It imports only the standard library, because the worker uses it;
ijson, the library for this, is not in a user's own image.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import json
import re
from collections.abc import Iterator
from typing import BinaryIO

_READ_BYTES = 1 << 20
_LONGEST_TOKEN = 8192
"""More bytes than any of the patterns below matches."""
_MOST_KEYS = 100
_MOST_SKIPPED = 100_000
_DEEPEST = 32

_SPACE = rb"[ \t\n\r]{0,64}"
_TEXT = re.compile(_SPACE + rb'"(?:([^"\\\x00-\x1f]{0,2048})|((?:[^"\\\x00-\x1f]|\\.){0,2048}))"')
_WHOLE = re.compile(_SPACE + rb"(0|[1-9][0-9]{0,18})(?![0-9.eE])")
_OTHER = re.compile(_SPACE + rb"(?:-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][-+]?[0-9]{1,4})?|true|false|null)(?![0-9a-z.])")
_PUNCTUATION = {
    "{": re.compile(_SPACE + rb"{"),
    "}": re.compile(_SPACE + rb"}"),
    "[": re.compile(_SPACE + rb"\["),
    "]": re.compile(_SPACE + rb"\]"),
    ":": re.compile(_SPACE + rb":"),
    ",": re.compile(_SPACE + rb","),
}
_NEXT = re.compile(_SPACE + rb"([^ \t\n\r])")
_TEXTS = re.compile(rb'"((?:[^"\\\x00-\x1f]{0,2048}","){1,4000})')
_WHOLES = re.compile(rb"((?:(?:0|[1-9][0-9]{0,18}),){1,4000})(?=[0-9])")
_END = re.compile(_SPACE + rb"\Z")


class JsonStream:
    """A document in a file, read from its first byte to its last. Every method raises ValueError with the position of a mistake."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = b""
        self._at = 0  # in the buffer
        self._before = 0  # bytes of the document before the buffer
        self._skipped = 0

    def fields(self) -> Iterator[str]:
        """The keys of an object. The caller reads or skips the value of each before it takes the next."""
        seen: set[str] = set()
        for _ in self._elements("{", "}"):
            key = self.text()
            if key in seen:
                raise ValueError(f"duplicate key {key[:100]!r}")
            if len(seen) == _MOST_KEYS:
                raise ValueError(f"an object has more than {_MOST_KEYS} keys")
            seen.add(key)
            self._take(_PUNCTUATION[":"], "a colon")
            yield key

    def items(self) -> Iterator[None]:
        """Once for each value of an array. The caller reads or skips it before it takes the next."""
        return self._elements("[", "]")

    def texts(self) -> Iterator[str]:
        """The values of an array of strings."""
        for _ in self.items():
            if found := self._matched(_TEXTS):  # most of the buffer at once
                self._at = found.end() - 1
                yield from str(found.group(1)[:-3], "utf-8").split('","')
            yield self.text()

    def wholes(self) -> Iterator[int]:
        """The values of an array of whole numbers from 0."""
        for _ in self.items():
            if found := self._matched(_WHOLES):
                self._at = found.end()
                yield from map(int, found.group(1)[:-1].split(b","))
            yield self.whole()

    def text(self) -> str:
        """A string of at most 2,048 bytes."""
        plain, escaped = self._take(_TEXT, "a string of at most 2,048 bytes").groups()
        if plain is not None:
            return str(plain, "utf-8")
        return str(json.loads(b'"' + escaped + b'"'))

    def whole(self) -> int:
        """A whole number from 0, of at most 19 digits."""
        return int(self._take(_WHOLE, "a whole number from 0").group(1))

    def skip(self, depth: int = 0) -> None:
        """Skip a value of any kind."""
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        self._skipped += 1
        if self._skipped > _MOST_SKIPPED:
            raise ValueError(f"it has more than {_MOST_SKIPPED:,} values under unknown keys")
        if self._is_next("{"):
            for _ in self.fields():
                self.skip(depth + 1)
        elif self._is_next("["):
            for _ in self.items():
                self.skip(depth + 1)
        elif self._is_next('"'):
            self.text()
        else:
            self._take(_OTHER, "a value")

    def finish(self) -> None:
        """Raise ValueError unless the document ends here."""
        self._take(_END, "the end")

    def _elements(self, opening: str, closing: str) -> Iterator[None]:
        self._take(_PUNCTUATION[opening], opening)
        if self._try(_PUNCTUATION[closing]):
            return
        yield
        while not self._try(_PUNCTUATION[closing]):
            self._take(_PUNCTUATION[","], f"a comma or {closing}")
            yield

    def _is_next(self, mark: str) -> bool:
        found = self._matched(_NEXT)
        return found is not None and found.group(1) == mark.encode()

    def _try(self, pattern: re.Pattern[bytes]) -> bool:
        found = self._matched(pattern)
        if found is not None:
            self._at = found.end()
        return found is not None

    def _take(self, pattern: re.Pattern[bytes], expected: str) -> re.Match[bytes]:
        found = self._matched(pattern)
        if found is None:
            raise ValueError(f"expected {expected} at byte {self._before + self._at:,}")
        self._at = found.end()
        return found

    def _matched(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        if len(self._buffer) - self._at < _LONGEST_TOKEN and (more := self._file.read(_READ_BYTES)):
            self._buffer = self._buffer[self._at :] + more
            self._before, self._at = self._before + self._at, 0
        return pattern.match(self._buffer, self._at)
