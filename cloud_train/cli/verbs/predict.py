"""``cloud-train predict``: run a trained model."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cloud_train.cli.options import CheckpointOption, JsonOption, NamedRunArgument, open_client
from cloud_train.cli.output.terminal import Painter, clean, clean_lines, say, say_aside, say_json
from cloud_train.cli.output.words import number, table
from cloud_train.errors import UsageError


def predict(
    run: NamedRunArgument,
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE...", help="Image files to classify.", show_default=False)] = None,
    *,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The text to continue.", show_default=False)] = None,
    text: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A line of text to classify. Repeatable.", show_default=False)
    ] = None,
    series: Annotated[Path | None, typer.Option(metavar="FILE", help="A CSV file of time series to forecast.", show_default=False)] = None,
    length: Annotated[int, typer.Option(min=1, metavar="N", help="Characters to add to the prompt.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, metavar="T", help="Below 1 is more predictable, above 1 more varied.")] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Draw each character from the K most likely ones.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="The same seed gives the same text.")] = 0,
    invert: Annotated[bool, typer.Option("--invert", help="The images have dark strokes on a light background.")] = False,
    checkpoint: CheckpointOption = None,
    as_json: JsonOption = False,
) -> int:
    """Run a trained model: classify images or text, continue a prompt, or forecast time series.

    Examples:
      cloud-train predict digits-cnn seven.png three.png
      cloud-train predict digits-cnn scan.png --invert --json
      cloud-train predict sentiment-rnn --text "Not worth the money."
      cloud-train predict airline-rnn --series airline.csv
      cloud-train predict python-docs-rnn --prompt "The function " --length 300
    """
    if bool(images) + bool(text) + (prompt is not None) + (series is not None) != 1:
        raise UsageError(
            "no input, or several kinds of it; give either image files, lines of text with --text, a prompt with --prompt,"
            " or a file of time series with --series",
            hint="see: cloud-train predict --help",
        )
    chosen = open_client(as_json).run(run, latest=True)
    if images or text:
        predictions = chosen.predict(images or (), texts=text or (), checkpoint=checkpoint, invert=invert)
        _show_predictions(chosen.id, predictions, "file" if images else "text", as_json)
        return 0
    if series is not None:
        _show_forecasts(chosen.id, chosen.forecast(series, checkpoint=checkpoint), as_json)
        return 0
    answer = chosen.continue_text(prompt or "", length=length, temperature=temperature, top_k=top_k, seed=seed, checkpoint=checkpoint)
    if as_json:
        say_json({"run_id": chosen.id, **answer})
    else:
        say(clean_lines(f"{answer['prompt']}{answer['continuation']}"))
    return 0


def _show_forecasts(run_id: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print one row per time, with a column for each target, or for each of its quantiles."""
    if as_json:
        say_json({"run_id": run_id, "predictions": rows})
        return
    lines = []
    for row in rows:
        columns = {name: value for name, value in row["values"].items() if name not in row.get("quantiles", {})}
        for name, levels in row.get("quantiles", {}).items():
            columns |= {f"{name} {level}": value for level, value in levels.items()}
        lines.append((clean(str(row["time"])), clean(str(row["series"])), columns))
    has_ids = any(series for _, series, _ in lines)
    header = ("TIME", *(["SERIES"] if has_ids else []), *(clean(name).upper() for name in (lines[0][2] if lines else {})))
    cells = [(time, *([series] if has_ids else []), *(number(value) for value in columns.values())) for time, series, columns in lines]
    say(table(header, cells, Painter.of(sys.stdout), right=range(1 + has_ids, len(header))))


def _show_predictions(run_id: str, predictions: list[dict[str, Any]], asked: str, as_json: bool) -> None:
    """Print one row per prediction; ``asked`` is the kind of input: ``file`` or ``text``."""
    if as_json:
        say_json({"run_id": run_id, "predictions": predictions})
        return
    rows = [
        (
            clean(str(prediction["class"])),
            f"{prediction['probability']:.1%}",
            _second(prediction.get("scores", {}), str(prediction["class"])),
            clean(str(prediction[asked])),
        )
        for prediction in predictions
    ]
    say(table(("CLASS", "PROBABILITY", "NEXT", asked.upper()), rows, Painter.of(sys.stdout), right=(1,)))
    for prediction in predictions:
        if prediction.get("known_tokens") == 0:
            say_aside(f"warning: nothing of {clean(str(prediction[asked]))!r} is in the model's vocabulary, so its class is a guess")


def _second(scores: dict[str, float], first: str) -> str:
    """The second most likely class, such as ``9 (2.1%)``."""
    others = sorted(((probability, name) for name, probability in scores.items() if name != first), reverse=True)
    return f"{clean(others[0][1])} ({others[0][0]:.1%})" if others else "-"
