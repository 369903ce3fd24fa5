"""Writing the output of a run's program to standard output: byte for byte to a pipe or a file, and made safe for a terminal.

Progress bars and coloured lines still work: carriage returns, tabs, colours (SGR) and line erasing (EL) pass. Every other control sequence
is shown as text: clipboard and title sequences (OSC), other cursor moves, device control strings (DCS), C1 controls, and marks that reorder
text.
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
