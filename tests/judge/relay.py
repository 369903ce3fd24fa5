"""Brings what arrives at one address to another: containers on a network of their own reach a server that listens on loopback only."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_BYTES = 1 << 16


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Relay)
        with socket.create_connection(self.server.to) as far:
            back = threading.Thread(target=_pour, args=(far, self.request))
            back.start()
            _pour(self.request, far)
            back.join()


class _Relay(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, address: str, to: tuple[str, int]) -> None:
        self.to = to
        super().__init__((address, 0), _Connection)


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def relay(address: str, endpoint: str) -> Iterator[str]:
    """The URL at ``address``, of this machine, under which the server at the URL ``endpoint`` answers too."""
    to = urlsplit(endpoint)
    assert to.hostname is not None
    assert to.port is not None
    with _Relay(address, (to.hostname, to.port)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{address}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
