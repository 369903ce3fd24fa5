"""The run's containers, and a way to each machine's Docker Engine that can be cut, on this machine's real engine."""

import io
import random
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.docker_engine import base_image, engine_or_skip

if TYPE_CHECKING:
    from docker import DockerClient

IMAGE = "cloud-train-test/chaos:1"
_SOCKET = "/var/run/docker.sock"
_PIECE = 64 << 10
_HELD_SECONDS = 60.0
_DOCKERFILE = f"""
FROM {base_image()}
COPY pace.py /opt/chaos_pace.py
RUN python3 -c "import shutil, sysconfig; there = sysconfig.get_paths()['purelib']; \\
    shutil.copy('/opt/chaos_pace.py', f'{{there}}/chaos_pace.py'); open(f'{{there}}/chaos.pth', 'w').write('import chaos_pace')"
ENV CHAOS_HOST=container CHAOS_CLOCK_OF_WORKERS=/nowhere
"""
"""The base image of the tests, with the short intervals of ``pace``."""


@dataclass
class Containers:
    """The containers of one run."""

    engine: "DockerClient"
    run_id: str = ""

    def newest(self) -> Any | None:
        """The container that was created last; None if there is none."""
        return max(self._all(), key=lambda each: str(each.attrs["Created"]), default=None)

    def do(self, what: str) -> int:
        """``kill``, ``pause``, ``unpause`` or ``remove`` the newest container; returns how many that concerned."""
        found = self.newest()
        if found is None:
            return 0
        with suppress(self._refused()):  # it has ended, or was suspended already
            found.remove(force=True) if what == "remove" else getattr(found, what)()
            return 1
        return 0

    def unpause(self) -> int:
        """Let all continue."""
        count = 0
        for each in self._all():
            with suppress(self._refused()):
                each.unpause()
                count += 1
        return count

    def running(self) -> list[str]:
        """The attempt of each container that is running."""
        return [str(each.labels["cloud-train.attempt"]) for each in self._all() if each.status in ("running", "paused")]

    def remove(self) -> None:
        """Remove them all."""
        for each in self._all():
            with suppress(self._refused()):
                each.remove(force=True)

    def _all(self) -> list[Any]:
        about = {"label": f"cloud-train.run={self.run_id}"}
        return list(self.engine.containers.list(all=True, filters=about, ignore_removed=True)) if self.run_id else []

    @staticmethod
    def _refused() -> type[Exception]:
        from docker.errors import APIError

        refused: type[Exception] = APIError
        return refused


@contextmanager
def containers() -> Iterator[Containers]:
    """The containers of a run that has no id yet; removed at the end."""
    engine = engine_or_skip()
    _make_image(engine)
    found = Containers(engine)
    try:
        yield found
    finally:
        found.remove()
        engine.close()


def _make_image(engine: "DockerClient") -> None:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, data in (("Dockerfile", _DOCKERFILE.encode()), ("pace.py", Path(__file__).with_name("pace.py").read_bytes())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    context.seek(0)
    engine.images.build(fileobj=context, custom_context=True, tag=IMAGE, rm=True, network_mode="host")


class EngineLink:
    """The way from a machine to the engine: a socket of its own, whose connections are passed on as its state says."""

    def __init__(self, path: Path, seed: int) -> None:
        self.state = "calm"
        self._dice, self._calm = random.Random(f"engine {seed}"), threading.Event()
        self._calm.set()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._front = socket.socket(socket.AF_UNIX)
        self._front.bind(str(path))
        self._front.listen(64)
        self._threads = [threading.Thread(target=self._accept, name="engine link")]
        self._threads[0].start()

    def become(self, state: str) -> None:
        """``calm``, ``cut``, ``held``, ``slow``, ``flaky`` or ``unanswered``: what is asked for is done, and the answer is lost."""
        self.state = state
        if state == "calm":
            self._calm.set()
        else:
            self._calm.clear()
        if state == "cut":
            self._hang_up()

    def close(self) -> None:
        """Stop listening, and wait for the threads."""
        self.become("calm")
        with suppress(OSError):
            self._front.shutdown(socket.SHUT_RDWR)
        self._front.close()
        self._hang_up()
        for thread in self._threads:
            thread.join()

    def _hang_up(self) -> None:
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._front.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), name="engine link")
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        state, most = self.state, self._dice.choice([0, 40, 400]) if self._dice.random() < 0.4 else None
        with client, socket.socket(socket.AF_UNIX) as engine, suppress(OSError):
            if state == "cut":
                return
            if state in ("held", "slow"):
                self._calm.wait(_HELD_SECONDS if state == "held" else 0.7)
            engine.connect(_SOCKET)
            with self._lock:
                self._open |= {client, engine}
            back = threading.Thread(target=self._back, args=(engine, client, state, most), name="engine link, back")
            back.start()
            try:
                while piece := client.recv(_PIECE):
                    engine.sendall(piece)
            finally:
                with suppress(OSError):
                    engine.shutdown(socket.SHUT_WR)
                back.join()
                with self._lock:
                    self._open -= {client, engine}

    @staticmethod
    def _back(engine: socket.socket, client: socket.socket, state: str, most: int | None) -> None:
        """The answers; of an ``unanswered`` or ``flaky`` connection, at most so many bytes."""
        left = {"unanswered": 0, "flaky": most}.get(state)
        with suppress(OSError):
            while piece := engine.recv(_PIECE):
                if left is not None and len(piece) > left:
                    client.sendall(piece[:left])
                    break
                left = None if left is None else left - len(piece)
                client.sendall(piece)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
