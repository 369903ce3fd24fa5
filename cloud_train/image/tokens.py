"""Authentication at a registry: a login as ``docker login`` stores it, sent as Basic, or for a bearer token that its token server issues.

The exchange is that of https://distribution.github.io/distribution/spec/auth/token/ and, for identity tokens, of …/spec/auth/oauth/.
"""

import re
import warnings
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
"""Registry → its known token server, where that is another host."""
_CLIENT = "cloud-train"
_UNAUTHORIZED = 401


@dataclass(frozen=True)
class Login:
    """A user with a password, or a token that stands for both. Neither shows in a ``repr``."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    renew: "Callable[[], Login | None] | None" = field(default=None, repr=False, compare=False)
    """A renewed login for the same user, for one that expires while it is in use, as those of clouds do."""
    host: str = field(default="", compare=False)
    """Its registry, ``host[:port]``: it is sent to no other."""
    follows_realm: bool = field(default=False, compare=False)
    """Whether it may be sent to a token server on another host that the registry names. This is true of Docker's own logins only:
    clouds' registries are their own token servers.
    """

    def bound_to(self, host: str) -> "Login":
        """The login, bound to this registry, as are its renewals. Raises ImageError if it belongs to another registry."""
        if self.host and self.host != host:
            raise ImageError(f"the login for {self.host} is not sent to {host}", hint="name an image in the registry that the login is for")
        renew = self.renew
        return replace(self, host=host, renew=(lambda: _bound(renew(), host)) if renew is not None else None)


def _bound(login: Login | None, host: str) -> Login | None:
    return login.bound_to(host) if login is not None else None


def login_of(host: str) -> Login | None:
    """The login for a registry, from ``config.json`` (in DOCKER_CONFIG, or ~/.docker) or the credential helper that it names."""
    try:
        from docker import auth
        from docker.credentials import StoreError
        from docker.errors import DockerException
    except ImportError as error:
        raise MissingDependencyError(
            f"registry logins need the Docker SDK, which cannot be imported: {error}", hint="pip install 'cloud-train[docker]'"
        ) from error
    try:
        # The SDK warns about a helper that is not installed, and then fails, which is enough.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = auth.load_config().resolve_authconfig(host)
    except (DockerException, StoreError, ValueError) as error:
        # The message of a helper or a broken file may contain a password, so only the kind of the failure is passed on.
        raise ImageError(
            f"the login for {host} cannot be read from Docker's config.json or its credential helper ({type(error).__name__})",
            hint=f"try `docker login {host}`, or correct credsStore, credHelpers and auths in config.json",
        ) from None
    if not found:
        return None
    # The SDK capitalizes what comes from a helper, and not what comes from the file.
    values = {key.lower(): value for key, value in found.items() if value}
    login = Login(values.get("username", ""), values.get("password", ""), values.get("identitytoken", ""), follows_realm=True)
    return login.bound_to(host)


class Authorization:
    """The Authorization header of one registry, determined when the registry first asks for it. Never shown in a ``repr``."""

    def __init__(self, addresses: Addresses, login: Callable[[], Login | None], send: Callable[..., Answer]) -> None:
        """``login`` is called only when the registry asks for a login; ``send`` is like ``requests.Session.request``, without redirects."""
        self._host = addresses.host
        self._addresses = addresses
        self._ask = login
        self._send = send
        self._headers: dict[str, str] = {}
        self._renewed: Login | None = None
        self._lock = Lock()

    def header(self, scope: str) -> str | None:
        """What goes with requests for this scope, such as ``repository:me/digits:pull,push``; None until the registry has asked for one."""
        return self._headers.get(scope) or self._headers.get("")

    def answer(self, challenge: str, scope: str, refused: str | None = None) -> bool:
        """Learn from the WWW-Authenticate of a refusal; False where there is nothing to try. ``refused`` is the header that was sent: of
        several threads that were refused with it, one gets another.
        """
        with self._lock:
            return self.header(scope) not in (None, refused) or self._learn(challenge, scope)

    def _learn(self, challenge: str, scope: str) -> bool:
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        if scheme.lower() == "basic":
            login = self._login()
            if login is not None and self._headers.get("") == _basic(login):  # which the registry accepted before, and refuses now
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
        except ValueError:  # such as half of an IPv6 address
            raise RegistryError(f"{self._host} wants its login sent to a server without a valid address") from None
        if realm.scheme != "https" and not (realm.scheme == "http" and is_loopback(realm.netloc)):
            raise RegistryError(f"{self._host} wants its login sent to {realm.scheme}://{realm.netloc}, which is not encrypted")
        # Before any login is looked for: an anonymous request, too, goes nowhere that the registry may not name.
        self._addresses.check(self._addresses.joined(parameters["realm"], ""))
        login = self._login()
        if login is not None and not self._may_have(realm.netloc, login):
            raise RegistryError(
                f"{self._host} wants its login sent to {realm.netloc!r}, which is another host; the login was not sent",
                hint=f"check that {self._host} is the registry that you intend",
            )
        response = self._exchanged(parameters, scope, login)
        if response.status_code == _UNAUTHORIZED and login is not None and (other := self._other(login)) is not None:
            response = self._exchanged(parameters, scope, other)
        token = _token_in(response)
        if token is None:
            without = " without a token" if response.status_code == 200 else ""
            raise RegistryError(
                f"{realm.netloc}, which gives out the tokens of {self._host}, answered {response.status_code}{without}",
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
        # A scope of several repositories is several parameters.
        query = [("service", fields["service"]), *(("scope", part) for part in scope.split(" "))]
        return self._send("GET", parameters["realm"], params=query, headers=headers)

    def _may_have(self, realm: str, login: Login) -> bool:
        """Whether the token server at ``realm`` may have the login."""
        if self._host in _TOKEN_SERVERS:
            return realm == _TOKEN_SERVERS[self._host]
        return login.follows_realm or realm == self._host

    def _login(self) -> Login | None:
        return self._renewed or self._ask()

    def _other(self, ended: Login) -> Login | None:
        """A renewed login in place of an expired one, if there is one."""
        self._renewed = ended.renew() if ended.renew is not None else None
        return self._renewed


def _token_in(response: Answer) -> str | None:
    """The token in a token server's response, if it has one that can stand in a header."""
    if response.status_code != 200 or "json" not in response.headers.get("Content-Type", ""):
        return None
    try:
        document = read_json(response.content, "the token")
    except CorruptError:
        return None
    token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
    return token if isinstance(token, str) and _TOKEN.fullmatch(token) else None


def _basic(login: Login) -> str:
    from base64 import b64encode

    return "Basic " + b64encode(f"{login.username}:{login.password}".encode()).decode()
