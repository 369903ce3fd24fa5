"""The Docker Engine of this machine, at an address that is none of this machine's sockets."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

OF_THIS_MACHINE = "unix:///var/run/docker.sock"


@contextmanager
def forwarded(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The engine of this machine at a TCP address, for as long as the block lasts; with ``tls`` for whoever has a certificate."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads: list[threading.Thread] = []

        def accept() -> None:
            with suppress(OSError):  # the listening socket is closed at the end
                while True:
                    ours, _ = listening.accept()
                    if tls is not None:
                        try:
                            ours = tls.wrap_socket(ours, server_side=True)
                        except OSError:  # a stranger
                            ours.close()
                            continue
                    theirs = socket.socket(socket.AF_UNIX)
                    theirs.connect(OF_THIS_MACHINE.removeprefix("unix://"))
                    threads.extend(threading.Thread(target=pour, args=ends) for ends in ((ours, theirs), (theirs, ours)))
                    for thread in threads[-2:]:
                        thread.start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join(10)


def pour(source: socket.socket, target: socket.socket) -> None:
    with source, suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
