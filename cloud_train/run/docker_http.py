"""Requests to a Docker Engine: plain HTTP over its socket on this machine, the Docker SDK's session for one that is reached otherwise.

Looking at a container is one small request, and importing the SDK takes longer than a hundred of them. The API is that of
https://docs.docker.com/reference/api/engine/; paths without a version are the engine's newest, as with the SDK's ``version="auto"``.
"""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlencode

from cloud_train.errors import MissingDependencyError

QUICK_SECONDS = 10.0
"""How long an engine may keep silent that is only asked something."""

_Send = Callable[[str, str, bytes | None, float], "Answer"]


@dataclass(frozen=True)
class Answer:
    """What an engine answers to one request."""

    status: int
    """The HTTP status."""
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON; None for an empty one. Raises ValueError if it is none."""
        return json.loads(self.body) if self.body else None

    @property
    def words(self) -> str:
        """What an engine says of a request that it refused."""
        with suppress(ValueError, LookupError, TypeError):
            return str(self.document["message"])
        return self.body.decode(errors="replace").strip()


class DockerHttp:
    """One open connection to an engine. Whatever keeps an answer from coming is an OSError, TimeoutError among them."""

    def __init__(self, send: _Send) -> None:
        self._send = send

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_seconds: float = QUICK_SECONDS,
    ) -> Answer:
        """Send a request, with ``body`` as JSON. ``path`` may hold an image's name; the timeout is that of a silence."""
        target = quote(path, safe="/:@") + (f"?{urlencode(query)}" if query else "")
        return self._send(method, target, None if body is None else json.dumps(body).encode(), timeout_seconds)


@contextmanager
def opened(address: str) -> Iterator[DockerHttp]:
    """A connection to the engine at ``address``, such as ``unix:///var/run/docker.sock``. Raises OSError if nobody listens there."""
    if address.startswith("unix://"):
        with closing(_SocketConnection(address.removeprefix("unix://"))) as connection:
            connection.connect()
            yield DockerHttp(connection.send_and_read)
    else:
        with _sdk_session(address) as send:
            yield DockerHttp(send)


class _SocketConnection(HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=QUICK_SECONDS)
        self._path = path

    def connect(self) -> None:
        opening = socket.socket(socket.AF_UNIX)
        try:
            opening.settimeout(QUICK_SECONDS)
            opening.connect(self._path)
        except OSError:
            opening.close()
            raise
        self.sock = opening

    def send_and_read(self, method: str, target: str, body: bytes | None, timeout_seconds: float) -> Answer:
        try:
            if self.sock is None:
                self.connect()
            self.sock.settimeout(timeout_seconds)
            self.request(method, target, body, {"Content-Type": "application/json"} if body is not None else {})
            with self.getresponse() as response:
                return Answer(response.status, response.read())
        except (OSError, HTTPException) as error:
            self.close()  # an answer that comes after all is none to the next request
            if isinstance(error, OSError):
                raise
            raise ConnectionError(f"the connection broke off ({type(error).__name__})") from error


@contextmanager
def _sdk_session(address: str) -> Iterator[_Send]:
    """Requests over TCP, TLS or SSH, with certificates from where Docker's own command line has them."""
    try:
        from docker import APIClient
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env
    except ImportError as error:
        raise MissingDependencyError(
            f"the engine at {address} is reached with the Docker SDK for Python, which is not installed ({error})",
            hint="install it with: pip install 'cloud-train[docker]'",
        ) from error
    options = kwargs_from_env()
    tls = options.get("tls", False) if options.get("base_url") == address else _context_tls(address)
    try:
        client = APIClient(address, version="auto", timeout=QUICK_SECONDS, tls=tls, use_ssh_client=address.startswith("ssh://"))
    except DockerException as error:
        raise ConnectionError(str(error)) from error

    def send(method: str, target: str, body: bytes | None, timeout_seconds: float) -> Answer:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        response = client.request(method, f"{client.base_url}{target}", data=body, headers=headers, timeout=timeout_seconds)
        return Answer(response.status_code, response.content)

    with closing(client):
        yield send


def _context_tls(address: str) -> Any:
    """The certificates of the Docker CLI's current context, if that is the engine in question."""
    from cloud_train.run.docker_host import current_context

    context = current_context() if address.startswith(("tcp://", "https://")) else None
    return (context.TLSConfig if context is not None and context.Host == address else None) or False
