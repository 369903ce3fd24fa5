"""Google Cloud Storage: google-cloud-storage for sessions, odd keys and the bucket itself; obstore for the objects (``storage.objects``).

Credentials come from Google's own chain (Application Default Credentials): GOOGLE_APPLICATION_CREDENTIALS, the file of
``gcloud auth application-default login``, or the metadata server of a machine on Google Cloud. Without credentials, requests are not
signed, so that public buckets can be read. Requests to an emulator (STORAGE_EMULATOR_HOST) are never signed.

The endpoint is API_ENDPOINT_OVERRIDE (google-cloud-storage's own variable; for Private Service Connect), or that of the credentials'
universe. Requests are billed to GOOGLE_CLOUD_QUOTA_PROJECT, which buckets need whose requester pays.

google-cloud-storage takes 0.3 s to import and, for a small object, about five times the CPU time of obstore (docs/benchmarks.md). It is
imported when it is first needed: for the first upload in parts, and for a listing that obstore cannot do. It attempts each request once, as
``storage.retrying`` retries, and has a session of ours, which sends the credentials to the endpoint alone and follows no redirect.

An object's version is its ETag in the XML API, which obstore uses: the MD5 in quotes. The JSON API has different ETags, so its listing
derives the version from ``md5Hash``. Composite objects do not have that, so their ETags are requested one by one
(https://cloud.google.com/storage/docs/hashes-etags).
"""

import base64
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlencode

from cloud_train.errors import StoreError, UsageError
from cloud_train.job.cloud_names import BUCKETS
from cloud_train.storage.base import (
    AccessDeniedError,
    CredentialsEndedError,
    InvalidKeyError,
    Multipart,
    ObjectInfo,
    ObjectMissingError,
    TransientStoreError,
)
from cloud_train.storage.gcs_account import LOGIN, USER_PROJECT, GoogleAccount, token_error
from cloud_train.storage.gcs_sessions import ResumableSessions
from cloud_train.storage.objects import ObjectStorage

Result = TypeVar("Result")

_PERMISSIONS = {
    "read": "storage.objects.get",
    "write": "storage.objects.create and (to replace an object) storage.objects.delete",
    "list": "storage.objects.list",
    "delete": "storage.objects.delete",
}
_NO_BUCKET = "NoSuchBucket"
_NOBODY_PAYS = "UserProjectMissing"
_REQUESTER_PAYS = "requester pays bucket but no user project"
_FIELDS = "items(name,size,updated,md5Hash),nextPageToken"
_PAGE = 1000


class GoogleStore(ObjectStorage):
    """The objects under ``gs://bucket/prefix``."""

    def __init__(self, bucket: str, prefix: str) -> None:
        """``prefix`` is empty or ends with '/'. Raises UsageError for an invalid bucket name."""
        if not re.fullmatch(BUCKETS["gs"][0], bucket):
            raise UsageError(f"invalid bucket name {bucket!r}: use {BUCKETS['gs'][1]}")
        self.bucket = bucket
        self._account = GoogleAccount()
        super().__init__(
            f"gs://{bucket}/{prefix}".rstrip("/"),
            self._account.obstore(bucket),
            prefix,
            explain=self._explain_google,
            listing=self._list_with_json,
        )

    def multipart(self) -> Multipart:
        """Resumable sessions."""
        return self._sessions

    def permission(self, action: str) -> str:
        """The IAM permission that an action needs, and on which bucket."""
        permissions = _PERMISSIONS.get(action)
        return f"{permissions} on the bucket gs://{self.bucket}" if permissions else ""

    def sessions_url(self, key: str) -> str:
        """The URL that begins a resumable session for an object; raises InvalidKeyError."""
        query = {"uploadType": "resumable", "name": self.full_key(key)}
        if self._account.user_project:
            query["userProject"] = self._account.user_project
        return f"{self._account.endpoint}/upload/storage/v1/b/{self.bucket}/o?{urlencode(query)}"

    def request(self, key: str, action: str, method: str, url: str, **options: Any) -> Any:
        """Send one signed request; returns requests' ``Response`` with a status below 300. Raises StoreError."""
        answer = self._asked(key, action, lambda: self._account.session.request(method, url, **options))
        if answer.status_code >= 300:
            raise self.refused(answer, action, key)
        return answer

    def refused(self, answer: Any, action: str, key: str) -> StoreError:
        """The error for an unsuccessful response of the JSON API (requests' ``Response``)."""
        reason, message = _words_of(answer)
        # When listing or beginning an upload, "notFound" can only mean the bucket.
        missing_bucket = answer.status_code == 404 and action in ("list", "write")
        return self.failure(action, key, answer.status_code, _NO_BUCKET if missing_bucket else reason, message)

    def _asked(self, key: str, action: str, ask: Callable[[], Result]) -> Result:
        """The result of a call of Google's client, or its error as a StoreError."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        try:
            return ask()
        except GoogleAuthError as error:
            own = token_error(error)
            raise self.failure(action, key, 401, type(own).__name__, own.message) from error
        except GoogleAPICallError as error:
            raise self.refused(error.response, action, key) from error
        except RequestException as error:
            raise self.failure(action, key, 0, type(error).__name__, f"no response from {self._account.endpoint}") from error

    def _explain_google(self, status: int, code: str, message: str) -> StoreError | None:
        words = " ".join(message.split()) or code or str(status)
        error: StoreError | None = None
        if code == _NO_BUCKET:
            how = f"create it with: gcloud storage buckets create gs://{self.bucket} --location=REGION"
            error = StoreError(f"the bucket {self.bucket!r} does not exist", hint=how)
        elif code == _NOBODY_PAYS or _REQUESTER_PAYS in message:
            hint = f"set {USER_PROJECT} to the project that pays"
            error = StoreError(f"the requester pays for this bucket, but no project is set to be billed ({words})", hint=hint)
        elif code == TransientStoreError.__name__:
            error = TransientStoreError(message, hint="check the network")
        elif code == AccessDeniedError.__name__:
            error = AccessDeniedError(message, hint=f"log in with: {LOGIN}")
        elif status in (401, 403) and self._account.anonymous:
            error = AccessDeniedError("no credentials were found, and the bucket is not public", hint=f"log in with: {LOGIN}")
        elif status == 401:
            error = CredentialsEndedError(f"the credentials are invalid or have expired ({words})", hint=f"log in with: {LOGIN}")
        return error

    def _renew_credentials(self) -> bool:
        account = GoogleAccount()  # reads the chain's files again, because the user may have logged in since
        if not account.has_another_token_than(self._account):
            return False
        self._account, self._client = account, account.obstore(self.bucket)
        return True

    def _list_with_json(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        # start_offset includes the key itself; ``storage.objects`` filters it out.
        bucket = self._account.client.bucket(self.bucket, user_project=self._account.user_project)
        pages = bucket.list_blobs(prefix=prefix, start_offset=after or None, page_size=_PAGE, fields=_FIELDS, retry=None).pages
        while True:
            try:
                page = self._asked("", "list", lambda: next(pages, None))
                infos = [self._info(blob) for blob in page or ()]
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise TransientStoreError(f"cannot list {self.url}: the response is not a list of objects") from error
            yield from infos
            if page is None:
                return

    def _info(self, blob: Any) -> ObjectInfo:
        return ObjectInfo(blob.name, int(blob.size), blob.updated.timestamp(), self._version(blob))

    def _version(self, blob: Any) -> str:
        """The object's ETag in the XML API; empty for a key that this store cannot read."""
        if blob.md5_hash:
            return f'"{base64.b64decode(blob.md5_hash).hex()}"'
        try:
            return self.stat(blob.name[len(self._prefix) :]).version
        except (InvalidKeyError, ObjectMissingError):  # the object was deleted since
            return ""

    @cached_property
    def _sessions(self) -> ResumableSessions:
        return ResumableSessions(self)


def _words_of(answer: Any) -> tuple[str, str]:
    """The reason and the message in an error response of the JSON API, or of a proxy."""
    try:
        error = answer.json()["error"]
        return str((error.get("errors") or [{}])[0].get("reason", "")), str(error.get("message", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", str(answer.reason)
