"""A session of ``requests`` that checks the actual address of each connection, after name resolution.

A proxy resolves names itself; behind one, only the URL is checked (``image.addresses``).
"""

import socket
from typing import Any

from requests import Response, Session
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from cloud_train.storage.url_safety import connect


class CheckedSession(Session):
    """Connects to no metadata service and no link-local address, and follows no redirects. Raises AddressRefusedError."""

    def __init__(self, own_url: str, *, loopback: bool) -> None:
        """``loopback`` allows loopback addresses. The host of ``own_url``, which the user chose, may always have one."""
        super().__init__()
        for prefix in ("http://", "https://"):
            self.mount(prefix, _CheckedAdapter(loopback=loopback))
        self.mount(f"{own_url}/", _CheckedAdapter(loopback=True))

    def get_redirect_target(self, resp: Response) -> None:
        """Return None: for a redirect, ``requests`` would read and decompress the whole body even if told not to follow it."""


class _CheckedAdapter(HTTPAdapter):
    def __init__(self, *, loopback: bool) -> None:
        self._loopback = loopback
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Create the pools for direct connections."""
        super().init_poolmanager(*arguments, **options)
        pools = (_Pool, _TlsPool) if self._loopback else (_RemotePool, _RemoteTlsPool)
        self.poolmanager.pool_classes_by_scheme = dict(zip(("http", "https"), pools, strict=True))


class _Connection(HTTPConnection):
    loopback = True

    def _new_conn(self) -> socket.socket:
        try:
            made = connect(self.host, self.port, self.timeout, loopback=self.loopback)
        except UnicodeError as error:
            raise OSError(f"{self.host!r} is not a valid host name") from error
        for option in self.socket_options or ():
            made.setsockopt(*option)
        return made


class _RemoteConnection(_Connection):
    loopback = False


class _TlsConnection(HTTPSConnection, _Connection):
    pass


class _RemoteTlsConnection(HTTPSConnection, _RemoteConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _RemotePool(HTTPConnectionPool):
    ConnectionCls = _RemoteConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _RemoteTlsPool(HTTPSConnectionPool):
    ConnectionCls = _RemoteTlsConnection
