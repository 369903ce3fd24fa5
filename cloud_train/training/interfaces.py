"""Which network interface leads to the other nodes."""

import socket
from contextlib import suppress

import psutil


def interface_towards(host: str, port: int) -> str | None:
    """The name of the interface, such as ``eth0``, from which this machine reaches ``host``; None where that cannot be told.

    Nothing is sent: connecting a datagram socket only asks the routing table.
    """
    with suppress(OSError):
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as asking:
            asking.connect(address)
            own = str(asking.getsockname()[0])
        for name, addresses in psutil.net_if_addrs().items():
            if any(known.address.partition("%")[0] == own for known in addresses):
                return name
    return None
