"""The file that the command of a script job runs, as far as that can be told without running it."""

import re
import shlex
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path

_PYTHON = re.compile(r"python(?:3(?:\.[0-9]{1,3})?)?")
_SHELLS = ("sh", "bash")
_OF_PYTHON = {"-u", "-B", "-O", "-OO", "-s", "-S", "-E", "-I", "-P", "-q", "-v", "-b", "-d"}
_OF_SHELL = {"-e", "-u", "-x", "-v"}
"""Options that take no value. After any other one, joined ones such as ``-um`` too, it is not known what the next word is."""
_OF_SHELLS = re.compile(r"[|&;<>()$`\\\n*?\[\]{}~#]")
"""A command with one of these may do anything before it runs a file."""
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


def program_file(command: str | Sequence[str]) -> str | None:
    """The relative path of the file that the command runs, such as ``train.py`` of ``python -u train.py``; None if it is not plain."""
    words = _without_assignments(command)
    if not words:
        return None
    first, *rest = words
    name = first.rpartition("/")[2]
    if _PYTHON.fullmatch(name):
        file = _argument(rest, _OF_PYTHON)
    elif name in _SHELLS:
        file = _argument(rest, _OF_SHELL)
    else:
        file = first if "/" in first else None
    return None if file is None or file.startswith(("/", "~")) else file


def program_python(command: str | Sequence[str]) -> str | None:
    """The first word of a command that starts Python, such as ``python3`` or ``venv/bin/python``; None if it is not plain, or sets PATH."""
    if any(word.startswith("PATH=") for word in _words(command)):
        return None
    first = next(iter(_without_assignments(command)), "")
    return first if _PYTHON.fullmatch(first.rpartition("/")[2]) else None


def similar_file(folder: Path, name: str) -> str:
    """The file in ``folder``, or in the folder that ``name`` is in, whose name is the closest; empty if none is close."""
    place = (folder / name).parent
    try:
        there = [path.name for path in place.iterdir() if path.is_file()]
    except OSError:
        return ""
    close = get_close_matches(Path(name).name, there, 1)
    return (Path(name).parent / close[0]).as_posix() if close else ""


def _without_assignments(command: str | Sequence[str]) -> list[str]:
    words = _words(command)
    while words and isinstance(command, str) and _ASSIGNMENT.fullmatch(words[0]):
        del words[0]
    return words


def _words(command: str | Sequence[str]) -> list[str]:
    if not isinstance(command, str):
        return list(command)
    if _OF_SHELLS.search(command):
        return []
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _argument(words: Sequence[str], options: Collection[str]) -> str | None:
    """An interpreter's first argument after ``options``, which is a file; None after any other option."""
    word = next((word for word in words if word not in options), "-")
    return None if word.startswith("-") else word
