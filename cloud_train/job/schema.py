"""The JSON Schemas of the job file and of config files, generated from the models. Submitting a job does not need them.

The descriptions are the docstrings below the fields. pydantic can read those as well (``use_attribute_docstrings``), but does so when the
models are imported, which would slow down every command.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from cloud_train.job.config import ConfigFile, config_model
from cloud_train.job.models import BY_NAME, JobSpec
from cloud_train.spec.types import Section, Shorthand

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def job_schema() -> dict[str, Any]:
    """The schema of a job file, JSON Schema draft 2020-12."""
    schema = _schema(JobSpec, "cloud-train job")
    for *above, name in BY_NAME:
        fields = schema["$defs"]["TrainSpec"]["properties"] if above else schema["properties"]
        described = fields[name].pop("description", None)
        fields[name] = {"anyOf": [fields[name], {"type": "string"}], **({"description": described} if described else {})}
    return schema


def config_schema(sections: Mapping[str, type[BaseModel]] | None = None) -> dict[str, Any]:
    """The schema of a config file, JSON Schema draft 2020-12, with the ``sections`` of further providers."""
    return _schema(config_model(sections or {}), "cloud-train config")


def _schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    schema: dict[str, Any] = _plain(model.model_json_schema(schema_generator=_Generator))
    _describe(schema, ConfigFile if issubclass(model, ConfigFile) else model)
    for section in _sections(Section):
        if section.__name__ not in schema["$defs"]:
            continue
        for kind in reversed(section.__mro__[: section.__mro__.index(Section)]):  # a field's docstring is in the class that declares it
            _describe(schema["$defs"][section.__name__], kind)
    return {"$schema": DIALECT, "title": title, "description": schema.pop("description"), **schema}


def _sections(parent: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in parent.__subclasses__():
        yield child
        yield from _sections(child)


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    for field, below in pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))) if name in schema.get(
                "properties", {}
            ):
                schema["properties"][name]["description"] = prose(text)


class _Generator(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        return str(dft) if isinstance(dft, Shorthand) else super().encode_default(dft)


def _plain(value: Any) -> Any:
    """The schema without the titles that pydantic derives from names, and with docstrings as running text."""
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {"additionalProperties": False} if "patternProperties" in value else {}
    for key, inner in value.items():
        if key == "title" and isinstance(inner, str):
            continue
        result[key] = prose(inner) if key == "description" and isinstance(inner, str) else _plain(inner)
    return result


def prose(docstring: str) -> str:
    """A docstring as running text: one line, and single backticks."""
    return re.sub(r"\s+", " ", docstring).replace("``", "`").strip()
