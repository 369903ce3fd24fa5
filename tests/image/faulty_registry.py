"""A small registry, in memory, that fails as it is told to: once for each fault, in the order in which requests come."""

import hashlib
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Fault:
    """What happens to the next request of ``method`` whose path holds ``path``: an answer with ``status``, or, if that is 0, none."""

    method: str
    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after_bytes: int = 0
    """Of the request's body, as much is taken before the connection is closed."""


@dataclass
class FaultyRegistry:
    """What the registry holds, and what came in."""

    host: str
    faults: list[Fault] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    received_bytes: int = 0
    token: str = ""
    """A bearer token that every request to the API must carry; /token gives it out."""
    chunk_status: int = 202
    """The status of the answer to a chunk."""

    def count(self, method: str, path: str) -> int:
        return sum(1 for asked, where in self.requests if asked == method and path in where)


@contextmanager
def faulty_registry() -> Iterator[FaultyRegistry]:
    """The registry, on a free loopback port."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.registry = FaultyRegistry(f"127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Handler.registry
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    registry: FaultyRegistry
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise, a body waits for the client to acknowledge the head

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        registry = self.registry
        registry.requests.append((self.command, self.path))
        registry.headers.append(dict(self.headers))
        fault = next((fault for fault in registry.faults if fault.method == self.command and fault.path in self.path), None)
        length = int(self.headers.get("Content-Length", 0))
        if fault is not None:
            registry.faults.remove(fault)
            body = self.rfile.read(length if fault.status else fault.after_bytes)
            if fault.status:
                self.answer(fault.status, fault.body, **fault.headers)
            else:
                self.take(body)
                self.close_connection = True
            return
        body = self.rfile.read(length)
        if registry.token and not self.path.startswith("/token") and self.headers.get("Authorization") != f"Bearer {registry.token}":
            challenge = f'Bearer realm="http://{registry.host}/token",service="tests",scope="ignored"'
            self.answer(401, b'{"errors": [{"code": "UNAUTHORIZED"}]}', **{"WWW-Authenticate": challenge})
            return
        self.serve(body)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any  # noqa: N815 -- the names that http.server looks for

    def serve(self, body: bytes) -> None:
        registry, url = self.registry, urlsplit(self.path)
        kind, _, last = url.path.rpartition("/")
        kind = kind.rpartition("/")[2]
        if url.path == "/token":
            self.answer(200, f'{{"token": "{registry.token}"}}'.encode(), **{"Content-Type": "application/json"})
        elif self.command == "POST":
            name = uuid.uuid4().hex  # several arrive at once
            registry.uploads[name] = bytearray()
            self.answer(202, Location=f"{url.path}{name}")
        elif kind == "uploads" and last not in registry.uploads:
            self.answer(404)
        elif kind == "uploads" and self.command == "PUT":
            self.take(body)
            data = bytes(registry.uploads.pop(last))
            digest = parse_qs(url.query)["digest"][0]
            right = digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
            registry.blobs.update({digest: data} if right else {})
            self.answer(201 if right else 400)
        elif kind == "uploads":
            fits = self.command != "PATCH" or self.headers["Content-Range"].startswith(f"{len(registry.uploads[last])}-")
            if self.command == "PATCH" and fits:
                self.take(body)
            arrived = len(registry.uploads[last])
            self.answer(
                (registry.chunk_status if self.command == "PATCH" else 204) if fits else 416,
                Range=f"0-{max(0, arrived - 1)}",
                Location=url.path,
            )
        elif kind == "blobs":
            self.serve_blob(registry.blobs.get(last))
        elif self.command == "PUT":
            for version in (last, f"sha256:{hashlib.sha256(body).hexdigest()}"):
                registry.manifests[version] = (self.headers["Content-Type"], body)
            self.answer(201)
        else:
            media_type, data = registry.manifests.get(last, ("", b""))
            self.answer(200 if data else 404, data, **{"Content-Type": media_type})

    def serve_blob(self, data: bytes | None) -> None:
        if data is None:
            self.answer(404)
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.answer(206 if start else 200, data[start:])

    def take(self, body: bytes) -> None:
        name = urlsplit(self.path).path.rpartition("/")[2]
        self.registry.received_bytes += len(body)
        if name in self.registry.uploads:
            self.registry.uploads[name] += body

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
