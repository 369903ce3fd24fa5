"""Which addresses are loopback: traffic to them stays on this machine, and no other machine can reach them.

Everything that needs to know asks here. The worker does too, so this has to work on Python 3.10 with the standard library alone.
"""

import re

_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

HOST = rf"(?:localhost|127(?:\.{_BYTE}){{3}}|\[::1\])"
"""Pattern of a host in lower case, as written in a URL. It means the same in JSON Schema, pydantic and ``re``.

Names below ``localhost`` do not match. RFC 6761 (section 6.3) reserves them for loopback, but a resolver that does not implement it asks
the network, which can return any address.
"""
_HOST_AND_PORT = re.compile(rf"{HOST}(?::[0-9]{{0,5}})?")
_UNSPECIFIED = re.compile(r"(?:0\.0\.0\.0|\[::\])(?::[0-9]{0,5})?")


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine, judging by the name alone. False for anything but a host and a port."""
    return _HOST_AND_PORT.fullmatch(host.lower()) is not None


def leads_to_this_machine(host: str) -> bool:
    """Whether ``host[:port]`` would lead another machine back to itself: loopback, or the wildcard address that servers listen on.

    The wildcard address is not loopback: a server that listens there can be reached from outside, and some systems cannot connect to it.
    """
    return is_loopback(host) or _UNSPECIFIED.fullmatch(host) is not None
