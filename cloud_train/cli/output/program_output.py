"""What a run's program printed, on standard output: byte for byte in a pipe or a file, and made safe for a terminal.

Training programs draw progress bars and colour their lines, and that still works: carriage returns, tabs, colours (SGR) and the erasing of
a line (EL) pass. Everything else that a terminal would obey is shown as text: clipboard and title sequences (OSC), other cursor moves,
device control strings (DCS), C1 controls, marks that reorder text.
"""

import codecs
import re
import sys

from cloud_train.cli.output.terminal import UNSAFE, is_terminal, visible, write_bytes

_LONGEST_COLOUR = 64
_COLOUR = rf"\x1b\[[0-9;:]{{0,{_LONGEST_COLOUR}}}m"
_OBEYED = re.compile(rf"(?P<passes>{_COLOUR}|\x1b\[[0-2]?K|[\t\r])|[{UNSAFE}]")
_BEGUN = re.compile(rf"\x1b(?:\[[0-9;:]{{0,{_LONGEST_COLOUR}}})?")
_ENDS_COLOUR = re.compile(r"\x1b\[[0;:]*m")


class ProgramOutput:
    """Writes what a program printed to standard output, piece by piece. ``raw`` passes everything on to a terminal, too."""

    def __init__(self, raw: bool = False) -> None:
        self._safe = SafeForTerminal() if is_terminal(sys.stdout) and not raw else None

    def write(self, piece: bytes) -> None:
        """Write the next piece, at once."""
        if self._safe is None:
            write_bytes(piece)
        else:
            self._show(self._safe.add(piece))

    def plain(self) -> None:
        """End the program's colour, because text of ours follows; does nothing where none is on."""
        if self._safe is not None:
            self._show(self._safe.plain())

    def close(self) -> None:
        """Show what was held back because it might have been the beginning of a sequence, and end the program's colour."""
        if self._safe is not None:
            self._show(self._safe.end())

    def _show(self, text: str) -> None:
        if text:
            write_bytes(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


class SafeForTerminal:
    """Turns bytes into text for a terminal. A character or a sequence that is split between two pieces is treated as if it were not."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""
        self._coloured = False

    def add(self, piece: bytes) -> str:
        """What may be shown by now."""
        text = self._held + self._decoder.decode(piece)
        begun = text.rfind("\x1b", max(0, len(text) - _LONGEST_COLOUR - 2))
        if begun < 0 or not _BEGUN.fullmatch(text, begun):
            begun = len(text)
        self._held = text[begun:]
        return _OBEYED.sub(self._safe, text[:begun])

    def plain(self) -> str:
        """What ends the colour that is on."""
        coloured, self._coloured = self._coloured, False
        return "\x1b[0m" if coloured else ""

    def end(self) -> str:
        """What was held back, and what ends the colour."""
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
