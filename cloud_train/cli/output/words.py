"""Numbers in readable form: times, durations, sizes, metrics."""

import time

from cloud_train.run.documents import LATEST

_SPANS = ((86400, "day"), (3600, "h"), (60, "min"), (1, "s"))


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
