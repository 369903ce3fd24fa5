"""SageMaker's official description, botocore's service model, as JSON Schema.

``python -m tests.clouds.aws_description`` writes cloud_train/providers/data/aws.requests.json anew from the botocore that is installed; a
test compares the two. The simulator checks its own answers with schemas made the same way.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import botocore
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape
from botocore.session import get_session

REQUEST = "CreateTrainingJobRequest"
FILE = Path(__file__).parents[2] / "cloud_train" / "providers" / "data" / "aws.requests.json"

REGIONS = FILE.with_name("aws.regions.json")

_CLASSES = {r"\p{L}": r"\w", r"\p{N}": r"\w", r"\p{Z}": r" \xa0\u2000-\u200a\u3000", r"\p{Alnum}": "a-zA-Z0-9"}
"""Unicode's classes, as near as Python's ``re`` comes to them."""
_COMMENT = (
    "The closure of {request} in botocore's service model {service} {version}, made from botocore {botocore} by"
    " tests/clouds/aws_description.py. Patterns are those of the model, anchored at both ends; where it has \\p{{L}}, \\p{{N}}, \\p{{Z}} or"
    " \\p{{Alnum}}, which Python's re lacks, stand \\w, some spaces, and a-zA-Z0-9."
)


@cache
def service_model() -> ServiceModel:
    """SageMaker's model."""
    model: ServiceModel = get_session().get_service_model("sagemaker")
    return model


def requests_description() -> dict[str, Any]:
    """What data/aws.requests.json has to hold."""
    model = service_model()
    comment = _COMMENT.format(request=REQUEST, service="sagemaker", version=model.api_version, botocore=botocore.__version__)
    return {"$comment": comment, "$defs": definitions(model.shape_for(REQUEST))}


def definitions(shape: Shape) -> dict[str, Any]:
    """The schemas of a shape and of all that it is made of, by their names."""
    found: dict[str, Any] = {}
    _collect(shape, found)
    return dict(sorted(found.items()))


def _collect(shape: Shape, found: dict[str, Any]) -> None:
    if shape.name in found:
        return
    found[shape.name] = {}  # some shapes contain themselves
    parts: list[Shape] = []
    if isinstance(shape, StructureShape):
        parts = list(shape.members.values())
    elif isinstance(shape, ListShape):
        parts = [shape.member]
    elif isinstance(shape, MapShape):
        parts = [shape.key, shape.value]
    found[shape.name] = _schema(shape)
    for part in parts:
        _collect(part, found)


def _schema(shape: Shape) -> dict[str, Any]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if isinstance(shape, StructureShape):
        union = {"minProperties": 1, "maxProperties": 1} if shape.is_tagged_union else {}
        members = {name: _named(member) for name, member in shape.members.items()}
        required = {"required": sorted(shape.required_members)} if shape.required_members else {}
        return {"type": "object", "properties": members, **required, "additionalProperties": False, **union}
    if isinstance(shape, ListShape):
        return {"type": "array", "items": _named(shape.member), **_limits("minItems", least, "maxItems", most)}
    if isinstance(shape, MapShape):
        names, values = _named(shape.key), _named(shape.value)
        limits = _limits("minProperties", least, "maxProperties", most)
        return {"type": "object", "propertyNames": names, "additionalProperties": values, **limits}
    if shape.type_name == "string":
        values_allowed = {"enum": list(shape.enum)} if shape.enum else {}
        pattern = {"pattern": _pattern(shape.metadata["pattern"])} if "pattern" in shape.metadata else {}
        return {"type": "string", **values_allowed, **pattern, **_limits("minLength", least or None, "maxLength", most)}
    kind = {"integer": "integer", "long": "integer", "boolean": "boolean", "timestamp": "number", "float": "number", "double": "number"}
    return {"type": kind[shape.type_name], **_limits("minimum", least, "maximum", most)}


def _named(shape: Shape) -> dict[str, str]:
    return {"$ref": f"#/$defs/{shape.name}"}


def _limits(lower: str, least: int | None, upper: str, most: int | None) -> dict[str, int]:
    return {name: limit for name, limit in ((lower, least), (upper, most)) if limit is not None}


def _pattern(text: str) -> str:
    for theirs, ours in _CLASSES.items():
        text = text.replace(theirs, ours)
    return f"^(?:{text})$"


def regions_description() -> dict[str, Any]:
    """What data/aws.regions.json has to hold: SageMaker's regions by partition."""
    session = get_session()
    found = {name: session.get_available_regions("sagemaker", name) for name in session.get_available_partitions()}
    comment = f"SageMaker's regions by partition, made from botocore {botocore.__version__} by tests/clouds/aws_description.py."
    return {"$comment": comment, "partitions": {name: sorted(regions) for name, regions in sorted(found.items()) if regions}}


if __name__ == "__main__":
    REGIONS.write_text(json.dumps(regions_description(), indent=1) + "\n", encoding="utf-8")
    FILE.write_text(json.dumps(requests_description(), indent=1) + "\n", encoding="utf-8")
