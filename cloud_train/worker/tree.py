"""The program's whole process tree: is any of it alive, tell it to stop, end it.

On Linux the worker is a *child subreaper* (prctl(2)): what loses its parent becomes the worker's own child, so nothing that the program
started can get out of sight, whatever session or process group it made for itself. Elsewhere only the process group can be watched.
"""

import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def become_subreaper() -> bool:
    """Adopt orphaned descendants of this process; False where the system has no such thing."""
    if sys.platform != "linux":
        return False
    import ctypes  # 1 ms, and only on Linux

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def group_is_alive(group: int) -> bool:
    """Whether any process of the group ``group`` is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there, and runs as somebody else
    return True


def tree_is_alive(group: int, helpers: Collection[int]) -> bool:
    """Whether the program, whose process group is ``group``, has left any process; ``helpers`` are the worker's own children."""
    return group_is_alive(group) or bool(_children() - set(helpers))


def terminate(group: int) -> None:
    """SIGTERM for the process group: a shell's children get it too, and a launcher hands it on to those in sessions of their own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)


def kill(group: int, helpers: Collection[int]) -> None:
    """SIGKILL for the process group and every descendant of this process, except the worker's own ``helpers``.

    What is being forked this very moment may escape: call it again until ``tree_is_alive`` says no.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    kill_children(helpers)


def kill_children(helpers: Collection[int] = ()) -> None:
    """SIGKILL for every descendant of this process except ``helpers``."""
    import psutil  # 20 ms, and only for a program that does not end by itself

    for process in psutil.Process().children(recursive=True):
        if process.pid not in helpers:
            with suppress(psutil.Error):
                process.kill()


def kill_marked(name: str, value: str) -> bool:
    """SIGKILL for every process of this user whose environment has ``name=value``; returns whether there was any.

    Finds what has lost its parent where nobody adopts it any more.
    """
    import psutil

    found = False
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                found = True
    return found


def _children() -> set[int]:
    """Direct children of this process, as far as the kernel lists them."""
    try:
        return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()}
    except OSError:
        return set()
