"""Folders that a worker can write on a cloud's machine: opened as root where the image starts as root, otherwise found among candidates.

SageMaker's ``/opt/ml`` and ``/tmp``, which are on the machine's large disk, belong to root, and other users cannot write to them
(https://github.com/aws/sagemaker-python-sdk/pull/4325 changes their mode as root before the program starts). So an image for SageMaker
starts as root: the worker opens these folders, and becomes the image's user before it reads or runs anything of the job. An image without
that start, whose user cannot write to ``/tmp``, gets the first of the candidates below, on the container's own disk.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from cloud_train import exit_status
from cloud_train.errors import StoreError, UsageError
from cloud_train.run.platform_rules import RUN_AS

_OPENED = {
    "sagemaker": {
        "/tmp": 0o1777,
        **dict.fromkeys(("/opt/ml/model", "/opt/ml/output", "/opt/ml/output/data", "/opt/ml/checkpoints"), 0o777),
    }
}
"""Platform → its folders that programs may expect to write to, each with the mode that makes them writable for every user."""
_LARGE = "/opt/ml"
"""On SageMaker's machines, the large disk."""
_FOLDER = "cloud-train"


class WorkspaceError(StoreError):
    """The worker can write to no folder of its machine. The store has no part in this."""

    code: ClassVar[str] = "workspace"
    exit_code: ClassVar[int] = exit_status.WORKSPACE


def become_user(platform: str, environment: MutableMapping[str, str] = os.environ, root: Path = Path("/")) -> None:
    """Open the platform's folders to every user, then become the image's user, if this process is root and the image says so.

    Raises UsageError for a user that the image does not have.
    """
    user = environment.pop(RUN_AS, "")
    if not user or os.geteuid() != 0:
        return
    for folder, mode in _OPENED.get(platform, {}).items():
        with suppress(OSError):
            (root / folder.lstrip("/")).chmod(mode)
    uid, gid, groups = ids_of(user)
    try:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
    except OSError as error:  # in a container that may not change its user: root is what the platform started
        print(f"cannot become user {user}: {os.strerror(error.errno or 0).lower()}; continuing as root", file=sys.stderr)


def ids_of(user: str) -> tuple[int, int, list[int]]:
    """User id, group id and supplementary groups of an image's ``User``, by the rules of Docker; raises UsageError for an unknown name."""
    import grp
    import pwd

    name, _, group = user.partition(":")
    try:
        known = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        if not name.isdecimal():
            raise UsageError(f"the image has no user {name!r}", hint="add it to the image's /etc/passwd, or use its number") from None
        known = None
    try:
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid if group else known.pw_gid if known else 0
    except KeyError:
        raise UsageError(f"the image has no group {group!r}", hint="add it to the image's /etc/group, or use its number") from None
    groups = [each.gr_gid for each in grp.getgrall() if known and known.pw_name in each.gr_mem] if not group else []
    return known.pw_uid if known else int(name), gid, groups


def settle(workspace: Path, environment: MutableMapping[str, str] = os.environ) -> Path:
    """A folder for the workspace that can be written: ``workspace``, or one of the candidates.

    If it is a candidate, HOME, TMPDIR and CLOUD_TRAIN_HOME are set to folders beside it, because what they point to cannot be written
    either. Candidates are folders on a disk; ``/dev/shm`` is memory. Raises WorkspaceError if nothing can be written.
    """
    if _can_write(workspace):
        return workspace
    tried = [workspace]
    for candidate in _candidates(environment):
        home = candidate / _FOLDER
        if _can_write(home / "tmp"):
            environment.update(HOME=str(home), TMPDIR=str(home / "tmp"), CLOUD_TRAIN_HOME=str(home))
            return home / "work"
        tried.append(home)
    raise WorkspaceError(
        f"cannot write to any folder of this machine as user {os.geteuid()}: tried {', '.join(map(str, tried))}",
        hint="make /tmp writable for the image's user, or let the image start as root",
    )


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    """Folders that the image's user may be able to write to, those on large disks first."""
    yield Path(_LARGE)
    for name in ("TMPDIR", "HOME"):
        if environment.get(name):
            yield Path(environment[name])
    with suppress(KeyError, RuntimeError, ImportError):
        import pwd

        yield Path(pwd.getpwuid(os.geteuid()).pw_dir)
    yield Path("/var/tmp")
    yield Path.cwd()


def _can_write(folder: Path) -> bool:
    """Whether a file in ``folder``, which is made if necessary, can be written."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError:
        return False
    return True
