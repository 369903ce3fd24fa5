"""The data set ``series``: windows of time series, and how they are divided by time. Imports no torch, so that a dry run can count them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from cloud_train.data.base import DataSection, SampleKind, check_source
from cloud_train.data.series_file import Columns, Series, SeriesFile, read_series
from cloud_train.spec.facts import DataFacts, ForecastFacts
from cloud_train.spec.paths import LARGEST_TEXT_BYTES
from cloud_train.spec.problems import FieldError, Finding, shortened
from cloud_train.spec.problems import Path as FieldPath
from cloud_train.spec.types import Fraction, PathText, Section, Sha256, Share, Url

_LONGEST = 100_000
_SHOWN = 3

ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
Length = Annotated[int, Field(ge=1, le=_LONGEST)]


class Division(NamedTuple):
    """The rows of a series by what they are for; the rows of each part follow those of the one before."""

    training: int
    """Where the training rows end."""
    validation: int
    """Where the rows for validation end."""
    test: int
    """Where the rows for the test end: at the last row with a target."""

    def windows(self, part: str, history: int, horizon: int) -> range:
        """The first forecast row of each window of a ``part``: ``training``, ``validation`` or ``test``.

        All rows to forecast are in the part. What is read before them may be in the parts before, as it will be when the model is used.
        """
        ends = {"training": (0, self.training), "validation": (self.training, self.validation), "test": (self.validation, self.test)}
        begin, end = ends[part]
        return range(max(begin, history), max(begin, history, end - horizon + 1))


class SeriesData(DataSection):
    """Time series in a CSV file, to forecast: one row for each time, in columns with names."""

    dataset: Literal["series"]
    """A CSV file of time series."""
    path: PathText | None = None
    """A CSV file whose first line names its columns; relative to the job file, or a store URL."""
    url: Url | None = None
    """Such a file to download into a cache, instead of ``path``."""
    sha256: Sha256 | None = None
    """SHA-256 of the file that is downloaded."""
    time: ColumnName = "time"
    """The column with the time of a row: a day (2026-03-31), a month (2026-03), a moment (2026-03-31T14:00:00) or a number. The rows may be
    in any order; a series has a row for every step of time.
    """
    id: ColumnName | None = None
    """The column that tells series apart where a file has several; they share the network, and each is scaled by itself."""
    targets: ColumnName | Annotated[tuple[ColumnName, ...], Field(min_length=1)]
    """The column, or the columns, to forecast."""
    past: tuple[ColumnName, ...] = ()
    """More columns to read, with values that are known up to the present, such as the weather that was."""
    known: tuple[ColumnName, ...] = ()
    """More columns to read, with values that are known ahead, such as holidays. For a forecast, the file has rows with these and without
    targets.
    """
    horizon: Length
    """How many rows to forecast."""
    history: Length | None = None
    """How many rows to read before them; if left out, two seasons, and at least twice the horizon."""
    season: Length = 1
    """Rows after which the series repeats itself: 12 for months, 7 for days with a weekly rhythm. The network learns how a series differs
    from a repetition of its last season, which it is also compared with; 1 stands for its last value.
    """
    validation: Fraction = 0.1
    """Fraction of each series, its last rows before those for the test, that is forecast for validation."""
    test: Share = 0.1
    """Fraction of each series, its last rows, that the finished model is tested on."""

    sample_kind: ClassVar[SampleKind] = "series"
    most_download_bytes: ClassVar[int | None] = LARGEST_TEXT_BYTES
    loader: ClassVar[str] = "cloud_train.training.data.series:load_series"

    @property
    def columns(self) -> Columns:
        """The columns that are read."""
        targets = (self.targets,) if isinstance(self.targets, str) else self.targets
        return Columns(self.time, self.id, targets, self.past, self.known)

    @property
    def window(self) -> int:
        """Rows of history that are read."""
        return self.history or min(max(2 * self.season, 2 * self.horizon), _LONGEST)

    def read(self, place: Path) -> SeriesFile:
        """The series of the file ``place``. Raises FieldError."""
        return read_series(place, self.columns, self.source_field)

    @property
    def source_field(self) -> FieldPath:
        """The field that names where the data is."""
        return ("data", "path" if self.path is not None else "url")

    def divide(self, rows: int) -> Division:
        """How a series with this number of rows is divided."""
        training = rows - round(rows * (self.validation + self.test))
        return Division(training, rows - round(rows * self.test), rows)

    def windows(self, series: Series, part: str) -> range:
        """The first forecast row of each window of a ``part`` of a series."""
        return self.divide(series.rows).windows(part, self.window, self.horizon)

    def remarks(self, found: Iterable[Series]) -> tuple[str, ...]:
        """Which series are too short. Raises FieldError if none is long enough for training, validation, or the test that is asked for."""
        series = list(found)
        remarks = []
        for part in ("training", "validation", *(["test"] if self.test else [])):
            short = [one for one in series if not self.windows(one, part)]
            if len(short) == len(series):
                raise self._too_short(series, part)
            if short:
                names = ", ".join(repr(shortened(one.id)) for one in short[:_SHOWN]) + (", …" if len(short) > _SHOWN else "")
                remarks.append(f"{len(short):,} of {len(series):,} series are too short for {part}, and left out of it: {names}")
        return tuple(remarks)

    def _too_short(self, series: Sequence[Series], part: str) -> FieldError:
        longest = max(series, key=lambda one: one.rows)
        rows, division = longest.rows, self.divide(longest.rows)
        if part == "training":
            field = "history" if self.horizon + 1 <= division.training else "horizon"
            needed = f"a window has {self.window:,} rows of history and {self.horizon:,} to forecast"
            reason = f"the longest series has {division.training:,} training rows of {rows:,}, but {needed}"
            return FieldError(("data", field), reason, "a shorter history or horizon, or longer series")
        count = division.validation - division.training if part == "validation" else division.test - division.validation
        fraction = self.validation if part == "validation" else self.test
        reason = f"a fraction of {fraction:g} of the longest series is {count:,} of {rows:,} rows, too few to forecast {self.horizon:,}"
        return FieldError(("data", part), reason, "a larger fraction, or a shorter horizon")

    def expected_facts(self) -> DataFacts | None:
        """What is known without the file: the columns and the lengths."""
        return self._facts(None, None, None, ())

    def facts_at(self, place: Path) -> DataFacts:
        """The number of windows for each purpose."""
        series = self.read(place).series
        remarks = self.remarks(series)
        train, validation, test = (sum(len(self.windows(one, part)) for one in series) for part in ("training", "validation", "test"))
        return self._facts(train, validation, test or None, remarks)

    def _facts(self, train: int | None, validation: int | None, test: int | None, remarks: tuple[str, ...]) -> DataFacts:
        columns = self.columns
        return DataFacts(
            dataset=self.dataset,
            sample_shape=(self.window, len(columns.features)),
            classes=len(columns.targets),
            train_samples=train,
            validation_samples=validation,
            source=self.source,
            test_samples=test,
            remarks=remarks,
            forecast=ForecastFacts(self.horizon, len(columns.targets), len(self.known)),
        )

    def check(self) -> Iterator[Finding]:
        """Mistakes in the source, a column with two roles, and a history that is shorter than a season."""
        yield from super().check()
        yield from check_source(self, self.sha256)
        columns = self.columns
        roles: dict[str, str] = {}
        given = {"time": (columns.time,), "id": (columns.id,), "targets": columns.targets, "past": columns.past, "known": columns.known}
        for field, names in given.items():
            for name in filter(None, names):
                if name in roles:
                    said = f"the column {name!r} is in {roles[name]} already"
                    hint = "what is forecast is not known ahead: leave it out here" if field == "known" else "each column once"
                    yield ("data", field), said, hint
                roles[name] = field
        if self.history is not None and self.history < self.season:
            yield ("data", "history"), f"a history of {self.history} rows is shorter than a season", f"at least {self.season}"
        if self.validation + self.test >= 1:
            yield ("data", "test"), "validation and test leave nothing for training", "fractions that add up to less than 1"

    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """The window, what is forecast, and what it is compared with."""
        columns = self.columns
        read = f"{self.window:,} rows of {', '.join(columns.features)}"
        compared = "the last value" if self.season == 1 else f"the last season, {self.season:,} rows"
        return [
            ("sample", f"{read}; forecasts {self.horizon:,} rows of {', '.join(columns.targets)}"),
            ("compared with", f"a repetition of {compared}"),
        ]


class SeriesScale(Section):
    """How a series is scaled, by its training rows."""

    mean: tuple[float, ...]
    """The mean of each feature, in its own unit."""
    std: tuple[Annotated[float, Field(gt=0)], ...]
    """The standard deviation of each feature, in its own unit; 1 for a constant."""
    naive_error: tuple[Annotated[float, Field(ge=0)], ...]
    """The mean absolute difference between each target and its value a season before, in the target's unit: the scale of MASE (Hyndman and
    Koehler, 2006).
    """


class Forecasting(Section):
    """What a forecasting model reads and forecasts, as ``model.json`` records it."""

    time: ColumnName
    id: ColumnName | None
    past: tuple[ColumnName, ...]
    known: tuple[ColumnName, ...]
    history: Length
    horizon: Length
    season: Length
    scales: dict[str, SeriesScale]
    """The scale of each series of the training data, by its id; that of a file with a single series is ``""``."""

    def columns(self, targets: tuple[str, ...]) -> Columns:
        """The columns of a file for this model. The names of its ``targets`` are the description's classes."""
        return Columns(self.time, self.id, targets, self.past, self.known)
