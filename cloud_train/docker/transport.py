"""Requests to a Docker Engine: plain HTTP over its local socket or SSH, and the Docker SDK's session over TCP and TLS.

SSH works as in Docker's own command line: ``ssh HOST docker system dial-stdio`` connects its stdin and stdout to the engine's socket on
that machine. So the SSH client's settings apply (keys, ~/.ssh/config, an agent), and the other machine needs Docker's command line.

The SDK is used only where necessary: importing it takes longer than a hundred small requests, such as inspecting a container. API:
https://docs.docker.com/reference/api/engine/. Paths without a version use the engine's newest, like the SDK's ``version="auto"``.
"""

import json
import shlex
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from cloud_train.docker.host import context_of
from cloud_train.errors import MissingDependencyError
from cloud_train.job.loopback import is_loopback

QUICK_SECONDS = 10.0
"""Timeout for requests that only read, in seconds."""

_Send = Callable[[str, str, bytes | None, float], "Answer"]


_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Answer:
    """An engine's response to one request."""

    status: int
    """The HTTP status."""
    body: bytes

    @property
    def document(self) -> Any:
        """The body, parsed as JSON; None if it is empty. Raises ValueError if it is not JSON."""
        return json.loads(self.body) if self.body else None

    @property
    def words(self) -> str:
        """The engine's message about a refused request."""
        with suppress(ValueError, LookupError, TypeError):
            return str(self.document["message"])
        return self.body.decode(errors="replace").strip()


class DockerHttp:
    """An open connection to an engine. Failed requests raise OSError, including TimeoutError."""

    def __init__(self, send: _Send) -> None:
        self._send = send

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        timeout_seconds: float = QUICK_SECONDS,
    ) -> Answer:
        """Send a request. ``body`` is sent as JSON, bytes as a tar. ``path`` may contain an image name. The timeout is for inactivity."""
        target = quote(path, safe="/:@") + (f"?{urlencode(query)}" if query else "")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return self._send(method, target, data, timeout_seconds)


@contextmanager
def opened(address: str) -> Iterator[DockerHttp]:
    """A connection to the engine at ``address``, such as ``unix:///var/run/docker.sock``. Raises OSError if nothing listens there."""
    if address.startswith("unix://"):
        with closing(_SocketConnection(lambda: _dialled(address.removeprefix("unix://")))) as connection:
            connection.connect()
            yield DockerHttp(connection.send_and_read)
    elif address.startswith("ssh://"):
        with closing(Ssh(address)) as ssh, closing(_SocketConnection(ssh.dial, ssh.words)) as connection:
            connection.send_and_read("GET", "/_ping", None, QUICK_SECONDS)  # the connection is known to work only after a response
            yield DockerHttp(connection.send_and_read)
    else:
        with sdk_client(address, QUICK_SECONDS) as client:
            yield DockerHttp(partial(_send_by_sdk, client))


@contextmanager
def sdk_client(address: str, timeout_seconds: float) -> Iterator[Any]:
    """The Docker SDK's ``APIClient`` for the engine at ``address``, with the certificates that Docker's command line would use.

    Raises OSError if the engine does not respond, and MissingDependencyError without the SDK.
    """
    try:
        from docker import APIClient
        from docker.errors import DockerException
    except ImportError as error:
        raise MissingDependencyError(
            f"the Docker Engine at {address} requires the Docker SDK for Python, which is not installed ({error})",
            hint="install it with: pip install 'cloud-train[docker]'",
        ) from error

    class Client(APIClient):  # type: ignore[misc]  # the SDK has no types
        def merge_environment_settings(self, *request: Any) -> Any:
            merged = super().merge_environment_settings(*request)
            if self.verify is not True:  # this engine's certificates, not REQUESTS_CA_BUNDLE, which is for all servers
                merged["verify"] = self.verify
            return merged

    with ExitStack() as closings:
        url = closings.enter_context(relayed(address)) if address.startswith("ssh://") else address
        try:
            client = closings.enter_context(closing(Client(url, version="auto", timeout=timeout_seconds, tls=_certificates(address))))
        except DockerException as error:
            raise ConnectionError(str(error)) from error
        yield client


def is_private(address: str) -> bool:
    """Whether requests to the engine at ``address`` are encrypted or stay on this machine."""
    scheme, _, rest = address.partition("://")
    if scheme in ("unix", "npipe", "ssh", "https", "http+unix"):
        return True
    if is_loopback((rest or address).partition("/")[0]):
        return True
    try:
        return bool(_certificates(address))
    except ImportError:  # without the SDK no connection can be made; opening one raises the error
        return True


def _certificates(address: str) -> Any:
    """The certificates of the Docker CLI's context if it is for this engine, otherwise those of the environment; False for no TLS."""
    if not address.startswith(("tcp://", "https://")):
        return False
    from docker.utils import kwargs_from_env

    context = context_of(address)
    return (context.TLSConfig if context is not None else kwargs_from_env().get("tls")) or False


def _send_by_sdk(client: Any, method: str, target: str, body: bytes | None, timeout_seconds: float) -> Answer:
    response = client.request(method, f"{client.base_url}{target}", data=body, headers=_headers(body), timeout=timeout_seconds)
    return Answer(response.status_code, response.content)


def _headers(body: bytes | None) -> dict[str, str]:
    return {} if body is None else {"Content-Type": "application/json" if body.startswith(b"{") else "application/x-tar"}


def _dialled(path: str) -> socket.socket:
    opening = socket.socket(socket.AF_UNIX)
    try:
        opening.settimeout(QUICK_SECONDS)
        opening.connect(path)
    except OSError:
        opening.close()
        raise
    return opening


class _SocketConnection(HTTPConnection):
    """HTTP over a socket that ``dial`` opens; ``words`` returns the reason for a broken connection, if known."""

    def __init__(self, dial: Callable[[], socket.socket], words: Callable[[], str] = lambda: "") -> None:
        super().__init__("localhost", timeout=QUICK_SECONDS)
        self._dial, self._words = dial, words

    def connect(self) -> None:
        self.sock = self._dial()

    def send_and_read(self, method: str, target: str, body: bytes | None, timeout_seconds: float) -> Answer:
        try:
            if self.sock is None:
                self.connect()
            self.sock.settimeout(timeout_seconds)
            self.request(method, target, body, _headers(body))
            with self.getresponse() as response:
                return Answer(response.status, response.read())
        except (ConnectionError, HTTPException) as error:
            self.close()  # a late response must not be mistaken for the next request's
            raise ConnectionError(self._words() or f"the connection was closed ({type(error).__name__})") from error
        except OSError:
            self.close()
            raise


class Ssh:
    """Connections to the engine at ``address``, ``ssh://[user@]host[:port][/socket]``. Close it after use."""

    def __init__(self, address: str) -> None:
        """Raises ValueError for an address without a host name."""
        self._command = _command(address)
        self._clients: list[subprocess.Popen[bytes]] = []
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 -- open until ``close``

    def dial(self) -> socket.socket:
        """Open a new connection. Raises OSError if no SSH client is installed."""
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
        """The last line that the SSH client or the remote command wrote to stderr."""
        with suppress(subprocess.TimeoutExpired):
            for client in self._clients[-1:]:
                client.wait(1)  # the reason is written just before it exits
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
    if not url.hostname or url.hostname.startswith("-") or (url.username or "").startswith("-"):  # ssh would take it for an option
        raise ValueError(f"{address!r} has no host name; use ssh://user@host")
    options = [f"-oConnectTimeout={_CONNECT_SECONDS}", "-T"]
    options += ["-l", url.username] if url.username else []
    options += ["-p", str(url.port)] if url.port else []
    there = ["--host", f"unix://{url.path}"] if url.path.strip("/") else []
    return ["ssh", *options, "--", url.hostname, shlex.join(["docker", *there, "system", "dial-stdio"])]
