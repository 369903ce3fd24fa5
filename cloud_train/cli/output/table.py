"""Aligned plain-text tables: fast for ten thousand rows, and readable in a pipe."""

from collections.abc import Sequence

from cloud_train.cli.output.terminal import Painter, clean

GAP = "  "


def table(head: Sequence[str], rows: Sequence[Sequence[str]], paint: Painter, right: Sequence[int] = (), colours: int | None = None) -> str:
    """The rows under their head, each column as wide as its widest cell.

    ``right`` are the columns to align to the right. Column ``colours`` holds states, which are shown in colour. Cells are plain
    text, which is cleaned here.
    """
    rows = [row if _is_clean(row) else tuple(map(clean, row)) for row in rows]
    head = tuple(map(clean, head))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    line_of = _layout(widths, right).format
    lines = [paint(line_of(*head).rstrip(), "bold")]
    for row in rows:
        line = line_of(*row).rstrip()
        if colours is not None and paint.enabled:
            start = sum(widths[:colours]) + len(GAP) * colours
            end = start + len(row[colours])
            line = line[:start] + state(row[colours], paint) + line[end:]
        lines.append(line)
    return "\n".join(lines)


def pairs(rows: Sequence[tuple[str, str]], paint: Painter, indent: str = "") -> str:
    """Names and values, one pair per line, with the values aligned; further lines of a value are indented to match."""
    width = max((len(name) for name, _ in rows), default=0)
    lines = []
    for name, value in rows:
        first, *more = value.split("\n")
        lines.append(f"{indent}{paint(name.ljust(width), 'dim')}{GAP}{first}")
        lines += [f"{indent}{' ' * width}{GAP}{line}" for line in more]
    return "\n".join(lines)


def state(text: str, paint: Painter) -> str:
    """A run's state, or a finding's, in its colour."""
    return paint(text, STATE_COLOURS.get(text, "cyan"))


STATE_COLOURS = {
    "succeeded": "green",
    "ok": "green",
    "failed": "red",
    "error": "red",
    "unreadable": "red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "stopping": "yellow",
    "warning": "yellow",
}


def _is_clean(row: Sequence[str]) -> bool:
    cells = "".join(row)  # checking the whole row takes a fifth of the time of checking every cell
    return cells.isascii() and cells.isprintable()


def _layout(widths: Sequence[int], right: Sequence[int]) -> str:
    """A format string for a whole row, so that a row takes one call whatever the number of columns."""
    return GAP.join(f"{{:{'>' if column in right else '<'}{width}}}" for column, width in enumerate(widths))
