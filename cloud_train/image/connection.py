"""Requests to one registry: authentication, retries, and error messages."""

from io import IOBase
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from cloud_train.errors import CorruptError, MissingDependencyError
from cloud_train.image.addresses import Addresses
from cloud_train.image.answers import Answer, read_json
from cloud_train.image.errors import BrokenConnectionError, ImageError, RegistryError
from cloud_train.image.reference import Reference
from cloud_train.image.tokens import Authorization, Login, login_of
from cloud_train.retry import TRANSIENT_STATUSES, Attempts, RetryPolicy, retry_after_seconds
from cloud_train.storage.url_safety import AddressRefusedError

if TYPE_CHECKING:
    from requests import PreparedRequest

POLICY = RetryPolicy(attempts=5, time_limit=None, first_wait=0.5, longest_retry_after=60.0, jitter=lambda: 1.0)
"""The retry policy. Only one client pushes an image, so its waits need no jitter."""

_TIMEOUT_SECONDS = (10.0, 120.0)  # to connect, and between two bytes
_MOST_REDIRECTS = 10
_REFUSED_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
"""In the text of OpenSSL's error; requests does not tell it in another way."""
_SAME_METHOD = frozenset({307, 308})
"""Redirects that keep the method (RFC 9110, section 15.4); for methods other than GET and HEAD, only these are followed."""


class Connection:
    """A session with a reference's registry.

    ``policy`` is the retry policy; ``login`` is used instead of the one in Docker's config file. Raises ImageError if the login is not
    bound to this registry.
    """

    def __init__(self, reference: Reference, policy: RetryPolicy = POLICY, login: Login | None = None) -> None:
        try:
            from cloud_train.image.transport import CheckedSession
        except ImportError as error:
            raise MissingDependencyError(
                f"registries need the package requests, which cannot be imported: {error}",
                hint="install it with: pip install 'cloud-train[docker]'",
            ) from error
        if login is not None and login.host != reference.host:
            raise ImageError(f"refusing to send the login for {login.host or 'no registry'} to {reference.host}")
        self.host = reference.host
        self.addresses = Addresses(reference.host, reference.registry_url)
        self._session = CheckedSession(self.addresses.url, loopback=self.addresses.loopback)
        self._session.headers["User-Agent"] = "cloud-train"
        self._session.headers["Accept-Encoding"] = "identity"
        # A registry on this machine is never reached through a proxy.
        self._session.trust_env = not self.addresses.loopback
        # Without this, requests would look for a login in ~/.netrc.
        self._session.auth = _leave_as_it_is
        self.policy = policy
        self._authorization = Authorization(self.addresses, lambda: login or login_of(self.host), self._plainly)

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def request(self, method: str, path: str, scope: str, *, expect: tuple[int, ...], about: str, **options: Any) -> Answer:
        """Send a request, with retries. ``about`` describes it in errors, as in "push the layer".

        Raises RegistryError if there is no response, or its status is not in ``expect``.
        """
        left = self.policy.attempts_left()
        while True:
            try:
                response = self.once(method, path, scope, **options)
            except RegistryError as error:
                # This includes errors of the token server.
                is_transient = isinstance(error, BrokenConnectionError) or error.status in TRANSIENT_STATUSES
                if not (is_transient and left.wait()):
                    raise
                continue
            if response.status_code in expect:
                return response
            if response.status_code not in TRANSIENT_STATUSES or not waited(left, response):
                raise refusal(self.host, about, response)
            response.close()

    def once(self, method: str, path: str, scope: str, **options: Any) -> Answer:
        """Send a request, with the login if the registry requires one. Raises BrokenConnectionError if there is no response.

        The options are those of ``requests.Session.request``. A file as ``data`` is sent from its start each time.
        """
        url = urljoin(f"{self.addresses.url}/", path)
        sent = self._authorization.header(scope) if self.addresses.is_own(url) else None
        response = self._authorized(method, url, sent, options)
        challenge = response.headers.get("WWW-Authenticate", "")
        # Only the registry itself may require the login, not a server to which it redirects.
        is_asked = response.status_code == 401 and challenge and self.addresses.is_own(response.url)
        if is_asked and self._authorization.answer(challenge, scope, sent):
            response.close()
            response = self._authorized(method, url, self._authorization.header(scope), options)
        return response

    def _authorized(self, method: str, url: str, header: str | None, options: dict[str, Any]) -> Answer:
        """Send a request with the login, and follow redirects. Other servers, such as a bucket, do not get the login."""
        headers = dict(options.get("headers", {}))
        for _ in range(_MOST_REDIRECTS + 1):
            login = {"Authorization": header} if header and self.addresses.is_own(url) else {}
            if isinstance(body := options.get("data"), IOBase):
                body.seek(0)  # an earlier request may have read it
            response = self._plainly(method, url, **{**options, "headers": {**headers, **login}})
            target = self._redirection(method, response)
            if target is None:
                return response
            response.close()
            url = target
        raise RegistryError(f"{self.host} redirected more than {_MOST_REDIRECTS} times")

    def _redirection(self, method: str, response: Answer) -> str | None:
        """The URL to which a response redirects the same request, if any."""
        if not response.is_redirect or not (method in ("GET", "HEAD") or response.status_code in _SAME_METHOD):
            return None
        return self.addresses.joined(response.url, response.headers["Location"])

    def _plainly(self, method: str, url: str, **options: Any) -> Answer:
        """Send one request, without following redirects. With ``stream``, the body is left for the caller to read."""
        import requests

        self.addresses.check(self.addresses.joined(url, ""))
        try:
            unlimited = {"allow_redirects": False, "stream": True}
            response = self._session.request(method, url, **{"timeout": _TIMEOUT_SECONDS, **options, **unlimited})
        except AddressRefusedError as error:
            raise self.addresses.refusal(error.message) from None
        except requests.RequestException as error:
            # Not every SSLError is about a certificate: a connection that breaks while something is sent is one, too.
            if isinstance(error, requests.exceptions.SSLError) and _REFUSED_CERTIFICATE in str(error):
                raise RegistryError(
                    f"the certificate of the registry {self.host} is not trusted on this machine",
                    hint="set REQUESTS_CA_BUNDLE to a file with the certificates to trust",
                ) from error
            # The error's own text includes the URL, which may contain a signature.
            raise BrokenConnectionError(
                f"the registry {self.host} cannot be reached, or closed the connection: {_reason(error)}",
                hint="check the address and the network",
            ) from error
        return Answer(self.host, response, streamed=options.get("stream", False))


def waited(left: Attempts, response: Answer) -> bool:
    """Wait before the next try, as long as the registry requests. Returns False, without waiting, if no try is left."""
    return left.wait(retry_after_seconds(response.headers.get("Retry-After")))


def refusal(host: str, about: str, response: Answer) -> RegistryError:
    """The error for a refused request, with the registry's own message."""
    status = response.status_code
    hints = {
        401: f"log in with `docker login {host}` as a user with this permission",
        403: f"ask for the permission, or log in with `docker login {host}` as another user",
        404: "check the name; some registries require that the repository is created first",
        429: "too many requests; wait a while, or log in",
    }
    hint = hints.get(status, "retry later" if status in TRANSIENT_STATUSES else None)
    return RegistryError(f"{host} refused to {about}: {status}{_words(response)}", hint=hint, status=status)


def _words(response: Answer) -> str:
    try:
        errors = read_json(response.content, "the refusal")["errors"]
        text = "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
    except (CorruptError, LookupError, TypeError, AttributeError):
        text = response.reason
    return f" ({text[:300]})" if text else ""


def _reason(error: BaseException) -> str:
    """The innermost cause, which is the informative one."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or type(error).__doc__ or ''}".split("\n")[0].rstrip(": ")


def _leave_as_it_is(prepared: "PreparedRequest") -> "PreparedRequest":
    return prepared
