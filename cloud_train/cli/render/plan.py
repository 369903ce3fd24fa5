"""A plan as ``submit --dry-run`` shows it: what would run and where, the model layer by layer, the data, and where each value came from."""

import shlex
from typing import TYPE_CHECKING, Any

from cloud_train.cli.render import words
from cloud_train.cli.render.table import pairs, table
from cloud_train.cli.terminal import Painter, clean

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan


def plan_text(plan: "Plan", paint: Painter) -> str:
    """The whole plan as text."""
    sections = [
        ("job", _values(plan, paint)),
        ("runs", _place(plan, paint)),
        ("model", _model(plan, paint)),
        ("data and training", _training(plan, paint)),
        ("notes", "\n".join(f"  {clean(note)}" for note in plan.notes)),
    ]
    blocks = [f"{paint(title.upper(), 'bold')}\n{body}" for title, body in sections if body]
    return "\n\n".join([*blocks, paint("A dry run: nothing was started or written.", "dim")])


def _values(plan: "Plan", paint: Painter) -> str:
    """Every value of the resolved job, and where it came from. What was left to its default and is empty is left out."""
    rows = []
    folder = plan.job_file.rpartition("/")[0] + "/"
    for path, value in _leaves(plan.job.model_dump(mode="json"), ""):
        origin = _origin(plan.origins, path).removeprefix(folder)
        if value is None or (value in ([], {}) and origin == "default"):
            continue
        rows.append((path, clean(_shown(value)), origin))
    width = max(len(path) for path, _, _ in rows)
    values = min(44, max(len(value) for _, value, _ in rows))
    return "\n".join(
        f"  {path.ljust(width)}  {value.ljust(values)}  {paint(clean(origin), 'dim' if origin == 'default' else 'cyan')}"
        for path, value, origin in rows
    )


def _place(plan: "Plan", paint: Painter) -> str:
    program = plan.program
    rows = [
        ("run", f"{plan.run_id}, attempt {plan.attempt} of at most {program.attempts}"),
        ("provider", clean(plan.provider)),
        ("command", clean(shlex.join(program.command))),
        ("in folder", clean(program.directory)),
        *([("data", clean(program.data))] if program.data else []),
        ("store", clean(plan.store)),
        ("stopped after", words.duration(program.duration_seconds) if program.duration_seconds else "no limit"),
    ]
    return pairs(rows, paint, indent="  ")


def _model(plan: "Plan", paint: Painter) -> str:
    if not plan.layers:
        return ""
    rows = [(layer.name, clean(layer.kind), _shape(layer.output_shape), f"{layer.parameters:,}") for layer in plan.layers]
    rows.append(("total", "", "", f"{plan.parameters:,}"))
    text = table(("LAYER", "KIND", "OUTPUT", "PARAMETERS"), rows, paint, right=(3,))
    return "\n".join(f"  {line}" for line in text.split("\n"))


def _training(plan: "Plan", paint: Painter) -> str:
    data = plan.data
    if data is None:
        return ""
    rows = [
        ("data set", clean(data.dataset)),
        ("source", clean(data.source)),
        ("sample", f"{_shape(data.sample_shape)}, {data.classes} {'characters' if len(data.sample_shape) == 1 else 'classes'}"),
        ("samples", f"{data.train_samples:,} to train on, {data.validation_samples:,} to validate with"),
    ]
    if plan.steps_per_epoch:
        rows.append(("steps", f"{plan.steps_per_epoch:,} per epoch" + (f", {plan.total_steps:,} in all" if plan.total_steps else "")))
    return pairs(rows, paint, indent="  ")


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    """Dotted path and value of every scalar; a list of scalars and an empty container are leaves too."""
    if isinstance(value, dict) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return [(path, value)]
    return [leaf for key, item in items for leaf in _leaves(item, f"{path}.{key}" if path else key)]


def _origin(origins: dict[str, str], path: str) -> str:
    """Where the value at ``path`` came from; a list's values may be known by their own paths, or by the path of what holds them."""
    while path:
        if path in origins:
            return origins[path]
        below = next((origin for known, origin in origins.items() if known.startswith(f"{path}.")), None)
        if below:
            return below
        path = path.rpartition(".")[0]
    return "default"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_shown(item) for item in value)}]"
    if value == {}:
        return "{}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shape(shape: tuple[int | str, ...]) -> str:
    return "×".join(str(side) for side in shape)
