"""Requests to Google's services with google-auth's session.

google-cloud-aiplatform is not used: it takes 3 s to import and 274 MB, and the adapter needs a handful of requests. Credentials come from
Google's own chain (Application Default Credentials).
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Self

from cloud_train.errors import MissingDependencyError, ProviderError
from cloud_train.providers.cloud.errors import PROXY_HINT, CloudError, ForbiddenError, RefusedError, UnansweredError, retried
from cloud_train.providers.gcp.errors import LOGIN, refusal_of
from cloud_train.providers.gcp.request import place_of, service_url
from cloud_train.retry import RetryPolicy
from cloud_train.storage.gcs_account import signed_session, storage_client
from cloud_train.storage.trusted_hosts import check_google

INSTALL = "pip install 'cloud-train[gcp]'"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUTS = (10.0, 60.0)
"""Seconds to connect, and to wait for a response."""

BUCKET_PERMISSIONS = ("storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list")
"""The permissions that a store needs on its bucket."""
_PATH = re.compile(r"[A-Za-z0-9._~:/%@-]+")
"""The path of a request; its query is passed separately."""
_SHOWN_CHARACTERS = 600


POLICY = RetryPolicy(attempts=5, time_limit=None, first_wait=1.0, longest_wait=16.0)
"""The retries of a request."""


class Google:
    """A client for Google's services, to be used as a context manager. All methods raise CloudError."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        credentials: Any,
        *,
        timeouts: tuple[float, float] = TIMEOUTS,
        policy: RetryPolicy = POLICY,
    ) -> None:
        """``settings`` has ``project``, ``region`` and ``endpoint``; ``credentials`` is google-auth's object, ``policy`` the retry policy.

        Raises ProviderError for an invalid project or region.
        """
        self._project, self._region = place_of(settings)
        self.credentials, self.policy = credentials, policy
        self._settings, self._timeouts = settings, timeouts
        self._session: Any = None

    def __enter__(self) -> Self:
        from google.auth.transport.requests import AuthorizedSession

        self._session = AuthorizedSession(self.credentials)  # type: ignore[no-untyped-call] # google-auth ships few types
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    @property
    def vertex(self) -> str:
        """The service name of Vertex AI in the region."""
        return f"{self._region}-aiplatform"

    @property
    def parent(self) -> str:
        """The parent resource of the jobs."""
        return f"projects/{self._project}/locations/{self._region}"

    def call(
        self, method: str, service: str, path: str, *, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request with retries, and return the response."""
        return retried(self.policy, lambda: self.call_once(method, service, path, body=body, query=query))

    def pages(self, service: str, path: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The pages of a listing; stops at a repeated page token."""
        seen: set[str] = set()
        token = ""
        while True:
            page = self.call("GET", service, path, query={**query, **({"pageToken": token} if token else {})})
            yield page
            token = str(page.get("nextPageToken") or "")
            if not token or token in seen:
                return
            seen.add(token)

    def call_once(
        self, method: str, service: str, path: str, *, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request without retries, and return the response."""
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        url = self._url(service, path)
        try:
            answer = self._session.request(method, url, json=body, params=query, timeout=self._timeouts, allow_redirects=False)
        except GoogleAuthError as error:
            raise no_token(error) from error
        except ValueError as error:  # the library requests raises it for some permanent errors
            raise RefusedError(f"cannot send a request to {url} ({error})", "correct gcp.endpoint") from error
        except RequestException as error:
            raise self._no_answer(url, service, error) from error
        document = _json_of(answer)
        if answer.status_code != 200:
            raise refusal_of(service, answer.status_code, document or {}, str(answer.reason), self._settings)
        if document is None:
            raise UnansweredError(f"unexpected response from {url}: not JSON", PROXY_HINT)
        return document

    def bucket(self, name: str) -> tuple[Any, list[str]]:
        """google-cloud-storage's ``Bucket``, described if that is permitted, and those of ``BUCKET_PERMISSIONS`` that are granted.

        ``location`` and the rest of the description are None if reading it is not permitted.
        """
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        url = self._url("storage", "").rstrip("/")
        with signed_session(self.credentials, url) as session:
            bucket = storage_client(self.credentials, url, session).bucket(name)

            def asked(ask: Callable[[], Any]) -> Any:
                try:
                    return ask()
                except GoogleAuthError as error:
                    raise no_token(error) from error
                except RequestException as error:
                    raise self._no_answer(url, "storage", error) from error
                except GoogleAPICallError as error:
                    answer: Any = error.response
                    raise refusal_of("storage", answer.status_code, _json_of(answer) or {}, str(answer.reason), self._settings) from error

            with suppress(ForbiddenError):  # roles/storage.objectUser alone does not allow it
                retried(self.policy, lambda: asked(lambda: bucket.reload(retry=None)))
            granted = retried(self.policy, lambda: asked(lambda: bucket.test_iam_permissions(list(BUCKET_PERMISSIONS), retry=None)))
        return bucket, list(granted)

    def _url(self, service: str, path: str) -> str:
        """The URL of a request, after a check that the credentials may be sent there."""
        try:
            url = f"{service_url(self._settings, service)}/{path}"
            if path and not _PATH.fullmatch(path):
                raise ProviderError(f"invalid path of a Google Cloud resource: {path!r}", hint="correct the settings of gcp")
            check_google(url, self.credentials, "gcp.endpoint")
        except ProviderError as error:
            raise RefusedError(error.message, error.hint) from error
        return url

    def _no_answer(self, url: str, service: str, error: Exception) -> UnansweredError:
        region = self._settings.get("region")
        regional = f", and that {region!r} (gcp.region) is a region of Vertex AI" if service == self.vertex else ""
        return UnansweredError(f"no response from {url} ({type(error).__name__})", f"check the network connection{regional}")


def credentials_of(project: str | None) -> Any:
    """The Application Default Credentials, as google-auth's object. Raises ProviderError if there are none, and MissingDependencyError."""
    try:
        import google.auth
        import requests  # noqa: F401 # google-auth's session needs it, but google-auth does not install it
        from google.auth.exceptions import DefaultCredentialsError
        from google.oauth2.credentials import Credentials as UserCredentials
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the provider 'gcp' needs google-auth and requests", hint=f"install them with: {INSTALL}") from error
    try:
        with warnings.catch_warnings():
            # google-auth warns that a user's login has no quota project; it is set below.
            warnings.filterwarnings("ignore", category=UserWarning, module="google.auth")
            credentials, _ = google.auth.default(scopes=[SCOPE])
    except DefaultCredentialsError as error:
        words = " ".join(str(error.args[0]).split())[:_SHOWN_CHARACTERS]
        hint = f"log in with: {LOGIN}; or name a key file with GOOGLE_APPLICATION_CREDENTIALS"
        raise ProviderError(f"no credentials for Google Cloud ({words})", hint=hint) from error
    if isinstance(credentials, UserCredentials) and not credentials.quota_project_id and project:
        return credentials.with_quota_project(project)
    return credentials


def no_token(error: Exception) -> CloudError:
    """The CloudError for an error of google-auth."""
    from google.auth.exceptions import TransportError

    words = " ".join(str(error.args[0] if error.args else error).split())[:_SHOWN_CHARACTERS]
    if isinstance(error, TransportError) or getattr(error, "retryable", False):
        return UnansweredError(f"Google issued no token ({words})", "check the network connection")
    hint = "correct this machine's clock" if "timeframe" in words else f"log in with: {LOGIN}"
    return RefusedError(f"Google issued no token: the credentials are invalid or have expired ({words})", hint, status=401)


def _json_of(answer: Any) -> dict[str, Any] | None:
    try:
        document = answer.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
