"""A CSV file of time series: reads it, puts its rows in the order of time, and names what makes a series unusable. Imports no torch."""

import csv
import math
from array import array
from calendar import monthrange
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from cloud_train.data.reading import read_text
from cloud_train.spec.problems import FieldError, shortened
from cloud_train.spec.problems import Path as FieldPath

Time = date | datetime | int | float
"""When a row was observed: a day, a moment, or a number such as a year."""

_EXPECTED = "a CSV file whose first line names its columns"
_SEPARATORS = (",", ";", "\t", "|")
_NO_VALUE = ("", "na", "n/a", "nan", "null", "none")
_MONTHS_A_YEAR = 12


class Columns(NamedTuple):
    """The names of the columns that are read."""

    time: str
    id: str | None
    """The column that tells the series of a file apart; None if it has a single one."""
    targets: tuple[str, ...]
    """What is forecast."""
    past: tuple[str, ...] = ()
    """What is known up to the present."""
    known: tuple[str, ...] = ()
    """What is known ahead, such as holidays."""

    @property
    def features(self) -> tuple[str, ...]:
        """The columns with numbers, in the order in which a network reads them."""
        return (*self.targets, *self.past, *self.known)


@dataclass(frozen=True)
class Step:
    """The time from one row to the next."""

    unit: Literal["number", "second", "month"]
    count: float

    def after(self, time: Time, steps: int) -> Time:
        """The time ``steps`` rows after ``time``."""
        if isinstance(time, int | float):
            later = time + self.count * steps
            return int(later) if isinstance(time, int) and later.is_integer() else later
        if self.unit == "second":
            return time + timedelta(seconds=self.count * steps)
        months = time.year * _MONTHS_A_YEAR + time.month - 1 + int(self.count) * steps
        year, month = divmod(months, _MONTHS_A_YEAR)
        last = monthrange(year, month + 1)[1]
        return time.replace(year=year, month=month + 1, day=last if _ends_month(time) else min(time.day, last))

    def written(self, time: date) -> str:
        """A day or moment as text: a month as 2026-01 where the rows are months."""
        is_month = self.unit == "month" and time.day == 1 and not isinstance(time, datetime)
        return time.isoformat()[: len("2026-01")] if is_month else time.isoformat()

    def __str__(self) -> str:
        if self.unit == "number":
            return f"{self.count:g}"
        if self.unit == "month":
            return f"{self.count:g} month{'s' * (self.count != 1)}"
        for name, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
            if self.count % seconds == 0:
                return f"{self.count // seconds:g} {name}{'s' * (self.count != seconds)}"
        return f"{self.count:g} s"


@dataclass
class Series:
    """One series: its rows in the order of time."""

    id: str
    times: list[Time] = field(default_factory=list)
    values: "array[float]" = field(default_factory=lambda: array("d"))
    """The features of all rows, one row after another. The targets of ``future`` rows are NaN, and so may be what is known of the past."""
    lines: list[int] = field(default_factory=list)
    """The line of the file that each row is from."""
    future: int = 0
    """How many rows at the end have no target yet: they tell what is known ahead."""

    @property
    def rows(self) -> int:
        """Rows with all targets."""
        return len(self.times) - self.future


class SeriesFile(NamedTuple):
    """The series of a file, in the order of their first rows."""

    series: list[Series]
    step: Step | None
    """The time between two rows, which all series share; None if no series has two."""


def read_series(path: Path, columns: Columns, place: FieldPath) -> SeriesFile:
    """The series in the CSV file ``path``; ``place`` is the field of the job that names it.

    The separator is a comma, a semicolon, a tab or a bar, whichever separates the columns. Rows may be in any order; the last ones of a
    series may lack their targets (``Series.future``). Raises FieldError, with the line, for a column that is missing, a row with too many
    or too few cells, a cell that is not a finite number, a time that is missing or occurs twice, and series with different steps.
    """
    found: dict[str, Series] = {}
    kinds: dict[str, int] = {}
    for line, cells in _rows(path, columns, place):
        series = found.setdefault(cells[1], Series(cells[1]))
        time = _time(cells[0], columns.time, f"{path}:{line}", place)
        kinds.setdefault(_kind(time), line)
        if len(kinds) > 1:
            (first, _), (second, at) = kinds.items()
            raise FieldError(place, f"{path}:{at}: the column {columns.time!r} has {second}, but {first} before", "write all times alike")
        series.times.append(time)
        series.lines.append(line)
        series.values.extend(_numbers(cells[2], columns, f"{path}:{line}", place))
    if not found:
        raise FieldError(place, f"{path} has no rows below its first line", _EXPECTED)
    steps: dict[Step, Series] = {}
    for series in found.values():
        _sort(series, len(columns.features))
        _count_future(series, columns, path, place)
        step = _step(series, path, place)
        if step is not None:
            steps.setdefault(step, series)
    if len(steps) > 1:
        (one, of_one), (other, of_other) = list(steps.items())[:2]
        raise FieldError(
            place,
            f"{path} has series with different steps: {one} in {of_one.id!r}, {other} in {of_other.id!r}",
            "put series of different steps in files, and jobs, of their own",
        )
    return SeriesFile(list(found.values()), next(iter(steps), None))


def _rows(path: Path, columns: Columns, place: FieldPath) -> Iterator[tuple[int, tuple[str, str, list[str]]]]:
    """The line, the time, the id and the cells of the features of each row."""
    lines = read_text(path, place, _EXPECTED).splitlines(keepends=True)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise FieldError(place, f"{path} is empty", _EXPECTED)
    wanted = [columns.time, *([columns.id] if columns.id is not None else []), *columns.features]
    separator = _separator(first, wanted)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
                places = _places(names, columns, path, place)
                continue
            if len(cells) != len(names):
                reason = f"{len(cells)} cells, but the first line names {len(names)} columns"
                raise FieldError(
                    place, f"{path}:{reader.line_num}: {reason}", "give each row one cell a column, and quote text with separators"
                )
            chosen = [cells[at].strip() for at in places]
            named = 1 if columns.id is None else 2
            yield reader.line_num, (chosen[0], chosen[1] if columns.id is not None else "", chosen[named:])
    except csv.Error as error:
        raise FieldError(place, f"{path}:{reader.line_num}: {error}", _EXPECTED) from error


def _separator(header: str, wanted: Sequence[str]) -> str:
    """The separator by which the most of the wanted columns are found; a comma if none finds any."""

    def found(separator: str) -> int:
        names = {cell.strip() for cell in next(csv.reader([header], delimiter=separator))}
        return sum(name in names for name in wanted)

    return max(_SEPARATORS, key=found)


def _places(names: list[str], columns: Columns, path: Path, place: FieldPath) -> list[int]:
    """Where the time, the id and the features are in a row."""
    wanted = [columns.time, *([columns.id] if columns.id is not None else []), *columns.features]
    for name in wanted:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            shown = ", ".join(repr(shortened(one)) for one in names[:8]) + (", …" if len(names) > 8 else "")
            hint = f"did you mean {close[0]!r}?" if close else f"name one of {shown}"
            raise FieldError(place, f"{path} has no column {name!r}; its columns are {shown}", hint)
        if names.count(name) > 1:
            raise FieldError(place, f"{path} has {names.count(name)} columns {name!r}", "rename all but one of them")
    return [names.index(name) for name in wanted]


def _time(cell: str, column: str, line: str, place: FieldPath) -> Time:
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        if math.isfinite(number := float(cell)):
            return number
    except ValueError:
        pass
    text = f"{cell}-01" if len(cell) == len("2026-01") and cell[4:5] == "-" else cell  # a month alone
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        reason = f"{shortened(cell)!r} in the column {column!r} is not a time" if cell else f"the column {column!r} is empty"
        raise FieldError(place, f"{line}: {reason}", "write 2026-03-31, 2026-03-31T14:00:00 or a number such as 1998") from None
    return moment.date() if len(text) <= len("2026-01-01") else moment


def _kind(time: Time) -> str:
    if isinstance(time, int | float):
        return "numbers"
    if not isinstance(time, datetime):
        return "days"
    return "moments" if time.tzinfo is None else "moments with a time zone"


def _numbers(cells: Sequence[str], columns: Columns, line: str, place: FieldPath) -> Iterator[float]:
    for name, cell in zip(columns.features, cells, strict=True):
        if cell.lower() in _NO_VALUE:
            yield math.nan  # where that is allowed is known once the rows are in order
            continue
        try:
            number = float(cell)
        except ValueError:
            is_comma = cell.count(",") == 1 and cell.replace(",", "").lstrip("+-").isdigit()
            hint = "write numbers with a decimal point" if is_comma else "give the column numbers only, or leave it out"
            raise FieldError(place, f"{line}: {shortened(cell)!r} in the column {name!r} is not a number", hint) from None
        if not math.isfinite(number):
            raise FieldError(place, f"{line}: {cell!r} in the column {name!r} is not finite", "replace it, or leave the series out")
        yield number


def _sort(series: Series, features: int) -> None:
    order = sorted(range(len(series.times)), key=lambda row: series.times[row])  # of one kind
    if order == list(range(len(order))):
        return
    series.times = [series.times[row] for row in order]
    series.lines = [series.lines[row] for row in order]
    series.values = array("d", (number for row in order for number in series.values[row * features : (row + 1) * features]))


def _count_future(series: Series, columns: Columns, path: Path, place: FieldPath) -> None:
    """Count the rows at the end without targets. Raises FieldError for any other value that is missing."""
    width, targets, past = len(columns.features), len(columns.targets), len(columns.targets) + len(columns.past)
    rows = range(len(series.times))
    has_target = [not all(map(math.isnan, series.values[row * width : row * width + targets])) for row in rows]
    series.future = next((number for number, has in enumerate(reversed(has_target)) if has), len(has_target))
    for row in rows:
        begin = 0 if row < series.rows else past
        for at in range(begin, width):
            if math.isnan(series.values[row * width + at]):
                kind = "" if row < series.rows else ", which is known ahead,"
                raise FieldError(
                    place,
                    f"{path}:{series.lines[row]}: the column {columns.features[at]!r}{kind} has no value{_of(series)}",
                    "fill in the value, for example by interpolation; only the last rows of a series may lack their targets",
                )


def _step(series: Series, path: Path, place: FieldPath) -> Step | None:
    """The time between the rows. Raises FieldError if it is not the same everywhere."""
    times = series.times
    if len(times) < 2:
        return None
    unit, marks = _marks(times)
    gaps = [later - earlier for earlier, later in pairwise(marks)]
    if 0 in gaps:
        at = gaps.index(0)
        first, second = sorted(series.lines[at : at + 2])
        hint = "keep one of them" if series.id else "keep one of them, or name the column that tells the series apart with data.id"
        raise FieldError(place, f"{path}:{second}: the time {_shown(times[at])} occurs twice{_of(series)}, first in line {first}", hint)
    least = min(gaps)
    for at, gap in enumerate(gaps):
        if not math.isclose(gap, least, rel_tol=1e-9):
            step = Step(unit, least)
            raise FieldError(
                place,
                f"{path}:{series.lines[at + 1]}: a gap{_of(series)}: {_shown(times[at + 1])} follows {_shown(times[at])},"
                f" but the rows are {step} apart",
                "give a series a row for every step; fill gaps, for example by interpolation",
            )
    return Step(unit, least)


def _marks(times: Sequence[Time]) -> tuple[Literal["number", "second", "month"], list[float]]:
    """The times as numbers: months where all are on the same day of the month or at its end, otherwise seconds, or the numbers."""
    numbers = [time for time in times if isinstance(time, int | float)]
    if numbers:
        return "number", [float(number) for number in numbers]
    moments = [time for time in times if isinstance(time, date)]
    is_monthly = len({time.day for time in moments}) == 1 or all(map(_ends_month, moments))
    months = [time.year * _MONTHS_A_YEAR + time.month for time in moments]
    if is_monthly and len({_of_day(time) for time in moments}) == 1 and len(set(months)) == len(months):
        return "month", [float(month) for month in months]
    if isinstance(moments[0], datetime):
        return "second", [(time - moments[0]).total_seconds() for time in moments]
    return "second", [(time - moments[0]).days * 86400.0 for time in moments]


def _of_day(time: date) -> object:
    return time.timetz() if isinstance(time, datetime) else None


def _ends_month(time: date) -> bool:
    return time.day == monthrange(time.year, time.month)[1]


def _of(series: Series) -> str:
    return f" in the series {shortened(series.id)!r}" if series.id else ""


def _shown(time: Time) -> str:
    return f"{time:g}" if isinstance(time, float) else str(time)
