"""What the clouds answer when they refuse or acknowledge a request, in the words of each one's API.

S3: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html — Google Cloud Storage:
https://cloud.google.com/storage/docs/json_api/v1/status-codes — Azure: https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """The head of a request to a store."""

    number: int
    """From 1, in the order of arrival."""
    method: str
    path: str
    """As it was sent: percent-encoded."""
    query: str
    headers: Mapping[str, str]
    """Their names in lower case."""
    length: int
    """Of its body, in bytes."""
    scheme: str
    """``s3``, ``gs`` or ``az``."""

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path


@dataclass(frozen=True)
class Answer:
    """An answer to a request."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


# What each cloud says: status, code, message.
REFUSALS: Mapping[str, Mapping[str, tuple[int, str, str]]] = {
    "busy": {
        "s3": (503, "SlowDown", "Please reduce your request rate."),
        "gs": (503, "backendError", "We encountered an internal error. Please try again."),
        "az": (503, "ServerBusy", "The server is busy."),
    },
    "throttled": {
        "s3": (429, "TooManyRequests", "Please reduce your request rate."),
        "gs": (429, "rateLimitExceeded", "The rate limit for requests to this object was exceeded."),
        "az": (429, "TooManyRequests", "The rate limit was exceeded."),
    },
    "denied": {
        "s3": (403, "AccessDenied", "Access Denied"),
        "gs": (403, "forbidden", "test@example.com does not have storage.objects access to the Google Cloud Storage object."),
        "az": (403, "AuthorizationPermissionMismatch", "This request is not authorized to perform this operation using this permission."),
    },
    "expired": {
        "s3": (400, "ExpiredToken", "The provided token has expired."),
        "gs": (401, "authError", "Invalid Credentials"),
        "az": (401, "InvalidAuthenticationInfo", "Lifetime validation failed. The token is expired."),
    },
    "wrong-region": {
        "s3": (301, "PermanentRedirect", "The bucket you are attempting to access must be addressed using the specified endpoint."),
    },
}


def refused(kind: str, request: Request) -> Answer:
    """The refusal of a kind, a row of REFUSALS."""
    status, code, message = REFUSALS[kind][request.scheme]
    if request.scheme == "az":
        body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
        return Answer(status, {"Content-Type": "application/xml", "x-ms-error-code": code}, body.encode())
    if request.scheme == "gs" and _is_json_api(request):
        error = {"code": status, "message": message, "errors": [{"domain": "global", "reason": code, "message": message}]}
        return Answer(status, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps({"error": error}).encode())
    names = {"backendError": "ServiceUnavailable", "rateLimitExceeded": "TooManyRequests", "forbidden": "AccessDenied"}  # in the XML API
    headers = {"Content-Type": "application/xml"}
    if kind == "wrong-region":
        headers["x-amz-bucket-region"] = "eu-central-1"
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{names.get(code, code)}</Code><Message>{message}</Message></Error>'
    return Answer(status, headers, body.encode())


def acknowledged(request: Request, md5: bytes) -> Answer:
    """What a server says that has taken an upload, whose body has this MD5 digest."""
    etag = {"ETag": f'"{md5.hex()}"'}
    if request.scheme == "az":
        return Answer(201, etag | {"Content-MD5": b64encode(md5).decode(), "x-ms-request-server-encrypted": "true"})
    if request.scheme == "s3":
        return Answer(200, etag)
    if not _is_json_api(request):
        return Answer(200, etag | {"x-goog-generation": "1"})
    sent = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", request.headers.get("content-range", ""))
    if sent is not None and (sent[3] == "*" or int(sent[2]) + 1 < int(sent[3])):
        return Answer(308, {"Range": f"bytes=0-{sent[2]}"})
    resource = {"kind": "storage#object", "generation": "1", "md5Hash": b64encode(md5).decode(), "size": str(request.length)}
    return Answer(200, etag | {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(resource).encode())


def _is_json_api(request: Request) -> bool:
    return request.path.startswith(("/storage/v1", "/upload/storage/v1", "/download/storage/v1", "/batch"))
