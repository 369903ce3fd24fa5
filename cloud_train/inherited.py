"""The environment that a program on this machine inherits: the caller's, without what a command set for itself alone."""

import os

_own: set[str] = set()


def set_for_this_process(name: str, value: str) -> None:
    """Set an environment variable that no program shall inherit, unless the caller has set it."""
    if name not in os.environ:
        os.environ[name] = value
        _own.add(name)


def inherited() -> dict[str, str]:
    """The environment for a program."""
    return {name: value for name, value in os.environ.items() if name not in _own}
