"""Makes wrong requests: every valid request body, with one thing that its cloud's description forbids, for every thing that it does.

``mutants_of`` derives them from a body and its JSON Schema (cloud_train/providers/data/<cloud>.requests.json): a field of another type,
a required one left out, an unknown one, a name that is not in the list, a text that does not match, a number outside its range, an
optional field with a wrong value. What a cloud forbids without saying so in its description is written by hand, per cloud, as a function
that spoils a request: see ``azure_wrong.py``. ``test_mutants.py`` counts the wrong requests that a dry run accepts.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloud_train.providers.base import Request

Schema = Mapping[str, Any]
Spoil = Callable[[Request], object]

_LONG = 100_000


@dataclass(frozen=True)
class Mutant:
    """A body with one mistake."""

    path: tuple[str | int, ...]
    """The field with the mistake."""
    mistake: str
    body: Any

    @property
    def name(self) -> str:
        return f"{'.'.join(map(str, self.path)) or 'the body'}: {self.mistake}"


@dataclass(frozen=True)
class _Absent:
    """In place of a value: the field is left out."""


_ABSENT = _Absent()


def mutants_of(body: Any, definitions: Mapping[str, Schema], root: str) -> Iterator[Mutant]:
    """All mutants of ``body``, which the schema ``root`` of ``definitions`` describes."""
    for path, mistake, value in _mistakes(body, _resolved({"$ref": f"#/$defs/{root}"}, body, definitions), definitions, ()):
        yield Mutant(path, mistake, _changed(body, path, value))


Mistake = tuple[tuple[str | int, ...], str, Any]


def _mistakes(value: Any, schema: Schema, definitions: Mapping[str, Schema], path: tuple[str | int, ...]) -> Iterator[Mistake]:
    for wrong in _of_another_type(schema.get("type")):
        yield path, f"{wrong!r}, which is not of the type {schema['type']}", wrong
    if isinstance(value, dict):
        yield from _in_object(value, schema, definitions, path)
    elif isinstance(value, list):
        yield from _in_list(value, schema, definitions, path)
    elif isinstance(value, str):
        yield from ((path, mistake, wrong) for mistake, wrong in _texts(value, schema))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from ((path, f"{wrong}, which is out of range", wrong) for wrong in _numbers(schema))


def _in_object(value: dict[str, Any], schema: Schema, definitions: Mapping[str, Schema], path: tuple[str | int, ...]) -> Iterator[Mistake]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name in value:
            yield (*path, name), "left out", _ABSENT
    if others is False:
        known = next(iter(value), "field")
        yield (*path, f"{known}x"), "unknown", value.get(known, "x")
        yield (*path, known.swapcase()), "unknown, because of its case", value.get(known, "x")
    for name, each in properties.items():
        whole = _resolved(each, value.get(name), definitions)
        if name in value:
            yield from _mistakes(value[name], whole, definitions, (*path, name))
        else:
            yield from (((*path, name), f"optional, and {mistake}", wrong) for mistake, wrong in _optional(whole))
    if isinstance(others, Mapping):
        for name in list(value)[:1]:
            if name not in properties:
                yield from _mistakes(value[name], _resolved(others, value[name], definitions), definitions, (*path, name))
    if "maxProperties" in schema:
        yield path, "too many entries", {f"key-{number}": "x" for number in range(schema["maxProperties"] + 1)}
    for mistake, wrong in _texts(next(iter(value), ""), _resolved(schema.get("propertyNames", {}), "", definitions)):
        yield (*path, wrong), f"a name that is {mistake}", next(iter(value.values()), "x")


def _optional(schema: Schema) -> Iterator[tuple[str, Any]]:
    yield from ((f"{wrong!r}, which is not of the type {schema['type']}", wrong) for wrong in _of_another_type(schema.get("type"))[:1])
    if "enum" in schema:
        yield "not in the list", "nonsense"


def _in_list(value: list[Any], schema: Schema, definitions: Mapping[str, Schema], path: tuple[str | int, ...]) -> Iterator[Mistake]:
    if value:
        yield from _mistakes(value[0], _resolved(schema.get("items", {}), value[0], definitions), definitions, (*path, 0))
        if "maxItems" in schema:
            yield path, "too many entries", [value[0]] * (schema["maxItems"] + 1)
    if schema.get("minItems"):
        yield path, "too few entries", value[: schema["minItems"] - 1]


def _texts(value: str, schema: Schema) -> Iterator[tuple[str, str]]:
    """Texts that the schema forbids, each with the rule that it breaks."""
    if "enum" in schema:
        yield from ((f"{how}, so that it is not in the list", each) for how, each in _edited(value) if each not in schema["enum"])
        return
    if "pattern" in schema:
        yield from ((f"{how}, so that it does not match", each) for how, each in _edited(value) if not _matches(schema["pattern"], each))
    if "maxLength" in schema:
        yield "too long", (value or "x") * _LONG
    if schema.get("minLength"):
        yield "too short", value[: schema["minLength"] - 1]


def _edited(value: str) -> Iterator[tuple[str, str]]:
    yield from {"empty": "", "a blank": " ", "an exclamation mark": "!", "not ASCII": "é", "a line break": "\n"}.items()
    yield from {
        "with a line break at its end": f"{value}\n",
        "with a blank before it": f" {value}",
        "with a blank after it": f"{value} ",
    }.items()
    yield from {
        "with more at its end": f"{value}x!",
        "without its last character": value[:-1],
        "in the other case": value.swapcase(),
    }.items()


def _matches(pattern: str, text: str) -> bool:
    """Whether a pattern matches as in JSON Schema, where '$' is the end of the text; in Python it also precedes a last line break."""
    return re.search(re.sub(r"(?<!\\)\$$", r"\\Z", pattern), text) is not None


def _numbers(schema: Schema) -> list[Any]:
    return [*([schema["minimum"] - 1] if "minimum" in schema else []), *([schema["maximum"] + 1] if "maximum" in schema else [])]


def _of_another_type(kind: Any) -> list[Any]:
    others: dict[str, list[Any]] = {
        "string": [7, True, ["text"], {"a": "text"}],
        "integer": ["7", 1.5, True, [7]],
        "number": ["7", True, [7]],
        "boolean": ["true", 1],
        "array": ["text", {"0": "text"}],
        "object": ["text", ["text"]],
    }
    return others.get(str(kind), [])


def _resolved(schema: Any, value: Any, definitions: Mapping[str, Schema]) -> dict[str, Any]:
    """A schema with all that its references, and the conditions that hold for ``value``, add to it."""
    if not isinstance(schema, Mapping):
        return {}
    whole = {key: each for key, each in schema.items() if key not in ("$ref", "allOf", "if", "then")}
    parts: list[Schema] = [definitions[schema["$ref"].removeprefix("#/$defs/")]] if "$ref" in schema else []
    parts += [each for each in schema.get("allOf", ()) if "if" not in each or _holds(each["if"], value)]
    for part in parts:
        more = _resolved(part.get("then", part), value, definitions)
        properties = {**whole.get("properties", {}), **more.get("properties", {})}
        required = [*whole.get("required", ()), *(name for name in more.get("required", ()) if name not in whole.get("required", ()))]
        whole = {**whole, **more, **({"properties": properties} if properties else {}), **({"required": required} if required else {})}
    return whole


def _holds(condition: Schema, value: Any) -> bool:
    return isinstance(value, dict) and all(value.get(name) == each["const"] for name, each in condition["properties"].items())


def _changed(body: Any, path: Sequence[str | int], value: Any) -> Any:
    if not path:
        return value
    body = copy.deepcopy(body)
    place = body
    for part in path[:-1]:
        place = place[part]
    if value is _ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return body
