"""Standard output and standard error as the verbs use them: text, JSON or raw bytes, colour only where it is wanted.

Everything goes through here so that one place knows about NO_COLOR, about a reader that went away (``cloud-train logs | head``), and about
control characters in text that a program or a store supplied.
"""

import json
import os
import re
import sys
from typing import Any, TextIO

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
# C0 and C1 controls and DEL drive a terminal; the bidirectional marks reorder what is shown; lone surrogates cannot be encoded.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class OutputClosedError(Exception):
    """Whoever read our output went away: there is nothing left to say, and nobody to say it to."""


class Painter:
    """Puts colour into text for one stream, or leaves it plain."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    @classmethod
    def of(cls, stream: TextIO) -> "Painter":
        """Colour for a terminal, unless NO_COLOR is set (https://no-color.org) or the terminal is ``dumb``."""
        return cls(moves_its_cursor(stream) and not os.environ.get("NO_COLOR"))

    def __call__(self, text: str, colour: str) -> str:
        """``text`` in ``colour``: bold, dim, red, green, yellow, blue or cyan."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.enabled and text else text


def is_terminal(stream: TextIO) -> bool:
    """Whether a person sees what is written to ``stream``."""
    return stream.isatty()


def moves_its_cursor(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that understands escape sequences. NO_COLOR does not matter here: it asks for no colour only."""
    return is_terminal(stream) and os.environ.get("TERM", "dumb") != "dumb"


def clean(text: str) -> str:
    """``text`` on one line, with every control character made visible by its escape: ESC becomes a backslash, ``x1b``."""
    if text.isascii() and text.isprintable():
        return text  # nearly always, and ten thousand times for a long list
    return _UNSAFE.sub(lambda match: _visible(match[0]), text)


def clean_lines(text: str) -> str:
    """As ``clean``, but line feeds stay."""
    return "\n".join(clean(line) for line in text.split("\n"))


def say(text: str = "") -> None:
    """Print a line, or lines, to standard output."""
    _write(sys.stdout, text + "\n")


def say_aside(text: str = "") -> None:
    """Print to standard error: what is for a person beside the data."""
    _write(sys.stderr, text + "\n")


def say_bare(text: str) -> None:
    """Print to standard output without ending the line: for a line that is drawn again and again."""
    _write(sys.stdout, text)


def say_aside_bare(text: str) -> None:
    """As ``say_bare``, to standard error."""
    _write(sys.stderr, text)


def say_json(data: object, indented: bool = False) -> None:
    """Print ``data`` as the one JSON document on standard output, indented for a person and compact for a program unless ``indented``.

    ASCII only, so that it survives every encoding; a number that is not finite becomes null.
    """
    indent = 2 if indented or is_terminal(sys.stdout) else None  # json indents in Python, ten times slower
    try:
        text = json.dumps(data, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), indent=indent, allow_nan=False)
    _write(sys.stdout, text + "\n")


def write_bytes(data: bytes) -> None:
    """Write ``data`` to standard output, byte for byte, at once."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


def _visible(character: str) -> str:
    if character == "\t":
        return "    "
    return character.encode("unicode_escape").decode("ascii")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    # NaN and infinity are not JSON; x - x is 0 for every other number.
    if isinstance(data, float) and data - data != 0:
        return None
    return data
