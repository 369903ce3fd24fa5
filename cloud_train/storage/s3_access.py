"""Access to S3: region, endpoint, credentials and trusted certificates, for the clients of boto3 and obstore.

All of it comes from the AWS SDK's own chain: environment, ``~/.aws``, single sign-on, web identity, a container's or an instance's role. An
environment with complete settings is read without the SDK, whose import takes longer than a small transfer.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Lock
from typing import Any

from cloud_train.errors import MissingDependencyError, UsageError
from cloud_train.storage.base import AccessDeniedError
from cloud_train.storage.objects import CLIENT_OPTIONS, ONE_TRY

INSTALL = "pip install 'cloud-train[aws]'"

LOG_IN = "log in with `aws sso login` or `aws configure`, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
"""The hint for missing credentials."""

CREDENTIAL_PROBLEMS = {
    **dict.fromkeys(
        ("SSOTokenLoadError", "UnauthorizedSSOTokenError", "TokenRetrievalError", "SSOError", "LoginError", "LoginRefreshTokenExpired"),
        ("the login has expired", "log in again with `aws sso login` (add --profile if AWS_PROFILE is set)"),
    ),
    **dict.fromkeys(
        ("ProfileNotFound", "ConfigParseError", "ConfigNotFound", "InvalidConfigError"),
        ("the AWS SDK's settings are invalid", "check AWS_PROFILE, ~/.aws/config and ~/.aws/credentials"),
    ),
    **dict.fromkeys(
        ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "MetadataRetrievalError"),
        ("the AWS SDK found no usable credentials", LOG_IN),
    ),
}
"""Name of a botocore exception → its meaning and the next step."""

_DEFAULT_REGION = "us-east-1"
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_CONNECTIONS = 32


class Sdk:
    """The AWS SDK's session and client, created on first use. The client is thread-safe, but its creation is not, hence the lock."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._session: Any = None
        self._client: Any = None
        self._keys: _Renewed | None = None

    @property
    def client(self) -> Any:
        """The S3 client. It attempts each request once; ``storage.retrying`` retries."""
        with self._lock:
            if self._client is None:
                self._client = self._explained(self._new_client)
            return self._client

    def settings(self) -> dict[str, Any]:
        """Settings for obstore's client, with the SDK's region, endpoint and credentials."""
        client = self.client
        region = client.meta.region_name if client.meta.region_name != "aws-global" else _DEFAULT_REGION
        settings: dict[str, Any] = {"region": region or _DEFAULT_REGION, "skip_signature": True}
        if client.meta.endpoint_url not in (f"https://s3.{region}.amazonaws.com", "https://s3.amazonaws.com"):
            settings["endpoint"] = client.meta.endpoint_url
        if (credentials := self._explained(self._session.get_credentials)) is not None:
            self._keys = _Renewed(credentials)
            settings |= {"skip_signature": False, "credential_provider": self._keys}
        return settings

    def renewed(self) -> "Sdk | None":
        """A new session, if the credential chain returns other keys than this one has; raises AccessDeniedError if the chain fails.

        A session reads files only once, and keeps credentials without an expiry time forever.
        """
        if self._keys is None:  # the settings came from the environment, which does not change, or there were no credentials
            return None
        other, last = Sdk(), self._keys.last or self._explained(self._keys.now)
        other.settings()
        return other if other._keys is not None and self._explained(other._keys.now) != last else None

    def certificates(self) -> str | None:
        """The configured file of trusted certificate authorities, if any."""
        if self._session is None:
            return os.environ.get("AWS_CA_BUNDLE")
        bundle: str | None = self._session.get_config_variable("ca_bundle")
        return bundle

    def _new_client(self) -> Any:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config

        self._session = botocore.session.get_session()
        config = Config(
            retries={"total_max_attempts": 1},
            max_pool_connections=_CONNECTIONS,
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            s3={"payload_signing_enabled": False},  # every part has a checksum instead, which takes less than half the time
            **({} if self._session.get_credentials() else {"signature_version": UNSIGNED}),
        )
        try:
            client = self._session.create_client("s3", region_name=os.environ.get("AWS_REGION"), config=config)
        except ValueError as error:  # a malformed endpoint or region
            raise UsageError(f"the AWS SDK's settings are invalid: {error}", hint="check AWS_ENDPOINT_URL_S3 and AWS_REGION") from error
        client.meta.events.register_last("before-send.s3.UploadPart", _send_whole)
        return client

    def _explained(self, make: Callable[[], Any]) -> Any:
        try:
            from botocore.exceptions import BotoCoreError
        except ModuleNotFoundError as error:
            raise _missing() from error
        try:
            return make()
        except BotoCoreError as error:
            words, hint = CREDENTIAL_PROBLEMS.get(type(error).__name__, ("the AWS SDK's settings are invalid", LOG_IN))
            raise AccessDeniedError(f"{words}: {error}", hint=hint) from error


def _send_whole(request: Any, **_: Any) -> None:
    """Send a part as bytes: the SDK wraps it in a file, sent in pieces of 16 KiB, which takes a quarter more CPU time."""
    if isinstance(request.body, io.BytesIO):
        request.body = request.body.getvalue()


class _Renewed:
    """Credentials for obstore, which the SDK renews at least 10 minutes before they expire.

    obstore asks again when credentials expire in less than 5 minutes, which is here every 3 minutes; asking is cheap.
    """

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self.last: Any = None
        """The credentials last passed to obstore."""

    def now(self) -> Any:
        """The SDK's current access key, secret key and token."""
        return self._credentials.get_frozen_credentials()

    def __call__(self) -> Any:
        self.last = now = self.now()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(timezone.utc) + timedelta(minutes=8),  # noqa: UP017 - datetime.UTC is not in Python 3.10
        }


def settings_in_environment() -> dict[str, Any] | None:
    """Settings for obstore's client if the environment has all of them, as in many containers; None if the SDK is needed."""
    variable = os.environ.get
    key, secret = variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")
    files = variable("AWS_CONFIG_FILE", "~/.aws/config"), variable("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    more = (
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    )
    if not (key and secret) or any(map(variable, more)) or any(Path(file).expanduser().is_file() for file in files):
        return None
    settings: dict[str, Any] = {"access_key_id": key, "secret_access_key": secret, "skip_signature": False}
    settings["region"] = variable("AWS_REGION") or variable("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    if token := variable("AWS_SESSION_TOKEN"):
        settings["session_token"] = token
    endpoint = variable("AWS_ENDPOINT_URL_S3") or variable("AWS_ENDPOINT_URL")
    if endpoint:
        settings["endpoint"] = endpoint.rstrip("/")
    elif settings["region"].startswith(_ELSEWHERE):
        return None
    if not re.fullmatch(r"[A-Za-z0-9-]+", settings["region"]):
        return None  # the SDK explains what is wrong with it
    return settings


_ELSEWHERE = ("cn-", "us-iso", "eu-iso", "eusc-")
"""Regions whose endpoints are not under amazonaws.com."""

_CERTIFICATES_LOCK = Lock()


def obstore_client(bucket: str, settings: dict[str, Any], certificates: str | None) -> Any:
    """Create obstore's client for a bucket; raises UsageError for an endpoint that is not a URL."""
    try:
        from obstore.store import S3Store as Client
    except ModuleNotFoundError as error:
        raise _missing() from error
    endpoint = settings.get("endpoint")
    if endpoint and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", endpoint):
        raise UsageError(
            f"the endpoint {endpoint!r} is not a valid URL", hint="set AWS_ENDPOINT_URL_S3 to https://address or http://address:port"
        )
    with _trusting(certificates):
        # Objects are deleted one by one: a bulk request must be hashed, and reports refusals in a successful response.
        return Client(bucket, client_options=CLIENT_OPTIONS, retry_config=ONE_TRY, disable_bulk_delete=True, **settings)


def _missing() -> MissingDependencyError:
    return MissingDependencyError("stores on s3:// need boto3 and obstore", hint=f"install them with: {INSTALL}")


@contextmanager
def _trusting(certificates: str | None) -> Iterator[None]:
    """Make obstore trust these certificates: it only takes their file from the environment, when a client is created."""
    with _CERTIFICATES_LOCK:
        if not certificates or "SSL_CERT_FILE" in os.environ:
            yield
            return
        os.environ["SSL_CERT_FILE"] = certificates
        try:
            yield
        finally:
            del os.environ["SSL_CERT_FILE"]
