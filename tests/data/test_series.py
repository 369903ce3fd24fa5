"""Time series: read from a CSV file, put in order, checked, and divided by time."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud_train.data.series import SeriesData
from cloud_train.data.series_file import Columns, Step, read_series
from cloud_train.spec.problems import FieldError

SALES = Columns("day", None, ("sales",))
STORES = Columns("day", "store", ("sales",), ("visitors",), ("holiday",))


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "series.csv"
    path.write_bytes(text.encode(encoding))
    return path


def section(**fields: Any) -> SeriesData:
    given = {"dataset": "series", "path": "series.csv", "time": "day", "targets": "sales", "horizon": 2, **fields}
    return SeriesData.model_validate_json(json.dumps(given))


def daily(rows: int, header: str = "day,sales") -> str:
    return "\n".join([header, *(f"2026-01-{row + 1:02d},{row}" for row in range(rows))])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_the_one_that_finds_the_columns(tmp_path: Path, separator: str) -> None:
    text = "\ufeffday,sales,note\n2026-01-01,3,a\n2026-01-02,4.5,b\n".replace(",", separator)
    (series,), step = read_series(written(tmp_path, text), SALES, ())
    assert list(series.values) == [3.0, 4.5]
    assert step == Step("second", 86400)
    assert str(step) == "1 day"


def test_cells_are_quoted_as_the_csv_module_reads_them(tmp_path: Path) -> None:
    text = 'day,note,"sales"\n2026-01-01,"a, ""b""\nand more",3\n\n2026-01-02,,"4"\n'
    (series,), _ = read_series(written(tmp_path, text), SALES, ())
    assert list(series.values) == [3.0, 4.0]
    assert series.lines == [3, 5]


def test_rows_are_put_in_the_order_of_time_and_series_are_told_apart(tmp_path: Path) -> None:
    text = "store,day,sales,visitors,holiday\nb,3,30,3,0\na,2,2,1,1\nb,1,10,1,1\na,1,1,1,0\nb,2,20,2,0\na,3,,,1\n"
    (b, a), step = read_series(written(tmp_path, text), STORES, ())
    assert (b.id, b.times, list(b.values)) == ("b", [1, 2, 3], [10, 1, 1, 20, 2, 0, 30, 3, 0])
    assert (a.id, a.rows, a.future) == ("a", 2, 1)
    assert step == Step("number", 1)


@pytest.mark.parametrize(
    ("times", "step", "after"),
    [
        (("1949-11", "1949-12", "1950-01"), "1 month", "1950-02-01"),
        (("2026-01-31", "2026-02-28", "2026-03-31"), "1 month", "2026-04-30"),
        (("2023-01-15", "2023-04-15", "2023-07-15"), "3 months", "2023-10-15"),
        (("2026-03-01T22:00", "2026-03-01T23:00", "2026-03-02T00:00"), "1 hour", "2026-03-02T01:00:00"),
        (("2026-03-28T23:00Z", "2026-03-29T02:00+02:00", "2026-03-29T03:00+02:00"), "1 hour", "2026-03-29T04:00:00+02:00"),
        (("2024-02-28", "2024-02-29", "2024-03-01"), "1 day", "2024-03-02"),
        (("0.5", "1.0", "1.5"), "0.5", "2.0"),
    ],
)
def test_the_step_of_time_is_found_and_goes_past_the_end(tmp_path: Path, times: tuple[str, ...], step: str, after: str) -> None:
    text = "day,sales\n" + "".join(f"{time},1\n" for time in times)
    (series,), found = read_series(written(tmp_path, text), SALES, ())
    assert found is not None
    assert str(found) == step
    last = found.after(series.times[-1], 1)
    assert (last.isoformat() if isinstance(last, date) else str(last)) == after


def test_months_are_written_as_months() -> None:
    assert Step("month", 1).written(date(2026, 1, 1)) == "2026-01"
    assert Step("month", 1).written(date(2026, 1, 31)) == "2026-01-31"
    assert Step("month", 1).written(datetime(2026, 1, 1, 8, tzinfo=UTC)) == "2026-01-01T08:00:00+00:00"
    assert Step("second", 86400).written(date(2026, 1, 1)) == "2026-01-01"


MISTAKES: dict[str, tuple[str, str]] = {
    "gap": ("day,sales\n1,1\n2,1\n4,1\n5,1\n", "series.csv:4: a gap: 4 follows 2, but the rows are 1 apart"),
    "gap of days": (
        "day,sales\n2026-01-01,1\n2026-01-02,1\n2026-01-04,1\n",
        "4: a gap: 2026-01-04 follows 2026-01-02, but the rows are 1 day",
    ),
    "twice": ("day,sales\n1,1\n2,1\n1,3\n", "series.csv:4: the time 1 occurs twice, first in line 2"),
    "no number": ("day,sales\n1,1\n2,many\n", "series.csv:3: 'many' in the column 'sales' is not a number"),
    "comma": ("day;sales\n1;1\n2;1,5\n", "series.csv:3: '1,5' in the column 'sales' is not a number"),
    "infinite": ("day,sales\n1,1\n2,inf\n", "series.csv:3: 'inf' in the column 'sales' is not finite"),
    "missing value": ("day,sales\n1,1\n2,NaN\n3,1\n", "series.csv:3: the column 'sales' has no value"),
    "no time": ("day,sales\n1,1\n,2\n", "series.csv:3: the column 'day' is empty"),
    "wrong time": ("day,sales\n1.2.2026,1\n", "series.csv:2: '1.2.2026' in the column 'day' is not a time"),
    "two kinds of time": ("day,sales\n1,1\n2026-01-02,2\n", "series.csv:3: the column 'day' has days, but numbers before"),
    "ragged": ("day,sales\n1,1\n2,2,3\n", "series.csv:3: 3 cells, but the first line names 2 columns"),
    "column": ("day,sale\n1,1\n", "series.csv has no column 'sales'; its columns are 'day', 'sale'"),
    "separator": ("day:sales\n1:1\n", "series.csv has no column 'day'; its columns are 'day:sales'"),
    "two columns": ("day,sales,sales\n1,1,2\n", "series.csv has 2 columns 'sales'"),
    "only a header": ("day,sales\n", "series.csv has no rows below its first line"),
    "empty": ("\n", "series.csv is empty"),
    "quote": ('day,sales\n1,"1\n', "series.csv:2: unexpected end of data"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    text, message = MISTAKES[name]
    with pytest.raises(FieldError) as caught:
        read_series(written(tmp_path, text), SALES, ("data", "path"))
    assert message in caught.value.reason
    assert caught.value.path == ("data", "path")
    assert caught.value.hint


def test_what_is_known_ahead_must_be_there_ahead(tmp_path: Path) -> None:
    text = "store,day,sales,visitors,holiday\na,1,1,1,0\na,2,2,1,1\na,3,,,\n"
    with pytest.raises(FieldError, match=r"series.csv:4: the column 'holiday', which is known ahead, has no value in the series 'a'"):
        read_series(written(tmp_path, text), STORES, ())


def test_a_series_of_another_step_is_refused(tmp_path: Path) -> None:
    text = "store,day,sales,visitors,holiday\na,1,1,1,0\na,2,2,1,1\nb,1,1,1,0\nb,3,1,1,0\n"
    with pytest.raises(FieldError, match="series with different steps: 1 in 'a', 2 in 'b'"):
        read_series(written(tmp_path, text), STORES, ())


def test_a_series_is_divided_by_time_and_no_forecast_leaves_its_part(tmp_path: Path) -> None:
    data = section(history=3, validation=0.2, test=0.1)
    (tmp_path / "series.csv").write_text(daily(20))
    (series,), _ = data.read(tmp_path / "series.csv")
    assert data.divide(20) == (14, 18, 20)
    assert [*data.windows(series, "training")] == [*range(3, 13)]
    assert [*data.windows(series, "validation")] == [14, 15, 16]
    assert [*data.windows(series, "test")] == [18]
    facts = data.facts_at(tmp_path / "series.csv")
    assert (facts.train_samples, facts.validation_samples, facts.test_samples) == (10, 3, 1)
    assert facts.sample_shape == (3, 1)


def test_series_that_are_too_short_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [f"{store},{day},1" for store, days in (("long", 40), ("short", 5)) for day in range(days)]
    (tmp_path / "series.csv").write_text("\n".join(["store,day,sales", *rows]))
    facts = section(id="store", history=3).facts_at(tmp_path / "series.csv")
    assert "1 of 2 series are too short for validation, and left out of it: 'short'" in facts.remarks
    assert facts.train_samples == (32 - 3 - 2 + 1)


@pytest.mark.parametrize(
    ("fields", "place", "reason"),
    [
        ({"horizon": 30}, "horizon", "has 16 training rows of 20"),
        ({"history": 19}, "history", "a window has 19 rows of history and 2 to forecast"),
        ({"horizon": 3}, "validation", "a fraction of 0.1 of the longest series is 2 of 20 rows, too few to forecast 3"),
        ({"horizon": 3, "validation": 0.2}, "test", "a fraction of 0.1 of the longest series is 2 of 20 rows, too few to forecast 3"),
    ],
)
def test_a_window_longer_than_the_data_is_refused(tmp_path: Path, fields: dict[str, Any], place: str, reason: str) -> None:
    (tmp_path / "series.csv").write_text(daily(20))
    with pytest.raises(FieldError) as caught:
        section(**fields).facts_at(tmp_path / "series.csv")
    assert caught.value.path == ("data", place)
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("fields", "place", "said"),
    [
        ({"known": ["sales"]}, "known", "the column 'sales' is in targets already"),
        ({"past": ["a"], "known": ["a"]}, "known", "the column 'a' is in past already"),
        ({"past": ["day"]}, "past", "the column 'day' is in time already"),
        ({"targets": ["sales", "sales"]}, "targets", "the column 'sales' is in targets already"),
        ({"season": 12, "history": 6}, "history", "a history of 6 rows is shorter than a season"),
        ({"validation": 0.5, "test": 0.5}, "test", "validation and test leave nothing for training"),
    ],
)
def test_columns_with_two_roles_and_impossible_lengths_are_mistakes(fields: dict[str, Any], place: str, said: str) -> None:
    assert (("data", place), said) in [(path, reason) for path, reason, _ in section(**fields).check()]


def test_the_history_is_two_seasons_and_twice_the_horizon_unless_it_is_given() -> None:
    assert section(season=12).window == 24
    assert section(horizon=30).window == 60
    assert section(season=12, history=13).window == 13
