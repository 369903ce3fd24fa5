"""Which addresses are this machine's own: traffic there stays on this machine, and no other machine reaches it.

The one rule for this. The worker uses it too, so it has to work on Python 3.10 with the standard library alone.
"""

import re

_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

HOST = rf"(?:localhost|127(?:\.{_BYTE}){{3}}|\[::1\])"
"""A host in lower case, as it stands in a URL. It means the same in JSON Schema, pydantic and ``re``.

Names below ``localhost`` are not among these. RFC 6761 (section 6.3) reserves them for loopback, but a resolver that does not know it asks
the network, which can answer with any address.
"""
_HOST_AND_PORT = re.compile(rf"{HOST}(?::[0-9]{{0,5}})?")
_UNSPECIFIED = re.compile(r"(?:0\.0\.0\.0|\[::\])(?::[0-9]{0,5})?")


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine itself, as far as its name tells. Anything but a host and a port is not, such as a user."""
    return _HOST_AND_PORT.fullmatch(host.lower()) is not None


def leads_to_this_machine(host: str) -> bool:
    """Whether another machine that is given ``host[:port]`` would reach itself: loopback, and the address on which servers listen for all.

    The latter is not loopback: what listens there may be reached by others, and some systems send nothing to it.
    """
    return is_loopback(host) or _UNSPECIFIED.fullmatch(host) is not None
