"""The ``docker`` provider: containers of a Docker Engine. ``provider`` implements the protocol from ``request`` and ``state``."""
