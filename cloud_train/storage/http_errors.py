"""Errors for HTTP responses that mean the same on every cloud, and parsing the response out of the text of obstore's errors."""

import re

from cloud_train.errors import StoreError
from cloud_train.retry import TRANSIENT_STATUSES
from cloud_train.spec.secret_names import without_credentials
from cloud_train.storage.base import AccessDeniedError, ObjectMissingError, TransientStoreError

BEYOND_THE_END = 416
"""HTTP status of a range that begins past an object's end."""

BAD_CERTIFICATE = "certificate"
"""Our error code for a server certificate that is not trusted."""

_CERTIFICATE_HINT = "for a private certificate authority, set SSL_CERT_FILE to its certificate file (for S3, AWS_CA_BUNDLE works too)"
_MISSING = 404
_REFUSED = (401, 403)
_NO_ANSWER = 0
_REDIRECTED = 301
_WHOLE = 200

_STATUS = re.compile(r"status code: (\d{3})")
_WORDS = re.compile(r" in [\d.]+[nµm]?s - (.*)", re.DOTALL)
_PROVIDER = re.compile(r"credential provider: (?:[\w.]+\.)?(\w+): (.*)", re.DOTALL)
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")
_SYSTEM = re.compile(r"(?:message|error): \"([^\"]+)\"|(TimedOut)")
_CODE = re.compile(r"<Code>([\w.]+)</Code>|\"(?:code|reason)\": ?\"([\w.]+)\"")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})|\"message\": ?\"([^\"]{1,300})\"")


def error_of(status: int, code: str, message: str, what: str) -> StoreError:
    """The error for an HTTP response (status 0: none) that means the same on every cloud; ``what`` describes the failed action."""
    words = " ".join(message.split())[:300] or code or _phrase(status)
    if code == BAD_CERTIFICATE:
        return StoreError(f"{what}: the server's certificate is not trusted: {words}", hint=_CERTIFICATE_HINT)
    if status == _NO_ANSWER or status in TRANSIENT_STATUSES:
        hint = "the service is unavailable; retry later" if status else "check the network and the endpoint"
        return TransientStoreError(f"{what}: {code or status or 'no response'}: {words}", hint=hint)
    if status in _REFUSED:
        return AccessDeniedError(f"{what}: no permission ({code or status}: {words})", hint="see: cloud-train doctor")
    if status == _MISSING:
        return ObjectMissingError(f"{what}: no such object")
    return StoreError(f"{what}: {code or status}: {words}")


def _phrase(status: int) -> str:
    from http.client import responses  # takes 30 ms: it imports TLS and the email parser

    return responses.get(status, "no reason given")


def answer_in(error: Exception) -> tuple[int, str, str]:
    """HTTP status, error code and message of an obstore error.

    The status is 0 without a response, and 401 if a credential provider failed; the code is then the name of its exception. Credentials are
    removed from URLs in the message, whose query may contain a signature.
    """
    text, _, debug = str(error).partition("\n\nDebug source")
    if (provider := _PROVIDER.search(text)) is not None:
        return 401, provider[1], provider[2]
    if (status := _STATUS.search(text)) is not None:
        return int(status[1]), _first(_CODE, text), _first(_MESSAGE, text)
    words = without_credentials(found[1] if (found := _WORDS.search(text)) else text)
    if "redirect" in words:
        return _REDIRECTED, "", words
    if "non-partial" in words:  # the server ignores ranges and responds with 200; a retry would not change that
        return _WHOLE, "", words
    if (certificate := _CERTIFICATE.search(debug)) is not None:
        return 0, BAD_CERTIFICATE, certificate[1]
    reason = _SYSTEM.search(debug)
    return 0, "", f"{words} ({reason[1] or 'timed out'})" if reason else words


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return next((group for group in found.groups() if group), "") if found else ""
