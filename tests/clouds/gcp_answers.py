"""The shapes in which Google's services answer and refuse, and the check of both sides by its discovery documents."""

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.clouds.server import Answer

_DESCRIPTIONS = Path(__file__).with_name("gcp_descriptions.json")
STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
}


class RefusedError(Exception):
    """A request that is refused; holds the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str = "",
        metadata: dict[str, str] | None = None,
        violations: dict[str, str] | None = None,
        word: str = "",
    ) -> None:
        super().__init__(message)
        error: dict[str, Any] = {"code": status, "message": message, "status": word or STATUS[status]}
        details: list[dict[str, Any]] = []
        if reason:
            details.append(
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": reason,
                    "domain": "googleapis.com",
                    "metadata": metadata or {},
                }
            )
        if violations:
            listed = [{"field": field, "description": text} for field, text in violations.items()]
            details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": listed})
        if details:
            error["details"] = details
        self.answer = Answer.json({"error": error}, status)


def accepted(service: str, schema: str, body: Any) -> dict[str, Any]:
    """The body of a request, if it is what the service's discovery document allows."""
    problems = sorted(_validator(service, f"sent.{schema}").iter_errors(body), key=lambda each: [str(part) for part in each.absolute_path])
    if problems:
        fields = {".".join(str(part) for part in each.absolute_path) or schema: each.message for each in problems}
        raise RefusedError(400, "Invalid JSON payload received.", violations=fields)
    document: dict[str, Any] = body
    return document


def answered(service: str, schema: str, document: dict[str, Any]) -> Answer:
    """An answer, which has to be what the discovery document says: the simulator is mistaken otherwise."""
    problems = [f"{list(each.absolute_path)}: {each.message}" for each in _validator(service, f"answered.{schema}").iter_errors(document)]
    assert not problems, f"this is no {schema} of {service}: {problems}"
    return Answer.json(document)


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as Google writes them."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


@cache
def _validator(service: str, definition: str) -> Draft202012Validator:
    definitions = json.loads(_DESCRIPTIONS.read_text(encoding="utf-8"))[service]["$defs"]
    return Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": definitions})
