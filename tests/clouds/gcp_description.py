"""Google's official descriptions, its discovery documents, as JSON Schema.

``python -m tests.clouds.gcp_description``, with google-api-python-client installed, writes anew what is made of the documents in that
package: cloud_train/providers/data/gcp.requests.json, with what Vertex AI is sent, and gcp_descriptions.json beside this file, by which the
simulator checks what it is sent and what it answers. A test compares both.

What a document says in prose at the beginning of a field's description counts too: "Required." and "Output only.".
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "google-api-python-client"
REQUESTS = Path(__file__).parents[2] / "cloud_train" / "providers" / "data" / "gcp.requests.json"
SIMULATOR = Path(__file__).with_name("gcp_descriptions.json")

_SENT = {
    "aiplatform.v1": ("GoogleCloudAiplatformV1CustomJob", "GoogleCloudAiplatformV1CancelCustomJobRequest"),
    "logging.v2": ("ListLogEntriesRequest",),
    "secretmanager.v1": ("Secret", "AddSecretVersionRequest"),
    "artifactregistry.v1": ("Repository",),
}
_ANSWERED = {
    "aiplatform.v1": ("GoogleCloudAiplatformV1CustomJob", "GoogleCloudAiplatformV1ListCustomJobsResponse"),
    "logging.v2": ("ListLogEntriesResponse",),
    "secretmanager.v1": ("Secret", "SecretVersion", "AccessSecretVersionResponse"),
    "artifactregistry.v1": ("Repository", "Operation"),
}
_FORMATS: dict[str, dict[str, Any]] = {
    "int32": {"minimum": -(2**31), "maximum": 2**31 - 1},
    "int64": {"pattern": "^-?[0-9]{1,19}$"},
    "google-duration": {"pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$"},
    "google-datetime": {"pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z$"},
    "byte": {"pattern": "^[A-Za-z0-9+/_-]*={0,2}$"},
}
"""https://developers.google.com/discovery/v1/type-format; what is not here forbids nothing that the type allows."""


def is_installed() -> bool:
    """Whether the package with the documents is here."""
    return find_spec("googleapiclient") is not None


def requests_description() -> dict[str, Any]:
    """What data/gcp.requests.json has to hold."""
    vertex = "aiplatform.v1"
    document = _document(vertex)
    defined = dict(_definitions(document, _SENT[vertex], sent=True))
    regions = sorted({endpoint["location"] for endpoint in document["endpoints"] if "-" in endpoint["location"]})
    definitions = {_short(name): _renamed(schema) for name, schema in sorted(defined.items())}
    return {"$comment": _comment([vertex]), "regions": regions, "$defs": definitions}


def simulator_description() -> dict[str, Any]:
    """What gcp_descriptions.json has to hold: definitions named ``sent.<schema>`` and ``answered.<schema>``, by service."""
    services = {}
    for name, roots in _SENT.items():
        document = _document(name)
        sent, answered = _definitions(document, roots, sent=True), _definitions(document, _ANSWERED[name], sent=False)
        both = {f"{kind}.{_short(key)}": schema for kind, found in (("sent", sent), ("answered", answered)) for key, schema in found}
        services[name.partition(".")[0]] = {
            "$defs": {key: _renamed(schema, f"{key.partition('.')[0]}.") for key, schema in sorted(both.items())}
        }
    return {"$comment": _comment(list(_SENT)), **services}


def text_of(description: dict[str, Any]) -> str:
    """A description as its file has it."""
    return json.dumps(description, indent=1) + "\n"


def _comment(names: list[str]) -> str:
    revisions = ", ".join(f"{name} revision {_document(name)['revision']}" for name in names)
    return f"Made by tests/clouds/gcp_description.py from the discovery documents of {PACKAGE} {version(PACKAGE)}: {revisions}."


def _document(name: str) -> dict[str, Any]:
    path = files("googleapiclient").joinpath("discovery_cache", "documents", f"{name}.json")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _definitions(document: dict[str, Any], roots: tuple[str, ...], *, sent: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas of ``roots`` and of all that they are made of; in what is ``sent`` no field is that only answers have."""
    waiting, done = list(roots), set[str]()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        schema = _schema(document["schemas"][name], sent=sent)
        yield name, schema
        waiting += _referred(schema)


def _schema(described: dict[str, Any], *, sent: bool) -> dict[str, Any]:
    if "$ref" in described:
        return {"$ref": f"#/$defs/{described['$ref']}"}
    if described.get("type") == "any":
        return {}
    schema: dict[str, Any] = {"type": described["type"], **_FORMATS.get(described.get("format", ""), {})}
    if "enum" in described:
        schema["enum"] = described["enum"]
    if "items" in described:
        schema["items"] = _schema(described["items"], sent=sent)
    if described["type"] == "object":
        fields = {name: field for name, field in described.get("properties", {}).items() if not (sent and _is_output(field))}
        schema["properties"] = {name: _schema(field, sent=sent) for name, field in fields.items()}
        required = [name for name, field in fields.items() if field.get("description", "").startswith("Required.")]
        if sent and required:
            schema["required"] = required
        others = described.get("additionalProperties")
        schema["additionalProperties"] = _schema(others, sent=sent) if others else False
    return schema


def _is_output(field: dict[str, Any]) -> bool:
    return bool(field.get("readOnly")) or field.get("description", "").startswith("Output only.")


def _referred(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix("#/$defs/")
        for part in schema.values():
            yield from _referred(part)


def _short(name: str) -> str:
    """``CustomJob`` for ``GoogleCloudAiplatformV1CustomJob``, as the documentation calls it."""
    return name.removeprefix("GoogleCloudAiplatformV1")


def _renamed(schema: Any, prefix: str = "") -> Any:
    """The schema with its references by the short names, each with the prefix."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            return {"$ref": f"#/$defs/{prefix}{_short(schema['$ref'].removeprefix('#/$defs/'))}"}
        return {key: _renamed(part, prefix) for key, part in schema.items()}
    return schema


if __name__ == "__main__":
    REQUESTS.write_text(text_of(requests_description()), encoding="utf-8")
    SIMULATOR.write_text(text_of(simulator_description()), encoding="utf-8")
