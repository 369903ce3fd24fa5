"""Standard output and standard error as the verbs use them: text, JSON or raw bytes, colour only where it is wanted.

Everything goes through here so that one place knows about NO_COLOR, about a reader that went away (``cloud-train logs | head``), and about
control characters in text that a program, a store or a file supplied.

**Every text is cleaned when it is written.** What a terminal would obey becomes visible (ESC becomes a backslash, ``x1b``); the
exceptions are line feeds, the colours of a ``Painter``, and the cursor moves of ``redraw``. A Painter spells its colours with a key that is
drawn when the process starts, so no text from outside can contain them. A verb therefore cannot forget to clean a text. ``clean`` is for
text that has to stay on one line, such as a cell of a table.
"""

import json
import os
import re
import sys
from typing import Any, TextIO

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
UNSAFE = (
    "\x00-\x09\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls and DEL drive a terminal
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # line separators; marks that reorder what is shown
    "\xad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"  # show nothing, and so hide a text in another
    "\ud800-\udfff"  # lone surrogates cannot be encoded
)
"""What is made visible, but for line feeds, as it stands inside the brackets of a pattern."""
_UNSAFE = re.compile(f"[{UNSAFE}\n]")
_MARK = f"\x1b{os.urandom(8).hex()}"
"""How a Painter spells the beginning of an escape sequence: nobody who wrote a text can have known it."""
_WRITTEN = re.compile(f"{_MARK}(?P<colour>\\[[0-9;]*m)|[{UNSAFE}]")
_SGR = re.compile("\x1b(\\[[0-9;]*m)")


class OutputClosedError(Exception):
    """The reader of the output is gone, so the command ends quietly."""


class Painter:
    """Puts colour into text for one stream, or leaves it plain."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    @classmethod
    def of(cls, stream: TextIO) -> "Painter":
        """Colour for a terminal, unless NO_COLOR is set (https://no-color.org) or the terminal is ``dumb``."""
        return cls(moves_its_cursor(stream) and not os.environ.get("NO_COLOR"))

    def __call__(self, text: str, colour: str) -> str:
        """``text`` in ``colour``: bold, dim, red, green, yellow, blue or cyan. It becomes an escape sequence when it is written."""
        return f"{_MARK}[{_COLOURS[colour]}m{text}{_MARK}[0m" if self.enabled and text else text

    def drawing(self, text: str) -> str:
        """What a library has drawn from text that was cleaned before: its colours are kept, or taken out."""
        return _SGR.sub(f"{_MARK}\\1" if self.enabled else "", text)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees what is written to ``stream``, or types what is read from it; nobody where it is closed."""
    return stream is not None and not stream.closed and stream.isatty()


def moves_its_cursor(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that understands escape sequences. NO_COLOR does not matter here: it asks for no colour only."""
    return is_terminal(stream) and os.environ.get("TERM", "dumb") != "dumb"


def clean(text: str) -> str:
    """``text`` on one line, with every control character made visible by its escape: ESC becomes a backslash, ``x1b``."""
    if text.isascii() and text.isprintable():
        return text  # nearly always, and ten thousand times for a long list
    return _UNSAFE.sub(lambda match: visible(match[0]), text)


def clean_lines(text: str) -> str:
    """As ``clean``, but line feeds stay."""
    return "\n".join(clean(line) for line in text.split("\n"))


def finished(text: str) -> str:
    """``text`` as it reaches a stream: cleaned, with the colours of a Painter as escape sequences."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return _WRITTEN.sub(lambda match: f"\x1b{match['colour']}" if match["colour"] else visible(match[0]), text)


def visible(character: str) -> str:
    """How a character is shown that a terminal would obey: four spaces for a tab, otherwise its escape."""
    if character == "\t":
        return "    "
    return character.encode("unicode_escape").decode("ascii")


def say(text: str = "") -> None:
    """Print a line, or lines, to standard output."""
    _write(sys.stdout, text + "\n")


def say_aside(text: str = "") -> None:
    """Print to standard error: what is for a person beside the data."""
    _write(sys.stderr, text + "\n")


def say_bare(text: str) -> None:
    """Print to standard output without ending the line."""
    _write(sys.stdout, text)


def redraw(text: str) -> None:
    """Show ``text`` in place of the line that the cursor of standard output stands in."""
    _write(sys.stdout, text, before="\r\x1b[K")


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
    """Write ``data`` to standard output, byte for byte, at once. Only ``program_output`` may: it cleans what a terminal gets."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


def _write(stream: TextIO, text: str, before: str = "") -> None:
    try:
        stream.write(before + finished(text))
        stream.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    # NaN and infinity are not JSON; x - x is 0 for every other number.
    if isinstance(data, float) and data - data != 0:
        return None
    return data
