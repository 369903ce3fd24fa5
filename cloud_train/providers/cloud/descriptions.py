"""Validates requests against the clouds' own published descriptions of them.

The descriptions are JSON Schemas (draft 2020-12) in ``data/<cloud>.requests.json``, generated from what each cloud publishes. Their
``$comment`` names the source and its version; tests compare them with their sources.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

_SHOWN_CHARACTERS = 80
_SHOWN_NAMES = 3


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

    return Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": description(cloud)["$defs"]})


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
