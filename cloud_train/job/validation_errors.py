"""Turns pydantic's errors into problems: the place in the file, plain words, and the nearest valid name.

Every type of error that pydantic itself raises has words here. A plugin's section may raise types of its own, in the plugin's words.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cloud_train.job.cloud_names import EXPECTED
from cloud_train.job.optimizers import OPTIMIZERS
from cloud_train.job.overrides import frozen
from cloud_train.job.schedules import SCHEDULES
from cloud_train.spec.problems import Path, Place, Problem, dotted, shortened
from cloud_train.spec.registry import BROKEN, UNKNOWN, Registry
from cloud_train.spec.types import PATTERNS

_PATTERNS = {**PATTERNS, **EXPECTED}
_SHALLOW = ("too_short", "string_type", "literal_error")
"""Errors that are left out if there are others inside the same value: pydantic counts only the valid items of a list, and a list or a
section was not meant to be the string that the field also accepts.
"""
_CONSEQUENCES = ("default_factory_not_called",)
"""Errors that only follow from another one, which is reported."""
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument", "missing_positional_only_argument")
_OWN_WORDS = ("value_error", "assertion_error")
"""Errors of a section's own validators, whose messages follow a prefix of pydantic's."""
_MAPPING = "keys and values"
_LIST = "a list, such as [a, b]"
_DATE_AND_TIME = "a date and time, such as 2026-01-31T14:30"
_URL = "a URL, such as https://example.com"
_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    "int_parsing_size": "a whole number with fewer digits",
    **dict.fromkeys(("float_type", "float_parsing", "decimal_type", "decimal_parsing"), "a number"),
    **dict.fromkeys(("fraction_type", "fraction_parsing"), "a fraction, such as 1/3"),
    **dict.fromkeys(("complex_type", "complex_str_parsing"), "a complex number, such as 1+2j"),
    "finite_number": "a finite number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "decimal_max_digits": "a number of at most {max_digits} digits",
    "decimal_max_places": "a number with at most {decimal_places} digits after the decimal point",
    "decimal_whole_digits": "a number with at most {whole_digits} digits before the decimal point",
    "string_type": "text; put quotes around it if it looks like a number",
    "string_unicode": "text in Unicode",
    "string_too_long": "text of at most {max_length} characters",
    "string_not_ascii": "text of ASCII characters only",
    "string_pattern_mismatch": "text that matches {pattern}",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("literal_error", "enum"), "{expected}"),
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type", "dataclass_exact_type"), _MAPPING
    ),
    **dict.fromkeys(("arguments_type", "counter_type", "frozen_dict_type", "ordered_dict_type"), _MAPPING),
    "invalid_key": "keys that are text",
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type", "deque_type", "named_tuple_type"), _LIST),
    **dict.fromkeys(("iterable_type", "iteration_error"), _LIST),
    "set_item_not_hashable": "a single value, not a list or a mapping",
    "too_long": "at most {max_length} items",
    "unexpected_positional_argument": "fewer items",
    "bytes_type": "text",
    "bytes_too_short": "text of at least {min_length} bytes",
    "bytes_too_long": "text of at most {max_length} bytes",
    "bytes_invalid_encoding": "text in {encoding}",
    **dict.fromkeys(("json_type", "json_invalid"), "text that is valid JSON"),
    "none_required": "null",
    **dict.fromkeys(("missing_sentinel_error", "ellipsis_error"), "no value"),
    **dict.fromkeys(("date_type", "date_parsing", "date_from_datetime_parsing"), "a date, such as 2026-01-31"),
    "date_from_datetime_inexact": "a date without a time of day",
    "date_past": "a date in the past",
    "date_future": "a date in the future",
    **dict.fromkeys(("time_type", "time_parsing"), "a time of day, such as 14:30"),
    **dict.fromkeys(("datetime_type", "datetime_parsing", "datetime_object_invalid", "datetime_from_date_parsing"), _DATE_AND_TIME),
    "datetime_past": "a date and time in the past",
    "datetime_future": "a date and time in the future",
    "timezone_naive": "a time without a time zone",
    "timezone_aware": "a time with a time zone, such as 14:30Z",
    "timezone_offset": "a time with a time zone of {tz_expected} seconds from UTC",
    **dict.fromkeys(("time_delta_type", "time_delta_parsing"), "a duration, such as 01:30:00"),
    **dict.fromkeys(("url_type", "url_parsing", "url_syntax_violation"), _URL),
    "url_too_long": "a URL of at most {max_length} characters",
    "url_scheme": "a URL that begins with {expected_schemes}",
    **dict.fromkeys(("uuid_type", "uuid_parsing"), "a UUID, such as 11111111-2222-4333-8444-555555555555"),
    "uuid_version": "a UUID of version {expected_version}",
    "is_instance_of": "a value of the Python class {class}",
    "is_subclass_of": "a subclass of the Python class {class}",
    "callable_type": "a Python function",
    "recursion_loop": "a value that does not contain itself",
    "recursion_depth_exceeded": "a value that is nested less deeply",
}
"""Type of error → what was expected, with fields of the error's context."""


def explain(
    errors: Iterable[Mapping[str, Any]],
    root: type[BaseModel],
    data: Mapping[str, Any],
    values: Mapping[Path, Place],
    keys: Mapping[Path, Place],
) -> dict[Path, Problem]:
    """One problem for each path of ``data`` at which pydantic found an error."""
    problems: dict[Path, Problem] = {}
    located = [(_path(error, data), error) for error in errors if error["type"] not in _CONSEQUENCES]
    around = {path[:length] for path, _ in located for length in range(len(path))}
    for path, error in located:
        if error["type"] in _SHALLOW and path in around:
            continue
        known = _names_at(root, error["loc"], data)
        problem = _explain(error, path, known, values, keys)
        before = problems.get(path)
        if before is None:
            problems[path] = problem
        elif problem.expected not in before.expected:  # another member of a union, such as text or a list
            expected = ", or ".join(filter(None, (before.expected, problem.expected)))
            problems[path] = Problem(before.place, before.message, expected, before.suggestion or problem.suggestion)
    return problems


def in_words(error: ValidationError, root: type[BaseModel], data: Any) -> str:
    """The first problem of ``error`` in one line, for data that no person wrote."""
    data = frozen(data) if isinstance(data, dict) else {}
    found = explain(error.errors(include_url=False), root, data, {}, {})
    problem = next(iter(found.values()))
    return problem.message + (f"; expected {problem.expected}" if problem.expected else "")


def _explain(
    error: Mapping[str, Any], path: Path, known: Sequence[str], values: Mapping[Path, Place], keys: Mapping[Path, Place]
) -> Problem:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _UNKNOWN_KEY:
        return Problem(
            place_of(path, keys, values), f"unknown key {_quoted(path[-1])}", f"one of {', '.join(known)}", nearest(path[-1], known)
        )
    if kind in (*_MISSING, "union_tag_not_found"):
        expected = f"one of {', '.join(known)}" if kind == "union_tag_not_found" else ""
        return Problem(place_of(path[:-1], values, keys), f"{path[-1]!r} is missing{_inside(path)}", expected)
    if kind in (UNKNOWN, BROKEN, "union_tag_invalid"):
        return _explain_component(kind, context, path, place_of(path, values, keys))
    if kind == "literal_error" and isinstance(error["input"], str) and (registry := _registry_of(path)) is not None:
        context = {"noun": registry.noun, "name": error["input"], "known": registry.names()}
        return _explain_component(UNKNOWN, context, path, place_of(path, values, keys))
    return _explain_value(error, path, values, keys)


def _explain_value(error: Mapping[str, Any], path: Path, values: Mapping[Path, Place], keys: Mapping[Path, Place]) -> Problem:
    """The problem with a value that a known field cannot have."""
    kind = error["type"]
    if (words := _own_words(error)) is not None:
        return Problem(place_of(path, values, keys), f"{dotted(path) or 'the file'}: {words}")
    expected = _expected(kind, error.get("ctx", {}))
    if error["loc"][-1:] == ("[key]",):
        return Problem(place_of(path, keys, values), f"invalid key {_quoted(path[-1])}", expected)
    options = [option.strip(" '") for option in expected.replace(" or ", ", ").split(",")] if kind == "literal_error" else []
    suggestion = nearest(error["input"], options) if options else ""
    shown = _shown(error["input"], path)
    message = f"{dotted(path)} cannot be {shown}" if shown else f"{dotted(path)} cannot have this value"
    return Problem(place_of(path, values, keys), message, expected, suggestion)


def _explain_component(kind: str, context: Mapping[str, Any], path: Path, place: Place) -> Problem:
    """The problem with the name of a data set, a network, an optimizer or a schedule."""
    if kind == BROKEN:
        return Problem(place, context["reason"])
    if kind == UNKNOWN:
        noun, name, wanted = context["noun"], context["name"], context["known"]
    else:  # a name that is not text
        noun, name, wanted = path[-1], context["tag"], [word.strip(" '") for word in context["expected_tags"].split(",")]
    own = "; for a program of your own, kind: script" if noun in ("kind", "dataset") else ""
    return Problem(place, f"unknown {noun} {_quoted(name)}", f"one of {', '.join(wanted)}{own}", nearest(name, wanted))


def _registry_of(path: Path) -> Registry[Any] | None:
    """The registry of the components that are named at ``path``, if they share a section."""
    for section, registry in ((("train", "optimizer"), OPTIMIZERS), (("train", "schedule"), SCHEDULES)):
        if path in (section, (*section, registry.field)):
            return registry
    return None


def _path(error: Mapping[str, Any], data: Any) -> Path:
    """Pydantic's location without what it inserts: tags of unions, names of types, '[key]'."""
    kind, location = error["type"], error["loc"]
    path: list[str | int] = []
    last = len(location) - 1
    for place, part in enumerate(location):
        if _holds(data, part):
            data = data[part]
        elif not (kind in _MISSING and place == last):
            continue
        path.append(part)
    if kind in (UNKNOWN, BROKEN) and isinstance(data, Mapping):  # not the name alone, as in ``schedule: cosine``
        path.append(error["ctx"]["field"])
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        path.append({"model": "kind", "data": "dataset"}.get(str(path[-1]) if path else "", "kind"))
    return tuple(path)


def _holds(data: Any, part: str | int) -> bool:
    return (isinstance(data, Mapping) and part in data) or (isinstance(data, tuple) and isinstance(part, int) and part < len(data))


def _names_at(root: type[BaseModel], location: Sequence[str | int], data: Any) -> list[str]:
    """The known keys of the section where ``location`` ends; for a union, its tags."""
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
    """The sections that the field may hold; if a registry reads it, the one that ``value`` names, if any."""
    for registry in (*field.metadata, *_metadata(field.annotation)):
        if isinstance(registry, Registry):
            return registry.sections(value.get(registry.field) if isinstance(value, Mapping) else value)
    return _sections(field.annotation)


def _metadata(annotation: Any) -> list[Any]:
    """The metadata of all parts of an annotation."""
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
    """Where ``path`` was written, or the nearest place around it; places in ``first`` are preferred."""
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


def _own_words(error: Mapping[str, Any]) -> str | None:
    """The message of a section's own validator; None for an error of pydantic's."""
    kind = error["type"]
    if kind in _OWN_WORDS:
        return str(error["ctx"]["error"])
    return None if has_words(kind) else str(error["msg"])


def has_words(kind: str) -> bool:
    """Whether this module has words for pydantic's type of error ``kind``."""
    special = (*_UNKNOWN_KEY, *_MISSING, *_CONSEQUENCES, *_OWN_WORDS, UNKNOWN, BROKEN, "union_tag_not_found", "union_tag_invalid")
    return kind in _EXPECTED or kind in special or kind in ("shorthand", "too_short", "string_too_short")


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "string_pattern_mismatch" and context.get("pattern") in _PATTERNS:
        return _PATTERNS[context["pattern"]]
    if kind == "shorthand":
        return str(context["reason"]).removeprefix("expected ")
    if kind in ("too_short", "string_too_short"):
        least = context["min_length"]
        if kind == "too_short":
            return f"at least {least} item{'' if least == 1 else 's'}"
        return "text that is not empty" if least == 1 else f"text of at least {least} characters"
    return _EXPECTED[kind].format_map(context)


def _inside(path: Path) -> str:
    return f" in {dotted(path[:-1])!r}" if len(path) > 1 else ""


def nearest(name: Any, known: Sequence[str]) -> str:
    """The one of the ``known`` names that ``name`` probably stands for, or an empty string."""
    close = difflib.get_close_matches(str(name).lower(), known, 1, cutoff=0.55)
    return close[0] if close else ""
