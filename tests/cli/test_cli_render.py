import math
import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace

import plotext
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_train import Artifacts
from cloud_train.cli.output import metrics, words
from cloud_train.cli.output.live import live_line
from cloud_train.cli.output.metrics import metrics_table, plots
from cloud_train.cli.output.runs import model_line, next_steps, progress_line, run_details, run_table, run_table_pages, saved_nothing
from cloud_train.cli.output.terminal import Painter, clean, clean_lines, finished
from cloud_train.cli.output.words import pairs, table
from cloud_train.orchestrator.following import Progress
from cloud_train.orchestrator.given_values import GivenValues
from cloud_train.orchestrator.summaries import Summary
from cloud_train.run.metrics import MetricPoint
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView, instant

PLAIN, COLOURED = Painter(enabled=False), Painter(enabled=True)
RUN = RunView(
    run_id="digits-cnn-261123-120000-7k3f",
    name="digits-cnn",
    provider="local",
    store="/runs",
    job_file="/jobs/digits-cnn.yaml",
    created=1000.0,
    attempt=1,
    state=State.RUNNING,
    cause=None,
    message="",
    started=1001.0,
    ended=None,
    heartbeat=1060.0,
    host="here",
    resumed_step=None,
)
SUMMARY = Summary(RUN, step=50, total_steps=115, epoch=2.17, epochs=5, metric="validation/accuracy", value=0.975)
PROGRESS = Progress(
    view=RUN,
    step=50,
    total_steps=115,
    epoch=2.17,
    epochs=5,
    latest={"train/loss": 0.25, "validation/accuracy": 0.975},
    steps_per_second=20.0,
    eta_seconds=3.25,
)


def point(step: int, name: str = "loss", split: str = "train", value: float | None = 0.5, epoch: float | None = None) -> MetricPoint:
    return MetricPoint(attempt=1, step=step, epoch=epoch, time=None, split=split, name=name, value=value)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("A", "N", "B"), [("long", "1", "x"), ("s", "22", "yy")], PLAIN, right=(1,)) == "A      N  B\nlong   1  x\ns     22  yy"


def test_colour_does_not_move_a_column() -> None:
    rows = [("r", "failed", "x"), ("r", "succeeded", "y")]
    coloured = finished(table(("RUN", "STATE", "Z"), rows, COLOURED, colours=1))
    assert "\x1b[31mfailed\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == table(("RUN", "STATE", "Z"), rows, PLAIN, colours=1)


def test_a_value_of_several_lines_is_indented_below_itself() -> None:
    assert pairs([("name", "a\nb"), ("n", "c")], PLAIN) == "name  a\n      b\nn     c"


@given(st.text())
def test_cleaned_text_holds_no_control_character_and_no_line_break(text: str) -> None:
    cleaned = clean(text)
    assert not [character for character in cleaned if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}]
    cleaned.encode()


@given(st.text())
def test_cleaned_lines_keep_their_number(text: str) -> None:
    assert clean_lines(text).count("\n") == text.count("\n")


def test_escapes_and_direction_marks_are_made_visible() -> None:
    assert clean("a\x1b[31m\x9b\u202eb\tc") == "a\\x1b[31m\\x9b\\u202eb    c"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (273600, "3 days 4 h"),
    ],
)
def test_durations_are_shown_in_two_units_at_most(seconds: float, shown: str) -> None:
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-5, "now"), (0.5, "now"), (1, "1 s ago"), (200, "3 min ago"), (90000, "1 day ago"), (260000, "3 days ago")]
)
def test_how_long_ago_is_shown_in_one_unit(seconds: float, shown: str) -> None:
    assert words.ago(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "nan"),
        (float("inf"), "nan"),
        (0.0, "0"),
        (1.0, "1.0000"),
        (115.0, "115"),
        (0.0909090, "0.0909"),
        (1e-5, "1e-05"),
        (-0.5, "-0.5000"),
        (61234.5, "61,234.5"),
        (1e12, "1e+12"),
    ],
)
def test_a_metrics_value_is_short_and_keeps_its_column(value: float | None, shown: str) -> None:
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (139304, "139.3 kB"), (999_999, "1.0 MB"), (5e9, "5.0 GB"), (3e15, "3,000.0 TB")]
)
def test_sizes_are_in_powers_of_a_thousand(count: float, shown: str) -> None:
    assert words.size(count) == shown


def test_instants_are_iso_8601_with_milliseconds() -> None:
    assert instant(0.9996) == "1970-01-01T00:00:01.000Z"
    assert instant(None) is None


def test_progress_shows_epoch_step_rate_and_remaining_time() -> None:
    assert progress_line(PROGRESS) == "epoch 3/5 · step 50/115 · 20 steps/s · 3.2 s to go"


def test_a_complete_epoch_is_not_shown_as_the_next_one() -> None:
    assert progress_line(replace(PROGRESS, epoch=5.0)).startswith("epoch 5/5")
    assert progress_line(replace(PROGRESS, epoch=0.0)).startswith("epoch 1/5")


def test_the_live_line_shows_a_bar_the_metrics_and_the_time_to_go() -> None:
    line = live_line(PROGRESS, 140, PLAIN)
    assert line.startswith("epoch 3/5  ")
    assert re.search(r"[━#]{10}[─-]{14}  step 50/115  loss 0\.2500  val\. accuracy 0\.9750  20 steps/s  3\.2 s to go$", line)


def test_on_eighty_columns_epoch_step_loss_accuracy_rate_and_time_to_go_are_kept() -> None:
    progress = replace(PROGRESS, latest={**PROGRESS.latest, "train/accuracy": 0.9})
    line = live_line(progress, 79, PLAIN)
    assert line == "epoch 3/5  step 50/115  loss 0.2500  accuracy 0.9000  20 steps/s  3.2 s to go"


@pytest.mark.parametrize("columns", range(1, 150, 7))
def test_the_live_line_fits_the_terminal(columns: int) -> None:
    assert len(live_line(PROGRESS, columns, PLAIN)) <= columns


def test_the_live_line_of_a_run_that_has_not_begun_says_so() -> None:
    waiting = Progress(view=replace(RUN, state=State.QUEUED, attempt=2), step=None, total_steps=None, epoch=None, epochs=None)
    assert live_line(waiting, 80, PLAIN) == "queued, attempt 2"


def test_a_run_is_shown_with_its_age_on_a_terminal_and_its_time_elsewhere() -> None:
    assert "1 min ago" in run_table([SUMMARY], 1090.0, relative=True, paint=PLAIN)
    assert "1970-01-01T00:16:40Z" in run_table([SUMMARY], 1090.0, relative=False, paint=PLAIN)
    assert run_table([SUMMARY], 1090.0, relative=True, paint=PLAIN).endswith("1 min 29 s")


def test_a_run_is_listed_with_its_progress_and_its_deciding_metric() -> None:
    head, row = run_table([SUMMARY], 1090.0, relative=True, paint=PLAIN).split("\n")
    assert head.split() == ["RUN", "STATE", "DONE", "METRIC", "ATTEMPT", "PROVIDER", "CREATED", "DURATION"]
    assert row.split()[1:6] == ["running", "43%", "validation/accuracy", "0.9750", "1"]


@pytest.mark.parametrize(
    ("summary", "done", "metric"),
    [
        (replace(SUMMARY, step=114), "99%", "validation/accuracy 0.9750"),
        (replace(SUMMARY, step=115), "100%", "validation/accuracy 0.9750"),
        (replace(SUMMARY, step=120), "100%", "validation/accuracy 0.9750"),
        (replace(SUMMARY, total_steps=None, epoch=2.5), "50%", "validation/accuracy 0.9750"),
        (Summary(RUN, step=1200, metric="train/loss", value=None), "step 1,200", "train/loss nan"),
        (Summary(RUN), "-", "-"),
        (Summary(RUN, is_deleted=True), "-", "directory deleted"),
        (Summary(RUN, metric="train/\x1b]0;" + "x" * 150, value=1.0), "-", "train/\\x1b]0;" + "x" * 26 + "… 1.0000"),
    ],
)
def test_progress_and_metric_of_a_listed_run(summary: Summary, done: str, metric: str) -> None:
    row = run_table([summary], 1090.0, relative=True, paint=PLAIN).split("\n")[1]
    assert re.split(" {2,}", row)[2:4] == [done, metric]


_LONG_NAME = "n" * 40


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", ["a", "digits-cnn", _LONG_NAME])
@pytest.mark.parametrize("columns", [80, 100, 120, 200])
def test_a_list_fits_its_terminal_and_shows_every_id_whole(columns: int, name: str, state: State) -> None:
    ids = [f"{name}-261123-120000-{last}" for last in ("7k3f", "zzzz")]
    runs = [replace(SUMMARY, view=replace(RUN, run_id=run_id, state=state, provider="gcp"), step=115) for run_id in ids]
    text = run_table(runs, 100_000.0, relative=True, paint=PLAIN, columns=columns)
    assert text == next(run_table_pages(runs, 100_000.0, True, PLAIN, columns))
    head, *rows = text.split("\n")
    assert [row.split()[0] for row in rows] == ids
    assert all(row.split()[1:3] == [state.value, "100%"] for row in rows)
    assert max(map(len, (head, *rows))) <= columns
    if name != _LONG_NAME:
        assert all("accuracy 0.9750" in row for row in rows)


def test_on_a_narrow_terminal_the_metrics_name_is_shortened_before_a_column_is_left_out() -> None:
    runs = [SUMMARY]
    heads = {columns: run_table(runs, 1090.0, True, PLAIN, columns=columns).split("\n")[0].split() for columns in (72, 80, 200)}
    assert heads[72] == ["RUN", "STATE", "DONE", "METRIC", "CREATED"]
    assert heads[200] == ["RUN", "STATE", "DONE", "METRIC", "ATTEMPT", "PROVIDER", "CREATED", "DURATION"]
    assert "  accuracy 0.9750" in run_table(runs, 1090.0, True, PLAIN, columns=72)
    assert "  validation/accuracy 0.9750" in run_table(runs, 1090.0, True, PLAIN, columns=200)
    assert run_table(runs, 1090.0, True, PLAIN, columns=10).split("\n")[1].split() == [RUN.run_id, "running"]


def test_the_values_of_a_run_are_shown_apart_from_those_of_set() -> None:
    given = GivenValues(
        {"train.epochs": 5, "data.path": "s3://u:secret@bucket", "model.command": "a\nb"}, {"train.seed": 0, "env.A": "x" * 200}
    )
    text = run_details(PROGRESS, 1200.0, relative=True, paint=PLAIN, given=given)
    assert "values     train.epochs=5\n" in text
    assert "           model.command=a\\nb\n" in text
    assert "--set      train.seed=0\n           env.A=xxx" in text
    assert "secret" not in text
    assert text.endswith("x…")
    many = run_details(PROGRESS, 1200.0, True, PLAIN, given=GivenValues({f"env.V{number}": number for number in range(50)}))
    assert many.endswith("env.V39=39\n           and 10 more")
    assert "values" not in run_details(PROGRESS, 1200.0, relative=True, paint=PLAIN, given=GivenValues())


def test_untrusted_text_of_a_run_is_made_safe() -> None:
    ended = replace(RUN, state=State.FAILED, cause=Cause.FAILED, message="bad\x1b[2J\nsecond", host="\x07host", ended=1100.0)
    text = run_details(replace(PROGRESS, view=ended, latest={"train/\x1b]0;x": 1.0}), 1200.0, relative=True, paint=PLAIN)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "bad\\x1b[2J\n           second" in text


def test_a_cause_that_is_more_specific_than_the_state_is_shown() -> None:
    ended = replace(RUN, state=State.FAILED, cause=Cause.OUT_OF_MEMORY, ended=1100.0)
    assert "failed (out-of-memory): The program ran out of memory" in run_details(replace(PROGRESS, view=ended), 1200.0, True, PLAIN)


def test_the_weights_that_a_run_began_with_are_shown() -> None:
    began = replace(PROGRESS, starts_from={"source": "digits\x1b-ab12", "sha256": "0123456789abcdef" * 4})
    shown = run_details(began, 1200.0, relative=True, paint=PLAIN)
    assert "-ab12, SHA-256 0123456789ab…\n" in shown
    assert "\x1b" not in shown
    assert "starts from" not in run_details(PROGRESS, 1200.0, relative=True, paint=PLAIN)


def test_the_next_step_after_a_move_is_the_new_place() -> None:
    there = f"s3://bucket/runs/{RUN.run_id}"
    moved = replace(RUN, state=State.INTERRUPTED, cause=Cause.INFRASTRUCTURE, host="", message=f"moved to {there}")
    assert next_steps(moved) == [(f"cloud-train adopt {there}", "track it in its new place")]


@pytest.mark.parametrize(
    ("state", "artifacts", "has_metrics", "expected"),
    [
        (
            State.SUCCEEDED,
            Artifacts(model=True, checkpoint=True),
            True,
            {"fetch-model": "copy the model here", "metrics": "see how it learned"},
        ),
        (State.SUCCEEDED, Artifacts(model=True, checkpoint=False), False, {"fetch-model": "copy the model here", "logs": "see its output"}),
        (
            State.SUCCEEDED,
            Artifacts(model=False, checkpoint=True),
            False,
            {"logs": "see its output", "sync": "copy its whole directory here"},
        ),
        (
            State.FAILED,
            Artifacts(model=False, checkpoint=True),
            True,
            {"resume": "continue from the newest checkpoint", "logs": "see its output"},
        ),
        (
            State.FAILED,
            Artifacts(model=False, checkpoint=False),
            True,
            {"resume": "start again: it has saved no checkpoint", "logs": "see its output"},
        ),
        (State.INTERRUPTED, None, True, {"resume": "start its next attempt", "logs": "see its output"}),
    ],
)
def test_a_next_step_is_only_shown_if_it_would_work(
    state: State, artifacts: Artifacts | None, has_metrics: bool, expected: dict[str, str]
) -> None:
    steps = next_steps(replace(RUN, state=state), has_metrics, artifacts=artifacts)
    assert {command.split()[1]: purpose for command, purpose in steps} == expected


def test_a_program_that_ended_well_without_a_model_is_told_where_a_model_goes() -> None:
    done = replace(RUN, state=State.SUCCEEDED)
    assert "$CLOUD_TRAIN_MODEL" in saved_nothing(done, Artifacts(model=False, checkpoint=True))
    assert saved_nothing(done, Artifacts(model=True, checkpoint=True)) == ""
    assert saved_nothing(done, None) == ""
    assert saved_nothing(replace(RUN, state=State.FAILED), Artifacts(model=False, checkpoint=False)) == ""


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_next_step(state: State) -> None:
    steps = next_steps(replace(RUN, state=state))
    assert steps
    assert all(command.startswith("cloud-train ") and RUN.run_id in command for command, _ in steps)


def test_a_worker_s_wrong_clock_does_not_show_in_the_start_and_the_duration_of_its_running_attempt() -> None:
    wrong = replace(RUN, started=1001.0 + 4e8, heartbeat=1060.0 + 4e8, elapsed=185.0)
    lines = [line.split(None, 1) for line in run_details(replace(PROGRESS, view=wrong), 1200.0, relative=True, paint=PLAIN).splitlines()]
    assert ["started", "3 min ago"] in lines
    assert ["duration", "3 min 05 s"] in lines


def test_a_runs_json_has_its_duration_once_it_ended() -> None:
    assert RUN.to_json()["duration_seconds"] is None
    assert replace(RUN, ended=1003.5).to_json()["duration_seconds"] == 2.5


def test_metrics_have_one_row_an_epoch_with_the_last_value_of_each() -> None:
    points = [point(1, epoch=0.5, value=0.9), point(2, epoch=1.0, value=0.8), point(2, split="validation", epoch=1.0), point(3, epoch=1.5)]
    table = metrics_table(points, PLAIN)
    text, left_out = table.text, table.rows_left_out
    assert text.split("\n") == [
        "EPOCH  STEP  train/loss  validation/loss",
        "    1     2      0.8000           0.5000",
        "    2     3      0.5000",
    ]
    assert left_out == 0


def test_metrics_without_epochs_show_the_last_steps_and_how_many_are_left_out() -> None:
    table = metrics_table([point(step) for step in range(1, 31)], PLAIN)
    text, left_out = table.text, table.rows_left_out
    assert text.split("\n")[1].split() == ["11", "0.5000"]
    assert left_out == 10


def test_a_plot_shows_only_the_chosen_metrics_and_no_escapes_without_colour() -> None:
    points = [
        point(step, name, split, value=1 / step)
        for step in range(1, 20)
        for name in ("loss", "accuracy")
        for split in ("train", "validation")
    ]
    text = plots(points, shown=False, paint=PLAIN, terminal=False)
    assert "loss   ▞ train   • validation" in text
    assert "accuracy" not in text
    assert "\x1b" not in text
    assert "accuracy" in plots(points, shown=True, paint=PLAIN, terminal=False)
    coloured = finished(plots(points, shown=False, paint=COLOURED, terminal=False))
    assert "\x1b[" in coloured
    assert "hd" not in text + coloured, "the marker's name is not the marker"


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False), st.integers(2, 12), st.booleans()
)
def test_ticks_are_round_numbers_within_the_range(one: float, other: float, most: int, whole: bool) -> None:
    low, high = min(one, other), max(one, other)
    ticks = metrics.round_ticks(low, high, most, whole=whole)
    assert len(ticks) <= most
    assert ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
    assert not whole or all(tick == int(tick) for tick in ticks)
    assert len(metrics.tick_labels(ticks)) == len(ticks) if ticks else True


@pytest.mark.parametrize(
    ("low", "high", "most", "labels"),
    [
        (0, 1, 6, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.03, 2.31, 6, ["0.5", "1.0", "1.5", "2.0"]),
        (0.91, 0.987, 5, ["0.92", "0.94", "0.96", "0.98"]),
        (0.0, 1.0, 5, ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        (1, 180, 6, ["50", "100", "150"]),
        (0, 7, 6, ["0", "2", "4", "6"]),
        (0, 2, 12, ["0", "1", "2"]),
        (1, 1_234_567, 6, ["200,000", "400,000", "600,000", "800,000", "1,000,000", "1,200,000"]),
        (-3e-7, 4e-7, 6, ["-2e-07", "0", "2e-07", "4e-07"]),
        (-0.5, 0.5, 6, ["-0.4", "-0.2", "0.0", "0.2", "0.4"]),
        (0.1, 0.3, 6, ["0.10", "0.15", "0.20", "0.25", "0.30"]),
        (3, 3, 6, []),
    ],
)
def test_ticks_of_usual_ranges(low: float, high: float, most: int, labels: list[str]) -> None:
    ticks = metrics.round_ticks(low, high, most, whole=isinstance(low, int) and (low, high) != (0, 1))
    assert (metrics.tick_labels(ticks) if ticks else []) == labels


def test_a_plot_has_round_numbers_at_its_axes_and_shows_all_of_its_range() -> None:
    points = [point(step, value=2.31 - step / 100) for step in range(1, 181)]
    lines = plots(points, shown=False, paint=PLAIN, terminal=False).split("\n")
    assert [line.split("┤")[0] for line in lines if "┤" in line] == ["2.0", "1.5", "1.0"]
    assert lines[-2].split() == ["50", "100", "150"]
    assert 0.2 < lines[-3].index("┬") / len(lines[-3]) < 0.4, "the ticks are where the range is, not at its ends"


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_plot_of_many_values_has_the_shape_of_one_of_all_of_them(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    points = [
        point(step, split=split, value=math.exp(-step / 1500) + chance.gauss(0, noise))
        for step in range(8_000)
        for split in ("train", "test")
    ]
    text = plots(points, shown=False, paint=PLAIN, terminal=False)
    monkeypatch.setattr(metrics, "_SLICES", 100)  # so that all points are drawn
    full = plots(points, shown=False, paint=PLAIN, terminal=False)
    assert [len(line) for line in text.split("\n")] == [len(line) for line in full.split("\n")]
    assert sum(one != other for one, other in zip(text, full, strict=True)) < len(full) / 50


def test_a_plot_gives_the_library_few_points_and_leaves_out_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[float]] = []
    signal = plotext.figure.signal

    def counted(steps: list[int], values: list[float], marker: str) -> object:
        drawn.append(values)
        return signal(steps, values, marker=marker)

    monkeypatch.setattr(plotext.figure, "signal", counted)
    values = [(step * 7919 % 9973) / 9973 for step in range(50_000)]
    values[12_345], values[23_456] = 9.0, -9.0
    points = [point(step, split=split, value=value) for split in ("train", "validation") for step, value in enumerate(values)]
    plots(points, shown=False, paint=PLAIN, terminal=False)
    assert [(each[0], each[-1], min(each), max(each)) for each in drawn] == [(values[0], values[-1], -9.0, 9.0)] * 2
    assert max(map(len, drawn)) < 6_000


@pytest.mark.parametrize("values", [[None], [0.5], [0.5, 0.5, 0.5], [1e300, -1e300], [None, 0.1, None]], ids=str)
def test_a_plot_of_unusual_values_is_drawn_or_replaced_by_a_message(values: list[float | None]) -> None:
    assert plots([point(step, value=value) for step, value in enumerate(values)], shown=False, paint=PLAIN, terminal=False)


def test_a_table_of_any_length_is_made_in_pages_with_the_same_columns() -> None:
    runs = [Summary(replace(RUN, run_id=f"digits-261124-120000-{number:04}", attempt=number)) for number in range(2500)]
    pages = list(run_table_pages(iter(runs), 0.0, False, PLAIN))
    assert [page.count("\n") + 1 for page in pages] == [1001, 1000, 500]
    lines = "\n".join(pages).split("\n")
    assert lines[0].split() == ["RUN", "STATE", "DONE", "METRIC", "ATTEMPT", "PROVIDER", "CREATED", "DURATION"]
    assert [line.split()[0] for line in lines[1:]] == [run.view.run_id for run in runs]
    assert len({line.index(RUN.provider, 40) for line in lines[1:]}) == 1
    few = runs[:7]
    assert list(run_table_pages(few, 0.0, False, PLAIN)) == [run_table(few, 0.0, False, PLAIN)]
    assert list(run_table_pages([], 0.0, False, PLAIN)) == []


def test_of_a_long_table_only_a_page_is_in_memory() -> None:
    made = 0

    def runs() -> Iterator[Summary]:
        nonlocal made
        for _ in range(10_000):
            made += 1
            yield SUMMARY

    for number, page in enumerate(run_table_pages(runs(), 0.0, False, PLAIN), 1):
        assert made <= number * 1000
        assert page


def test_the_model_of_a_run_is_shown_with_its_step_and_its_metrics() -> None:
    saved = Artifacts(model=True, checkpoint=True, model_step=1200, model_metrics={"test/loss": 0.25, "validation/loss": 0.125})
    assert model_line(saved) == "step 1,200 · validation/loss 0.1250 · test/loss 0.2500"
    assert model_line(Artifacts(model=True, checkpoint=True)) == ""
