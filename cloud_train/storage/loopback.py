"""Which addresses are this machine's own: what is spoken there is seen by nobody else, and nobody else reaches it."""

import ipaddress
import re

_HOST = re.compile(r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<plain>[A-Za-z0-9.-]+))(?::[0-9]{0,5})?")


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine itself, as far as its name tells. Anything but a host and a port is not, such as a user."""
    read = _HOST.fullmatch(host)
    if read is None:
        return False
    bare = read["bracketed"] or read["plain"]
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False
