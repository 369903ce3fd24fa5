"""How a registry is told who is asking: Basic, or a bearer token that its token server gives out.

The exchange is that of https://distribution.github.io/distribution/spec/auth/token/ and, for identity tokens, of …/spec/auth/oauth/.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cloud_train.image.credentials import Login
from cloud_train.image.errors import RegistryError
from cloud_train.storage.loopback import is_loopback

if TYPE_CHECKING:
    from requests import Response

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_CLIENT = "cloud-train"


class Authorization:
    """The Authorization header of one registry, found out when the registry first asks for it. Never shown in a ``repr``."""

    def __init__(self, host: str, login: Callable[[], Login | None], send: "Callable[..., Response]") -> None:
        """``login`` is asked only once somebody asks for a login; ``send`` is ``requests.Session.request`` or its like."""
        self._host = host
        self._login = login
        self._send = send
        self._headers: dict[str, str] = {}

    def header(self, scope: str) -> str | None:
        """What goes with requests for this scope, such as ``repository:me/digits:pull,push``; None while nothing is known."""
        return self._headers.get(scope) or self._headers.get("")

    def answer(self, challenge: str, scope: str) -> bool:
        """Learn from the WWW-Authenticate of a refusal; False where there is nothing to try."""
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        if scheme.lower() == "basic":
            login = self._login()
            if login is None:
                return False
            self._headers[""] = _basic(login)
            return True
        if scheme.lower() == "bearer" and "realm" in parameters:
            self._headers[scope] = f"Bearer {self._token(parameters, scope)}"
            return True
        return False

    def _token(self, parameters: dict[str, str], scope: str) -> str:
        realm = urlsplit(parameters["realm"])
        if realm.scheme != "https" and not is_loopback(realm.netloc):
            raise RegistryError(f"{self._host} wants its login sent to {realm.scheme}://{realm.netloc}, which is not encrypted")
        login = self._login()
        fields = {"service": parameters.get("service", ""), "scope": scope}
        if login is not None and login.identity_token:
            grant = {"grant_type": "refresh_token", "client_id": _CLIENT, "refresh_token": login.identity_token}
            response = self._send("POST", parameters["realm"], data={**fields, **grant})
        else:
            headers = {"Authorization": _basic(login)} if login is not None else {}
            # A scope of several repositories is several parameters.
            query = [("service", fields["service"]), *(("scope", part) for part in scope.split(" "))]
            response = self._send("GET", parameters["realm"], params=query, headers=headers)
        document = response.json() if response.status_code == 200 and "json" in response.headers.get("Content-Type", "") else {}
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if not isinstance(token, str):
            raise RegistryError(
                f"{realm.netloc}, which gives out the tokens of {self._host}, answered {response.status_code}",
                hint=f"try `docker login {self._host}`",
                status=response.status_code,
            )
        return token


def _basic(login: Login) -> str:
    from base64 import b64encode

    return "Basic " + b64encode(f"{login.username}:{login.password}".encode()).decode()
