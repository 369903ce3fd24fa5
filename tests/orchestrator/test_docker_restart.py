"""Restarting a Docker Engine in the middle of a run: a separate engine, because other tests use this machine's."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from cloud_train.docker.transport import opened
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.submitting import submit
from cloud_train.run.states import Cause, State
from tests.docker_engine import base_image, engine_or_skip
from tests.support import wait_until

WAITS_ONCE = 'echo ready; [ "$CLOUD_TRAIN_ATTEMPT" != 1 ] || exec sleep 600'


class OwnEngine:
    """A separate Docker Engine with all its files in one folder, in its own network namespace: otherwise an engine without a bridge would
    remove that of this machine's engine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = f"unix://{folder}/engine.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        folders = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "engine.pid"}
        options = [word for option, name in folders.items() for word in (option, str(self._folder / name))]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--net", "dockerd", "--host", self.address, *options, "--bridge", "none", "--iptables=false"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        wait_until(self._answers, f"an engine listens at {self.address}: {(self._folder / 'log').read_text()[-500:]}", 60)

    def crash(self) -> None:
        """Kill the engine; the containers' shims survive."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
        # Its containerd dies too, and may stay a zombie if process 1 does not reap it: a new one would wait for it.
        (self._folder / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def end(self) -> None:
        """Also ends what a crash left: mounts, and the containers' shims, which have the engine's folder in their command lines."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.Error):
                if any(str(self._folder) in word for word in process.info["cmdline"] or ()):
                    process.kill()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if Path(mount).is_relative_to(self._folder)), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)

    def _answers(self) -> bool:
        with suppress(OSError), opened(self.address) as engine:
            return bool(engine.ask("GET", "/_ping").status == 200)
        return False


@pytest.fixture
def own_engine() -> Iterator[OwnEngine]:
    engine_or_skip().close()
    if os.getuid() or not (shutil.which("dockerd") and shutil.which("unshare")):
        pytest.skip("a separate engine needs root, dockerd and unshare")
    with TemporaryDirectory(prefix="engine-", ignore_cleanup_errors=True) as folder:  # a short path: a socket's has at most 107 bytes
        engine = OwnEngine(Path(folder))
        try:
            engine.start()
            yield engine
        finally:
            engine.end()


def test_a_run_whose_engine_is_restarted_is_preempted_and_resumes(own_engine: OwnEngine, home: Home, tmp_path: Path) -> None:
    with subprocess.Popen(["/usr/bin/docker", "save", base_image()], stdout=subprocess.PIPE) as saved:
        subprocess.run(["/usr/bin/docker", "--host", own_engine.address, "load", "--quiet"], stdin=saved.stdout, check=True)
    (tmp_path / "code").mkdir()
    job = {
        "name": "restarted",
        "model": {"kind": "script", "command": WAITS_ONCE, "directory": "code"},
        "provider": "docker",
        "store": "runs",
        "image": {"base": base_image()},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    (tmp_path / "config.yaml").write_text(json.dumps({"docker": {"host": own_engine.address, "network": "none"}}))
    run = submit(home, make_plan(home, tmp_path / "job.yaml", config=str(tmp_path / "config.yaml")))
    wait_until(lambda: b"ready" in b"".join(read_logs(home, run.run_id)), "the program has begun")
    own_engine.crash()
    away = update_run(home, run.run_id)
    assert away.state is State.RUNNING  # nothing else is known while the engine is down
    own_engine.start()
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "the engine tells what became of the container", 60)
    ended = update_run(home, run.run_id)
    assert ended.cause is Cause.PREEMPTED, ended  # a restarted engine stops the containers that it finds
    resume(home, run.run_id)
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "the next attempt ends", 60)
    assert update_run(home, run.run_id).state is State.SUCCEEDED
