"""Locks between processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from cloud_train import locks
from tests.support import wait_until

HOLDER = (
    "import sys, time; from pathlib import Path; from cloud_train import locks;"
    "locks.take(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
)


def test_a_lock_is_free_as_soon_as_its_holder_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        assert locks.is_held(path)
        assert locks.take(path) is None
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: not locks.is_held(path), "the lock is free")


def test_a_lock_stays_with_the_process_that_the_descriptor_was_handed_to(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = locks.take(path)
    assert descriptor is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(descriptor,)) as heir:
        os.close(descriptor)
        assert locks.is_held(path)
        heir.communicate(b"\n")
    assert not locks.is_held(path)


def test_a_lock_held_for_a_block_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with locks.held(path) as mine:
        assert mine
        with locks.held(path) as second:
            assert not second
        assert locks.is_held(path)
    assert not path.exists()
