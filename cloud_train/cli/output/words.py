"""Formats times, durations, sizes and rates, and aligned plain-text tables, which are fast for ten thousand rows and readable in a pipe."""

import time
from collections.abc import Iterable, Iterator, Sequence

from cloud_train.cli.output.terminal import Painter, clean
from cloud_train.run.documents import LATEST

_SPANS = ((86400, "day"), (3600, "h"), (60, "min"), (1, "s"))


GAP = "  "
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


def when(seconds: float | None, now: float | None) -> str:
    """A time for a table: relative to ``now``, or in ISO 8601 to the second if ``now`` is None."""
    if seconds is None or not 0 <= seconds <= LATEST:
        return "-"
    if now is None:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    return ago(now - seconds)


def ago(seconds: float) -> str:
    """Time elapsed, in a single unit, such as ``3 min ago``."""
    if seconds < 1:
        return "now"
    span, unit = next((span, unit) for span, unit in _SPANS if seconds >= span)
    count = int(seconds // span)
    plural = "s" if unit == "day" and count > 1 else ""
    return f"{count} {unit}{plural} ago"


def duration(seconds: float | None) -> str:
    """A length of time, such as ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min`` or ``3 days 4 h``."""
    if seconds is None or not seconds <= LATEST:
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    days = whole // 86400
    return f"{days} day{'s' if days > 1 else ''} {whole % 86400 // 3600} h"


def size(count: float) -> str:
    """An amount of bytes in powers of 1,000, such as ``139.3 kB``."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} TB"


def number(value: float | None) -> str:
    """A metric's value, with four decimals if that is precise enough, so that columns are easy to read; ``nan`` if not finite."""
    if value is None or value - value != 0:
        return "nan"
    if value == 0 or (value == int(value) and 10 <= abs(value) < 1e9):
        return f"{value:,.0f}"
    if 0.001 <= abs(value) < 1000:
        return f"{value:.4f}"
    if 1000 <= abs(value) < 1e9:
        return f"{value:,.1f}"
    return f"{value:.3g}"


def rate(per_second: float, thing: str) -> str:
    """``19.9 steps/s``, ``1,438 steps/s``."""
    return f"{per_second:,.0f} {thing}/s" if per_second >= 100 else f"{per_second:.3g} {thing}/s"


def count(amount: int, thing: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{amount:,} {thing}{'' if amount == 1 else 's'}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], paint: Painter, right: Sequence[int] = (), colours: int | None = None) -> str:
    """The rows below their header, each column as wide as its widest cell.

    ``right`` are the columns to align to the right. Column ``colours`` holds states, which are shown in colour. Cells are plain
    text, which is cleaned here.
    """
    return next(table_pages(head, [rows], paint, right=right, colours=colours))


def table_pages(
    head: Sequence[str],
    pages: Iterable[Sequence[Sequence[str]]],
    paint: Painter,
    *,
    right: Sequence[int] = (),
    colours: int | None = None,
    least: Sequence[int] = (),
) -> Iterator[str]:
    """As ``table``, for a table that is longer than memory takes: page by page, the header on the first.

    A column is as wide as its widest cell so far, and as ``least`` says. Without pages, nothing is yielded.
    """
    head = tuple(map(clean, head))
    widths = [max(len(name), width) for name, width in zip(head, least or [0] * len(head), strict=True)]
    is_first = True
    for page in pages:
        rows = [row if _is_clean(row) else tuple(map(clean, row)) for row in page]
        widths = [max(width, *map(len, column)) for width, column in zip(widths, zip(*rows, strict=True), strict=True)] if rows else widths
        line_of = _layout(widths, right).format
        lines = [paint(line_of(*head).rstrip(), "bold")] if is_first else []
        is_first = False
        for row in rows:
            line = line_of(*row).rstrip()
            if colours is not None and paint.enabled:
                start = sum(widths[:colours]) + len(GAP) * colours
                end = start + len(row[colours])
                line = line[:start] + state(row[colours], paint) + line[end:]
            lines.append(line)
        yield "\n".join(lines)


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


def _is_clean(row: Sequence[str]) -> bool:
    cells = "".join(row)  # checking the whole row takes a fifth of the time of checking each cell
    return cells.isascii() and cells.isprintable()


def _layout(widths: Sequence[int], right: Sequence[int]) -> str:
    """A format string for a whole row, so that each row takes a single call."""
    return GAP.join(f"{{:{'>' if column in right else '<'}{width}}}" for column, width in enumerate(widths))
