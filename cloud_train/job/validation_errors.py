"""From pydantic's errors to problems: the place in the file, plain words, and the nearest valid name."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cloud_train.job.cloud_names import EXPECTED
from cloud_train.job.optimizers import OPTIMIZERS
from cloud_train.job.schedules import SCHEDULES
from cloud_train.spec.problems import Path, Place, Problem, dotted, shortened
from cloud_train.spec.registry import BROKEN, UNKNOWN, Registry
from cloud_train.spec.section import PATTERNS

_PATTERNS = {**PATTERNS, **EXPECTED}
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
    located = [(_path(error, data), error) for error in errors]
    around = {path[:length] for path, _ in located for length in range(len(path))}
    for path, error in located:
        if error["type"] in _SHALLOW and path in around:
            continue
        known = _names_at(root, error["loc"], data)
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
    if kind in ("missing", "union_tag_not_found"):
        expected = f"one of {', '.join(known)}" if kind == "union_tag_not_found" else ""
        return Problem(place_of(path[:-1], values, keys), f"{path[-1]!r} is missing{_inside(path)}", expected)
    if kind in (UNKNOWN, BROKEN, "union_tag_invalid"):
        return _explain_component(kind, context, path, place_of(path, values, keys))
    if kind == "literal_error" and isinstance(error["input"], str) and (registry := _registry_of(path)) is not None:
        context = {"noun": registry.noun, "name": error["input"], "known": registry.names()}
        return _explain_component(UNKNOWN, context, path, place_of(path, values, keys))
    shown = _shown(error["input"], path)
    message = f"{dotted(path)} cannot be {shown}" if shown else f"{dotted(path)} cannot be this"
    if error["loc"][-1:] == ("[key]",):
        return Problem(place_of(path, keys, values), f"{_quoted(path[-1])} cannot be a key here", _expected(kind, context, error["msg"]))
    expected = _expected(kind, context, error["msg"])
    options = [option.strip(" '") for option in expected.replace(" or ", ", ").split(",")] if kind == "literal_error" else []
    suggestion = nearest(error["input"], options) if options else ""
    return Problem(place_of(path, values, keys), message, expected, suggestion)


def _explain_component(kind: str, context: Mapping[str, Any], path: Path, place: Place) -> Problem:
    """What is wrong with the name of a data set, a network, an optimizer or a schedule."""
    if kind == BROKEN:
        return Problem(place, context["reason"])
    if kind == UNKNOWN:
        noun, name, wanted = context["noun"], context["name"], context["known"]
    else:  # a name that is not even text
        noun, name, wanted = path[-1], context["tag"], [word.strip(" '") for word in context["expected_tags"].split(",")]
    return Problem(place, f"unknown {noun} {_quoted(name)}", f"one of {', '.join(wanted)}", nearest(name, wanted))


def _registry_of(path: Path) -> Registry[Any] | None:
    """The registry of the components whose names belong at ``path``, where they share a section."""
    for section, registry in ((("train", "optimizer"), OPTIMIZERS), (("train", "schedule"), SCHEDULES)):
        if path in (section, (*section, registry.field)):
            return registry
    return None


def _path(error: Mapping[str, Any], data: Any) -> Path:
    """Pydantic's location without what it puts in between: the tags of unions, the names of types, '[key]'."""
    kind, location = error["type"], error["loc"]
    path: list[str | int] = []
    last = len(location) - 1
    for place, part in enumerate(location):
        if _holds(data, part):
            data = data[part]
        elif not (kind == "missing" and place == last):
            continue
        path.append(part)
    if kind in (UNKNOWN, BROKEN) and isinstance(data, Mapping):  # and not the name alone, as in ``schedule: cosine``
        path.append(error["ctx"]["field"])
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        path.append({"model": "kind", "data": "dataset"}.get(str(path[-1]) if path else "", "kind"))
    return tuple(path)


def _holds(data: Any, part: str | int) -> bool:
    return (isinstance(data, Mapping) and part in data) or (isinstance(data, tuple) and isinstance(part, int) and part < len(data))


def _names_at(root: type[BaseModel], location: Sequence[str | int], data: Any) -> list[str]:
    """The keys that are known in the section where ``location`` ends; for a union, its tags."""
    sections = [root]
    for part in location[:-1]:
        data = data[part] if _holds(data, part) else data
        fields = [section.model_fields[str(part)] for section in sections if part in section.model_fields]
        if fields:
            sections = [section for field in fields for section in _sections_of(field, data)]
        elif len(sections) > 1:
            sections = [section for section in sections if part in _tags(section)] or sections
    last = str(location[-1]) if location else ""
    inside = [section.model_fields[last] for section in sections if last in section.model_fields]
    tags = [tag for field in inside for section in _sections_of(field, data) for tag in _tags(section)]
    return tags or [name for section in sections for name in section.model_fields]


def _sections_of(field: FieldInfo, value: Any) -> list[type[BaseModel]]:
    """The sections that the field may hold; where it is read by a registry, the one that ``value`` names, if it does."""
    for registry in (*field.metadata, *_metadata(field.annotation)):
        if isinstance(registry, Registry):
            return registry.sections(value.get(registry.field) if isinstance(value, Mapping) else value)
    return _sections(field.annotation)


def _metadata(annotation: Any) -> list[Any]:
    """What is attached to the parts of an annotation."""
    return [*getattr(annotation, "__metadata__", ()), *(each for part in get_args(annotation) for each in _metadata(part))]


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
        "string_pattern_mismatch": _PATTERNS.get(context.get("pattern", ""), ""),
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
