"""Requests to one registry: who asks, how often a failure is tried again, and what a refusal is called."""

import email.utils
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from cloud_train.errors import MissingDependencyError
from cloud_train.image.credentials import Login, login_of
from cloud_train.image.errors import BrokenConnectionError, ImageError, RegistryError
from cloud_train.image.reference import Reference
from cloud_train.image.tokens import Authorization
from cloud_train.job.loopback import is_loopback

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

ATTEMPTS = 5
"""How often a request is sent before a failure that may pass is final."""
PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""The answers after which the same request may succeed."""

_LONGEST_WAIT_SECONDS = 60.0
_TIMEOUT_SECONDS = (10.0, 120.0)  # to connect, and between two bytes


class Connection:
    """A session with the registry that a reference lies in.

    ``sleep`` waits for so many seconds before the next try; ``login`` is used instead of the one in Docker's config file. Raises ImageError
    for a login that is not bound to this very registry.
    """

    def __init__(self, reference: Reference, sleep: Callable[[float], None] = time.sleep, login: Login | None = None) -> None:
        try:
            import requests
        except ImportError as error:
            raise MissingDependencyError(
                f"registries are reached with requests, which cannot be imported: {error}", hint="pip install 'cloud-train[docker]'"
            ) from error
        if login is not None and login.host != reference.host:
            raise ImageError(f"the login for {login.host or 'no registry'} is not sent to {reference.host}")
        self.host = reference.host
        self.url = reference.registry_url
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "cloud-train"
        # A registry on this machine is not reached through a proxy.
        self._session.trust_env = not is_loopback(self.host)
        # Without this, requests would look for a login of its own in ~/.netrc.
        self._session.auth = _leave_as_it_is
        self._sleep = sleep
        self._authorization = Authorization(self.host, lambda: login or login_of(self.host), self._plainly)

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def request(self, method: str, path: str, scope: str, *, expect: tuple[int, ...], about: str, **options: Any) -> "Response":
        """Send a request, again after a failure that may pass. ``about`` is what an error calls it, as in "push the layer".

        Raises RegistryError for an answer that is not in ``expect``, or none at all.
        """
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            try:
                response = self.once(method, path, scope, **options)
            except RegistryError as error:
                # The token server's refusals come this way too.
                if last or not (isinstance(error, BrokenConnectionError) or error.status in PASSING):
                    raise
                self.wait(attempt)
                continue
            if response.status_code in expect:
                return response
            if last or response.status_code not in PASSING:
                raise refusal(self.host, about, response)
            self.wait(attempt, response.headers)
            response.close()
        raise AssertionError("the last attempt returns or raises")

    def once(self, method: str, path: str, scope: str, **options: Any) -> "Response":
        """Send a request, with the login if the registry asks for one. Raises BrokenConnectionError where no answer came."""
        url = urljoin(f"{self.url}/", path)
        sent = self._authorization.header(scope) if self._is_own(url) else None
        response = self._authorized(method, url, sent, options)
        challenge = response.headers.get("WWW-Authenticate", "")
        if response.status_code == 401 and challenge and self._is_own(url) and self._authorization.answer(challenge, scope, sent):
            response.close()
            response = self._authorized(method, url, self._authorization.header(scope), options)
        return response

    def wait(self, attempt: int, headers: Mapping[str, str] | None = None) -> None:
        """Wait before the next try: as long as the registry says, otherwise twice as long each time."""
        seconds = _retry_after((headers or {}).get("Retry-After", ""))
        self._sleep(min(_LONGEST_WAIT_SECONDS, 0.25 * 2**attempt if seconds is None else seconds))

    def _authorized(self, method: str, url: str, header: str | None, options: dict[str, Any]) -> "Response":
        headers = {**options.get("headers", {}), **({"Authorization": header} if header else {})}
        return self._plainly(method, url, **{**options, "headers": headers})

    def _is_own(self, url: str) -> bool:
        # An upload may be sent on to a bucket: the login is none of its business.
        return urlsplit(url)[:2] == urlsplit(self.url)[:2]

    def _plainly(self, method: str, url: str, **options: Any) -> "Response":
        import requests

        if urlsplit(url).scheme != "https" and not is_loopback(urlsplit(url).netloc):
            raise RegistryError(f"{self.host} sends on to {urlsplit(url).netloc}, which is not encrypted")
        try:
            return self._session.request(method, url, timeout=_TIMEOUT_SECONDS, **options)
        except requests.exceptions.SSLError as error:
            raise RegistryError(
                f"the registry {self.host} has a certificate that is not trusted here",
                hint="REQUESTS_CA_BUNDLE names a file with the certificates to trust",
            ) from error
        except requests.RequestException as error:
            # The error's own text repeats the address, which may hold a signature.
            raise BrokenConnectionError(
                f"the registry {self.host} cannot be reached, or broke off: {_reason(error)}", hint="check the address and the network"
            ) from error


def refusal(host: str, about: str, response: "Response") -> RegistryError:
    """The error for an answer that refuses, with the registry's own words."""
    status = response.status_code
    hints = {
        401: f"log in with `docker login {host}`, as a user who may do this",
        403: f"ask for the right to do this, or log in with `docker login {host}` as somebody else",
        404: "check the name; some registries want the repository made beforehand",
        429: "the registry limits how much is asked of it; wait a while, or log in",
    }
    hint = hints.get(status, "try again later" if status in PASSING else None)
    return RegistryError(f"{host} refuses to {about}: {status}{_words(response)}", hint=hint, status=status)


def _words(response: "Response") -> str:
    try:
        errors = response.json()["errors"]
        text = "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
    except (ValueError, LookupError, TypeError, AttributeError):
        text = response.reason or ""
    return f" ({text[:300]})" if text else ""


def _reason(error: BaseException) -> str:
    """The innermost reason, which is the one that says something."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or type(error).__doc__ or ''}".split("\n")[0].rstrip(": ")


def _retry_after(text: str) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, section 10.2.3)."""
    if text.isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def _leave_as_it_is(prepared: "PreparedRequest") -> "PreparedRequest":
    return prepared
