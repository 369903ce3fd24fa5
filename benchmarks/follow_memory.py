"""Memory of following a run for a day with ``logs --follow`` and ``submit --follow``, on a clock that the benchmark advances.

The worker's segments arrive every two seconds, with two lines and six metrics each, from a store behind a real client. The cloud's own
log, before the worker writes anything, comes from the simulators' log services at a line per second, and is polled once a minute. A day
takes ten minutes; ``HOURS`` in the environment shortens it.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._measure import ROOT, report, verdict
from benchmarks._s3_server import _Connection, _Object, _Server, _State
from cloud_train.providers.base import Handle, Provider
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.streams import segment_key
from tests.clouds.clock import VirtualClock

BUCKET, STORE = "bucket", "s3://bucket/runs"
RUN = "digits-cnn-261124-120000-abcd"
_HOURS = int(os.environ.get("HOURS", "24"))
_HEARTBEAT_SECONDS = 10.0
_KEPT_SEGMENTS = 50
"""Segments that a follower has passed are not requested again, so they need not be kept."""
_MOST_BEHIND_BYTES = 10_000
"""Output that a cloud's log service may not have delivered at the end: two minutes."""
_MOST_GROWTH_MIB = 1.0
"""Between hour 1 and the end: the allocator's own variation."""


@dataclass
class Feed:
    """The run directory as a worker fills it, and the simulated clock."""

    objects: dict[str, _Object]
    clock: VirtualClock = field(default_factory=VirtualClock)
    speaks: bool = True
    """Whether the worker has started."""
    platform: Callable[[str], None] | None = None
    """Writes a line to the cloud's own log."""
    bytes_printed: int = 0
    lines: int = 0
    _sizes: dict[str, int] = field(default_factory=dict)
    _kept: dict[str, list[str]] = field(default_factory=dict)
    _due: float = 0.0

    def pass_by(self, seconds: float) -> None:
        """Advance the clock, and write everything that falls into that time."""
        self.clock.advance(seconds)
        number = max(1, round(seconds))
        lines = [f"step {self.lines + each:09d} loss 0.123456789 accuracy 0.987654321 images/s 1234.5\n" for each in range(number)]
        self.lines += number
        if not self.speaks:
            for line in lines:
                self.bytes_printed += len(line.rstrip()) + len("gcp: ")
                if self.platform:
                    self.platform(line.rstrip())
            return
        self._segment(layout.output_log(1), "".join(lines).encode())
        self.bytes_printed += sum(map(len, lines))
        names = ("loss", "accuracy", "learning_rate")
        steps = range(self.lines - number, self.lines)
        points = [
            {"step": step, "time": self.clock.now(), "split": "train", "name": name, "value": 0.5} for step in steps for name in names
        ]
        self._segment(layout.metrics(1), "".join(f"{json.dumps(point)}\n" for point in points).encode())
        if self.clock.now() >= self._due:
            self._due = self.clock.now() + _HEARTBEAT_SECONDS
            self.status(None)

    def status(self, cause: Cause | None) -> None:
        """The status that the worker reports."""
        now = self.clock.now()
        status = AttemptStatus(State.RUNNING, started=1_700_000_000.0, heartbeat=now, host="there", pid=1)
        self._put(layout.status(1), (status if cause is None else status.ended_with(cause, "", now)).to_json())

    def _segment(self, stream: str, data: bytes) -> None:
        start = self._sizes.get(stream, 0)
        self._sizes[stream] = start + len(data)
        kept = self._kept.setdefault(stream, [])
        kept.append(self._put(segment_key(stream, start), data))
        if len(kept) > _KEPT_SEGMENTS:
            del self.objects[kept.pop(0)]

    def _put(self, key: str, data: bytes) -> str:
        whole = f"runs/{RUN}/{key}"
        self.objects[whole] = _Object(bytearray(data), f'"{len(data)}-{self.clock.now()}"', ())
        return whole


def main() -> None:
    """Measure and print."""
    rows = ["| who follows what | MiB after 1 h | MiB at the end | most |", "|---|---:|---:|---:|"]
    verdicts = []
    with tempfile.TemporaryDirectory() as name, _store() as (endpoint, state):
        cases = [("submit", "aws", True), ("logs", "aws", True), *(("logs", cloud, False) for cloud in ("aws", "gcp", "azure"))]
        for number, (verb, cloud, speaks) in enumerate(cases):
            folder = Path(name, str(number))
            state.objects[BUCKET] = {}
            first, last, most = _followed(verb, cloud, Feed(state.objects[BUCKET], speaks=speaks), folder, endpoint)
            what = f"`{verb} --follow`, {'the worker speaks' if speaks else 'only the cloud speaks'}, {cloud}"
            rows.append(f"| {what} | {first:.1f} | {last:.1f} | {most:.1f} |")
            verdicts.append(verdict(f"growth, {what}", last - first, _MOST_GROWTH_MIB, " MiB"))
    report(f"Memory of following for {_HOURS} hours", "\n".join(rows), "\n".join(verdicts))


def _followed(verb: str, cloud: str, feed: Feed, folder: Path, endpoint: str) -> tuple[float, float, float]:
    """MiB after the first hour, at the end, and at the peak."""
    with _cloud(cloud, feed, folder) as (environment, handle):
        with Ledger(folder / "home" / "ledger.sqlite3") as ledger:
            ledger.add(RUN, name="digits-cnn", provider=cloud, store=STORE, job_file=None, created=0.0, settings={}, record_sha256="")
            ledger.launched(RUN, 1, handle.reference)
        s3 = {"AWS_ENDPOINT_URL_S3": endpoint, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
        nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks._follower", verb, RUN, str(folder / "home"), "2" if feed.speaks else "60"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment, **s3, **nothing, "AWS_DEFAULT_REGION": "us-east-1"},
        ) as follower:
            assert follower.stdin is not None  # for the type checker
            assert follower.stdout is not None
            passed, marks = 0.0, list[float]()
            for line in follower.stdout:
                if line.startswith("told"):
                    told = int(line.split()[1])
                    break
                feed.pass_by(float(line))
                passed += float(line)
                while passed >= 3600 * (len(marks) + 1):
                    marks.append(_memory(follower.pid, "VmRSS"))
                if passed >= 3600 * _HOURS:
                    feed.status(Cause.SUCCEEDED)
                    most = _memory(follower.pid, "VmHWM")
                follower.stdin.write("\n")
                follower.stdin.flush()
    if told < feed.bytes_printed - _MOST_BEHIND_BYTES:
        raise RuntimeError(f"the follower received {told} bytes of {feed.bytes_printed}")
    return marks[0], marks[-1], most


def _memory(pid: int, what: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


@contextmanager
def _store() -> Iterator[tuple[str, _State]]:
    _Connection.state = _State()
    with _Server(("127.0.0.1", 0), _Connection) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", _Connection.state
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _cloud(name: str, feed: Feed, folder: Path) -> Iterator[tuple[dict[str, str], Handle]]:
    """A cloud with one job that waits for machines all day; ``feed`` writes to its log service."""
    clouds: dict[str, Callable[[Feed, Path], Any]] = {"aws": _aws, "gcp": _gcp, "azure": _azure}
    before = dict(os.environ)
    try:
        with clouds[name](feed, folder) as (environment, launch):
            os.environ.update(environment)
            yield environment, launch()
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _aws(feed: Feed, folder: Path) -> Iterator[tuple[dict[str, str], Callable[[], Handle]]]:
    from cloud_train.providers.aws.provider import SageMakerProvider
    from tests.clouds.aws_job import Timing
    from tests.clouds.aws_platform import LOG_GROUP
    from tests.clouds.aws_simulator import aws_cloud
    from tests.providers.aws_plans import plan_of

    with aws_cloud(clock=feed.clock, timing=Timing(starting=1e9)) as cloud:
        logs = cloud.simulator.client("logs")
        stream = {"logGroupName": LOG_GROUP, "logStreamName": f"{RUN}-1/algo-1-1"}
        if not feed.speaks:
            logs.create_log_group(logGroupName=LOG_GROUP)
            logs.create_log_stream(**stream)
        waiting: list[str] = []

        def platform(line: str) -> None:
            waiting.append(line)
            if len(waiting) == 60:
                import time

                now = int(time.time() * 1000)  # the log service rejects old entries by the real clock
                logs.put_log_events(**stream, logEvents=[{"timestamp": now, "message": each} for each in waiting])
                waiting.clear()

        feed.platform = platform
        provider = SageMakerProvider(folder)
        yield cloud.environment, lambda: _launched(provider, plan_of(cloud.settings, run_id=RUN))


@contextmanager
def _gcp(feed: Feed, folder: Path) -> Iterator[tuple[dict[str, str], Callable[[], Handle]]]:
    from cloud_train.providers.gcp.provider import VertexProvider
    from tests.clouds.gcp_jobs import Timing
    from tests.clouds.gcp_simulator import GcpSimulator
    from tests.providers.gcp_plans import plan_of

    with GcpSimulator(folder, clock=feed.clock, timing=Timing(queued=1e9)) as google:

        def platform(line: str) -> None:
            [job] = google.jobs.values()
            google.logging.write(job.identifier, "workerpool0-0", line)
            google.logging.keep(600)

        feed.platform = platform
        provider = VertexProvider(folder)
        yield google.environment, lambda: _launched(provider, plan_of(settings=google.settings, run_id=RUN))


@contextmanager
def _azure(feed: Feed, folder: Path) -> Iterator[tuple[dict[str, str], Callable[[], Handle]]]:
    from cloud_train.providers.azure.provider import AzureMlProvider
    from tests.clouds.azure_simulator import AzureSimulator
    from tests.providers.azure_plans import plan_of

    with AzureSimulator(clock=feed.clock) as azure:

        def platform(line: str) -> None:
            [job] = azure.jobs.values()
            name = job.log_name(0)
            job.logs[name] = job.logs.get(name, b"") + f"{line}\n".encode()

        feed.platform = platform
        provider = AzureMlProvider(folder)
        yield azure.environment, lambda: _launched(provider, plan_of(azure.settings, run_id=RUN))


def _launched(provider: Provider, plan: Any) -> Handle:
    return provider.launch(provider.render(plan), {})


if __name__ == "__main__":
    main()
