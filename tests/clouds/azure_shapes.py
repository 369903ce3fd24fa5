"""How the Azure simulator answers: in Azure's own shapes, which are checked by the schemas made from Azure's models."""

import json
import uuid
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.clouds import azure_descriptions
from tests.clouds.server import Answer


def error_answer(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A refusal, as the resource manager words it."""
    document = {"error": {"code": code, "message": message, "details": []}}
    return checked(document, "ErrorResponse", status, {"x-ms-request-id": str(uuid.uuid4()), **(headers or {})})


def checked(document: dict[str, Any], definition: str, status: int, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer, which has to be one that Azure could give."""
    problem = next(problems_of(document, azure_descriptions.ANSWERS, definition), None)
    assert problem is None, f"the simulator's own answer is none of Azure's: {problem}"
    return Answer.json(document, status, {"x-ms-request-id": str(uuid.uuid4()), **(headers or {})})


def problems_of(document: Any, file: Path, definition: str) -> Iterator[str]:
    """What the schema ``definition`` of a file forbids in a document."""
    for error in _validator(file, definition).iter_errors(document):
        yield f"{'.'.join(str(part) for part in error.absolute_path) or definition}: {error.message}"


@lru_cache(maxsize=16)
def _validator(file: Path, definition: str) -> Any:
    from jsonschema import Draft202012Validator

    definitions = json.loads(file.read_text(encoding="utf-8"))["$defs"]
    return Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": definitions})
