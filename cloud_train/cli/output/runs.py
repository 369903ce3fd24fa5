"""Formats runs: one row each for ``list``, and all details for ``status``."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

from cloud_train.cli.output import words
from cloud_train.cli.output.terminal import Painter, clean, clean_lines
from cloud_train.cli.output.words import pairs, state, table, table_pages
from cloud_train.run.metrics import tells_pace
from cloud_train.run.states import State

if TYPE_CHECKING:
    from cloud_train import Progress, RunView, Unreadable

_LONGEST_ID = 59


_HEAD = ("RUN", "STATE", "ATTEMPT", "PROVIDER", "CREATED", "DURATION")
_ROWS_OF_A_PAGE = 1000


def run_table(runs: Sequence["RunView"], now: float, relative: bool, paint: Painter, unreadable: Sequence["Unreadable"] = ()) -> str:
    """The table of ``list``; ``relative`` shows times as ``3 min ago``. Unreadable run directories follow, and then the reasons."""
    rows = [_row(run, now, relative) for run in runs]
    rows += [(_short(clean(run.run_id)), "unreadable", "-", "-", "-", "-") for run in unreadable]
    reasons = "".join(f"\n{_short(clean(run.run_id))} is unreadable: {clean(run.why)}" for run in unreadable)
    return table(_HEAD, rows, paint, right=(2,), colours=1) + reasons


def run_table_pages(runs: Iterable["RunView"], now: float, relative: bool, paint: Painter) -> Iterator[str]:
    """The same table of any number of runs, in pieces of a thousand rows. Nothing is yielded if there are none."""
    rest = iter(runs)
    first = list(islice(rest, _ROWS_OF_A_PAGE))
    # What follows a first page is not known yet: its states may be longer.
    least = (0, max(len(state) for state in State), 0, 0, 0, 0) if len(first) == _ROWS_OF_A_PAGE else (0,) * len(_HEAD)
    batches = chain([first] if first else [], iter(lambda: list(islice(rest, _ROWS_OF_A_PAGE)), []))
    pages = ([_row(run, now, relative) for run in batch] for batch in batches)
    return table_pages(_HEAD, pages, paint, right=(2,), colours=1, least=least)


def _row(run: "RunView", now: float, relative: bool) -> tuple[str, ...]:
    created = words.when(run.created, now if relative else None)
    return run.run_id, run.state.value, str(run.attempt), run.provider, created, words.duration(run.duration(now))


def _short(name: str) -> str:
    """A folder's name, shortened to the width of a run id."""
    return name if len(name) <= _LONGEST_ID else f"{name[: _LONGEST_ID - 1]}…"


def run_details(progress: "Progress", now: float, relative: bool, paint: Painter, *, console: str | None = None) -> str:
    """The output of ``status``, without the log; with the run's page in the provider's ``console``."""
    run, since = progress.view, now if relative else None
    rows = [
        ("run", paint(run.run_id, "bold")),
        ("state", _state_line(run, paint)),
        *([("message", clean_lines(run.message))] if run.message else []),
        *([("progress", line)] if (line := progress_line(progress)) else []),
        *([("metrics", line)] if (line := metrics_line(progress.latest)) else []),
        ("attempt", str(run.attempt) + (f", resumed from step {run.resumed_step:,}" if run.resumed_step is not None else "")),
        ("provider", clean(run.provider) + (f" on {clean(run.host)}" if run.host else "")),
        ("created", words.when(run.created, since)),
        *([("started", _started(run, since))] if run.started is not None else []),
        *([("ended", words.when(run.ended, since))] if run.ended is not None else []),
        *([("duration", words.duration(run.duration(now)))] if run.started is not None else []),
        *([("last seen", words.when(run.heartbeat, since))] if run.heartbeat is not None and not run.state.is_end else []),
        ("directory", clean(run.run_directory)),
        *([("console", clean(console))] if console else []),
        *([("job file", clean(run.job_file))] if run.job_file else []),
    ]
    return pairs(rows, paint)


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


def metrics_line(latest: "dict[str, float | None]") -> str:
    """The newest metrics on one line, validation first; without rates, which measure speed rather than quality."""
    shown = (name for name in latest if not tells_pace(name))
    names = sorted(shown, key=lambda name: (not name.startswith("validation/"), name))
    return " · ".join(f"{clean(name)} {words.number(latest[name])}" for name in names)


def next_steps(run: "RunView", has_metrics: bool = False, name: str | None = None) -> list[tuple[str, str]]:
    """Useful commands for a run in this state, each with its purpose. ``name`` is how to name the run, by default by its id."""
    name = shlex.quote(name or run.run_id)  # users copy these lines into their shell
    if run.state is State.SUCCEEDED and has_metrics:
        return [(f"cloud-train fetch-model {name}", "copy the model here"), (f"cloud-train metrics {name} --plot", "see how it learned")]
    if run.state is State.SUCCEEDED:
        return [(f"cloud-train logs {name}", "see its output"), (f"cloud-train sync {name}", "copy its whole directory here")]
    if run.state.is_end:
        return [
            (f"cloud-train logs {name}", "see its output"),
            (f"cloud-train resume {name}", "continue from the newest checkpoint"),
        ]
    return [
        (f"cloud-train logs {name} --follow", "follow its output"),
        (f"cloud-train status {name}", "see its state and progress"),
        (f"cloud-train cancel {name}", "stop it"),
    ]


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
