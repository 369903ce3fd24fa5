"""The command line for tests: a real process with pipes, or on its own pseudo-terminal."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cloud_train.run.documents import is_run_id
from tests.cli import preloaded

_DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        """The whole of standard output as one JSON document."""
        return json.loads(self.out)


@dataclass(frozen=True)
class CommandLine:
    """``cloud-train`` with a separate home and environment."""

    home: Path
    folder: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str | Path, **variables: str) -> Ended:
        words = [str(argument) for argument in arguments]
        if not variables:
            status, out, err = preloaded.run(words, self.folder, self.environment, _DEADLINE_SECONDS)
            return Ended(status, out, err.decode())
        ended = subprocess.run(
            [sys.executable, "-m", "cloud_train", *words],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE_SECONDS,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr.decode())

    def job(self, command: str, name: str = "script", more: str = "") -> Path:
        """A script job that runs ``command`` in a shell; its file is ``<name>.yaml``."""
        path = self.folder / f"{name}.yaml"
        text = f"name: {name}\nmodel:\n  kind: script\n  command: {json.dumps(command)}\nstore: {self.folder / 'runs'}\n{more}"
        path.write_text(text, encoding="utf-8")
        return path

    def submit(self, command: str, name: str = "script", more: str = "") -> str:
        """Run such a job to its end; returns the run's id."""
        ended = self("submit", self.job(command, name, more), "--follow")
        run_id = ended.out.partition(b"\n")[0].decode()
        assert is_run_id(run_id), ended
        return run_id

    def terminal(self, *arguments: str | Path, variables: dict[str, str] | None = None, columns: int = 120, rows: int = 30) -> "Terminal":
        """The command on a terminal."""
        environment = {**self.environment, "TERM": "xterm-256color", **(variables or {})}
        return Terminal([sys.executable, "-m", "cloud_train", *map(str, arguments)], self.folder, environment, columns, rows)


def command_line_of(folder: Path) -> CommandLine:
    """A command line with its home and its working directory in ``folder``, and without the tester's own settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUD_TRAIN")}
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR", "PYDANTIC_DISABLE_PLUGINS"):  # tests in this process set the last one
        environment.pop(name, None)
    home, work = folder / "home", folder / "work"
    work.mkdir()
    return CommandLine(home, work, {**environment, "HOME": str(folder), "CLOUD_TRAIN_HOME": str(home)})


class Terminal:
    """A process on a pseudo-terminal: its output and its input. It is killed if it still runs when the block ends."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], columns: int, rows: int) -> None:
        self.shown = b""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen = ours
        self._process = subprocess.Popen(
            # A new session with this terminal as its controlling one, so that Ctrl-C becomes SIGINT.
            ["/usr/bin/env", "setsid", "--ctty", "--wait", *command],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._screen)  # hangs up the terminal: processes on it get SIGHUP
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def press(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def wait_for(self, text: str) -> None:
        """Read until ``text`` was shown."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while text.encode() not in self.shown:
            if not self._read(deadline):
                raise AssertionError(f"the command ended without showing {text!r}; it showed {self.shown!r}")

    def end(self) -> int:
        """Read until the command ends; returns its exit status."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while self._read(deadline):
            pass
        return self._process.wait(_DEADLINE_SECONDS)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"waited {_DEADLINE_SECONDS:g} s; the terminal shows {self.shown!r}")
        try:
            piece = os.read(self._screen, 65536)
        except OSError:  # EIO on Linux, once the last process on the terminal has ended
            return False
        self.shown += piece
        return bool(piece)
