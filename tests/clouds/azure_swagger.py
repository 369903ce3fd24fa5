"""Makes JSON Schemas of what may be sent to Azure ML, from Microsoft's own description of the API: ``mfe.json``.

``python -m tests.clouds.azure_swagger PATH`` writes cloud_train/providers/data/azure.requests.json. PATH is
``specification/machinelearningservices/resource-manager/Microsoft.MachineLearningServices/stable/2025-12-01/mfe.json`` of
https://github.com/Azure/azure-rest-api-specs (0.8 MB, so it is not kept here). Azure generates its SDKs from the same files, but their
models no longer have the patterns, lengths and formats. Only what a command job and an environment consist of is taken. The file of commit
5485d5f88025b6e8d21545e8bbfb09435730adc6 was read in November 2026: its CommandJob and EnvironmentVersion have the fields, patterns and
required fields of the schemas here. The whole comparison needs a copy of it (``CLOUD_TRAIN_AZURE_SWAGGER``).

Azure accepts null for many fields (``x-nullable``), with the same meaning as leaving the field out; these schemas do not.
"""

import json
import sys
from pathlib import Path
from typing import Any

REQUESTS = Path(__file__).parents[2] / "cloud_train" / "providers" / "data" / "azure.requests.json"
SWAGGER = "CLOUD_TRAIN_AZURE_SWAGGER"
"""The environment variable that names a copy of mfe.json, for the test that compares it with the schemas."""
DURATION = r"^P(?!$)(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?$"

Schema = dict[str, Any]

_ROOTS = ("JobBaseResource", "EnvironmentVersionResource")
_KINDS = {"JobBase": ["CommandJob"]}
"""Of some families of definitions only these members matter here."""
_FORMATS: dict[str, Schema] = {
    "int32": {"minimum": -(2**31), "maximum": 2**31 - 1},
    "uuid": {"pattern": "^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"},
    "duration": {"pattern": DURATION},
}
_KEPT = ("type", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems")
_COMMENT = (
    "made by tests/clouds/azure_swagger.py from specification/machinelearningservices/resource-manager/Microsoft.MachineLearningServices/"
    "stable/{version}/mfe.json of Azure/azure-rest-api-specs: command jobs and environments, without what is read-only"
)


def request_description(swagger: Schema) -> Schema:
    """The schemas of everything that the two requests may have; named like the models of Azure's SDKs."""
    writer = _Writer(swagger["definitions"])
    for root in _ROOTS:
        writer.refer(root)
    return {"$comment": _COMMENT.format(version=swagger["info"]["version"]), "$defs": dict(sorted(writer.schemas.items()))}


class _Writer:
    """Writes the schemas of some definitions, and of all that they refer to."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self.schemas: dict[str, Schema] = {}

    def refer(self, name: str) -> Schema:
        """A reference to a definition, which is written if it has not been; enumerations are written in place."""
        definition = self._definitions[name]
        if "enum" in definition:
            return {"type": "string", "enum": definition["enum"]}
        shown = definition.get("x-ms-client-name", name)
        if shown not in self.schemas:
            self.schemas[shown] = {}  # it may refer to itself
            self.schemas[shown] = self._family(name) if "discriminator" in definition else self._object(name)
        return {"$ref": f"#/$defs/{shown}"}

    def _family(self, name: str) -> Schema:
        key = self._definitions[name]["discriminator"]
        members = _KINDS.get(name) or [each for each in self._definitions if name in self._bases(each) and each != name]
        kinds = {self._definitions[member]["x-ms-discriminator-value"]: member for member in members}
        choices = [{"if": {"properties": {key: {"const": kind}}}, "then": self.refer(kinds[kind])} for kind in sorted(kinds)]
        return {"type": "object", "required": [key], "properties": {key: {"type": "string", "enum": sorted(kinds)}}, "allOf": choices}

    def _object(self, name: str) -> Schema:
        properties: dict[str, Schema] = {}
        required: set[str] = set()
        value = self._definitions[name].get("x-ms-discriminator-value")
        for each in [name, *self._bases(name)]:
            definition = self._definitions[each]
            for field, schema in definition.get("properties", {}).items():
                if not schema.get("readOnly"):
                    is_kind = value is not None and field == definition.get("discriminator")
                    properties[field] = {"type": "string", "enum": [value]} if is_kind else self._value(schema)
            required |= {*definition.get("required", ())}
        return {
            "type": "object",
            "properties": dict(sorted(properties.items())),
            "required": sorted(required & properties.keys()),
            "additionalProperties": False,
        }

    def _bases(self, name: str) -> list[str]:
        """The definitions of this document that one inherits from, the nearest first."""
        found: list[str] = []
        for each in self._definitions[name].get("allOf", ()):
            file, _, base = each["$ref"].partition("#/definitions/")
            if not file:  # others are the envelope of all resources, whose fields are read-only
                found += [base, *self._bases(base)]
        return found

    def _value(self, schema: Schema) -> Schema:
        if "$ref" in schema:
            return self.refer(schema["$ref"].removeprefix("#/definitions/"))
        if schema.get("type") == "array":
            return {"type": "array", "items": self._value(schema["items"])}
        if isinstance(schema.get("additionalProperties"), dict):
            return {"type": "object", "additionalProperties": self._value(schema["additionalProperties"])}
        if schema.get("type") == "object":
            return {}  # without properties, it stands for any value
        return {**{key: schema[key] for key in _KEPT if key in schema}, **_FORMATS.get(schema.get("format", ""), {})}


def main(path: str) -> None:
    """Write the schemas of the copy of mfe.json at ``path``."""
    description = request_description(json.loads(Path(path).read_text(encoding="utf-8")))
    REQUESTS.write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
