"""A threaded HTTP/1.1 server on loopback for one cloud simulator, with its faults and a log of all requests::

    with Server(simulator) as server:
        client = boto3.client("sagemaker", endpoint_url=server.url, ...)
        ...
        assert server.count("CreateTrainingJob") == 1

A mistake of the simulator's own (whatever one of its three methods raises) ends the connection without an answer and is raised when the
context is left: what a cloud would answer, even to nonsense, is an ``Answer``. Connections stay open for further requests. The Date of the
answers is the clock's.
"""

import json
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.clouds.clock import Clock, RealClock
from tests.clouds.faults import REFUSALS, Fault, Faults
from tests.stores import LOOPBACK

_PACE_SECONDS = 0.02
"""How often a half-open connection looks whether one of its ends has closed."""


@dataclass(frozen=True)
class Request:
    """One request, read to its end."""

    method: str
    path: str
    """Without the query, percent-decoded."""
    query: Mapping[str, str]
    """Decoded; of a name that comes several times, the last."""
    headers: Mapping[str, str]
    """With names in lower case."""
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None if it is empty. Raises ValueError if it is no JSON: answer that as the cloud does."""
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True)
class Answer:
    """An answer; Content-Length and the connection's own headers come by themselves."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def json(cls, document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Answer":
        """A JSON document, with a Content-Type unless ``headers`` has one."""
        return cls(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(document).encode())


class Simulator(Protocol):
    """What a cloud simulator gives to its server. Called from many threads at once: it locks what it must."""

    def operation_of(self, request: Request) -> str:
        """The provider's own name for what is asked, such as ``CreateTrainingJob``; faults and counts go by it."""

    def handle(self, request: Request) -> Answer:
        """Carry the request out."""

    def error(self, request: Request, kind: Fault) -> Answer:
        """What this cloud answers for one of ``faults.REFUSALS``, in its own shape."""


@dataclass(frozen=True)
class Logged:
    """A request that came, and what became of it."""

    operation: str
    time: float
    """Seconds since the epoch, of the simulator's clock."""
    request: Request
    status: int | None
    """None where no answer was given."""
    fault: Fault | None = None
    took: float = 0.0
    """Seconds of the real clock until there was an answer."""


class Server:
    """The server, which runs for as long as the context. ``faults`` is where tests order faults; the log is ``requests``."""

    def __init__(self, simulator: Simulator, *, faults: Faults | None = None, clock: Clock | None = None) -> None:
        self.simulator = simulator
        self.clock: Clock = clock or RealClock()
        self.faults = faults or Faults(self.clock)
        self.requests: list[Logged] = []
        self.closing = threading.Event()
        """Set when the context is left."""
        self.mistakes: list[BaseException] = []
        """What the simulator raised."""
        self._lock = threading.Lock()
        self._http = _HttpServer((LOOPBACK, 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, name="cloud-simulator")

    @property
    def url(self) -> str:
        """``http://address:port``, without a '/' at the end."""
        return f"http://{LOOPBACK}:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.end_connections()
        self._http.server_close()  # waits for the threads of all connections
        self._thread.join()
        if self.mistakes and error is not None:
            error.add_note("".join(["the simulator made a mistake of its own: ", *traceback.format_exception(self.mistakes[0])]))
        elif self.mistakes:
            raise AssertionError(f"the simulator made {len(self.mistakes)} mistakes of its own; the first: {self.mistakes[0]!r}") from (
                self.mistakes[0]
            )

    def count(self, operation: str) -> int:
        """How many requests of this operation came, whatever became of them."""
        with self._lock:
            return sum(logged.operation == operation for logged in self.requests)

    def answer(self, request: Request) -> tuple[Answer | None, Fault | None]:
        """The answer to a request; None if the connection shall be closed without one. The fault that befell it, if one did."""
        began = time.perf_counter()
        operation = self.simulator.operation_of(request)
        fault = self.faults.take(operation)
        if fault in REFUSALS:
            answer = self.simulator.error(request, fault)
        elif fault is Fault.HALF_OPEN:
            answer = None
        else:
            answer = self.simulator.handle(request)
        given = answer if fault is not Fault.LOST_ANSWER else None
        with self._lock:
            took = time.perf_counter() - began
            self.requests.append(Logged(operation, self.clock.now(), request, given.status if given else None, fault, took))
        return given, fault


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    owner: Server

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Wake the threads that wait on a connection: for its next request, or for the client to take an answer."""
        with self._guard:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # the client has closed it meanwhile
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        # A client may leave whenever it likes; anything else is a mistake of the simulator.
        if error is not None and not isinstance(error, ConnectionError):
            self.owner.mistakes.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HttpServer

    def respond(self) -> None:
        """Read one request, and let the simulator answer it."""
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self.send_error(411)  # the SDKs that speak to simulators know how long their requests are
            return
        length = int(self.headers.get("Content-Length") or 0)
        target = urlsplit(self.path)
        request = Request(
            self.command,
            unquote(target.path),
            dict(parse_qsl(target.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(length),
        )
        answer, fault = self.server.owner.answer(request)
        if fault is Fault.HALF_OPEN:
            self._stay_silent()
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = respond  # noqa: N815 - http.server wants these names

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The simulator's time, where the base class has this machine's."""
        return formatdate(self.server.owner.clock.now() if timestamp is None else timestamp, usegmt=True)

    def _stay_silent(self) -> None:
        while not self.server.owner.closing.is_set():
            if select.select([self.connection], [], [], _PACE_SECONDS)[0]:
                return  # nothing more was to come, so the client has closed it

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal: the log is ``Server.requests``."""
