"""What an answer means on every cloud, and how to read one out of an error of obstore's, which has it in its text only."""

import re

from cloud_train.errors import StoreError
from cloud_train.retry import TRANSIENT_STATUSES
from cloud_train.spec.secret_names import without_credentials
from cloud_train.storage.base import AccessDeniedError, ObjectMissingError, TransientStoreError

BEYOND_THE_END = 416
"""The HTTP status of an answer to a range that begins behind an object's end."""

BAD_CERTIFICATE = "certificate"
"""The error code of a connection, or an SDK's, that was given up because the server's certificate is not trusted."""

_CERTIFICATE_HINT = "for a certificate authority of your own, name its file in SSL_CERT_FILE (for S3, AWS_CA_BUNDLE serves too)"
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
    """The error for an HTTP answer (status 0: none came) that means the same on every cloud; ``what`` could not be done."""
    words = " ".join(message.split())[:300] or code or _phrase(status)
    if code == BAD_CERTIFICATE:
        return StoreError(f"{what}: the server's certificate was not accepted: {words}", hint=_CERTIFICATE_HINT)
    if status == _NO_ANSWER or status in TRANSIENT_STATUSES:
        hint = "the service is unavailable; retry later" if status else "check the network and the endpoint"
        return TransientStoreError(f"{what}: {code or status or 'no answer'}: {words}", hint=hint)
    if status in _REFUSED:
        return AccessDeniedError(f"{what}: no permission ({code or status}: {words})", hint="see: cloud-train doctor")
    if status == _MISSING:
        return ObjectMissingError(f"{what}: no such object")
    return StoreError(f"{what}: {code or status}: {words}")


def _phrase(status: int) -> str:
    from http.client import responses  # 30 ms: it imports TLS and the parser of mails

    return responses.get(status, "no reason given")


def answer_in(error: Exception) -> tuple[int, str, str]:
    """HTTP status, the service's error code and its message, of an error of obstore's.

    The status is 0 if no answer came, and 401 if a credential provider failed: the code is then the name of its exception.
    URLs in the message are without credentials: a signature can stand in a query.
    """
    text, _, debug = str(error).partition("\n\nDebug source")
    if (provider := _PROVIDER.search(text)) is not None:
        return 401, provider[1], provider[2]
    if (status := _STATUS.search(text)) is not None:
        return int(status[1]), _first(_CODE, text), _first(_MESSAGE, text)
    words = without_credentials(found[1] if (found := _WORDS.search(text)) else text)
    if "redirect" in words:
        return _REDIRECTED, "", words
    if "non-partial" in words:  # a server that sends a range, or all, and says 200: no other try makes it one that knows ranges
        return _WHOLE, "", words
    if (certificate := _CERTIFICATE.search(debug)) is not None:
        return 0, BAD_CERTIFICATE, certificate[1]
    reason = _SYSTEM.search(debug)
    return 0, "", f"{words} ({reason[1] or 'no answer in time'})" if reason else words


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return next((group for group in found.groups() if group), "") if found else ""
