"""One Google account for a bucket: credentials, endpoint and billed project, for obstore and for google-cloud-storage.

All of it comes from Google's own variables and files. Nothing but a token request is sent until a client is used.
"""

import warnings
from collections.abc import Mapping
from datetime import timezone
from functools import cached_property
from importlib.util import find_spec
from os import environ
from threading import Lock
from typing import TYPE_CHECKING, Any

from cloud_train.errors import MissingDependencyError, ProviderError, StoreError
from cloud_train.storage.base import AccessDeniedError, TransientStoreError
from cloud_train.storage.objects import CLIENT_OPTIONS, ONE_TRY
from cloud_train.storage.trusted_hosts import check_google

if TYPE_CHECKING:
    from obstore.store import ClientConfig, GCSCredential

INSTALL = "pip install 'cloud-train[gcp]'"
LOGIN = "gcloud auth application-default login"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
ENDPOINT = "https://storage.googleapis.com"

EMULATOR = "STORAGE_EMULATOR_HOST"
OVERRIDE = "API_ENDPOINT_OVERRIDE"
"""google-cloud-storage's variable for another endpoint, such as one of Private Service Connect."""
USER_PROJECT = "GOOGLE_CLOUD_QUOTA_PROJECT"
"""google-auth's variable for the project that requests are billed to."""

TIMEOUTS = (10, 60)
"""Seconds to connect and to send each piece of a body, and to wait for a response."""

_UNIVERSE = "googleapis.com"
_NO_EXTRA_REQUESTS = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
"""google-cloud-storage otherwise describes each bucket in its traces, for which it asks about it on a thread, with retries of its own."""
_NO_CREDENTIALS_AT_ALL = "credentials were not found"
_NEEDED = ("google.auth", "google.cloud.storage", "obstore")


class GoogleAccount:
    """The endpoint, the billed project and one set of credentials."""

    def __init__(self, environment: Mapping[str, str] = environ) -> None:
        """Raises MissingDependencyError, AccessDeniedError for unreadable credentials, and StoreError for a host that is not Google's."""
        _require_packages()
        emulator = environment.get(EMULATOR, "").rstrip("/")
        self._emulated = bool(emulator)
        self._credentials = None if emulator else _default_credentials()
        self.user_project = environment.get(USER_PROJECT) or None
        """The project that requests are billed to; None for the bucket's own."""
        if emulator:
            self.endpoint = emulator if "://" in emulator else f"http://{emulator}"
        else:
            self.endpoint = self._own_endpoint(environment)
        self._refreshing = Lock()
        self._given = ""  # to obstore

    @property
    def anonymous(self) -> bool:
        """Whether no credentials were found. An emulator needs none."""
        return self._credentials is None and not self._emulated

    @cached_property
    def client(self) -> Any:
        """google-cloud-storage's ``Client``. Thread-safe."""
        return storage_client(self._credentials, self.endpoint, self.session)

    @cached_property
    def session(self) -> Any:
        """A client that signs requests to the endpoint; see ``signed_session``. Thread-safe."""
        return signed_session(self._credentials, self.endpoint)

    def obstore(self, bucket: str) -> Any:
        """The bucket for obstore, with the same credentials and endpoint."""
        from obstore.store import GCSStore as Client

        billed: ClientConfig = {"default_headers": {"x-goog-user-project": self.user_project}} if self.user_project else {}
        return Client(
            bucket,
            base_url=self.endpoint,
            skip_signature=self._credentials is None,
            credential_provider=self._token,  # called for every write, signed or not: https://github.com/apache/arrow-rs-object-store/issues/520
            client_options={**CLIENT_OPTIONS, **billed},
            retry_config=ONE_TRY,
        )

    def has_another_token_than(self, earlier: "GoogleAccount") -> bool:
        """Whether the chain's token differs from the one that ``earlier`` used. Raises StoreError."""
        if self._credentials is None or earlier._credentials is None:
            return False
        return bool(self._token()["token"] != (earlier._given or earlier._credentials.token))

    def _own_endpoint(self, environment: Mapping[str, str]) -> str:
        override = environment.get(OVERRIDE, "").rstrip("/")
        universe = _universe_of(self._credentials)
        default = ENDPOINT if universe == _UNIVERSE else f"https://storage.{universe}"
        if override:
            try:
                check_google(override, self._credentials, OVERRIDE, environment)
            except ProviderError as error:
                raise StoreError(error.message, hint=error.hint) from error
        return override or default

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
                    raise token_error(error) from error
            expiry, self._given = self._credentials.expiry, self._credentials.token
            return {
                "token": self._given,
                "expires_at": expiry and expiry.replace(tzinfo=timezone.utc),  # noqa: UP017 # datetime.UTC is not in Python 3.10
            }


def signed_session(credentials: Any, endpoint: str) -> Any:
    """A session of google-auth that signs requests with ``credentials`` (None: not at all) and renews their token in time. Thread-safe.

    It sends them to ``endpoint`` alone, follows no redirect, and waits no longer than ``TIMEOUTS``. Raises StoreError for another address.
    """
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport.requests import AuthorizedSession

    own = f"{endpoint}/"

    class Session(AuthorizedSession):
        def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:  # type: ignore[override] # its options pass through
            if not url.startswith(own):
                raise StoreError(f"refusing to send Google's access token to another address than {own}")
            options |= {"timeout": TIMEOUTS, "allow_redirects": False}
            return super().request(method, url, *arguments, **options)  # type: ignore[no-untyped-call] # google-auth ships few types

    if credentials is None:  # without credentials, a refusal must not trigger a renewal
        return Session(AnonymousCredentials(), refresh_status_codes=())  # type: ignore[no-untyped-call] # as above
    return Session(credentials)  # type: ignore[no-untyped-call] # as above


def storage_client(credentials: Any, endpoint: str, session: Any) -> Any:
    """google-cloud-storage's ``Client``, which sends all its requests through ``session``."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    environ.setdefault(_NO_EXTRA_REQUESTS, "true")
    options = {"api_endpoint": endpoint, "universe_domain": _universe_of(credentials)}
    # `_http` is the only way to give the client a session of one's own, for all versions so far.
    own = credentials or AnonymousCredentials()  # type: ignore[no-untyped-call] # google-auth ships few types
    return Client(project=None, credentials=own, _http=session, client_options=options)


def token_error(error: Exception) -> StoreError:
    """The StoreError for an error of google-auth."""
    from google.auth.exceptions import TransportError

    words = " ".join(str(error.args[0] if error.args else error).split())[:300]
    if isinstance(error, TransportError) or getattr(error, "retryable", False):
        return TransientStoreError(f"cannot get a token from Google: {words}")
    return AccessDeniedError(f"cannot get a token from Google: {words}")


def _require_packages() -> None:
    def absent(name: str) -> bool:
        try:
            return find_spec(name) is None
        except ImportError:  # a package above it is missing, too
            return True

    missing = [name.replace(".", "-") for name in _NEEDED if absent(name)]
    if missing:
        raise MissingDependencyError(
            f"stores on gs:// need google-cloud-storage and obstore; missing: {', '.join(missing)}",
            hint=f"install them with: {INSTALL}; in an image of your own, add google-cloud-storage and obstore to image.requirements",
        )


def _default_credentials() -> Any:
    """The credentials from Google's chain, or None. Raises AccessDeniedError if they cannot be read."""
    import google.auth
    import google.auth.exceptions

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


def _universe_of(credentials: Any) -> str:
    """The universe (sovereign cloud) of the credentials, which a machine's credentials get from its metadata server."""
    from google.auth.exceptions import GoogleAuthError

    try:
        universe = getattr(credentials, "universe_domain", None)
    except GoogleAuthError:  # the token, which comes from the same server, will fail with the reason
        universe = None
    return universe if isinstance(universe, str) and "." in universe else _UNIVERSE
