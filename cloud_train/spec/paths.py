"""Paths as a job file writes them, and reading the files they name."""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import errno
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from cloud_train.errors import UsageError
from cloud_train.spec.secret_names import without_credentials

LARGEST_TEXT_BYTES = 1 << 30
"""The largest file of text or of labelled lines that is read."""
_PIECE_BYTES = 1 << 20


_ALMOST_URL = re.compile(r"(?i)(s3|gs|az|https?):/(?!/)")
_STORES = ("s3", "gs", "az", "file")
_SCHEMES = (*_STORES, "https", "http")
_VARIABLE = re.compile(
    r"^\$\{[^/]*|^\$[A-Za-z_]\w*"  # at the start of a path
    r"|(?<=/)\$[A-Za-z_]\w*(?=/|$)"  # a whole part of it
    r"|\$\{[A-Za-z_]\w*\}|\$[A-Z_][A-Z0-9_]+(?!\w)"  # anywhere with braces or in capitals: ``a$b`` may be a name
)


def home_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """``$CLOUD_TRAIN_HOME``, or ``~/.cloud-train``, absolute. Raises UsageError if it begins with a home folder that is not known."""
    written = environment.get("CLOUD_TRAIN_HOME") or "~/.cloud-train"
    try:
        return Path(written).expanduser().absolute()
    except RuntimeError as error:
        message = f"CLOUD_TRAIN_HOME: unknown home folder {Path(written).parts[0]!r}"
        if not environment.get("CLOUD_TRAIN_HOME"):
            message = "this user has no home folder, where runs would be kept"
        raise UsageError(message, hint="set CLOUD_TRAIN_HOME to a folder that you can write to") from error
    except FileNotFoundError as error:  # a relative path
        raise UsageError("the current folder was deleted", hint="change to another folder") from error


def mistake_in(path: str) -> tuple[str, str] | None:
    """What is wrong with a path or a store's URL as it is written, and what is expected; None for what may exist, and for other URLs."""
    if _ALMOST_URL.match(path):
        scheme, _, rest = path.partition(":/")
        return f"{path!r} is neither a URL nor a path", f"two slashes, as in {scheme.lower()}://{rest}"
    if "://" in path:
        return _mistake_in_url(path)
    if not has_home(path):
        return f"unknown home folder {Path(path).parts[0]!r}", "a path that starts with '~/', or an absolute path"
    if variable := _VARIABLE.search(path):
        return f"{variable[0]} is not replaced by the variable's value", "the path itself, or one that starts with '~/'"
    return None


def _mistake_in_url(url: str) -> tuple[str, str] | None:
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES and scheme.lower() in _SCHEMES:
        return f"the scheme {scheme}:// is not in lower case", f"{scheme.lower()}://{without_credentials(rest)}"
    if scheme in _STORES and (variable := _VARIABLE.search(rest)):
        return f"{variable[0]} is not replaced by the variable's value", "the URL with the value itself"
    return None


def has_home(path: str) -> bool:
    """Whether the home folder that ``path`` may begin with, such as ``~`` or ``~ada``, is known."""
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False
    return True


def is_there(path: Path) -> bool:
    """Whether ``path`` exists, as far as this user can see."""
    try:
        return path.exists()
    except OSError:  # the name is too long, or a folder above it is not accessible
        return False


def read_plain(path: Path, most: int) -> bytes | None:
    """The content of ``path``; None if it is not a regular file of at most ``most`` bytes. Never blocks. Raises OSError.

    Reads no more bytes than ``fstat`` reports: some kernel files (``/proc/kmsg``) look like empty regular files and block their reader.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            return None
        content = bytearray()
        while len(content) < found.st_size and (piece := os.read(descriptor, min(_PIECE_BYTES, found.st_size - len(content)))):
            content += piece
        return bytes(content)
    finally:
        os.close(descriptor)
