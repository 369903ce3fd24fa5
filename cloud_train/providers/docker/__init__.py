"""The ``docker`` provider: containers in a Docker Engine. ``provider`` implements the protocol; the other modules are its parts."""
