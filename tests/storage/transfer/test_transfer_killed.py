"""Transfers whose process is killed in the middle, on a real server: an upload is sent again, a download is resumed."""

import hashlib
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cloud_train.storage.base import ObjectMissingError
from cloud_train.storage.registry import open_store
from tests.answers import Request
from tests.faults import Fault, FaultProxy
from tests.stores import server_or_skip, use

PART = 5 << 20  # what S3 takes at least
PARTS = 8
_TRANSFER = """
import sys
from pathlib import Path
from cloud_train.storage.base import ObjectMissingError
from cloud_train.storage.registry import open_store
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.engine import Options, Summary
from cloud_train.storage.transfer.progress import Progress
from cloud_train.storage.transfer.uploading import Upload, upload
direction, url, path, size, part, state = sys.argv[1:]
options = Options(threads=2, part_bytes=int(part), state=Path(state))
files = {"up": lambda: [Upload(Path(path), "large")], "down": lambda: [Download("large", Path(path), int(size))]}[direction]()
summary = {"up": upload, "down": download}[direction](open_store(url), files, options)
print(summary.files, summary.resumed_parts)
"""


class Hold:
    """A plan that lets so many requests of a kind through, and holds the others until it is told."""

    def __init__(self, method: str, containing: str, let: int) -> None:
        self.held = threading.Event()
        self.go_on = threading.Event()
        self._method, self._containing, self._left = method, containing, let
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        if request.method == self._method and self._containing in request.target and "large" in request.target:
            with self._lock:
                self._left -= 1
                hold = self._left < 0
            if hold:
                self.held.set()
                assert self.go_on.wait(60)
        return None


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(random.Random(0).randbytes(PART * PARTS - 5))
    return path


def start(direction: str, url: str, path: Path, size: int, state: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _TRANSFER, direction, url, str(path), str(size), str(PART), str(state)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_in_the_middle(proxy: FaultProxy, hold: Hold, process: "subprocess.Popen[str]") -> None:
    proxy.plan = hold
    with process:
        assert hold.held.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    hold.go_on.set()
    proxy.plan = lambda request: None


def finish(process: "subprocess.Popen[str]") -> tuple[int, int]:
    with process:
        assert process.stdout is not None
        files, resumed = process.stdout.read().split()
    return int(files), int(resumed)


def test_an_upload_that_was_killed_shows_no_object_and_is_sent_again(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_or_skip("s3")
    url = server.new_url()
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        kill_in_the_middle(proxy, Hold("PUT", "partNumber", 4), start("up", url, large, 0, tmp_path / "state"))
        use(server, monkeypatch)
        with pytest.raises(ObjectMissingError):
            open_store(url).stat("large")
        use(server, monkeypatch, proxy.endpoint)
        before = proxy.sent("PUT", "partNumber")
        assert finish(start("up", url, large, 0, tmp_path / "state")) == (1, 0)
        assert proxy.sent("PUT", "partNumber") - before == PARTS
    use(server, monkeypatch)
    assert open_store(url).stat("large").sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    assert hashlib.sha256(open_store(url).get("large")).hexdigest() == hashlib.sha256(large.read_bytes()).hexdigest()


def test_a_download_that_was_killed_fetches_only_the_parts_that_are_missing(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_or_skip("s3")
    url, target = server.new_url(), tmp_path / "to" / "large"
    with FaultProxy(server) as proxy:
        use(server, monkeypatch)
        assert finish(start("up", url, large, 0, tmp_path / "state")) == (1, 0)
        use(server, monkeypatch, proxy.endpoint)
        kill_in_the_middle(proxy, Hold("GET", "large", 4), start("down", url, target, large.stat().st_size, tmp_path / "state"))
        assert not target.exists()
        before = proxy.sent("GET", "large")
        files, resumed = finish(start("down", url, target, large.stat().st_size, tmp_path / "state"))
        again = proxy.sent("GET", "large") - before
    assert (files, resumed + again) == (1, PARTS)
    assert resumed >= 3  # of the four that were answered, one may have been on its way to the disk
    assert target.read_bytes() == large.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["large"]
