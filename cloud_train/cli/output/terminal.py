"""Standard output and standard error for the verbs: text, JSON or raw bytes, and colour where it is wanted.

All output goes through this module, which handles NO_COLOR, a closed pipe (``cloud-train logs | head``), and control characters in text
from a program, a store or a file.

**Every text is cleaned when it is written.** Control characters are made visible (ESC becomes a backslash, ``x1b``), except line feeds, the
colours of a ``Painter``, and the cursor moves of ``redraw``. A Painter marks its colours with a random key, drawn when the process starts,
so text from outside cannot contain them. No verb can therefore forget to clean a text. ``clean`` is for text that must stay on one line,
such as a cell of a table.

**The output of a run's program** goes byte for byte to a pipe or a file. On a terminal, progress bars and coloured lines still work:
carriage returns, tabs, colours (SGR) and line erasing (EL) pass. Every other control sequence is shown as text: clipboard and title
sequences (OSC), other cursor moves, device control strings (DCS), C1 controls, and marks that reorder text.
"""

import codecs
import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, TextIO

from cloud_train.errors import StoreError

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
UNSAFE = (
    "\x00-\x09\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls and DEL control a terminal
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # line separators, and marks that reorder text
    "\xad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"  # invisible characters, which can hide text
    "\ud800-\udfff"  # lone surrogates cannot be encoded
)
"""The characters to make visible, besides line feeds, as the content of a regular expression's set."""
_UNSAFE = re.compile(f"[{UNSAFE}\n]")
_MARK = f"\x1b{os.urandom(8).hex()}"
"""A Painter's mark for the beginning of an escape sequence: unknown to the author of any text."""
_WRITTEN = re.compile(f"{_MARK}(?P<colour>\\[[0-9;]*m)|[{UNSAFE}]")
_SGR = re.compile("\x1b(\\[[0-9;]*m)")


_LONGEST_COLOUR = 64
_COLOUR = rf"\x1b\[[0-9;:]{{0,{_LONGEST_COLOUR}}}m"
_OBEYED = re.compile(rf"(?P<passes>{_COLOUR}|\x1b\[[0-2]?K|[\t\r])|[{UNSAFE}]")
_BEGUN = re.compile(rf"\x1b(?:\[[0-9;:]{{0,{_LONGEST_COLOUR}}})?")
_ENDS_COLOUR = re.compile(r"\x1b\[[0;:]*m")


_ITEMS_AT_ONCE = 1000

FULL = {errno.ENOSPC, errno.EDQUOT}
"""The error numbers of a full disk."""


class OutputClosedError(Exception):
    """The reader of the output has exited; the command ends quietly."""


class Painter:
    """Colours text for one stream, or leaves it plain."""

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
        """A library's drawing of cleaned text, with its colours kept or removed."""
        return _SGR.sub(f"{_MARK}\\1" if self.enabled else "", text)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether ``stream`` is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def moves_its_cursor(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that understands escape sequences. NO_COLOR does not matter here."""
    return is_terminal(stream) and os.environ.get("TERM", "dumb") != "dumb"


def clean(text: str) -> str:
    """``text`` on one line, with every control character made visible by its escape: ESC becomes a backslash, ``x1b``."""
    if text.isascii() and text.isprintable():
        return text  # the usual case, and fast for long lists
    return _UNSAFE.sub(lambda match: visible(match[0]), text)


def clean_lines(text: str) -> str:
    """Like ``clean``, but keeps line feeds."""
    return "\n".join(clean(line) for line in text.split("\n"))


def finished(text: str) -> str:
    """``text`` as it reaches a stream: cleaned, with the colours of a Painter as escape sequences."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return _WRITTEN.sub(lambda match: f"\x1b{match['colour']}" if match["colour"] else visible(match[0]), text)


def visible(character: str) -> str:
    """The visible form of a control character: four spaces for a tab, otherwise its escape."""
    if character == "\t":
        return "    "
    return character.encode("unicode_escape").decode("ascii")


def say(text: str = "") -> None:
    """Print a line, or lines, to standard output."""
    _write(sys.stdout, text + "\n")


def say_aside(text: str = "") -> None:
    """Print a line, or lines, to standard error: messages for the user, separate from the data."""
    _write(sys.stderr, text + "\n")


def say_event(name: str, data: Mapping[str, object]) -> None:
    """Print an event as one line of JSON to standard error, with its ``name`` as the field ``event``: standard output is one document."""
    _write(sys.stderr, json.dumps({"event": name, **data}) + "\n")


def say_bare(text: str) -> None:
    """Print to standard output without ending the line."""
    _write(sys.stdout, text)


def redraw(text: str) -> None:
    """Replace the current line of standard output with ``text``."""
    _write(sys.stdout, text, before="\r\x1b[K")


def say_json_list(head: Mapping[str, object], key: str, items: Iterable[object]) -> None:
    """Print a JSON document of ``head`` and, as its last field ``key``, the items, each as it comes: for lists longer than memory takes."""
    indented = is_terminal(sys.stdout)
    separator = ",\n" if indented else ", "
    before = f"{json.dumps(head)[:-1]}{', ' if head else ''}{json.dumps(key)}: ["
    rest = iter(items)
    while batch := list(islice(rest, _ITEMS_AT_ONCE)):
        _write(sys.stdout, before + (separator.join(map(json.dumps, batch)) if indented else json.dumps(batch)[1:-1]))
        before = separator
    _write(sys.stdout, "]}\n" if before == separator else f"{before}]}}\n")


def say_json(data: object, indented: bool = False) -> None:
    """Print ``data`` as a JSON document to standard output: indented on a terminal or if ``indented``, otherwise compact.

    ASCII only, so that it survives every encoding; numbers that are not finite become null.
    """
    indent = 2 if indented or is_terminal(sys.stdout) else None  # json indents in Python, ten times slower
    try:
        text = json.dumps(data, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), indent=indent, allow_nan=False)
    _write(sys.stdout, text + "\n")


def write_bytes(data: bytes) -> None:
    """Write ``data`` to standard output, byte for byte, and flush it. Only for ``program_output``, which cleans text for a terminal."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise _unwritten(sys.stdout, error) from error


def _write(stream: TextIO, text: str, before: str = "") -> None:
    try:
        stream.write(before + finished(text))
        stream.flush()
    except OSError as error:
        raise _unwritten(stream, error) from error


def _unwritten(stream: TextIO, error: OSError) -> Exception:
    if isinstance(error, BrokenPipeError):
        return OutputClosedError()
    name = "standard output" if stream is sys.stdout else "standard error"
    hint = "free some space on that disk, then retry" if error.errno in FULL else "redirect it to a file or to /dev/null"
    return StoreError(f"cannot write to {name}: {(error.strerror or str(error)).lower()}", hint=hint)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    # NaN and infinity are not JSON; x - x is 0 for every other number.
    if isinstance(data, float) and data - data != 0:
        return None
    return data


class ProgramOutput:
    """Writes a program's output to standard output, piece by piece. ``raw`` sends the exact bytes to a terminal too."""

    def __init__(self, raw: bool = False) -> None:
        self._safe = SafeForTerminal() if is_terminal(sys.stdout) and not raw else None

    def write(self, piece: bytes) -> None:
        """Write the next piece and flush it."""
        if self._safe is None:
            write_bytes(piece)
        else:
            self._show(self._safe.add(piece))

    def plain(self) -> None:
        """Reset the program's colour, if any, before other text follows."""
        if self._safe is not None:
            self._show(self._safe.plain())

    def close(self) -> None:
        """Show text held back as a possible beginning of a sequence, and reset the program's colour."""
        if self._safe is not None:
            self._show(self._safe.end())

    def _show(self, text: str) -> None:
        if text:
            write_bytes(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


class SafeForTerminal:
    """Turns bytes into text for a terminal. Characters and sequences may be split between two pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""
        self._coloured = False

    def add(self, piece: bytes) -> str:
        """The text that can be shown now."""
        text = self._held + self._decoder.decode(piece)
        begun = text.rfind("\x1b", max(0, len(text) - _LONGEST_COLOUR - 2))
        if begun < 0 or not _BEGUN.fullmatch(text, begun):
            begun = len(text)
        self._held = text[begun:]
        return _OBEYED.sub(self._safe, text[:begun])

    def plain(self) -> str:
        """The sequence that resets the current colour, if any."""
        coloured, self._coloured = self._coloured, False
        return "\x1b[0m" if coloured else ""

    def end(self) -> str:
        """The text held back so far, and the sequence that resets the colour."""
        rest = _OBEYED.sub(self._safe, self._held + self._decoder.decode(b"", final=True))
        self._held = ""
        return rest + self.plain()

    def _safe(self, match: re.Match[str]) -> str:
        sequence = match["passes"]
        if sequence is None:
            return visible(match[0])
        if sequence.endswith("m"):
            self._coloured = _ENDS_COLOUR.fullmatch(sequence) is None
        return sequence
