"""A server that says what a test tells it to: for what of Google's servers tests/gcs_server.py does not do, such as giving out tokens."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    target: str
    headers: Mapping[str, str]
    """Their names in lower case."""
    body: bytes


@dataclass(frozen=True)
class Said:
    """One answer."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def said(content: object, status: int = 200) -> Said:
    """An answer in JSON."""
    return Said(status, {"Content-Type": "application/json"}, json.dumps(content).encode())


@dataclass
class GoogleServer:
    """Where it listens, what it was asked, and how it answers."""

    url: str
    answer: Callable[[Asked], Said]
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def google_server(answer: Callable[[Asked], Said]) -> Iterator[GoogleServer]:
    """Listens for as long as the context."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, self.rfile.read(int(headers.get("content-length", 0))))
            server.asked.append(asked)
            answer = server.answer(asked)
            self.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(answer.body))} | dict(answer.headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = respond  # noqa: N815 # http.server wants these names

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as front:
        server = GoogleServer(f"http://127.0.0.1:{front.server_port}", answer)
        thread = Thread(target=front.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            front.shutdown()
            thread.join()
