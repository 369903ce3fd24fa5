"""A plan as ``submit --dry-run`` shows it: every value with its origin, the provider, the model layer by layer, and the data."""

import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from textwrap import fill
from typing import Any

from cloud_train.cli.output import words
from cloud_train.cli.output.terminal import Painter, clean
from cloud_train.cli.output.words import pairs, table
from cloud_train.environment import QUIET_THREADS
from cloud_train.job.checks import ignored_fields
from cloud_train.run.plan import Plan
from cloud_train.spec.facts import UNKNOWN, DataFacts
from cloud_train.spec.problems import dotted
from cloud_train.spec.registry import plugin_code
from cloud_train.spec.secret_names import without_credentials
from cloud_train.spec.types import SHA256_PATTERN

_WIDTH = 98
_LINK = "<console>"
"""In place of the link to the console: it names its job in a fragment, which would be hidden as a credential."""


def plan_text(plan: Plan, request: Mapping[str, Any], refused: Sequence[str], paint: Painter, console: str | None = None) -> str:
    """The whole plan as text, with the ``request`` to the provider, the reasons why it would be refused, and the page that its job would
    have in the provider's ``console``.
    """
    sections = [
        ("job", _values(plan, paint)),
        ("runs", _place(plan, paint, _LINK if console else "")),
        ("model", _model(plan, paint)),
        ("data and training", _training(plan, paint)),
        ("request", _indented(json.dumps(request, indent=2, ensure_ascii=False))),
        ("would be refused", "\n".join(_wrapped(clean(problem)) for problem in refused)),
        ("notes", "\n".join(_wrapped(clean(note)) for note in plan.notes)),
    ]
    blocks = [f"{paint(title.upper(), 'bold')}\n{body}" for title, body in sections if body]
    remarks = ["\n".join(paint(_wrapped(clean(remark)).strip(), "yellow") for remark in plan.remarks)] if plan.remarks else []
    text = without_credentials("\n\n".join([*remarks, *blocks, paint("Dry run: nothing was started or written.", "dim")]))
    return text.replace(_LINK, clean(console), 1) if console else text


def _indented(text: str) -> str:
    return "\n".join(f"  {clean(line)}" for line in text.split("\n"))


def _values(plan: Plan, paint: Painter) -> str:
    """Every value of the resolved job, with its origin.

    Default values are left out if they are empty, switched off, or ignored by this job.
    """
    rows = []
    folder = plan.job_file.rpartition("/")[0] + "/"
    ignored = {dotted(path) for path, _, _ in ignored_fields(plan.job)}
    for path, value in _leaves(plan.job.model_dump(mode="json"), ""):
        origin = _origin(plan.origins, path).removeprefix(folder)
        if value is None or (origin == "default" and (_is_off(value) or _is_within(path, ignored))):
            continue
        rows.append((path, clean(_shown(value)), origin))
    width = max(len(path) for path, _, _ in rows)
    values = min(44, max(len(value) for _, value, _ in rows))
    return "\n".join(
        f"  {path.ljust(width)}  {value.ljust(values)}  {paint(clean(origin), 'dim' if origin == 'default' else 'cyan')}"
        for path, value, origin in rows
    )


def _place(plan: Plan, paint: Painter, console: str) -> str:
    program = plan.program
    rows = [
        ("run", f"{plan.run_id}, attempt {plan.attempt} of at most {program.attempts}"),
        ("provider", clean(plan.provider)),
        ("command", clean(shlex.join(program.command))),
        ("in folder", clean(program.directory)),
        *([("image", clean(plan.image))] if plan.image else []),
        *([("data", clean(program.data))] if program.data else []),
        ("store", clean(plan.store)),
        *([("console", console)] if console else []),
        *([("threads", _threads(plan.threads))] if plan.threads else []),
        ("stopped after", words.duration(program.duration_seconds) if program.duration_seconds else "no limit"),
    ]
    return pairs(rows, paint, indent="  ")


def _threads(settings: Mapping[str, str]) -> str:
    shown = clean(", ".join(f"{name}={value}" for name, value in settings.items()))
    return f"{shown}: waiting threads soon leave their cores to other programs" if settings == QUIET_THREADS else shown


def _model(plan: Plan, paint: Painter) -> str:
    if not plan.layers:
        return ""
    rows = [(layer.name, clean(layer.kind), _shape(layer.output_shape), f"{layer.parameters:,}") for layer in plan.layers]
    rows.append(("total", "", "", f"{plan.parameters:,}"))
    text = table(("LAYER", "KIND", "OUTPUT", "PARAMETERS"), rows, paint, right=(3,))
    return "\n".join(f"  {line}" for line in text.split("\n"))


def _training(plan: Plan, paint: Painter) -> str:
    data, job = plan.data, plan.job
    if job.data is None or job.data.sample_kind == "files":
        return ""
    source = data.source if data else job.data.source
    rows = [("data set", clean(job.data.dataset)), ("source", clean(source))]
    if data is not None:
        with plugin_code(job.data, "fails in sample_rows"):
            rows += [(name, clean(value)) for name, value in job.data.sample_rows(data)]
    if plan.start is not None:
        how = "downloaded when the run starts" if plan.start.is_on_web else "copied into the run directory"
        rows.append(("starts from", f"{clean(plan.start.source)}, SHA-256 {plan.start.weights.sha256[:12]}…, {how}"))
    rows.append(("samples", _samples(data)))
    rows.append(("steps", _steps(plan)))
    if job.train.delivers_best:
        rows.append(("model", f"the best one, by {job.best.metric or 'validation/accuracy'}"))
    processes = job.resources.processes * job.resources.nodes
    if processes > 1:
        rows.append(("processes", f"{processes}, sharing each step's batch of {job.train.batch_size:,}"))
    if job.train.precision != "fp32":
        rows.append(("precision", f"{job.train.precision}, with weights in fp32"))
    return pairs(rows, paint, indent="  ")


def _samples(data: DataFacts | None) -> str:
    if data is None or data.train_samples is None or data.validation_samples is None:
        return UNKNOWN
    tested = f", {data.test_samples:,} for a test at the end" if data.test_samples else ""
    return f"{data.train_samples:,} for training, {data.validation_samples:,} for validation{tested}"


def _steps(plan: Plan) -> str:
    """Steps per epoch and in total; early stopping may shorten the run."""
    most = "at most " if plan.job.train.early_stopping else ""
    in_all = f"{most}{plan.total_steps:,} in total" if plan.total_steps else ""
    if plan.steps_per_epoch is None:
        return in_all or UNKNOWN
    return f"{plan.steps_per_epoch:,} per epoch" + (f", {in_all}" if in_all else "")


def _wrapped(text: str) -> str:
    return fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    """Dotted path and value of every scalar. A list of scalars and an empty container count as one value."""
    if isinstance(value, dict) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return [(path, value)]
    return [leaf for key, item in items for leaf in _leaves(item, f"{path}.{key}" if path else key)]


def _origin(origins: dict[str, str], path: str) -> str:
    """The origin of the value at ``path``; for a list it may be recorded at the list's own path, above it or below it."""
    while path:
        if path in origins:
            return origins[path]
        below = next((origin for known, origin in origins.items() if known.startswith(f"{path}.")), None)
        if below:
            return below
        path = path.rpartition(".")[0]
    return "default"


def _is_off(value: Any) -> bool:
    # An integer 0 may be meaningful, such as a seed. A float 0.0 switches dropout, decay and the like off.
    return value is False or value in ([], {}, "none") or (isinstance(value, float) and not value)


def _is_within(path: str, sections: Collection[str]) -> bool:
    return any(path == section or path.startswith(f"{section}.") for section in sections)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and re.fullmatch(SHA256_PATTERN, value):
        return f"{value[:12]}…"
    if isinstance(value, list):
        return f"[{', '.join(_shown(item) for item in value)}]"
    if value == {}:
        return "{}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shape(shape: tuple[int | str, ...]) -> str:
    return "×".join(str(side) for side in shape)
