"""The environment for programs on this machine: the caller's, without variables that a command set only for itself."""

import os

_own: set[str] = set()


def set_for_this_process(name: str, value: str) -> None:
    """Set an environment variable that programs do not inherit, unless the caller has set it."""
    if name not in os.environ:
        os.environ[name] = value
        _own.add(name)


def inherited() -> dict[str, str]:
    """The environment for a program."""
    return {name: value for name, value in os.environ.items() if name not in _own}
