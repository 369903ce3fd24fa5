"""SageMaker's JSON protocol, as its simulator speaks it: what is asked, errors, and the official description of every question and answer.

Reference: the ``json`` protocol of https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html, and botocore's model of the service.
"""

import re
import uuid
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape

from botocore.model import OperationModel
from botocore.validate import ParamValidator
from jsonschema import Draft202012Validator

from tests.clouds.aws_description import definitions, service_model
from tests.clouds.faults import Fault
from tests.clouds.server import Answer, Request

CONTENT_TYPE = "application/x-amz-json-1.1"
FAULTS = {
    Fault.SERVER_ERROR: (500, "InternalFailure", "The request processing has failed because of an unknown error, exception or failure."),
    Fault.THROTTLE: (400, "ThrottlingException", "Rate exceeded"),
    Fault.EXPIRED_TOKEN: (400, "ExpiredTokenException", "The security token included in the request is expired"),
}


class RefusedError(Exception):
    """The service refuses; ``kind`` is its own code."""

    def __init__(self, kind: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status


def target_of(request: Request) -> tuple[str, str]:
    """Service and operation of a request: of ``SageMaker.CreateTrainingJob``, say, or of a form's ``Action``."""
    service, _, operation = request.headers.get("x-amz-target", "").rpartition(".")
    if operation:
        return service, operation
    action = re.search(rb"(?:^|&)Action=(\w+)", request.body)
    return "", action[1].decode() if action else f"{request.method} {request.path}"


def region_of(request: Request) -> str:
    """The region for which the request is signed; raises RefusedError for one that is not signed."""
    found = re.search(r"Credential=[^/]+/\d{8}/([a-z0-9-]+)/", request.headers.get("authorization", ""))
    if found is None:
        raise RefusedError("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
    return found[1]


def refusal(request: Request, error: RefusedError) -> Answer:
    """An error in the service's own shape: those that are asked by forms (STS, IAM) answer in XML."""
    if "x-amz-target" not in request.headers:
        text = f"<ErrorResponse><Error><Code>{error.kind}</Code><Message>{escape(error.message)}</Message></Error></ErrorResponse>"
        return Answer(error.status, {"Content-Type": "text/xml"}, text.encode())
    return answer({"__type": error.kind, "message": error.message}, error.status)


def answer(document: dict[str, Any], status: int = 200) -> Answer:
    """An answer in the protocol's own envelope."""
    return Answer.json(document, status, {"Content-Type": CONTENT_TYPE, "x-amzn-RequestId": str(uuid.uuid4())})


def validate_question(operation: str, document: dict[str, Any]) -> None:
    """Raise RefusedError, as the service does, if the description forbids what is asked."""
    model = _operation(operation)
    report = ParamValidator().validate(_without_times(document), model.input_shape)
    if report.has_errors():
        raise RefusedError("ValidationException", f"1 validation error detected: {report.generate_report()}")
    for error in _schema(operation, "input").iter_errors(document):
        where = ".".join(str(part) for part in error.absolute_path)
        raise RefusedError("ValidationException", f"1 validation error detected: Value at '{where}' failed to satisfy: {error.message}")


def validate_answer(operation: str, document: dict[str, Any]) -> None:
    """Raise AssertionError if the simulator is about to say what SageMaker never would."""
    if _operation(operation).output_shape is None:
        assert not document, f"{operation} answers nothing"
        return
    errors = [f"{list(error.absolute_path)}: {error.message}" for error in _schema(operation, "output").iter_errors(document)]
    assert not errors, f"the simulator's answer to {operation} is not SageMaker's: {errors}"


def _without_times(document: dict[str, Any]) -> dict[str, Any]:
    """On the wire a time is a number, which botocore's own check does not take for one."""
    return {name: value for name, value in document.items() if not name.endswith(("Before", "After"))}


@lru_cache(maxsize=16)
def _operation(name: str) -> OperationModel:
    return service_model().operation_model(name)


@lru_cache(maxsize=16)
def _schema(operation: str, side: str) -> Draft202012Validator:
    model = _operation(operation)
    shape = model.input_shape if side == "input" else model.output_shape
    return Draft202012Validator({"$ref": f"#/$defs/{shape.name}", "$defs": definitions(shape)})
