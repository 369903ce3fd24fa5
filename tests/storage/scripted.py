"""A server that answers what a test tells it to, and remembers what it was asked: for refusals that no emulator gives."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.answers import Answer
from tests.stores import LOOPBACK


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    target: str
    """Path and query, as they were sent."""
    headers: Message
    body: bytes


@dataclass
class Scripted:
    """The server, while it runs."""

    endpoint: str
    answer: Callable[[Asked], Answer]
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def scripted(answer: Callable[[Asked], Answer], certificate: ssl.SSLContext | None = None, address: str = LOOPBACK) -> Iterator[Scripted]:
    """A server on a free port, with TLS if it has a certificate."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = Asked(self.command, self.path, self.headers, body)
            server.asked.append(asked)
            answer = server.answer(asked)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            # Head and body go in one piece: a client that has only the head would acknowledge it late.
            self._headers_buffer.append(b"\r\n" + (b"" if self.command == "HEAD" else answer.body))  # type: ignore[attr-defined] # of the base
            self.flush_headers()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - names that the base class looks for

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    listener = (_Listener6 if ":" in address else _Listener)((address, 0), Handler)
    if certificate is not None:
        listener.socket = certificate.wrap_socket(listener.socket, server_side=True)
    host = f"[{address}]" if ":" in address else address
    server = Scripted(f"{'http' if certificate is None else 'https'}://{host}:{listener.server_port}", answer)
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a kept connection would hold the test up

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away, or does not trust the certificate, is what some tests are about."""


class _Listener6(_Listener):
    address_family = socket.AF_INET6


def s3_refusal(status: int, code: str, message: str, **headers: str) -> Answer:
    """A refusal in S3's words, with the elements that must never reach a message."""
    more = "<AWSAccessKeyId>AKIAEXAMPLE</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256 to sign</StringToSign>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>'
    return Answer(
        status, {"Content-Type": "application/xml", **{name.replace("_", "-"): value for name, value in headers.items()}}, body.encode()
    )
