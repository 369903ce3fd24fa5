"""Google's refusals with a next step. A message has Google's words first, then ours.

Their shape: https://cloud.google.com/apis/design/errors. ``ErrorInfo`` in the details has the reason, and in its metadata the project that
was asked for the service: https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloud_train.providers.cloud.errors import (
    CloudError,
    ExistsError,
    ForbiddenError,
    MissingError,
    RefusedError,
    ThrottledError,
    UnansweredError,
)

LOGIN = "gcloud auth application-default login"
QUOTAS = "https://console.cloud.google.com/iam-admin/quotas"
NO_QUOTA = re.compile(r"quota metrics exceed|quotas? (are|is) exceeded|exceeds? quota limits", re.IGNORECASE)
"""Quota of machines. Too many requests have another message, with the same status."""

_THROTTLED = 429
_NOT_FOUND = 404
_KINDS = {403: ForbiddenError, _NOT_FOUND: MissingError, 409: ExistsError}
_REASONS = ("SERVICE_DISABLED", "BILLING_DISABLED", "CONSUMER_INVALID", "USER_PROJECT_DENIED")
_PERMISSION = re.compile(r"[Pp]ermission '?\"?([a-z]+\.[A-Za-z.]+)")
_ROLES = "docs/clouds/gcp.md has the roles"
_SHOWN_CHARACTERS = 600


@dataclass(frozen=True)
class _Refusal:
    """A refusal by Google, and what was requested."""

    status: int
    reason: str
    words: str
    api: str
    """Such as ``aiplatform.googleapis.com``."""
    project: str
    """The setting ``gcp.project``."""
    consumer: str
    """The project that Google names: often the quota project of the credentials, by its number."""
    region: str


def refusal_of(service: str, status: int, document: Mapping[str, Any], phrase: str, settings: Mapping[str, Any]) -> CloudError:
    """The error for a response. ``service`` is its name, ``phrase`` the words of its HTTP status."""
    error = document.get("error")
    fields: Mapping[str, Any] = error if isinstance(error, dict) else {}
    details = [detail for detail in fields.get("details", ()) if isinstance(detail, dict)]
    reason = next((str(detail["reason"]) for detail in details if "reason" in detail), str(fields.get("status", phrase)))
    violations = [f"{each.get('field')}: {each.get('description')}" for detail in details for each in detail.get("fieldViolations", ())]
    words = "; ".join([" ".join(str(fields.get("message") or reason).split()).rstrip("."), *violations])[:_SHOWN_CHARACTERS]
    metadata = [detail["metadata"] for detail in details if isinstance(detail.get("metadata"), dict)]
    consumer = next((str(each["consumer"]).removeprefix("projects/") for each in metadata if each.get("consumer")), "")
    project = str(settings.get("project"))
    api = f"{'aiplatform' if service.endswith('-aiplatform') else service}.googleapis.com"
    refusal = _Refusal(status, reason, words, api, project, consumer or project, str(settings.get("region")))
    ours, hint = _explained(refusal)
    return _kind(status, words)(f"{words}; {ours}", hint, status=status, reason=reason, said=words)


def _kind(status: int, words: str) -> type[CloudError]:
    if status == _THROTTLED and not NO_QUOTA.search(words):
        return ThrottledError
    return UnansweredError if status >= 500 else _KINDS.get(status, RefusedError)


def _explained(refusal: _Refusal) -> tuple[str, str | None]:
    """Our words for a refusal, and the next step."""
    api, status = refusal.api, refusal.status
    found: tuple[str, str | None] | None = None
    if refusal.reason in _REASONS:
        found = _of_reason(refusal)
    elif status == 401:
        found = "Google rejected the credentials", f"log in with: {LOGIN}"
    elif status == 403:
        found = _forbidden(refusal)
    elif NO_QUOTA.search(refusal.words):
        hint = f"request more at {QUOTAS}, or choose another gcp.region or gcp.machine"
        found = f"the project {refusal.project} does not have enough quota", hint
    elif status == _THROTTLED:
        found = f"{api} received too many requests from the project {refusal.consumer}", "retry in a minute"
    elif status >= 500:
        found = f"{api} failed with {status}", "retry; see https://status.cloud.google.com"
    elif status == _NOT_FOUND and api.startswith("aiplatform"):
        hint = f"check {refusal.project!r} (gcp.project), and that {refusal.region!r} (gcp.region) has Vertex AI"
        found = f"{api} refused the request with {status} {refusal.reason}", hint
    return found or (f"{api} refused the request with {status} {refusal.reason}", None)


def _of_reason(refusal: _Refusal) -> tuple[str, str]:
    consumer, api = refusal.consumer, refusal.api
    match refusal.reason:
        case "SERVICE_DISABLED":
            hint = f"enable it with: gcloud services enable {api} --project={consumer}"
            return f"{api} is not enabled in the project {consumer}", hint + _if_quota_project(refusal)
        case "BILLING_DISABLED":
            hint = f"link a billing account: https://console.cloud.google.com/billing/linkedaccount?project={consumer}"
            return f"the project {consumer} has no active billing account", hint + _if_quota_project(refusal)
    hint = f"check gcp.project; {_ROLES}"
    return f"the project {consumer} does not exist, or the credentials may not use it", hint + _if_quota_project(refusal)


def _if_quota_project(refusal: _Refusal) -> str:
    """The next step if the project that Google names is not the configured one."""
    if refusal.consumer == refusal.project:
        return ""
    numbered = "if that is not the number of gcp.project, it is" if refusal.consumer.isdecimal() else "it is"
    return (
        f"; {numbered} the quota project of the credentials; change it with:"
        f" gcloud auth application-default set-quota-project {refusal.project}"
    )


def _forbidden(refusal: _Refusal) -> tuple[str, str]:
    if "act as" in refusal.words.lower():
        hint = f"grant the submitter roles/iam.serviceAccountUser on gcp.service_account; {_ROLES}"
        return "the credentials lack the permission iam.serviceAccounts.actAs", hint
    named = _PERMISSION.search(refusal.words)
    what = f"the permission {named[1]}" if named else "a permission"
    return f"the credentials lack {what} in the project {refusal.project}", f"check gcp.project; {_ROLES}"
