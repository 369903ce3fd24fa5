"""The network between this machine and all others, in an attacker's hands: it hears everything that leaves, under any host's name::

    with Wire(tmp_path, "attacker.example", "*.azurecr.io") as wire:
        for name, value in wire.environment.items():
            monkeypatch.setenv(name, value)
        ...
        assert wire.hosts_that_heard("the-token") == set()

It is a proxy, so that no name has to resolve; for https it has certificates for the names that it is given. Each request is kept and gets
``answer``'s answer. Nothing is passed on.
"""

import base64
import ssl
import threading
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from tests.clouds.faults import Fault
from tests.clouds.server import Answer, Request
from tests.storage.certificates import authority_and_server
from tests.stores import LOOPBACK


@dataclass(frozen=True)
class Heard:
    """One request that came to a host."""

    host: str
    """With the port where the URL had one."""
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def says(self, word: str) -> bool:
        """Whether it holds this word anywhere, also as a Basic login does."""
        body = self.body.decode(errors="replace")
        texts = [self.path, unquote(self.path), *self.headers.values(), body, unquote(body)]
        for value in self.headers.values():
            try:
                texts.append(base64.b64decode(value.removeprefix("Basic ")).decode(errors="replace"))
            except (Base64Error, ValueError):
                continue
        return any(word in text for text in texts)


def silent(heard: Heard) -> Answer:
    """There is nothing here."""
    return Answer.json({}, 404)


class Wire:
    """The proxy, for as long as the context. ``heard`` is what came, in order."""

    def __init__(self, folder: Path, *names: str, answer: Callable[[Heard], Answer] = silent) -> None:
        """``names`` are the hosts, wildcards too, that it has certificates for, which are written into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.authority, self.tls = authority_and_server(folder, *names)
        self.heard: list[Heard] = []
        self.answer = answer
        self._server = _Server((LOOPBACK, 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="wire")

    @property
    def environment(self) -> dict[str, str]:
        """With which programs send everything here but what is for loopback, and trust it."""
        address = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), address)
        trust = dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE"), str(self.authority))
        return {**proxies, **trust, "NO_PROXY": f"{LOOPBACK},localhost", "no_proxy": f"{LOOPBACK},localhost"}

    def hosts(self) -> set[str]:
        """Every host that heard anything."""
        return {each.host for each in self.heard}

    def hosts_that_heard(self, *words: str) -> set[str]:
        """Every host that heard one of these words."""
        return {each.host for each in self.heard if any(each.says(word) for word in words)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: Wire

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust the certificate leaves; that is its right."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    host = ""

    def do_CONNECT(self) -> None:
        """A tunnel, whose other end is here."""
        self.host = self.path.removesuffix(":443")
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.owner.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = urlsplit(self.path)
        heard = Heard(self.host or target.netloc, self.command, self.path, dict(self.headers), body)
        self.server.owner.heard.append(heard)
        answer = self.server.owner.answer(heard)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
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


class Always:
    """A server on loopback (``tests.clouds.server``) that has one answer to everything, such as a redirect."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def operation_of(self, request: Request) -> str:
        return request.path

    def handle(self, request: Request) -> Answer:
        return self._answer

    def error(self, request: Request, kind: Fault) -> Answer:
        return self._answer


def redirect(address: str, status: int = 302) -> Always:
    """Everything is at another address."""
    return Always(Answer(status, {"Location": address}))
