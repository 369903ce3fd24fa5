"""Which addresses a download may reach, checked against the actual address of the connection.

A job's URL may lead anywhere, and any server may redirect to another URL. On a cloud's machine, a GET request to the metadata service
returns the machine's credentials, and services on the loopback interface trust everyone who reaches them. So:

- link-local addresses and the clouds' metadata services are refused everywhere;
- loopback is refused in a cloud's worker, and allowed on this machine and in its containers;
- private networks are allowed, because companies keep their data there.

All addresses of a name are checked, and then connected to without resolving the name again, so neither its spelling nor a later change
matters. A proxy (``http_proxy``) resolves names itself, so only addresses written in the URL and the names of metadata services are checked
here, and the rest is up to the proxy, which may be on the loopback interface.
"""

import socket
from http.client import HTTPConnection, HTTPMessage, HTTPResponse, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import IO, Any, Union
from urllib import request as http
from urllib.parse import urlsplit

from cloud_train.errors import StoreError

Address = Union[IPv4Address, IPv6Address]  # noqa: UP007 - the worker also runs on Python 3.10

_METADATA_NAMES = {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
_METADATA = tuple(
    ip_network(network)
    for network in (
        "169.254.0.0/16",  # AWS, Google Cloud, Azure, Oracle Cloud and others; on AWS, 169.254.170.2 for containers
        "fe80::/10",
        "fd00:ec2::/32",  # AWS
        "fd20:ce::254/128",  # Google Cloud
        "168.63.129.16/32",  # Azure's wire server
        "100.100.100.200/32",  # Alibaba Cloud
        "192.0.0.192/32",  # Oracle Cloud
    )
)
_IPV4_WITHIN = tuple(ip_network(network) for network in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"))
"""IPv6 networks with embedded IPv4 addresses: compatible ones (RFC 4291) and translated ones (RFC 2765, 6052, 8215)."""


_HINT = "correct data.url"


class AddressRefusedError(StoreError):
    """A download would reach a forbidden address."""


def opener(*, loopback: bool) -> http.OpenerDirector:
    """An opener for http and https URLs that follows redirects to these schemes only; ``loopback`` allows loopback addresses.

    Opening a URL may raise AddressRefusedError.
    """
    made = http.OpenerDirector()
    for handler in (
        http.ProxyHandler(),
        _HttpHandler(loopback),
        _HttpsHandler(loopback),
        _RedirectHandler(),
        http.HTTPErrorProcessor(),
        http.HTTPDefaultErrorHandler(),
        http.UnknownHandler(),
    ):
        made.add_handler(handler)
    return made


def refusal(address: Address, *, loopback: bool) -> str | None:
    """The reason why a download may not reach ``address``; None if it may. ``loopback`` allows loopback addresses."""
    for each in (address, *_within(address)):
        if any(each in network for network in _METADATA if network.version == each.version):
            return "a link-local address or a cloud's metadata service"
        if each.is_multicast or each == ip_address("255.255.255.255"):
            return "not the address of a server"
        if not loopback and (each.is_loopback or each.is_unspecified):
            return "this machine itself"
    return None


def connect(host: str, port: int, timeout: Any, *, loopback: bool) -> socket.socket:
    """A connection to ``host``, if none of its addresses is refused. Raises AddressRefusedError and OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, place in found:
        _refuse(host, ip_address(place[0]), loopback)
    failure: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, place in found:
        connection = socket.socket(family, kind, protocol)
        try:
            if timeout is None or isinstance(timeout, int | float):  # not http.client's sentinel for the default
                connection.settimeout(timeout)
            connection.connect(place)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def _refuse(host: str, address: Address, loopback: bool) -> None:
    if (reason := refusal(address, loopback=loopback)) is not None:
        shown = host if host == str(address) else f"{host} ({address})"
        raise AddressRefusedError(f"{shown} is {reason}", hint=_HINT)


def _within(address: Address) -> list[IPv4Address]:
    """The IPv4 addresses embedded in an IPv6 address."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _IPV4_WITHIN):
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def check_spelling(url: str, *, loopback: bool) -> None:
    """Check the host as written in the URL, because a proxy may resolve names. Raises AddressRefusedError."""
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    if host in _METADATA_NAMES:
        raise AddressRefusedError(f"{host} is a cloud's metadata service", hint=_HINT)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return  # a host name, not an address
    for *_, place in found:
        _refuse(host, ip_address(place[0]), loopback)


class _CheckedConnection(HTTPConnection):
    """Connects only to checked addresses, including loopback."""

    loopback = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._create_connection = self._connect  # used by http.client to connect, before TLS

    def _connect(self, place: tuple[str, int], timeout: Any = None, _source: object = None) -> socket.socket:
        return connect(*place, timeout, loopback=self.loopback)


class _RemoteConnection(_CheckedConnection):
    """Connects only to other machines."""

    loopback = False


class _CheckedTlsConnection(HTTPSConnection, _CheckedConnection):
    pass


class _RemoteTlsConnection(HTTPSConnection, _RemoteConnection):
    pass


def _is_proxied(request: http.Request) -> bool:
    return request.has_proxy() or bool(getattr(request, "_tunnel_host", None))


class _HttpHandler(http.HTTPHandler):
    def __init__(self, loopback: bool) -> None:
        super().__init__()
        self._loopback = loopback

    def http_open(self, request: http.Request) -> HTTPResponse:
        check_spelling(request.full_url, loopback=self._loopback)
        anywhere = self._loopback or _is_proxied(request)
        return self.do_open(_CheckedConnection if anywhere else _RemoteConnection, request)


class _HttpsHandler(http.HTTPSHandler):
    def __init__(self, loopback: bool) -> None:
        super().__init__()
        self._loopback = loopback

    def https_open(self, request: http.Request) -> HTTPResponse:
        check_spelling(request.full_url, loopback=self._loopback)
        anywhere = self._loopback or _is_proxied(request)
        return self.do_open(_CheckedTlsConnection if anywhere else _RemoteTlsConnection, request)


class _RedirectHandler(http.HTTPRedirectHandler):
    """Removes credentials on redirects; those for a proxy are added again if the redirect uses the proxy."""

    def redirect_request(self, *arguments: Any) -> http.Request | None:
        request = super().redirect_request(*arguments)
        if request is not None:
            for name in ("Proxy-authorization", "Authorization", "Cookie"):
                request.remove_header(name)
        return request

    def http_error_302(self, req: http.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # redirected to something that is not a URL
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302
