"""The registries of the clouds under their own names: a real registry behind each one's own way to ask who is there.

::

    with running_registry(folder / "registry") as real, Registries(folder, real.host, {"x.azurecr.io": acr}) as registries:
        for name, value in registries.environment.items():
            monkeypatch.setenv(name, value)
        ...  # whatever is sent to https://x.azurecr.io comes here

``manners`` (``tests.image.cloud_registries``) let a registry behave as its cloud's does, and not as the real one behind it.

It is a proxy, as firms have them: whoever is led through it by HTTPS_PROXY asks it for a tunnel to the registry, and finds one that has the
certificate for that name. There is no way through it to anywhere else. It knows who may come in; the rest is the real registry's.
"""

import base64
import secrets
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from tests.clouds.server import Answer
from tests.image.cloud_registries import Manners, Sent
from tests.storage.certificates import authority_and_server
from tests.stores import LOOPBACK

_UNAUTHORIZED = b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}'


@dataclass
class Logins:
    """What was given out, and is good; ``end`` ends all of it."""

    good: set[str] = field(default_factory=set)
    ever: set[str] = field(default_factory=set)

    def add(self, word: str) -> str:
        """Remember a word that lets somebody in."""
        self.good.add(word)
        self.ever.add(word)
        return word

    def end(self) -> None:
        """Nothing that was given out so far is good any more."""
        self.good.clear()


class Gate(Protocol):
    """Who may come into one registry."""

    def admits(self, authorization: str) -> bool:
        """Whether this Authorization header is that of somebody who may."""

    def challenge(self, host: str) -> str:
        """The WWW-Authenticate of a refusal."""

    def token(self, method: str, path: str, authorization: str, body: bytes) -> Answer | None:
        """The answer to a request for a token; None if it is none."""


@dataclass
class Basic:
    """Amazon ECR: a password with each request (https://docs.aws.amazon.com/AmazonECR/latest/userguide/registry_auth.html)."""

    is_password: Callable[[str], bool]
    """Whether ``user:password`` is one that AWS gave out, and is good."""

    def admits(self, authorization: str) -> bool:
        return authorization.startswith("Basic ") and self.is_password(_decoded(authorization))

    def challenge(self, host: str) -> str:
        return f'Basic realm="https://{host}/",service="ecr.amazonaws.com"'

    def token(self, method: str, path: str, authorization: str, body: bytes) -> Answer | None:
        return None


@dataclass
class Bearer:
    """Artifact Registry and ACR: a password is exchanged for a token, for one scope and a while
    (https://distribution.github.io/distribution/spec/auth/token/).
    """

    realm: str
    """The path at which tokens are had."""
    is_password: Callable[[str], bool]
    exchange: Callable[[bytes], Answer] | None = None
    """ACR's further step, at /oauth2/exchange: an access token of Microsoft Entra for a password."""
    tokens: Logins = field(default_factory=Logins)

    def admits(self, authorization: str) -> bool:
        return authorization.removeprefix("Bearer ") in self.tokens.good

    def challenge(self, host: str) -> str:
        return f'Bearer realm="https://{host}{self.realm}",service="{host}",scope="repository:any:pull"'

    def token(self, method: str, path: str, authorization: str, body: bytes) -> Answer | None:
        if path == "/oauth2/exchange" and self.exchange is not None:
            return self.exchange(body)
        if (method, path) != ("GET", self.realm):
            return None
        if not self.is_password(_decoded(authorization)):
            return Answer(401, {"Content-Type": "application/json"}, _UNAUTHORIZED)
        return Answer.json({"token": self.tokens.add(secrets.token_hex(16))})


def _decoded(authorization: str) -> str:
    return base64.b64decode(authorization.removeprefix("Basic ")).decode()


class Registries:
    """The proxy, for as long as the context. ``asked`` are the requests that came to registries: host, method and path."""

    def __init__(self, folder: Path, real: str, gates: dict[str, Gate], manners: dict[str, Manners] | None = None) -> None:
        """``real`` is the address of the registry behind; ``folder`` is where certificates lie."""
        self.real, self.gates, self.manners = real, gates, manners or {}
        self.authority, self.tls = authority_and_server(folder, *gates)
        self.asked: list[tuple[str, str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, path: None
        """Called before each request that was let in."""
        self.cuts: list[float] = []
        """Each ends the connection of one upload of a blob after this fraction of its bytes, without an answer."""
        self._server = _Server((LOOPBACK, 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="registries")

    @property
    def environment(self) -> dict[str, str]:
        """With which programs find the way here, and trust it."""
        address = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        return {"HTTPS_PROXY": address, "https_proxy": address, "NO_PROXY": LOOPBACK, "REQUESTS_CA_BUNDLE": str(self.authority)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, host: str, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """The answer to a request to one of the registries."""
        path, gate = urlsplit(target).path, self.gates[host]
        self.asked.append((host, method, path))
        authorization = headers.pop("Authorization", "")
        answer = gate.token(method, path, authorization, body)
        if answer is not None:
            return answer
        if not gate.admits(authorization):
            return Answer(401, {"WWW-Authenticate": gate.challenge(host), "Content-Type": "application/json"}, _UNAUTHORIZED)
        self.before(method, path)
        sent, manners = Sent(method, target, headers, body), self.manners.get(host, Manners())
        refused = manners.refuse(sent)
        return refused if refused is not None else manners.change(sent, self._answer_of_the_real_one(host, sent))

    def _answer_of_the_real_one(self, host: str, sent: Sent) -> Answer:
        connection = HTTPConnection(self.real, timeout=30)
        try:
            connection.request(sent.method, sent.target, sent.body, {**sent.headers, "Host": host, "X-Forwarded-Proto": "https"})
            response = connection.getresponse()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in ("connection", "content-length", "date")}
            length = {"Content-Length": response.headers["Content-Length"]} if sent.method == "HEAD" else {}
            return Answer(response.status, {**kept, **length}, response.read())
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: Registries


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    host = ""

    def do_CONNECT(self) -> None:
        """A tunnel, whose other end is here."""
        host = self.path.partition(":")[0]
        if host not in self.server.owner.gates:
            self.send_error(502)
            return
        self.send_response(200)
        self.end_headers()
        self.host, self.connection = host, self.server.owner.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def respond(self) -> None:
        """One request through the tunnel."""
        owner, length = self.server.owner, int(self.headers.get("Content-Length") or 0)
        manners, is_upload = owner.manners.get(self.host, Manners()), self.command == "PUT" and "upload" in self.path
        if is_upload and length and owner.cuts:
            cut = int(length * owner.cuts.pop(0))
            self.rfile.read(cut)
            manners.lose(self.path, cut)
            self.close_connection = True
            return
        if manners.hangs_up(self.command, length):
            self.close_connection = True
            return
        body = self.rfile.read(length)
        answer = owner.answer(self.host, self.command, self.path, dict(self.headers), body)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = respond  # noqa: N815 - http.server wants these names

    def finish(self) -> None:
        super().finish()
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
