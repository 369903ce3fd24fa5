"""Which addresses are this machine's own: what is spoken there is seen by nobody else, and nobody else reaches it."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine itself, as far as its name tells."""
    bare = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare.strip("[]")).is_loopback
    except ValueError:
        return False
