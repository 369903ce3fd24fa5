"""Makes JSON Schemas of Azure's answers from the models of its own SDK: ``python -m tests.clouds.azure_descriptions``.

azure-ai-ml, which has to be installed, carries models that Microsoft generates from its specifications: ``_restclient/arm_ml_service`` for
the resource manager, ``_restclient/runhistory`` for the run history, which has no published specification. The schemas are kept in
``azure_answers.json``, by which the simulator checks its answers. Those of the requests are made by ``azure_swagger``.
"""

import importlib
import json
import typing
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.clouds.azure_swagger import DURATION

ANSWERS = Path(__file__).with_name("azure_answers.json")

Schema = dict[str, Any]

_ARM = "azure.ai.ml._restclient.arm_ml_service"
_HISTORY = "azure.ai.ml._restclient.runhistory"
_SUBTYPES = {"JobBaseProperties": ["CommandJob"]}
"""Of some families of models only these members matter here."""
_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    datetime: {"type": "string"},
    timedelta: {"type": "string", "pattern": DURATION},
    Any: {},
}


def answer_description() -> Schema:
    """What the resource manager and the run history answer."""
    return _description({_ARM: ["JobBase", "EnvironmentVersion", "ErrorResponse"], _HISTORY: ["RunDetails"]})


def fields_of_requests() -> dict[str, set[str]]:
    """The fields of each model that a request consists of, for comparison with those of the specification."""
    models = importlib.import_module(f"{_ARM}.models")
    writer = _Writer(models, "create")
    for name in ("JobBase", "EnvironmentVersion"):
        writer.refer(getattr(models, name))
    return {name: {*schema["properties"]} for name, schema in writer.schemas.items()}


def text_of(description: Schema) -> str:
    """A description as its file has it."""
    return json.dumps(description, indent=1, sort_keys=True) + "\n"


class _Writer:
    """Writes the schemas of some models, and of all that these refer to."""

    def __init__(self, models: ModuleType, visibility: str) -> None:
        self._models = models
        self._visibility = visibility
        self.schemas: dict[str, Schema] = {}

    def refer(self, model: Any) -> Schema:
        """A reference to a model, which is written on the way."""
        name = model.__name__
        if name not in self.schemas:
            self.schemas[name] = {}  # it may refer to itself
            members = vars(model).get("__mapping__")  # the head of a family has it; its members inherit it
            self.schemas[name] = self._family(model, members) if members else self._object(model)
        return {"$ref": f"#/$defs/{name}"}

    def _family(self, model: Any, members: dict[str, Any]) -> Schema:
        key = next(field._rest_name for field in _fields(model).values() if field._is_discriminator)
        wanted = _SUBTYPES.get(model.__name__)
        kinds = {getattr(value, "value", value): member for value, member in members.items() if not wanted or member.__name__ in wanted}
        choices = [{"if": {"properties": {key: {"const": kind}}}, "then": self.refer(kinds[kind])} for kind in sorted(kinds)]
        return {"type": "object", "required": [key], "properties": {key: {"type": "string", "enum": sorted(kinds)}}, "allOf": choices}

    def _object(self, model: Any) -> Schema:
        hints = typing.get_type_hints(model, {**vars(importlib.import_module(model.__module__)), "_models": self._models})
        properties, required = {}, []
        for name, field in _fields(model).items():
            if field._visibility and self._visibility not in field._visibility:
                continue
            properties[field._rest_name] = self._value(hints[name])
            if type(None) not in typing.get_args(hints[name]):
                required.append(field._rest_name)
        return {"type": "object", "properties": properties, "required": sorted(required)}

    def _value(self, hint: Any) -> Schema:
        origin, arguments = typing.get_origin(hint), [each for each in typing.get_args(hint) if each is not type(None)]
        if origin is typing.Union:
            kinds = [each for each in arguments if isinstance(each, type) and issubclass(each, Enum)]
            return self._nullable(self._value(kinds[0] if kinds else arguments[0]), type(None) in typing.get_args(hint))
        return dict(_PLAIN[hint]) if hint in _PLAIN else self._composed(hint, origin, arguments)

    def _nullable(self, schema: Schema, is_optional: bool) -> Schema:
        """In answers, Azure writes null for what is not set, as recorded exchanges show (Azure/azure-sdk-assets)."""
        if not is_optional or self._visibility == "create" or not schema:
            return schema
        if "$ref" in schema:
            return {"anyOf": [schema, {"type": "null"}]}
        return {**schema, "type": [schema["type"], "null"], **({"enum": [*schema["enum"], None]} if "enum" in schema else {})}

    def _composed(self, hint: Any, origin: Any, arguments: list[Any]) -> Schema:
        if origin is typing.Literal:
            return {"type": "string", "enum": [getattr(each, "value", each) for each in arguments]}
        if origin is list:
            return {"type": "array", "items": self._value(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self._nullable(self._value(arguments[1]), is_optional=True)}
        if issubclass(hint, Enum):
            return {"type": "string", "enum": [member.value for member in hint]}
        return self.refer(hint)


def _description(roots: dict[str, list[str]]) -> Schema:
    schemas: dict[str, Schema] = {}
    for package, names in roots.items():
        models = importlib.import_module(f"{package}.models")
        writer = _Writer(models, "read")
        for name in names:
            writer.refer(getattr(models, name))
        schemas |= writer.schemas
    return {"$comment": _source(), "$defs": schemas}


def _source() -> str:
    version = importlib.import_module("azure.ai.ml._version").VERSION
    return f"made by tests/clouds/azure_descriptions.py from the models of azure-ai-ml {version}: api-version 2025-12-01, run history v1.0"


def _fields(model: Any) -> dict[str, Any]:
    model.__new__(model)  # a model finds its fields when it is first made
    fields: dict[str, Any] = model._attr_to_rest_field
    return fields


if __name__ == "__main__":
    ANSWERS.write_text(text_of(answer_description()), encoding="utf-8")
