"""From pydantic's errors to problems: the place in the file, plain words, and the nearest valid name."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from cloud_train.job.cloud_names import EXPECTED
from cloud_train.spec.problems import Path, Place, Problem, dotted, shortened
from cloud_train.spec.section import METRIC_PATTERN, NAME_PATTERN, SHA256_PATTERN, URL_PATTERN, VARIABLE_PATTERN

PATTERNS = {
    NAME_PATTERN: "a-z, 0-9 and '-' (not at the ends), at most 40 characters",
    VARIABLE_PATTERN: "a variable's name: letters, digits and '_', no digit first",
    SHA256_PATTERN: "64 characters of 0-9 and a-f, as sha256sum prints them",
    URL_PATTERN: "an address that begins with 'https://' or 'http://', without spaces",
    METRIC_PATTERN: "a metric with its split, such as 'validation/loss'",
    **EXPECTED,
}
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_BOUND_WORDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
_SHALLOW = ("too_short", "string_type", "literal_error")
"""Errors that say nothing where there are others inside: pydantic counts only the items that are right, and who writes a list or a section
does not mean the text that it might have been.
"""
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text; put quotes around it if it looks like a number",
    "bool_type": "true or false",
    "tuple_type": "a list, such as [a, b]",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "finite_number": "a finite number",
}


def explain(
    errors: Iterable[Mapping[str, Any]],
    root: type[BaseModel],
    data: Mapping[str, Any],
    values: Mapping[Path, Place],
    keys: Mapping[Path, Place],
) -> dict[Path, Problem]:
    """One problem for each path of ``data`` that pydantic's ``errors`` complain about."""
    problems: dict[Path, Problem] = {}
    located = [(_path(error["type"], error["loc"], data), error) for error in errors]
    around = {path[:length] for path, _ in located for length in range(len(path))}
    for path, error in located:
        if error["type"] in _SHALLOW and path in around:
            continue
        known = _names_at(root, error["loc"])
        problem = _explain(error, path, known, values, keys)
        before = problems.get(path)
        if before is None:
            problems[path] = problem
        elif problem.expected not in before.expected:  # the other member of a union, such as text or a list
            expected = f"{before.expected}, or {problem.expected}"
            problems[path] = Problem(before.place, before.message, expected, before.suggestion or problem.suggestion)
    return problems


def _explain(
    error: Mapping[str, Any], path: Path, known: Sequence[str], values: Mapping[Path, Place], keys: Mapping[Path, Place]
) -> Problem:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(
            place_of(path, keys, values), f"unknown key {_quoted(path[-1])}", f"one of {', '.join(known)}", nearest(path[-1], known)
        )
    if kind == "missing":
        return Problem(place_of(path[:-1], values, keys), f"{path[-1]!r} is missing{_inside(path)}")
    if kind == "union_tag_not_found":
        return Problem(place_of(path[:-1], values, keys), f"{path[-1]!r} is missing{_inside(path)}", f"one of {', '.join(known)}")
    if kind == "union_tag_invalid":
        wanted = [word.strip(" '") for word in context["expected_tags"].split(",")]
        return Problem(
            place_of(path, values, keys),
            f"unknown {path[-1]} {_quoted(context['tag'])}",
            f"one of {', '.join(wanted)}",
            nearest(context["tag"], wanted),
        )
    shown = _shown(error["input"], path)
    message = f"{dotted(path)} cannot be {shown}" if shown else f"{dotted(path)} cannot be this"
    if error["loc"][-1:] == ("[key]",):
        return Problem(place_of(path, keys, values), f"{_quoted(path[-1])} cannot be a key here", _expected(kind, context, error["msg"]))
    expected = _expected(kind, context, error["msg"])
    options = [option.strip(" '") for option in expected.replace(" or ", ", ").split(",")] if kind == "literal_error" else []
    suggestion = nearest(error["input"], options) if options else ""
    return Problem(place_of(path, values, keys), message, expected, suggestion)


def _path(kind: str, location: Sequence[str | int], data: Any) -> Path:
    """Pydantic's location without what it puts in between: the tags of unions, the names of types, '[key]'."""
    path: list[str | int] = []
    last = len(location) - 1
    for place, part in enumerate(location):
        if _holds(data, part):
            data = data[part]
        elif not (kind == "missing" and place == last):
            continue
        path.append(part)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        path.append({"model": "kind", "data": "dataset"}.get(str(path[-1]) if path else "", "kind"))
    return tuple(path)


def _holds(data: Any, part: str | int) -> bool:
    return (isinstance(data, Mapping) and part in data) or (isinstance(data, tuple) and isinstance(part, int) and part < len(data))


def _names_at(root: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that are known in the section where ``location`` ends; for a union, its tags."""
    sections = [root]
    for part in location[:-1]:
        annotations = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
        if annotations:
            sections = [section for annotation in annotations for section in _sections(annotation)]
        elif len(sections) > 1:
            sections = [section for section in sections if part in _tags(section)] or sections
    last = location[-1] if location else ""
    inside = [section.model_fields[last].annotation for section in sections if last in section.model_fields]
    tags = [tag for annotation in inside for section in _sections(annotation) for tag in _tags(section)]
    return tags or [name for section in sections for name in section.model_fields]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]


def _tags(section: type[BaseModel]) -> list[str]:
    names = ("kind", "dataset")
    annotations = [section.model_fields[name].annotation for name in names if name in section.model_fields]
    return [tag for annotation in annotations if get_origin(annotation) is Literal for tag in get_args(annotation)]


def place_of(path: Path, first: Mapping[Path, Place], second: Mapping[Path, Place]) -> Place:
    """Where ``path`` was written, or the nearest thing around it; of the two kinds of places the ``first`` is preferred."""
    while path not in first and path not in second and path:
        path = path[:-1]
    return first.get(path) or second.get(path) or Place("?")


def _shown(value: Any, path: Path) -> str:
    if path[:1] in (("env",), ("secrets",)):  # it may be a secret's value
        return ""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "empty"
    return str(value).lower() if isinstance(value, bool) else _quoted(value)


def _quoted(value: Any) -> str:
    return repr(shortened(value)) if isinstance(value, str) else shortened(str(value))


def _expected(kind: str, context: Mapping[str, Any], said: str) -> str:
    if kind in _BOUNDS:
        bound = _BOUNDS[kind]
        return f"{_BOUND_WORDS[bound]} {context[bound]:g}"
    words = {
        **_EXPECTED,
        "string_pattern_mismatch": PATTERNS.get(context.get("pattern", ""), ""),
        "shorthand": str(context.get("reason", "")).removeprefix("expected "),
        "literal_error": str(context.get("expected", "")),
        "too_short": f"at least {context.get('min_length')} item",
        "string_too_short": "text that is not empty",
    }
    return words.get(kind) or said[:1].lower() + said[1:]


def _inside(path: Path) -> str:
    return f" in {dotted(path[:-1])!r}" if len(path) > 1 else ""


def nearest(name: Any, known: Sequence[str]) -> str:
    """The one of the ``known`` names that ``name`` was probably meant to be, or nothing."""
    close = difflib.get_close_matches(str(name).lower(), known, 1, cutoff=0.55)
    return close[0] if close else ""
