"""Requests to one registry: authentication, retries, and errors in words."""

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
"""How a request is repeated. One client pushes an image, so its waits need no jitter."""

_TIMEOUT_SECONDS = (10.0, 120.0)  # to connect, and between two bytes
_MOST_REDIRECTS = 10
_SAME_METHOD = frozenset({307, 308})
"""Redirects that repeat the request as it was (RFC 9110, section 15.4); only these are followed with something other than GET and HEAD."""


class Connection:
    """A session with the registry of a reference.

    ``policy`` says how requests are repeated; ``login`` is used instead of the one in Docker's config file. Raises ImageError
    for a login that is not bound to this very registry.
    """

    def __init__(self, reference: Reference, policy: RetryPolicy = POLICY, login: Login | None = None) -> None:
        try:
            from cloud_train.image.transport import CheckedSession
        except ImportError as error:
            raise MissingDependencyError(
                f"registries are reached with requests, which cannot be imported: {error}", hint="pip install 'cloud-train[docker]'"
            ) from error
        if login is not None and login.host != reference.host:
            raise ImageError(f"the login for {login.host or 'no registry'} is not sent to {reference.host}")
        self.host = reference.host
        self.addresses = Addresses(reference.host, reference.registry_url)
        self._session = CheckedSession(self.addresses.url, loopback=self.addresses.loopback)
        self._session.headers["User-Agent"] = "cloud-train"
        self._session.headers["Accept-Encoding"] = "identity"
        # A registry on this machine is not reached through a proxy.
        self._session.trust_env = not self.addresses.loopback
        # Without this, requests would look for a login of its own in ~/.netrc.
        self._session.auth = _leave_as_it_is
        self.policy = policy
        self._authorization = Authorization(self.addresses, lambda: login or login_of(self.host), self._plainly)

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def request(self, method: str, path: str, scope: str, *, expect: tuple[int, ...], about: str, **options: Any) -> Answer:
        """Send a request, again after a transient failure. ``about`` names it in errors, as in "push the layer".

        Raises RegistryError for a response with a status that is not in ``expect``, or without a response.
        """
        left = self.policy.attempts_left()
        while True:
            try:
                response = self.once(method, path, scope, **options)
            except RegistryError as error:
                # The token server's refusals come this way too.
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
        """Send a request, with the login if the registry asks for one. Raises BrokenConnectionError without a response."""
        url = urljoin(f"{self.addresses.url}/", path)
        sent = self._authorization.header(scope) if self.addresses.is_own(url) else None
        response = self._authorized(method, url, sent, options)
        challenge = response.headers.get("WWW-Authenticate", "")
        # Only the registry itself may ask for a login, not a server that it redirects to.
        is_asked = response.status_code == 401 and challenge and self.addresses.is_own(response.url)
        if is_asked and self._authorization.answer(challenge, scope, sent):
            response.close()
            response = self._authorized(method, url, self._authorization.header(scope), options)
        return response

    def _authorized(self, method: str, url: str, header: str | None, options: dict[str, Any]) -> Answer:
        """Send a request with the login, and follow the registry's redirects; another server, such as a bucket, gets no login."""
        headers = dict(options.get("headers", {}))
        for _ in range(_MOST_REDIRECTS + 1):
            login = {"Authorization": header} if header and self.addresses.is_own(url) else {}
            response = self._plainly(method, url, **{**options, "headers": {**headers, **login}})
            target = self._redirection(method, response)
            if target is None:
                return response
            response.close()
            url = target
        raise RegistryError(f"{self.host} redirects more than {_MOST_REDIRECTS} times")

    def _redirection(self, method: str, response: Answer) -> str | None:
        """Where a response says that the same request should be sent instead."""
        if not response.is_redirect or not (method in ("GET", "HEAD") or response.status_code in _SAME_METHOD):
            return None
        return self.addresses.joined(response.url, response.headers["Location"])

    def _plainly(self, method: str, url: str, **options: Any) -> Answer:
        """Send one request; a redirect is a response like any other. With ``stream`` its body is still to be read."""
        import requests

        self.addresses.check(self.addresses.joined(url, ""))
        try:
            unlimited = {"allow_redirects": False, "stream": True}
            response = self._session.request(method, url, timeout=_TIMEOUT_SECONDS, **{**options, **unlimited})
        except AddressRefusedError as error:
            raise self.addresses.refusal(error.message) from None
        except requests.exceptions.SSLError as error:
            raise RegistryError(
                f"the registry {self.host} has a certificate that is not trusted on this machine",
                hint="set REQUESTS_CA_BUNDLE to a file with the certificates to trust",
            ) from error
        except requests.RequestException as error:
            # The error's own text repeats the address, which may hold a signature.
            raise BrokenConnectionError(
                f"the registry {self.host} cannot be reached, or closed the connection: {_reason(error)}",
                hint="check the address and the network",
            ) from error
        return Answer(self.host, response, streamed=options.get("stream", False))


def waited(left: Attempts, response: Answer) -> bool:
    """Wait before the next try, as long as the registry asks for; False, without waiting, if there is none."""
    return left.wait(retry_after_seconds(response.headers.get("Retry-After")))


def refusal(host: str, about: str, response: Answer) -> RegistryError:
    """The error for a refusal, with the registry's own message."""
    status = response.status_code
    hints = {
        401: f"log in with `docker login {host}` as a user with this permission",
        403: f"get the permission for this, or log in with `docker login {host}` as another user",
        404: "check the name; in some registries the repository has to be created first",
        429: "the registry limits requests; wait a while, or log in",
    }
    hint = hints.get(status, "retry later" if status in TRANSIENT_STATUSES else None)
    return RegistryError(f"{host} refuses to {about}: {status}{_words(response)}", hint=hint, status=status)


def _words(response: Answer) -> str:
    try:
        errors = read_json(response.content, "the refusal")["errors"]
        text = "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
    except (CorruptError, LookupError, TypeError, AttributeError):
        text = response.reason
    return f" ({text[:300]})" if text else ""


def _reason(error: BaseException) -> str:
    """The innermost reason, which is the informative one."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or type(error).__doc__ or ''}".split("\n")[0].rstrip(": ")


def _leave_as_it_is(prepared: "PreparedRequest") -> "PreparedRequest":
    return prepared
