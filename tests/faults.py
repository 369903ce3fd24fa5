"""A proxy between a client and a store's server that brings faults on purpose: real sockets, real clients, real servers.

A *plan* looks at each request, when its head has come, and returns the fault that shall befall it, or None::

    server = server_or_skip("s3")
    with FaultProxy(server, lambda request: Cut("request", after=1000) if request.number == 3 else None) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        ...  # open_store(...) and work with it
        assert proxy.sent("PUT") == 5  # the requests, and what became of them, are in proxy.records

``Weather`` is a plan that draws faults from a seed. The bodies of refusals are the clouds' own: tests/answers.py.
"""

import hashlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

from tests.answers import Answer, Request, acknowledged, refused
from tests.stores import LOOPBACK, StoreServer

PIECE = 64 << 10
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "trailer", "upgrade"}


@dataclass(frozen=True)
class Cut:
    """The connection breaks after so many bytes of the request's body, or of the answer's.

    A cut request never arrives whole. A cut answer was carried out by the server; with ``after`` = -1 not even its head arrives.
    """

    direction: Literal["request", "response"]
    after: int = 0


@dataclass(frozen=True)
class Refuse:
    """The server is not asked. ``kind`` is a row of tests/answers.py: busy (503), throttled (429), denied, expired, wrong-region."""

    kind: str = "busy"


@dataclass(frozen=True)
class Flip:
    """One bit of the answer's body is another one; its length and its head are as they should be."""

    offset: int = 0
    """Of the byte, modulo the body's length."""


@dataclass(frozen=True)
class Drip:
    """The answer's body comes in ``pieces`` pieces, with a pause before each."""

    pieces: int = 10
    pause: float = 0.01
    """In seconds."""


@dataclass(frozen=True)
class Lose:
    """An upload is acknowledged, and its bytes go nowhere. A question about a resumable session of Google's, a PUT too, is passed on."""


Fault = Cut | Refuse | Flip | Drip | Lose
Plan = Callable[[Request], Fault | None]


@dataclass(frozen=True)
class Record:
    """A request, and what became of it."""

    request: Request
    fault: Fault | None
    sent: int = 0
    """Bytes of its body that came from the client."""
    status: int | None = None
    """None where no answer was given."""
    received: int = 0
    """Bytes of the answer's body that went to the client."""
    answered: int | None = None
    """The status that the server itself answered, whatever the client got of it."""
    body: bytes = b""
    """What came from the client, if the proxy keeps it."""


def calm(request: Request) -> None:
    """The plan without faults."""


@dataclass
class Weather:
    """A plan that draws faults from a seed, each with its own chance for each request, and at most ``most`` of them.

    What befalls a request depends on the seed, on what it asks for and on how often that was asked, not on the order in which threads come.
    """

    seed: int
    cut: float = 0.0
    busy: float = 0.0
    flip: float = 0.0
    """For the answers to GET only."""
    drip: float = 0.0
    lose: float = 0.0
    """For PUT only."""
    burst: int = 4
    """The most requests, one after another, that a busy server refuses."""
    most: int = 50
    concerns: Callable[[Request], bool] = lambda request: True
    """Which requests may meet faults."""
    _asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    _refuse: int = 0
    _brought: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Fault | None:
        """The fault of this request."""
        with self._lock:
            if not self.concerns(request) or self._brought >= self.most:
                return None
            self._asked[request.method, request.target] += 1
            dice = random.Random(f"{self.seed} {request.method} {request.target} {self._asked[request.method, request.target]}")
            fault = self._draw(request, dice)
            self._brought += fault is not None
            return fault

    def _draw(self, request: Request, dice: random.Random) -> Fault | None:
        if self._refuse:
            self._refuse -= 1
            return Refuse(dice.choice(["busy", "throttled"]))
        drawn = dice.random()
        for chance, kind in ((self.cut, "cut"), (self.busy, "busy"), (self.flip, "flip"), (self.drip, "drip"), (self.lose, "lose")):
            drawn -= chance
            if drawn < 0:
                return self._fault(kind, request, dice)
        return None

    def _fault(self, kind: str, request: Request, dice: random.Random) -> Fault | None:
        if kind == "cut":
            direction = dice.choice(["request", "response"] if request.length else ["response"])
            return Cut("request", dice.randrange(request.length)) if direction == "request" else Cut("response", dice.randint(-1, 20_000))
        if kind == "busy":
            self._refuse = dice.randrange(self.burst)
            return Refuse(dice.choice(["busy", "throttled"]))
        if kind == "flip":
            return Flip(dice.randrange(1 << 30)) if request.method == "GET" else None
        if kind == "drip":
            return Drip(pieces=5, pause=0.005)
        return Lose() if request.method == "PUT" else None


class FaultProxy:
    """Listens on a free port for as long as its context, and passes each request on to the server unless the plan has a fault for it."""

    def __init__(self, server: StoreServer, plan: Plan = calm, *, address: str = LOOPBACK, clock_offset: float = 0.0) -> None:
        self.plan = plan
        """May be replaced at any time."""
        self.clock_offset = clock_offset
        """Seconds by which the ``Date`` of the answers is late."""
        self.scheme = server.scheme
        self.upstream = urlsplit(server.endpoint).netloc
        self._front = _Front((address, 0), _Handler)
        self._front.proxy = self
        self.endpoint = f"http://{address}:{self._front.server_port}"
        self._records: list[Record] = []
        self._asked = self._under_way = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._front.serve_forever, kwargs={"poll_interval": 0.02}, name="fault proxy")

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._front.shutdown()
        self._thread.join()
        self._front.server_close()

    @property
    def records(self) -> list[Record]:
        """The requests that were answered or cut, in the order in which that happened; those under way are waited for, within limits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, timeout=10)
            return list(self._records)

    def sent(self, method: str, containing: str = "") -> int:
        """How many requests of this method, with this text in their path or query, came."""
        return sum(record.request.method == method and containing in record.request.target for record in self.records)

    def faults(self) -> list[Fault]:
        """The faults that were brought."""
        return [record.fault for record in self.records if record.fault is not None]

    def keeps(self, request: Request) -> bool:
        """Whether the record of a request has its body."""
        return False

    def begin(self) -> int:
        """The number of a request that came."""
        with self._changed:
            self._asked += 1
            self._under_way += 1
            return self._asked

    def end(self, record: Record) -> None:
        """Keep what became of a request."""
        with self._changed:
            self._records.append(record)
            self._under_way -= 1
            self._changed.notify_all()


class _Front(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = False  # closing waits for the threads
    proxy: FaultProxy

    def __init__(self, address: tuple[str, int], handler: "type[_Handler]") -> None:
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: tuple[str, int]) -> None:
        assert isinstance(request, socket.socket)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        assert isinstance(request, socket.socket)
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in list(self._open):  # a client may keep one open for its next request
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _CutError(Exception):
    """The plan wants the connection to end here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Front

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client went away
            super().handle()

    def respond(self) -> None:
        self._sent, self._received = 0, 0
        self._status: int | None = None
        self._answered: int | None = None
        self._kept: bytearray | None = None
        self._upstream = HTTPConnection(self.server.proxy.upstream, timeout=60)  # a kept one may have been closed by the server meanwhile
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(headers.get("content-length", 0))
        proxy = self.server.proxy
        request = Request(proxy.begin(), self.command, url.path, url.query, headers, length, proxy.scheme)
        fault: Fault | None = None
        self._kept = bytearray() if proxy.keeps(request) else None
        try:
            fault = proxy.plan(request)
            if isinstance(fault, Lose) and request.headers.get("content-range", "").startswith("bytes */"):
                fault = None
            self._befall(request, fault)
        except (_CutError, OSError, HTTPException):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            self._upstream.close()
            proxy.end(Record(request, fault, self._sent, self._status, self._received, self._answered, bytes(self._kept or b"")))

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = respond  # noqa: N815 - http.server wants these names

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""

    def _befall(self, request: Request, fault: Fault | None) -> None:
        if isinstance(fault, Refuse):
            for _ in self._body(request):
                pass
            self._answer(request, refused(fault.kind, request))
        elif isinstance(fault, Lose):
            digest = hashlib.md5()
            for piece in self._body(request):
                digest.update(piece)
            self._answer(request, acknowledged(request, digest.digest()))
        else:
            self._pass_on(request, fault.after if isinstance(fault, Cut) and fault.direction == "request" else None)
            with self._upstream.getresponse() as response:
                self._answered = response.status
                self._relay(request, response, fault)

    def _body(self, request: Request) -> Iterator[bytes]:
        if request.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self._counted(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        left = request.length
        while left:
            piece = self.rfile.read1(min(PIECE, left))
            if not piece:
                raise ConnectionError("the client went away")
            left -= len(piece)
            yield self._counted(piece)

    def _counted(self, piece: bytes) -> bytes:
        self._sent += len(piece)
        if self._kept is not None:
            self._kept += piece
        return piece

    def _pass_on(self, request: Request, cut_after: int | None) -> None:
        if cut_after is not None and request.length == 0:
            raise _CutError
        upstream = self._upstream
        upstream.putrequest(request.method, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                upstream.putheader(name, value)
        chunked = request.headers.get("transfer-encoding", "").lower() == "chunked"
        if chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders()
        left = None if cut_after is None else min(cut_after, request.length - 1)
        for piece in self._body(request):
            if left is not None and len(piece) > left:
                upstream.send(piece[:left])
                raise _CutError
            left = None if left is None else left - len(piece)
            upstream.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            upstream.send(b"0\r\n\r\n")

    def _relay(self, request: Request, response: HTTPResponse, fault: Fault | None) -> None:
        has_length = response.getheader("Content-Length") is not None
        whole = b"" if has_length else response.read()
        length = int(response.getheader("Content-Length") or len(whole))
        if isinstance(fault, Cut) and fault.after < 0:
            raise _CutError
        self._head(response.status, response.getheaders(), {} if has_length else {"Content-Length": str(length)})
        if request.method == "HEAD" or response.status in (204, 304):
            response.read()
            if isinstance(fault, Cut):
                raise _CutError
            return
        for piece in _altered(iter(lambda: response.read(PIECE), b"") if has_length else iter([whole]), length, fault):
            self.wfile.write(piece)
            self._received += len(piece)
        if isinstance(fault, Cut):
            raise _CutError

    def _answer(self, request: Request, answer: Answer) -> None:
        self._head(answer.status, list(answer.headers.items()), {"Content-Length": str(len(answer.body)), "Date": self.date_time_string()})
        if request.method != "HEAD":
            self.wfile.write(answer.body)
            self._received += len(answer.body)

    def _head(self, status: int, headers: list[tuple[str, str]], more: Mapping[str, str]) -> None:
        self._status = status
        self.send_response_only(status)
        for name, value in [*headers, *more.items()]:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, self._shifted(value) if name.lower() == "date" else value)
        self.end_headers()

    def _shifted(self, date: str) -> str:
        offset = timedelta(seconds=self.server.proxy.clock_offset)
        return format_datetime(parsedate_to_datetime(date) - offset, usegmt=True) if offset else date


def _altered(pieces: Iterator[bytes], length: int, fault: Fault | None) -> Iterator[bytes]:
    """The answer's body as the client gets it."""
    if isinstance(fault, Cut):
        yield b"".join(pieces)[: min(fault.after, length - 1)] if length else b""
    elif isinstance(fault, Flip) and length:
        body = bytearray(b"".join(pieces))
        body[fault.offset % length] ^= 1
        yield bytes(body)
    elif isinstance(fault, Drip):
        body, pause = bytearray(b"".join(pieces)), threading.Event()
        step = max(1, -(-length // fault.pieces))
        for start in range(0, length, step):
            pause.wait(fault.pause)
            yield bytes(body[start : start + step])
    else:
        yield from pieces
