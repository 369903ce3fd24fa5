"""Connecting to a Docker Engine over SSH, as Docker's own command line does.

``ssh HOST docker system dial-stdio`` connects its stdin and stdout to the engine's socket on that machine. So the SSH client's own settings
apply (keys, ~/.ssh/config, an agent), and the other machine needs Docker's command line.
"""

import shlex
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import urlsplit

_CONNECT_SECONDS = 10


class Ssh:
    """Connections to the engine at ``address``: ``ssh://[user@]host[:port][/socket]``. Close it after use."""

    def __init__(self, address: str) -> None:
        """Raises ValueError for an address without a host name."""
        self._command = _command(address)
        self._clients: list[subprocess.Popen[bytes]] = []
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 -- until close

    def dial(self) -> socket.socket:
        """A new connection; raises OSError where no SSH client is installed."""
        ours, theirs = socket.socketpair()
        try:
            self.serve(theirs)
        except OSError as error:
            ours.close()
            raise OSError(f"no SSH client is installed: {error.strerror}") from error
        return ours

    def serve(self, end: socket.socket) -> None:
        """Connect ``end`` to the engine."""
        with end:
            self._clients.append(subprocess.Popen(self._command, stdin=end.fileno(), stdout=end.fileno(), stderr=self._said))

    def words(self) -> str:
        """The last line on stderr of the SSH client or of the remote command."""
        with suppress(subprocess.TimeoutExpired):
            for client in self._clients[-1:]:
                client.wait(1)  # it writes the reason just before it exits
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """End all connections."""
        for client in self._clients:
            client.kill()
            client.wait()
        self._said.close()


@contextmanager
def relayed(address: str) -> Iterator[str]:
    """Relay the engine at ``address`` to a local socket, for the Docker SDK; yields the socket's URL."""
    with (
        closing(Ssh(address)) as ssh,
        tempfile.TemporaryDirectory(prefix="cloud-train-ssh-") as folder,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(f"{folder}/docker.sock")
        listening.listen()

        def accept() -> None:
            with suppress(OSError):  # the relay was shut down
                while True:
                    ssh.serve(listening.accept()[0])

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"unix://{folder}/docker.sock"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _command(address: str) -> list[str]:
    """The SSH command; raises ValueError for an address without a host name."""
    url = urlsplit(address)
    if not url.hostname or url.hostname.startswith("-") or (url.username or "").startswith("-"):  # SSH would take it for an option
        raise ValueError(f"{address!r} has no host name; an engine over SSH is ssh://user@host")
    options = [f"-oConnectTimeout={_CONNECT_SECONDS}", "-T"]
    options += ["-l", url.username] if url.username else []
    options += ["-p", str(url.port)] if url.port else []
    there = ["--host", f"unix://{url.path}"] if url.path.strip("/") else []
    return ["ssh", *options, "--", url.hostname, shlex.join(["docker", *there, "system", "dial-stdio"])]
