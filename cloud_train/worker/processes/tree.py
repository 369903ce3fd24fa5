"""The program's whole process tree: check whether any of it is alive, stop it, kill it.

On Linux the worker is a *child subreaper* (prctl(2)): orphaned descendants become the worker's own children, so nothing that the program
started can escape, whatever session or process group it creates. On other systems only the process group can be watched.
"""

import os
import signal
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Adopt orphaned descendants of this process; False if the system does not support that."""
    if sys.platform != "linux":
        return False
    import ctypes  # takes 1 ms, and is only needed on Linux

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def deny_inspection() -> bool:
    """Keep this process's environment and memory from other processes of the same user (proc(5), /proc/PID/environ; ptrace(2)).

    Its forked children inherit that; a program that it starts does not. False where the system has no such thing.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def group_is_alive(group: int) -> bool:
    """Whether any process of the group exists."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and runs as another user
    return True


def tree_is_alive(group: int, helpers: Collection[int]) -> bool:
    """Whether any process of the program, in process group ``group`` or outside it, is alive; ``helpers`` are the worker's own children."""
    return group_is_alive(group) or has_children(helpers)


def has_children(helpers: Collection[int]) -> bool:
    """Whether the kernel lists children of this process other than ``helpers``."""
    return bool(_children() - set(helpers))


def terminate(group: int) -> None:
    """Send SIGTERM to the process group: a shell's children receive it too, and launchers forward it to processes in other sessions."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)


def kill(group: int, helpers: Collection[int]) -> None:
    """Send SIGKILL to the process group and every descendant of this process, except the worker's own ``helpers``.

    A process that is just being forked may escape: repeat this until ``tree_is_alive`` returns False.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    kill_children(helpers)


def kill_children(helpers: Collection[int] = ()) -> None:
    """Send SIGKILL to every descendant of this process except ``helpers``."""
    parents = _parents()
    for pid in parents:
        if pid not in helpers and os.getpid() in _ancestors(pid, parents):
            _kill(pid)


def kill_marked(name: str, value: str) -> bool:
    """Send SIGKILL to every process of this user whose environment has ``name=value``; returns whether there was any.

    This also finds orphans that are not adopted by a subreaper.
    """
    mark, found = f"{name}={value}", False
    for pid in _parents():
        if pid != os.getpid() and mark in _environment(pid):
            _kill(pid)
            found = True
    return found


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _parents() -> dict[int, int]:
    """Every live process and its parent. On Linux this needs no package, because images only have to contain the worker's own code."""
    if sys.platform != "linux":
        import psutil

        return {
            each.pid: each.info["ppid"] for each in psutil.process_iter(["ppid", "status"]) if each.info["status"] != psutil.STATUS_ZOMBIE
        }
    parents = {}
    for folder in os.listdir("/proc"):  # noqa: PTH208 -- creating paths for thousands of processes would take longer than reading them
        if folder.isdigit():
            with suppress(OSError):
                # proc_pid_stat(5): pid (name) state parent …; the name may contain anything, including parentheses.
                state, parent = Path(f"/proc/{folder}/stat").read_bytes().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    parents[int(folder)] = int(parent)
    return parents


def _ancestors(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    seen = {pid}  # reading thousands of processes is not atomic: a reused process id could create a cycle
    while (parent := parents.get(pid)) is not None and parent not in seen:
        yield parent
        seen.add(parent)
        pid = parent


def _environment(pid: int) -> Collection[str]:
    if sys.platform != "linux":
        import psutil

        with suppress(psutil.Error, OSError):
            return {f"{name}={value}" for name, value in psutil.Process(pid).environ().items()}
        return ()
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
    return ()


def _children() -> set[int]:
    """Direct children of this process that the kernel lists."""
    try:
        return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()}
    except OSError:
        return set()
