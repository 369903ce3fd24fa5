"""Decides which folders of this machine may be mounted into a container as its data.

A job names its data folder, and the job may come from a stranger. A read-only mount protects neither keys nor sockets nor processes: a
container can read keys, connect to sockets, and reach the whole disk through ``/proc/PID/root``. So a folder that contains any of these, or
is inside such a place, is refused. Only the user can know whether the data itself is private.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_KERNEL = frozenset(
    {
        *("proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "bpf", "configfs"),
        *("efivarfs", "pstore", "binfmt_misc", "mqueue"),
    }
)
"""Linux file systems that give access to the kernel, devices or processes (``Documentation/filesystems``)."""
_SYSTEM = (
    *("/etc", "/boot", "/var/log", "/var/spool", "/run/user", "/run/secrets", "/run/credentials"),
    *("/run/containerd", "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/lib/kubelet"),
)
_SHARED_CACHES = (".cache", ".keras", ".torch", ".fastai")
"""Hidden folders in a home folder that commonly hold data sets."""
_KEY_FILES = (
    *(".git-credentials", ".netrc", "_netrc", ".pgpass", ".npmrc", ".pypirc", ".s3cfg", ".vault-token", ".env", "kaggle.json", "token"),
    *("id_rsa", "id_ed25519", "id_ecdsa", "id_dsa", "shadow", "application_default_credentials.json"),
)
"""Files that show that the folder they are in holds keys or logins."""
_MOST_ENTRIES = 20_000


def problems_of(data: Path, sockets: Iterable[str]) -> Iterator[str]:
    """The reason why ``data`` may not be mounted, for a provider's ``check``; at most one.

    ``sockets`` are paths of sockets that must stay unreachable, besides all sockets on which a program is listening now.
    """
    if not data.exists():
        yield f"data.path: no such file or folder: {data}"
        return
    real = data.resolve()
    if real == Path("/"):
        yield "data.path: / is the whole machine; use the folder that contains the data"
    elif kernel := _kernel_mount(real):
        yield f"data.path: {data} would expose {kernel}, through which a container reaches this machine"
    elif socket := next((each for each in (*sockets, *_listening()) if Path(each).resolve().is_relative_to(real)), _socket_in(real)):
        yield f"data.path: {data} contains the socket {socket}, which a container could connect to"
    elif _is_home_or_above(real):
        yield f"data.path: {data} is your home folder or contains it; use the folder that contains the data"
    elif private := _overlapping(real, _private_folders()):
        yield f"data.path: {data} would expose {private}, which may hold keys and logins, to the container"
    elif key := next((name for name in _KEY_FILES if (real / name).is_file()), None):
        yield f"data.path: {data} contains {key}, which holds a key or a login; move the data to a folder without it"


def _overlapping(real: Path, places: Iterable[Path]) -> Path | None:
    return next((place for place in places if real.is_relative_to(place) or place.is_relative_to(real)), None)


def _kernel_mount(real: Path) -> Path | None:
    """The kernel's file system that contains ``real``, or is mounted below it; None on a system without /proc."""
    kinds = dict(_mounts())
    around = [place for place in kinds if real.is_relative_to(place)]
    own = max(around, key=lambda place: len(place.parts), default=None)
    if own is not None and kinds[own] in _KERNEL:
        return own
    return next((place for place, kind in kinds.items() if kind in _KERNEL and place.is_relative_to(real)), None)


def _mounts() -> Iterator[tuple[Path, str]]:
    """Each mount point and its type of file system, in the order of mounting (proc(5), /proc/PID/mountinfo)."""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            place, _, kind = line.partition(" - ")
            name = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place.split(" ")[4])  # a space is written as \040
            yield Path(name), kind.split(" ")[0]


def _listening() -> Iterator[str]:
    """The paths of all Unix sockets on which programs in this network namespace listen (proc(5), /proc/net/unix)."""
    with suppress(OSError):
        for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[7].startswith("/"):
                yield fields[7]


def _socket_in(real: Path) -> Path | None:
    """A socket in the folder or its direct subfolders, among the first entries: /proc/net/unix does not resolve relative paths."""
    if not real.is_dir():
        return real if stat.S_ISSOCK(real.stat().st_mode) else None
    folders, seen = [real], 0
    for depth in range(2):
        inner: list[Path] = []
        for folder in folders:
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    if seen > _MOST_ENTRIES:
                        return None
                    if entry.is_dir(follow_symlinks=False):
                        inner.append(Path(entry.path))
                    elif not (entry.is_file(follow_symlinks=False) or entry.is_symlink()) and stat.S_ISSOCK(entry.stat().st_mode):
                        return Path(entry.path)
        folders = inner if depth == 0 else []
    return None


def _is_home_or_above(real: Path) -> bool:
    with suppress(RuntimeError):  # no home folder is known
        return Path.home().resolve().is_relative_to(real)
    return False


def _private_folders() -> Iterator[Path]:
    """Folders with keys, logins or data of the system, which no job needs."""
    yield from (Path(each) for each in _SYSTEM if Path(each).exists())
    with suppress(RuntimeError):  # no home folder is known
        home = Path.home().resolve()
        for entry in sorted(home.iterdir()) if home.is_dir() else ():
            if entry.name.startswith(".") and entry.name not in _SHARED_CACHES:
                yield entry
