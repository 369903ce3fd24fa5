"""Processes of ``python -m cloud_train`` that begin with everything imported: a server imports the package and forks one for each command.

Each command is a process of its own, with its own environment, working directory, pipes and exit status. What it leaves out is the start of
the interpreter and the imports, most of a short command's time; what those do is tested with real starts (tests/test_imports.py, and
everything that runs on a terminal).
"""

import array
import atexit
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PER_TEST = ("HOME", "CLOUD_TRAIN_HOME", "PYTEST_CURRENT_TEST", "PWD")
"""The variables that may differ between the commands of one server: nothing reads them at import."""
PRELOADED = ("orchestrator.reconcile", "orchestrator.resuming", "orchestrator.packaging", "orchestrator.packing", "storage.registry")
"""Beside the verbs: what these import inside functions."""
_LARGEST_REQUEST = 1 << 20


def run(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float) -> tuple[int, bytes, bytes]:
    """Run a command to its end; returns its exit status, its standard output and its standard error.

    Raises TimeoutExpired after ``seconds``, and kills the command.
    """
    (our_out, out), (our_err, err) = os.pipe(), os.pipe()
    connection = _server(tuple(sorted((name, value) for name, value in environment.items() if name not in PER_TEST)))
    request = json.dumps({"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}).encode()
    assert len(request) < _LARGEST_REQUEST
    socket.send_fds(connection, [request], [out, err])
    os.close(out)
    os.close(err)
    pid = int(connection.recv(64))
    try:
        read = _read_all((our_out, our_err), seconds)
    except TimeoutError as error:
        os.kill(pid, signal.SIGKILL)
        raise subprocess.TimeoutExpired(["cloud-train", *arguments], seconds) from error
    finally:
        status = int(connection.recv(64))
    return status, read[our_out], read[our_err]


def _read_all(pipes: Sequence[int], seconds: float) -> dict[int, bytes]:
    """All that comes out of the pipes, until everything that holds their other ends has closed them."""
    read = dict.fromkeys(pipes, b"")
    deadline = time.monotonic() + seconds
    try:
        with selectors.DefaultSelector() as selector:
            for pipe in pipes:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise TimeoutError
                for key, _ in ready:
                    piece = os.read(key.fd, 65536)
                    read[key.fd] += piece
                    if not piece:
                        selector.unregister(key.fd)
    finally:
        for pipe in pipes:
            os.close(pipe)
    return read


@cache
def _server(environment: tuple[tuple[str, str], ...]) -> socket.socket:
    """The connection to the server for an environment: started at its first use, ended with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own = {**dict(environment), "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), dict(environment).get("PYTHONPATH")]))}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.preloaded", str(theirs.fileno())],
        env=own, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(connection: socket.socket) -> None:
    """Fork a process for each request, and tell how it ended. Returns in such a process, which has become what the request says."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, _LARGEST_REQUEST, 2)
        if not request:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            connection.close()
            _become(json.loads(request), descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(pid).encode())
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _become(request: dict[str, object], descriptors: "Sequence[int] | array.array[int]") -> None:
    for descriptor, number in zip(descriptors, (1, 2), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]  # of texts, as all of a request
    os.chdir(str(request["folder"]))
    sys.argv[1:] = request["arguments"]  # type: ignore[call-overload]  # a list of texts
    sys.path[:] = [str(request["folder"]), *(each for each in sys.path if Path(each) != ROOT)]  # as ``python -m`` has it


def _preload() -> None:
    from cloud_train.cli.main import VERBS
    from cloud_train.environment import set_for_this_process

    set_for_this_process("PYDANTIC_DISABLE_PLUGINS", "__all__")  # as the command does before it imports anything
    for name in (*(f"cli.verbs.{module}" for module, _ in VERBS.values()), *PRELOADED):
        importlib.import_module(f"cloud_train.{name}")


if __name__ == "__main__":
    _preload()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("cloud_train", run_name="__main__", alter_sys=True)
