"""``cloud-train metrics``: show a run's metrics."""

import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption, RunArgument, open_client
from cloud_train.cli.output.metrics import metrics_table, plots
from cloud_train.cli.output.runs import saved_by, saved_nothing
from cloud_train.cli.output.terminal import Painter, is_terminal, say, say_aside, say_json_list
from cloud_train.errors import NotFoundError, UsageError
from cloud_train.run.metrics import MetricPoint, tells_pace

_LISTED = 50


def metrics(
    run: RunArgument = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="Show only this metric, such as loss or validation/accuracy. Repeatable.", show_default=False
        ),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Plot the loss, or each --name, over the steps.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Show a run's metrics as a table or a plot.

    The table has one row per epoch, with the last values in it. Rates are left out unless requested with --name; --json prints every point.

    Examples:
      cloud-train metrics
      cloud-train metrics digits-cnn --plot --name accuracy
      cloud-train metrics digits-cnn --json
    """
    if plot and as_json:
        raise UsageError("--plot and --json cannot be combined; choose one")
    chosen = open_client(as_json).run(run, latest=True)
    if as_json:
        if name:
            _named(chosen.metrics(thin=True), name, chosen.id)  # a name that the run does not have is an error before anything is printed
        wanted = (point.to_json() for point in chosen.each_metric() if not name or point.name in name or point.key in name)
        say_json_list({"run_id": chosen.id}, "points", wanted)
        return 0
    points = _named(chosen.metrics(thin=True), name or [], chosen.id)
    has_ended = not points and chosen.status().state.is_end
    if has_ended:  # perhaps only now, after its last metrics
        points = _named(chosen.metrics(thin=True), name or [], chosen.id)
    if not points:
        saved = saved_by(chosen)
        if saved and not saved.directory:
            raise NotFoundError(saved_nothing(chosen.view, saved))
        say_aside(f"{chosen.id} ended without writing metrics" if has_ended else f"{chosen.id} has written no metrics yet")
        return 0
    if plot:
        say(plots(points, shown=bool(name), paint=Painter.of(sys.stdout), terminal=is_terminal(sys.stdout)))
    else:
        _show_table(chosen.id, points, with_rates=bool(name))
    return 0


def _show_table(run_id: str, points: Sequence[MetricPoint], *, with_rates: bool) -> None:
    """Print the table, and how to see what it leaves out."""
    quality = [point for point in points if with_rates or not tells_pace(point.name)]
    table = metrics_table(quality or points, Painter.of(sys.stdout))
    say(table.text)
    command = f"cloud-train metrics {shlex.quote(run_id)}"
    if table.rows_left_out:
        say_aside(f"{table.rows_left_out:,} earlier rows are left out; print every point with: {command} --json")
    if table.metrics_left_out:
        say_aside(f"{table.metrics_left_out:,} metrics are left out; show one with: {command} --name NAME")


def _named(points: Sequence[MetricPoint], names: list[str], run_id: str) -> Sequence[MetricPoint]:
    """The points of these metrics; a name without a split selects the metric in all splits."""
    if not names:
        return points
    chosen = [point for point in points if point.name in names or point.key in names]
    known = {point.key for point in points} | {point.name for point in points}
    missing = [name for name in names if name not in known]
    if missing and points:
        every = sorted({point.key for point in points})
        have = ", ".join(every[:_LISTED]) + (f" and {len(every) - _LISTED:,} more" if len(every) > _LISTED else "")
        raise NotFoundError(f"{run_id} has no metric {', '.join(missing)}", hint=f"it has: {have}")
    return chosen
