"""Google Cloud Storage: google-auth for credentials, multipart uploads and odd keys; obstore for the rest (``storage.objects``).

Credentials come from Google's own chain (Application Default Credentials): GOOGLE_APPLICATION_CREDENTIALS, the file of
``gcloud auth application-default login``, or the metadata server of a machine on Google Cloud. Without credentials, requests are not
signed, so that public buckets can be read. Requests to an emulator (STORAGE_EMULATOR_HOST) are never signed.

google-cloud-storage is not used: importing it takes 0.3 s (google-auth and obstore: 0.05), and a few requests to the JSON API suffice in
addition to obstore. Their client, requests, is imported on first use.

An object's version is its ETag in the XML API, which obstore uses: the MD5 in quotes. The JSON API has different ETags, so its listing
derives the version from ``md5Hash``. Composite objects do not have that, so their ETags are requested one by one
(https://cloud.google.com/storage/docs/hashes-etags).
"""

import base64
import re
import warnings
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import cached_property
from os import environ
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cloud_train.errors import MissingDependencyError, StoreError, UsageError
from cloud_train.storage.base import (
    AccessDeniedError,
    CredentialsEndedError,
    Multipart,
    ObjectInfo,
    ObjectMissingError,
    TransientStoreError,
)
from cloud_train.storage.gcs_sessions import TIMEOUTS, ResumableSessions
from cloud_train.storage.objects import CLIENT_OPTIONS, ONE_TRY, ObjectStorage
from cloud_train.storage.registry import BUCKETS

if TYPE_CHECKING:
    from obstore.store import GCSCredential

INSTALL = "pip install 'cloud-train[gcp]'"
LOGIN = "gcloud auth application-default login"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
ENDPOINT = "https://storage.googleapis.com"

_PERMISSIONS = {
    "read": "storage.objects.get",
    "write": "storage.objects.create and (to replace an object) storage.objects.delete",
    "list": "storage.objects.list",
    "delete": "storage.objects.delete",
}
_NO_BUCKET = "NoSuchBucket"
_FIELDS = "items(name,size,updated,md5Hash),nextPageToken"
_NO_CREDENTIALS_AT_ALL = "credentials were not found"


class GoogleStore(ObjectStorage):
    """The objects under ``gs://bucket/prefix``."""

    def __init__(self, bucket: str, prefix: str) -> None:
        """``prefix`` is empty or ends with '/'. Raises UsageError for an invalid bucket name."""
        if not re.fullmatch(BUCKETS["gs"][0], bucket):
            raise UsageError(f"invalid bucket name {bucket!r}: use {BUCKETS['gs'][1]}")
        self.bucket = bucket
        self._account = _Account()
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

    def request(self, key: str, action: str, method: str, path: str, **options: Any) -> Any:
        """Send one signed request; returns requests' ``Response`` with status 200. Raises StoreError."""
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        try:
            answer = self._account.session.request(
                method, self._account.endpoint + path, timeout=TIMEOUTS, allow_redirects=False, **options
            )
        except GoogleAuthError as error:
            own = _explained(error)
            raise self.failure(action, key, 401, type(own).__name__, own.message) from error
        except RequestException as error:
            raise self.failure(action, key, 0, type(error).__name__, f"no response from {self._account.endpoint}") from error
        if answer.status_code != 200:
            raise self.refused(answer, action, key)
        return answer

    def refused(self, answer: Any, action: str, key: str) -> StoreError:
        """The error for an unsuccessful response of the JSON API (requests' ``Response``)."""
        reason, message = _words_of(answer)
        # When listing or beginning an upload, "notFound" can only mean the bucket.
        missing_bucket = answer.status_code == 404 and action in ("list", "write")
        return self.failure(action, key, answer.status_code, _NO_BUCKET if missing_bucket else reason, message)

    def _explain_google(self, status: int, code: str, message: str) -> StoreError | None:
        if code == _NO_BUCKET:
            how = f"create it with: gcloud storage buckets create gs://{self.bucket} --location=REGION"
            return StoreError(f"the bucket {self.bucket!r} does not exist", hint=how)
        if code == TransientStoreError.__name__:
            return TransientStoreError(message, hint="check the network")
        if code == AccessDeniedError.__name__:
            return AccessDeniedError(message, hint=f"log in with: {LOGIN}")
        if status in (401, 403) and self._account.anonymous:
            return AccessDeniedError("no credentials were found, and the bucket is not public", hint=f"log in with: {LOGIN}")
        if status == 401:
            words = " ".join(message.split()) or code or "401"
            return CredentialsEndedError(f"the credentials are invalid or have expired ({words})", hint=f"log in with: {LOGIN}")
        return None

    def _renew_credentials(self) -> bool:
        account = _Account()  # reads the chain's files again, because the user may have logged in since
        if not account.has_another_token_than(self._account):
            return False
        self._account, self._client = account, account.obstore(self.bucket)
        return True

    def _list_with_json(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        # startOffset includes the key itself; ``storage.objects`` filters it out.
        parameters = {"prefix": prefix, "startOffset": after, "maxResults": "1000", "fields": _FIELDS}
        while True:
            answer = self.request("", "list", "GET", f"/storage/v1/b/{self.bucket}/o", params=parameters)
            try:
                page = answer.json()
                infos = [self._info(item) for item in page.get("items", ())]
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise TransientStoreError(f"cannot list {self.url}: the response is not a list of objects") from error
            yield from infos
            if not page.get("nextPageToken"):
                return
            parameters["pageToken"] = page["nextPageToken"]

    def _info(self, item: dict[str, Any]) -> ObjectInfo:
        modified = datetime.fromisoformat(item["updated"].replace("Z", "+00:00")).timestamp()
        return ObjectInfo(item["name"], int(item["size"]), modified, self._version(item))

    def _version(self, item: dict[str, Any]) -> str:
        if item.get("md5Hash"):
            return f'"{base64.b64decode(item["md5Hash"]).hex()}"'
        try:
            answer = self.request("", "read", "HEAD", f"/{self.bucket}/{quote(item['name'], safe='')}")
        except ObjectMissingError:
            return ""  # deleted since
        return str(answer.headers["ETag"])

    @cached_property
    def _sessions(self) -> ResumableSessions:
        return ResumableSessions(self)


class _Account:
    """The endpoint and one set of credentials, for obstore and for the JSON API."""

    def __init__(self) -> None:
        emulator = environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
        self.endpoint = (emulator if "://" in emulator else f"http://{emulator}") if emulator else ENDPOINT
        self._emulated = bool(emulator)
        self._credentials = None if emulator else _default_credentials()
        self._refreshing = Lock()
        self._given = ""  # to obstore

    @property
    def anonymous(self) -> bool:
        """Whether no credentials were found. An emulator needs none."""
        return self._credentials is None and not self._emulated

    @cached_property
    def session(self) -> Any:
        """A client that signs requests and renews its token in time. Thread-safe."""
        from google.auth.credentials import AnonymousCredentials
        from google.auth.transport.requests import AuthorizedSession

        if self._credentials is None:  # without credentials, a refusal must not trigger a renewal
            return AuthorizedSession(AnonymousCredentials(), refresh_status_codes=())  # type: ignore[no-untyped-call] # google-auth ships few types
        return AuthorizedSession(self._credentials)  # type: ignore[no-untyped-call] # as above

    def obstore(self, bucket: str) -> Any:
        """The bucket for obstore, with the same credentials and endpoint."""
        try:
            from obstore.store import GCSStore as Client
        except ModuleNotFoundError as error:
            raise _not_installed() from error
        return Client(
            bucket,
            base_url=self.endpoint,
            skip_signature=self._credentials is None,
            credential_provider=self._token,  # called for every write, signed or not: https://github.com/apache/arrow-rs-object-store/issues/520
            client_options=CLIENT_OPTIONS,
            retry_config=ONE_TRY,
        )

    def has_another_token_than(self, earlier: "_Account") -> bool:
        """Whether the chain's token differs from the one that ``earlier`` used. Raises StoreError."""
        if self._credentials is None or earlier._credentials is None:
            return False
        return bool(self._token()["token"] != (earlier._given or earlier._credentials.token))

    def _token(self) -> "GCSCredential":
        """The token for obstore, which caches it until five minutes before it expires.

        obstore's own provider (``obstore.auth.google``) renews tokens that are still fresh, and does not distinguish refusals from broken
        connections.
        """
        from google.auth.credentials import TokenState
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        if self._emulated:
            return {"token": "none", "expires_at": None}
        if self._credentials is None:
            raise AccessDeniedError("no credentials for Google Cloud were found")
        with self._refreshing:
            if self._credentials.token_state is not TokenState.FRESH:
                try:
                    self._credentials.refresh(Request())
                except GoogleAuthError as error:
                    raise _explained(error) from error
            expiry, self._given = self._credentials.expiry, self._credentials.token
            return {
                "token": self._given,
                "expires_at": expiry and expiry.replace(tzinfo=timezone.utc),  # noqa: UP017 # datetime.UTC is not in Python 3.10
            }


def _explained(error: Exception) -> StoreError:
    """The StoreError for an error of google-auth."""
    from google.auth.exceptions import TransportError

    words = " ".join(str(error.args[0] if error.args else error).split())[:300]
    if isinstance(error, TransportError) or getattr(error, "retryable", False):
        return TransientStoreError(f"cannot get a token from Google: {words}")
    return AccessDeniedError(f"cannot get a token from Google: {words}")


def _default_credentials() -> Any:
    """The credentials from Google's chain, or None. Raises AccessDeniedError if they cannot be read."""
    try:
        import google.auth
        import google.auth.exceptions
    except ModuleNotFoundError as error:
        raise _not_installed() from error
    try:
        with warnings.catch_warnings():
            # The warning that a user's login has no "quota project" does not matter to Cloud Storage.
            warnings.filterwarnings("ignore", category=UserWarning, module="google.auth")
            credentials, _ = google.auth.default(scopes=[SCOPE])
    except google.auth.exceptions.DefaultCredentialsError as error:
        if _NO_CREDENTIALS_AT_ALL in str(error):
            return None
        raise AccessDeniedError(
            f"cannot read the credentials for Google Cloud: {' '.join(str(error.args[0]).split())[:300]}",
            hint=f"correct GOOGLE_APPLICATION_CREDENTIALS, or log in with: {LOGIN}",
        ) from error
    return credentials


def _not_installed() -> MissingDependencyError:
    return MissingDependencyError("stores on gs:// need google-auth, requests and obstore", hint=f"install them with: {INSTALL}")


def _words_of(answer: Any) -> tuple[str, str]:
    """The reason and the message in an error response of the JSON API, or of a proxy."""
    try:
        error = answer.json()["error"]
        return str((error.get("errors") or [{}])[0].get("reason", "")), str(error.get("message", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", str(answer.reason)
