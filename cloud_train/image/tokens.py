"""Authentication at a registry: a login as ``docker login`` stores it, sent as Basic, or exchanged for a bearer token.

The exchange follows https://distribution.github.io/distribution/spec/auth/token/ and, for identity tokens, …/spec/auth/oauth/.
"""

import re
import warnings
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock
from urllib.parse import urlsplit

from cloud_train.errors import CorruptError, MissingDependencyError
from cloud_train.image.addresses import Addresses
from cloud_train.image.answers import Answer, read_json
from cloud_train.image.errors import ImageError, RegistryError
from cloud_train.image.reference import DOCKER_HUB
from cloud_train.job.loopback import is_loopback

_PARAMETER = re.compile(r'(?<!\w)(\w+)="([^"]*)"')
_TOKEN = re.compile(r"[\x21-\x7e]+")
_TOKEN_SERVERS = {DOCKER_HUB: "auth.docker.io"}
"""Registry → its token server, if that is a known other host."""
_CLIENT = "cloud-train"
_UNAUTHORIZED = 401


@dataclass(frozen=True)
class Login:
    """A user name with a password, or an identity token. ``repr`` shows neither password nor token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    renew: "Callable[[], Login | None] | None" = field(default=None, repr=False, compare=False)
    """Returns a renewed login for the same user, for logins that expire while in use, as those of clouds do."""
    host: str = field(default="", compare=False)
    """Its registry, ``host[:port]``, the only one to which it is sent."""
    follows_realm: bool = field(default=False, compare=False)
    """Whether it may be sent to a token server on another host that the registry names. Only true for Docker's own logins: the clouds'
    registries are their own token servers.
    """

    def bound_to(self, host: str) -> "Login":
        """The login and its renewals, bound to this registry. Raises ImageError if it belongs to another registry."""
        if self.host and self.host != host:
            raise ImageError(f"refusing to send the login for {self.host} to {host}", hint=f"use a repository in {self.host}")
        renew = self.renew
        return replace(self, host=host, renew=(lambda: _bound(renew(), host)) if renew is not None else None)


def _bound(login: Login | None, host: str) -> Login | None:
    return login.bound_to(host) if login is not None else None


def login_of(host: str) -> Login | None:
    """The login for a registry, from Docker's ``config.json`` (in DOCKER_CONFIG, or ~/.docker) or its credential helper."""
    try:
        from docker import auth
        from docker.credentials import StoreError
        from docker.errors import DockerException
    except ImportError as error:
        raise MissingDependencyError(
            f"registry logins need the Docker SDK, which cannot be imported: {error}",
            hint="install it with: pip install 'cloud-train[docker]'",
        ) from error
    try:
        # For a helper that is not installed, the SDK warns and then fails; the failure is enough.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = auth.load_config().resolve_authconfig(host)
    except (DockerException, StoreError, ValueError) as error:
        # The message for a helper or a malformed file may contain a password, so only the type of the error is shown.
        raise ImageError(
            f"cannot read the login for {host} from Docker's config.json or its credential helper ({type(error).__name__})",
            hint=f"try `docker login {host}`, or correct credsStore, credHelpers and auths in config.json",
        ) from None
    if not found:
        return None
    # The SDK capitalizes keys from a helper, but not those from the file.
    values = {key.lower(): value for key, value in found.items() if value}
    login = Login(values.get("username", ""), values.get("password", ""), values.get("identitytoken", ""), follows_realm=True)
    return login.bound_to(host)


class Authorization:
    """The Authorization header for one registry, determined when the registry first requires it. Never shown in a ``repr``."""

    def __init__(self, addresses: Addresses, login: Callable[[], Login | None], send: Callable[..., Answer]) -> None:
        """``login`` is called only if the registry requires one; ``send`` is like ``requests.Session.request``, without redirects."""
        self._host = addresses.host
        self._addresses = addresses
        self._ask = login
        self._send = send
        self._headers: dict[str, str] = {}
        self._renewed: Login | None = None
        self._lock = Lock()

    def header(self, scope: str) -> str | None:
        """The header for this scope, such as ``repository:me/digits:pull,push``; None until the registry has required one."""
        return self._headers.get(scope) or self._headers.get("")

    def answer(self, challenge: str, scope: str, refused: str | None = None) -> bool:
        """Answer the WWW-Authenticate of a 401 response; returns False if there is nothing to try.

        ``refused`` is the header that was sent: if several threads were refused with it, only one of them obtains a new one.
        """
        with self._lock:
            return self.header(scope) not in (None, refused) or self._learn(challenge, scope)

    def _learn(self, challenge: str, scope: str) -> bool:
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        if scheme.lower() == "basic":
            login = self._login()
            if login is not None and self._headers.get("") == _basic(login):  # the registry accepted it before, and now refuses it
                login = self._other(login)
            if login is None:
                return False
            self._headers[""] = _basic(login)
            return True
        if scheme.lower() == "bearer" and "realm" in parameters:
            self._headers[scope] = f"Bearer {self._token(parameters, scope)}"
            return True
        return False

    def _token(self, parameters: dict[str, str], scope: str) -> str:
        try:
            realm = urlsplit(parameters["realm"])
        except ValueError:  # such as an incomplete IPv6 address
            raise RegistryError(f"{self._host} names a token server with an invalid URL") from None
        if realm.scheme != "https" and not (realm.scheme == "http" and is_loopback(realm.netloc)):
            raise RegistryError(
                f"{self._host} names the token server {realm.scheme}://{realm.netloc}, which is not encrypted; the login was not sent"
            )
        # Checked before any login is looked up: an anonymous request may not go to a forbidden address either.
        self._addresses.check(self._addresses.joined(parameters["realm"], ""))
        login = self._login()
        if login is not None and not self._may_have(realm.netloc, login):
            raise RegistryError(
                f"{self._host} names the token server {realm.netloc!r}, which is another host; the login was not sent",
                hint=f"check that {self._host} is the right registry",
            )
        response = self._exchanged(parameters, scope, login)
        if response.status_code == _UNAUTHORIZED and login is not None and (other := self._other(login)) is not None:
            response = self._exchanged(parameters, scope, other)
        token = _token_in(response)
        if token is None:
            without = " without a token" if response.status_code == 200 else ""
            raise RegistryError(
                f"{realm.netloc}, the token server of {self._host}, responded with {response.status_code}{without}",
                hint=f"try `docker login {self._host}`",
                status=response.status_code,
            )
        return token

    def _exchanged(self, parameters: dict[str, str], scope: str, login: Login | None) -> Answer:
        """The token server's response to a login, or to an anonymous request."""
        fields = {"service": parameters.get("service", ""), "scope": scope}
        if login is not None and login.identity_token:
            grant = {"grant_type": "refresh_token", "client_id": _CLIENT, "refresh_token": login.identity_token}
            return self._send("POST", parameters["realm"], data={**fields, **grant})
        headers = {"Authorization": _basic(login)} if login is not None else {}
        # A scope for several repositories becomes several parameters.
        query = [("service", fields["service"]), *(("scope", part) for part in scope.split(" "))]
        return self._send("GET", parameters["realm"], params=query, headers=headers)

    def _may_have(self, realm: str, login: Login) -> bool:
        """Whether the login may be sent to the token server at ``realm``."""
        if self._host in _TOKEN_SERVERS:
            return realm == _TOKEN_SERVERS[self._host]
        return login.follows_realm or realm == self._host

    def _login(self) -> Login | None:
        return self._renewed or self._ask()

    def _other(self, ended: Login) -> Login | None:
        """A renewed login to replace an expired one, if there is one."""
        self._renewed = ended.renew() if ended.renew is not None else None
        return self._renewed


def _token_in(response: Answer) -> str | None:
    """The token in a token server's response, if there is one that is valid in a header."""
    if response.status_code != 200 or "json" not in response.headers.get("Content-Type", ""):
        return None
    try:
        document = read_json(response.content, "the token")
    except CorruptError:
        return None
    token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
    return token if isinstance(token, str) and _TOKEN.fullmatch(token) else None


def _basic(login: Login) -> str:
    return "Basic " + b64encode(f"{login.username}:{login.password}".encode()).decode()
