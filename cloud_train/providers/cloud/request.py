"""The parts of a job's request that all clouds share, derived from the plan alone, and the validation of requests.

Requests are validated against the clouds' own published descriptions of them, JSON Schemas (draft 2020-12) in
``providers/data/<cloud>.requests.json``. Their ``$comment`` names the source and its version; tests compare them with their sources.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cloud_train.docker import container_paths
from cloud_train.providers.base import worker_arguments
from cloud_train.run.platform_rules import CONSOLE_OUTPUT, NodeVariables, SecretUrl

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

    from cloud_train.run.plan import Plan


RUN = "cloud-train-run"
ATTEMPT = "cloud-train-attempt"
STORE = "cloud-train-store"
"""Keys of the tags or labels that identify a job."""
NOT_BUILT = "sha256:" + "0" * 64
"""Placeholder for the image's digest before it is built."""

_BUILT = re.compile(r"\S+@sha256:[0-9a-f]{64}")
"""An image that was built and pushed; before that, a plan has the ingredients, which may include a base with a digest."""
_HOME = "/tmp/cloud-train"
WORKSPACE = f"{_HOME}/work"
"""The folder for the run's files until they are uploaded."""
ENVIRONMENT = {"HOME": "/tmp", "USER": "cloud-train", "CLOUD_TRAIN_HOME": _HOME}
"""The environment of the worker and its program, whatever the settings."""

_DAY = "1 d"
_MARGIN_SECONDS = 900
"""Time for an attempt to download data and the newest checkpoint, and to upload the last one."""
_END = re.compile(r"(?<!\\)\$")
_SHOWN_CHARACTERS = 80
_SHOWN_NAMES = 3


def environment_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The environment of the worker and its program, by a cloud's ``settings``."""
    return {**ENVIRONMENT, **({CONSOLE_OUTPUT: "0"} if settings.get("console_output") is False else {})}


def job_name(run_id: str, attempt: int) -> str:
    """The name of an attempt's job, which prevents a second launch on clouds where names are unique."""
    return f"{run_id}-{attempt}"


def image_of(plan: "Plan") -> str | None:
    """The image, by digest (zeros before it is built); None if no repository is configured."""
    if plan.image and _BUILT.fullmatch(plan.image):
        return plan.image
    repository = plan.provider_settings.get("repository")
    return f"{repository}@{NOT_BUILT}" if repository else None


def longest_seconds(plan: "Plan") -> float:
    """The cloud's time limit for all attempts together, in seconds; the worker applies the job's own limit before that."""
    from cloud_train.spec.types import Duration  # imports pydantic, which observing runs does not need

    limits = plan.job.limits
    if limits.duration is None:
        return Duration.parse(plan.provider_settings.get("max_runtime") or _DAY).seconds
    return (limits.duration.seconds + limits.grace.seconds) * plan.job.retry.attempts + _MARGIN_SECONDS


def whole_seconds(plan: "Plan") -> int:
    """``longest_seconds``, rounded up."""
    return math.ceil(longest_seconds(plan))


def worker_command(plan: "Plan", platform: str | NodeVariables, secrets: str | SecretUrl | None = None) -> list[str]:
    """The worker's command.

    ``platform`` is a name in ``worker.platforms``, or another platform's variables; the worker gets its node rank from it. ``secrets`` is
    the location of the job's secrets, as in ``worker.secrets``, or a request for them.
    """
    platform = platform if isinstance(platform, str) else platform.to_json()
    secrets = secrets.to_option() if isinstance(secrets, SecretUrl) else secrets
    place = ["--workspace", WORKSPACE, "--platform", platform, *(["--secrets", secrets] if secrets else [])]
    return [container_paths.PYTHON, "-m", "cloud_train.worker", "--store", plan.store, *worker_arguments(plan), *place]


def problems_of(request: Mapping[str, Any], cloud: str, definition: str) -> Iterator[str]:
    """Violations of the schema ``definition`` of ``cloud`` in ``request``, each with the field's path and the violated rule."""
    found = sorted(_validator(cloud, definition).iter_errors(request), key=lambda error: [str(part) for part in error.absolute_path])
    for error in found:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
        yield f"{path or definition}: {_rule(error)}"


@lru_cache(maxsize=8)
def description(cloud: str) -> dict[str, Any]:
    """The whole description of ``cloud``."""
    text = files("cloud_train.providers").joinpath("data", f"{cloud}.requests.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@lru_cache(maxsize=8)
def _validator(cloud: str, definition: str) -> "Validator":
    from jsonschema import Draft202012Validator  # takes 0.1 s, and only requests need it
    from jsonschema.validators import extend

    whole = extend(Draft202012Validator, {"pattern": _pattern})
    return whole({"$ref": f"#/$defs/{definition}", "$defs": description(cloud)["$defs"]})


def _pattern(_validator: "Validator", pattern: str, value: object, _schema: object) -> Iterator["ValidationError"]:
    """The keyword ``pattern`` of JSON Schema, in which '$' matches only the end of the text; in Python, also before a final newline."""
    from jsonschema import ValidationError

    if isinstance(value, str) and re.search(_END.sub(r"\\Z", pattern), value) is None:
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _rule(error: "ValidationError") -> str:
    value, rule = error.instance, error.validator_value
    shown = _short(value)
    match error.validator:
        case "required":
            text = f"{', '.join(name for name in rule if name not in value)} is missing"
        case "additionalProperties":
            known = sorted(error.schema.get("properties", ()))
            text = f"unknown field {', '.join(sorted(set(value) - set(known)))}; the fields are {', '.join(known)}"
        case "enum":
            text = f"{shown} is not one of the {len(rule)} allowed values{_nearest(value, rule)}"
        case "pattern":
            text = f"{shown} does not match the pattern {rule}"
        case "maxLength" | "minLength":
            text = f"{shown} has {len(value)} characters; {_at(error)} {rule} are allowed"
        case "maxItems" | "maxProperties" | "minItems" | "minProperties":
            text = f"has {len(value)} entries; {_at(error)} {rule} are allowed"
        case "maximum" | "minimum":
            text = f"{shown}: {_at(error)} {rule} is allowed"
        case "type":
            text = f"{shown} is not of the type {rule}"
        case _:
            text = error.message
    return text


def _at(error: "ValidationError") -> str:
    return "at most" if str(error.validator).startswith("max") else "at least"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _nearest(value: object, names: list[str]) -> str:
    close = difflib.get_close_matches(str(value), [str(name) for name in names], _SHOWN_NAMES, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""
