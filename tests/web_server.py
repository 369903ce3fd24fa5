"""A real HTTP server on loopback, with files and with the faults that servers and connections have."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """How one request is answered. As it stands: with the file, or the part of it that is asked for."""

    status: int | None = None
    """Answer with this status and no file."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers besides the usual ones, or instead of them."""
    only: int | None = None
    """Close the connection after so many bytes of the content."""
    hold: bool = False
    """Then keep the connection open and send nothing more, until ``FileServer.release`` is called."""
    ranges: bool = True
    """Answer requests for a part with the part."""
    chunked: bool = False
    """Do not say beforehand how long the content is."""


@dataclass
class FileServer:
    """What a test sees of the server."""

    files: dict[str, bytes]
    """Content by path, such as ``/data.bin``."""
    answers: list[Answer] = field(default_factory=list)
    """How the next requests are answered, in this order; those after them get what they ask for."""
    requests: list[dict[str, str]] = field(default_factory=list)
    """The headers of each request, in lower case, and its ``path``."""
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Close the connections that are held."""
        self.released.set()

    def ranges(self) -> list[str | None]:
        """What each request asked for: ``bytes=5-``, or None for everything."""
        return [request.get("range") for request in self.requests]


def sha256(content: bytes) -> str:
    """The SHA-256 of ``content`` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serving(tls: SSLContext | None = None, /, **files: bytes) -> Iterator[FileServer]:
    """Serve ``files`` by their names, with ``tls`` by https. Each request has a thread; all of them have ended at the end of the block."""
    served = FileServer({f"/{name}": content for name, content in files.items()})
    server = _Server(served)
    served.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.release()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing the server waits for them

    def __init__(self, served: FileServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.served = served

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked has gone, or does not trust the certificate."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        served = self.server.served
        served.requests.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        answer = served.answers.pop(0) if served.answers else Answer()
        content = served.files.get(urlsplit(self.path).path)
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has gone
            if answer.status is not None or content is None:
                self._head(answer.status or 404, {"Content-Length": "0"}, answer)
            else:
                self._file(content, answer)
            if answer.hold:
                served.released.wait()

    def _file(self, content: bytes, answer: Answer) -> None:
        etag = f'"{sha256(content)[:8]}"'
        asked = self.headers.get("Range") if self.headers.get("If-Range", etag) == etag and answer.ranges else None
        first, _, last = asked.removeprefix("bytes=").partition("-") if asked else ("0", "", "")
        start, end = int(first), min(int(last) + 1, len(content)) if last else len(content)
        if asked and start >= len(content):
            self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(content)}"}, answer)
            return
        headers = {"ETag": etag, "Content-Length": str(end - start)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        if answer.chunked:
            headers["Transfer-Encoding"] = "chunked"
            del headers["Content-Length"]
        self._head(206 if asked else 200, headers, answer)
        piece = content[start:end][: answer.only]
        last_chunk = b"" if answer.only is not None else b"0\r\n\r\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) + last_chunk if answer.chunked else piece)
        self.wfile.flush()

    def _head(self, status: int, headers: dict[str, str], answer: Answer) -> None:
        self.send_response(status)
        for name, value in {**headers, **dict(answer.headers)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""
