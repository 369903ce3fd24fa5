"""Formats runs: one row each for ``list``, and all details for ``status``."""

import json
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING, TextIO

from cloud_train.cli.output import words
from cloud_train.cli.output.terminal import Painter, clean, clean_lines, is_terminal
from cloud_train.cli.output.words import GAP, pairs, state, table_pages
from cloud_train.errors import CloudTrainError
from cloud_train.run.metrics import tells_pace
from cloud_train.run.states import State
from cloud_train.spec.secret_names import without_credentials

if TYPE_CHECKING:
    from cloud_train import Artifacts, GivenValues, Progress, Run, RunView, Summary, Unreadable

_LONGEST_ID = 59
_LONGEST_METRIC = 40
_MOST_VALUES = 40
_LONGEST_VALUE = 100


_HEAD = ("RUN", "STATE", "DONE", "METRIC", "METRIC", "ATTEMPT", "PROVIDER", "CREATED", "DURATION")
_RUN, _STATE, _DONE, _METRIC, _SHORT_METRIC, _ATTEMPT, _PROVIDER, _CREATED, _DURATION = range(len(_HEAD))
_BY_USE = (_DONE, _SHORT_METRIC, _CREATED, _DURATION, _PROVIDER, _ATTEMPT)
"""The columns that are shown if there is room for them beside the run and its state."""
_TO_THE_RIGHT = (_DONE, _ATTEMPT)
_ROWS_OF_A_PAGE = 1000


def table_columns(stream: TextIO) -> int | None:
    """The width of the terminal, in characters; None if ``stream`` is not a terminal, so that nothing has to fit."""
    return shutil.get_terminal_size().columns if is_terminal(stream) else None


def run_table(
    runs: Sequence["Summary"],
    now: float,
    relative: bool,
    paint: Painter,
    unreadable: Sequence["Unreadable"] = (),
    *,
    columns: int | None = None,
) -> str:
    """The table of ``list``; ``relative`` shows times as ``3 min ago``. Unreadable run directories follow, and then the reasons.

    In ``columns`` characters, the metric's name is shortened and columns are left out, those of least use first; an id never is.
    """
    rows = [_row(run, now, relative) for run in runs]
    rows += [(_short(clean(run.run_id)), "unreadable", *"-" * (len(_HEAD) - 2)) for run in unreadable]
    reasons = "".join(f"\n{_short(clean(run.run_id))} is unreadable: {clean(run.why)}" for run in unreadable)
    return next(_tables([rows], _fitting(rows, columns), paint)) + reasons


def run_table_pages(runs: Iterable["Summary"], now: float, relative: bool, paint: Painter, columns: int | None = None) -> Iterator[str]:
    """The same table of any number of runs, in pieces of a thousand rows. Nothing is yielded if there are none."""
    rest = iter(runs)
    first = [_row(run, now, relative) for run in islice(rest, _ROWS_OF_A_PAGE)]
    if not first:
        return
    # What follows a first page is not known yet: its states may be longer.
    least = [0] * len(_HEAD)
    least[_STATE] = max(len(state) for state in State) if len(first) == _ROWS_OF_A_PAGE else 0
    batches = iter(lambda: [_row(run, now, relative) for run in islice(rest, _ROWS_OF_A_PAGE)], [])
    yield from _tables(chain([first], batches), _fitting(first, columns, least), paint, least)


def _tables(
    pages: Iterable[Sequence[tuple[str, ...]]], shown: Sequence[int], paint: Painter, least: Sequence[int] = (0,) * len(_HEAD)
) -> Iterator[str]:
    """The table with the columns that are ``shown``."""
    of_shown = itemgetter(*shown)
    right = [place for place, column in enumerate(shown) if column in _TO_THE_RIGHT]
    narrowed = (list(map(of_shown, rows)) for rows in pages)
    return table_pages(of_shown(_HEAD), narrowed, paint, right=right, colours=_STATE, least=of_shown(least))


def _fitting(rows: Sequence[tuple[str, ...]], columns: int | None, least: Sequence[int] = (0,) * len(_HEAD)) -> list[int]:
    """The columns that fit beside the run and its state; all of them without a limit."""
    if columns is None:
        return [column for column in range(len(_HEAD)) if column != _SHORT_METRIC]
    widths = [max(width, *map(len, cells)) for width, cells in zip(least, zip(_HEAD, *rows, strict=True), strict=True)]
    room = columns - widths[_RUN] - len(GAP) - widths[_STATE]
    shown = [_RUN, _STATE]
    for column in _BY_USE:
        if widths[column] + len(GAP) <= room:
            room -= widths[column] + len(GAP)
            shown.append(column)
    if _SHORT_METRIC in shown and widths[_METRIC] - widths[_SHORT_METRIC] <= room:
        shown[shown.index(_SHORT_METRIC)] = _METRIC
    return sorted(shown)


def _row(run: "Summary", now: float, relative: bool) -> tuple[str, ...]:
    view = run.view
    name = clean(run.metric or "")
    return (
        view.run_id,
        view.state.value,
        _done(run),
        "directory deleted" if run.is_deleted else _metric(name, run),
        "deleted" if run.is_deleted else _metric(name.rpartition("/")[2], run),
        str(view.attempt),
        clean(view.provider),
        words.when(view.created, now if relative else None),
        words.duration(view.duration(now)),
    )


def _done(run: "Summary") -> str:
    """The share of the training that is done, rounded down, or else the step."""
    if run.progress is not None:
        return f"{int(run.progress * 100)}%"
    return "-" if run.step is None else f"step {run.step:,}"


def _metric(name: str, run: "Summary") -> str:
    name = name if len(name) <= _LONGEST_METRIC else f"{name[: _LONGEST_METRIC - 1]}…"
    return f"{name} {words.number(run.value)}" if name else "-"


def _short(name: str) -> str:
    """A folder's name, shortened to the width of a run id."""
    return name if len(name) <= _LONGEST_ID else f"{name[: _LONGEST_ID - 1]}…"


def run_details(
    progress: "Progress",
    now: float,
    relative: bool,
    paint: Painter,
    *,
    console: str | None = None,
    given: "GivenValues | None" = None,
    saved: "Artifacts | None" = None,
) -> str:
    """The output of ``status``, without the log; with the run's page in the provider's ``console``, the values it was ``given``, and what
    it has ``saved``.
    """
    run, since = progress.view, now if relative else None
    rows = [
        ("run", paint(run.run_id, "bold")),
        ("state", _state_line(run, paint)),
        *([("message", clean_lines(run.message))] if run.message else []),
        *([("progress", line)] if (line := progress_line(progress)) else []),
        *([("metrics", line)] if (line := metrics_line(progress.latest)) else []),
        *([("model", line)] if saved and (line := model_line(saved)) else []),
        *([("ignored", clean(progress.rejected))] if progress.rejected else []),
        ("attempt", str(run.attempt) + (f", resumed from step {run.resumed_step:,}" if run.resumed_step is not None else "")),
        *([("starts from", starts_from(progress.starts_from))] if progress.starts_from else []),
        *([("changed", lines)] if (lines := changes_lines(progress)) else []),
        ("provider", clean(run.provider) + (f" on {clean(run.host)}" if run.host else "")),
        ("created", words.when(run.created, since)),
        *([("started", _started(run, since))] if run.started is not None else []),
        *([("ended", words.when(run.ended, since))] if run.ended is not None else []),
        *([("duration", words.duration(took))] if (took := run.duration(now)) is not None else []),
        *([("last seen", words.when(run.heartbeat, since))] if run.heartbeat is not None and not run.state.is_end else []),
        ("directory", clean(run.run_directory)),
        *([("console", clean(console))] if console else []),
        *([("job file", clean(run.job_file))] if run.job_file else []),
        *([("values", values_lines(given.values))] if given and given.values else []),
        *([("--set", values_lines(given.set))] if given and given.set else []),
    ]
    return pairs(rows, paint)


def model_line(saved: "Artifacts") -> str:
    """From which step the final model is and how good it was in validation and test, if its program said so."""
    step = [f"step {saved.model_step:,}"] if saved.model_step is not None else []
    return " · ".join([*step, *([line] if (line := metrics_line(saved.model_metrics)) else [])])


def starts_from(start: Mapping[str, str]) -> str:
    """The weights that a run began with, on one line."""
    return f"{clean(start['source'])}, SHA-256 {start['sha256'][:12]}…"


def changes_lines(progress: "Progress") -> str:
    """What ``resume`` changed, one line for each attempt that began with it."""
    lines = []
    for entry in progress.changes:
        code = entry["code"]
        commit = f" (commit {code['commit'][:12]})" if code and code["commit"] else ""
        what = [*entry["set"], *([f"the code as it was then{commit}"] if code else [])]
        lines.append(f"{', '.join(map(clean, what))} from attempt {entry['attempt']} on")
    return "\n".join(lines)


def values_lines(values: Mapping[str, object]) -> str:
    """A job's values, one on each line as ``--set`` takes them; of very many the first, and of long ones the beginning."""
    lines = [clean(without_credentials(_assignment(name, value))) for name, value in islice(values.items(), _MOST_VALUES)]
    lines = [line if len(line) <= _LONGEST_VALUE else f"{line[: _LONGEST_VALUE - 1]}…" for line in lines]
    return "\n".join([*lines, *([f"and {len(values) - _MOST_VALUES:,} more"] if len(values) > _MOST_VALUES else [])])


def _assignment(name: str, value: object) -> str:
    if isinstance(value, str):
        return f"{name}={value.rstrip()}"
    return f"{name}={json.dumps(value)}"


def _started(run: "RunView", now: float | None) -> str:
    """When the attempt started: relative to ``now`` by its worker's own measure while it runs, since its clock may differ from this one."""
    if now is None or run.ended is not None or run.elapsed is None:
        return words.when(run.started, now)
    return words.ago(run.duration(now) or 0.0)


def progress_line(progress: "Progress") -> str:
    """The training's progress, such as ``epoch 2/5 · step 70/115 · 61 steps/s · 0.7 s to go``; empty if nothing is known."""
    parts = []
    if progress.epochs is not None and progress.epoch is not None:
        parts.append(f"epoch {epoch_shown(progress.epoch, progress.epochs)}/{progress.epochs}")
    if progress.step is not None:
        parts.append(f"step {progress.step:,}" + (f"/{progress.total_steps:,}" if progress.total_steps else ""))
    if not progress.view.state.is_end:
        if progress.steps_per_second:
            parts.append(words.rate(progress.steps_per_second, "steps"))
        if progress.eta_seconds is not None:
            parts.append(f"{words.duration(progress.eta_seconds)} to go")
    return " · ".join(parts)


def epoch_shown(done: float, epochs: int) -> int:
    """The current epoch, counted from 1, after ``done`` epochs."""
    return max(1, min(epochs, int(done) + (done > int(done))))


def metrics_line(latest: "Mapping[str, float | None]") -> str:
    """The newest metrics on one line, validation first; without rates, which measure speed rather than quality."""
    shown = (name for name in latest if not tells_pace(name))
    names = sorted(shown, key=lambda name: (not name.startswith("validation/"), name))
    return " · ".join(f"{clean(name)} {words.number(latest[name])}" for name in names)


def next_steps(
    run: "RunView", has_metrics: bool = False, name: str | None = None, artifacts: "Artifacts | None" = None
) -> list[tuple[str, str]]:
    """Useful commands for a run in this state, each with its purpose; only those that would work.

    ``name`` is how to name the run, by default by its id. ``artifacts`` is what an ended run has saved; None if that is not known, or if it
    has not ended.
    """
    name = shlex.quote(name or run.run_id)  # users copy these lines into their shell
    if run.moved_to is not None:
        return [(f"cloud-train adopt {shlex.quote(clean(run.moved_to))}", "track it in its new place")]
    if not run.state.is_end:
        return [
            (f"cloud-train logs {name} --follow", "follow its output"),
            (f"cloud-train status {name}", "see its state and progress"),
            (f"cloud-train cancel {name}", "stop it"),
        ]
    if artifacts and not artifacts.directory:
        again = [(f"cloud-train submit {shlex.quote(clean(run.job_file))}", "start a new run of the job")] if run.job_file else []
        return again or [("cloud-train list", "see your other runs")]
    has_model, has_checkpoint = (artifacts.model, artifacts.checkpoint) if artifacts else (False, False)
    plot = [(f"cloud-train metrics {name} --plot", "see how it learned")] if has_metrics else []
    logs = (f"cloud-train logs {name}", "see its output")
    if run.state is State.SUCCEEDED and has_model:
        return [(f"cloud-train fetch-model {name}", "copy the model here"), *(plot or [logs])]
    if run.state is State.SUCCEEDED:
        return [logs, *plot, (f"cloud-train sync {name}", "copy its whole directory here")]
    goes_on = "continue from the newest checkpoint" if has_checkpoint else "start again: it has saved no checkpoint"
    return [logs, (f"cloud-train resume {name}", goes_on if artifacts else "start its next attempt")]


def saved_by(run: "Run") -> "Artifacts | None":
    """What an ended run has saved; None if it has not ended, or its store cannot be read now."""
    if not run.view.state.is_end or run.view.moved_to is not None:
        return None
    try:
        return run.artifacts()
    except CloudTrainError:
        return None


def saved_nothing(run: "RunView", artifacts: "Artifacts | None") -> str:
    """That the run directory was deleted, or a hint for a program that ended well without a model; empty for any other run."""
    if artifacts is not None and not artifacts.directory:
        return "The run directory was deleted: its log, metrics, checkpoints and model are gone."
    if artifacts is None or artifacts.model or run.state is not State.SUCCEEDED:
        return ""
    return "It has saved no model: a program's model is what it writes into the folder $CLOUD_TRAIN_MODEL."


def command_list(steps: Sequence[tuple[str, str]], paint: Painter) -> str:
    """Commands with their purposes, aligned."""
    width = max(len(command) for command, _ in steps)
    return "\n".join(f"  {command.ljust(width)}  {paint(purpose, 'dim')}" for command, purpose in steps)


def _state_line(run: "RunView", paint: Painter) -> str:
    shown = state(run.state.value, paint)
    if run.cause is None or run.cause.value == "succeeded":
        return shown
    why = "" if run.cause.value == run.state.value else f" ({run.cause.value})"
    return f"{shown}{why}: {run.cause.text}"
