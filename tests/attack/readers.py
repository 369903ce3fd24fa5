"""Every reader of bytes from a store, each as a function of some bytes. None may raise anything but CloudTrainError.

What is read is used as the commands use it, so that a value which is accepted and then breaks what shows it is found as well.
"""

import json
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cloud_train.cli.output import words
from cloud_train.cli.output.terminal import clean
from cloud_train.data.shards import INDEX, ShardIndex, read_index
from cloud_train.errors import CloudTrainError
from cloud_train.orchestrator import adopting
from cloud_train.orchestrator.consent import NotTrustedError, Question
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.trust import accept
from cloud_train.run import documents, layout
from cloud_train.run.manifest import parse_manifest, read_manifest
from cloud_train.run.metrics import MergedMetrics, MetricsReader
from cloud_train.run.plan import Plan
from cloud_train.run.record import AttemptStatus, RunRecord
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.run.streams import LogReader, SegmentedStream, segment_key, stream_of
from cloud_train.run.view import instant
from cloud_train.storage.transfer.paths import place, unsafe
from cloud_train.worker.attempts.program import on_this_machine
from cloud_train.worker.ending import read_failure
from cloud_train.worker.status import NodeStatus
from tests.attack.run_directories import GOOD, run_directory
from tests.storage.memory_store import MemoryStore

Reader = Callable[[bytes], object]

_HOLD = tempfile.TemporaryDirectory(prefix="cloud-train-readers-")
FOLDER = Path(_HOLD.name)
_GOOD = run_directory(FOLDER / "store", GOOD)
_RECORD = (_GOOD / layout.RUN).read_bytes()
_STATUS = (_GOOD / layout.status(1)).read_bytes()
_DATABASE = sqlite3.connect(":memory:")


def record(data: bytes) -> None:
    """``run.json``, and what is taken from it without a model."""
    read = RunRecord.from_json(data, "run.json")
    assert RunRecord.from_json(read.to_json(), "run.json") == read
    instant(read.created)
    on_this_machine(read)
    read.program.retries(next(iter(read.program.retry_on), None) or AttemptStatus.from_json(_STATUS, "").cause, 1)  # type: ignore[arg-type]  # None: it is still running
    read.program.ranking.quality({}, 0)
    int(read.job.get("resources", {}).get("nodes", 1))
    read.plan.get("provider_settings", {}).get("endpoint")
    read.job.get("train", {}).get("epochs")


def plan(data: bytes) -> None:
    """``run.json`` on its way to a further attempt: the plan in it, and what the caller is asked about it."""
    read = RunRecord.from_json(data, "run.json")
    following = Plan.of_attempt(read, 2, "0" * 64)

    def printed(question: Question) -> bool:
        return not "".join(clean(text) for fact in question.facts for text in fact).isprintable()

    with suppress(NotTrustedError):
        accept(following, "no settings", read, printed)


def status(data: bytes) -> None:
    """``status.json``, and its way into a ledger."""
    read = AttemptStatus.from_json(data, "status.json")
    assert AttemptStatus.from_json(read.to_json(), "status.json") == read
    _keepable(read.message, read.host, read.launch, read.started, read.ended, read.resumed_step, read.program_exit_code, read.pid)
    for moment in (read.started, read.heartbeat, read.ended):
        instant(moment)
        words.when(moment, None)


def node_status(data: bytes) -> None:
    """The status of a further node."""
    read = NodeStatus.from_json(data, "status.json")
    assert NodeStatus.from_json(read.to_json(), "status.json") == read


def manifest(data: bytes) -> None:
    """``manifest.json``: every name that is accepted stays inside its folder."""
    read = parse_manifest(data, "manifest.json")
    for name, entry in read.files.items():
        assert unsafe(name) is None or name.split("/")[-1].startswith(".cloud-train-") or len(name) > 255
        f"{entry.size:,}"
        name.encode()
    json.dumps(dict(read.metrics), allow_nan=False)


def manifest_file(data: bytes) -> None:
    """``manifest.json`` as a file."""
    (FOLDER / layout.MANIFEST).write_bytes(data)
    read_manifest(FOLDER)


def mark(data: bytes) -> None:
    """``moved``, ``cancel``, ``start`` and ``next``."""
    store = MemoryStore()
    store.place("moved", data)
    text = documents.read_text(store, "moved")
    _keepable(text)
    layout.step_of(text)


def failure(data: bytes) -> None:
    """What a program says of its end."""
    (FOLDER / "failure").write_bytes(data)
    said = read_failure(FOLDER / "failure")
    assert isinstance(said.message, str)


def names(data: bytes) -> None:
    """Names of runs, attempts, checkpoints and segments."""
    text = data.decode(errors="surrogateescape")
    for name in (text, *text.split("\n")):
        number, step, found = documents.attempt_number(name), layout.step_of(name), stream_of(name)
        assert number is None or (str(number) == name and 1 <= number <= documents.MOST_ATTEMPTS)
        assert step is None or 0 <= step <= documents.LARGEST_STEP
        assert found is None or segment_key(*found) == name
        assert not documents.is_run_id(name) or (name.isascii() and name.replace("-", "").isalnum() and len(name) <= 59)
    placed = place(text.split("\n"), "", ignores_case=len(text) % 2 == 0)
    for path in placed.paths.values():
        assert ".." not in path.split("/")
        assert not path.startswith("/")


def metrics(data: bytes) -> None:
    """Metrics, as one object and in segments."""
    for half in (0, len(data) // 2):
        store = MemoryStore()
        key = f"run/{layout.metrics(1)}"
        for start, piece in ((0, data[:half]), (half, data[half:])):
            store.place(segment_key(key, start), piece)
        reader = MetricsReader(store, "run", 1)
        found = MergedMetrics()
        for point in (*reader.read(), *reader.read()):
            found.add(point)
        points = found.points()
        for point in points:
            json.dumps([point.step, point.epoch, point.time, point.split, point.name, point.value], allow_nan=False)
            words.number(point.value)
            _keepable(point.key)


def segments(data: bytes) -> None:
    """A stream whose segments begin and end anywhere: two bytes say where each begins, one how long it is, one how it is spelt."""
    store = MemoryStore()
    for at in range(0, min(len(data), 400) - 3, 4):
        offset, size, spelt = int.from_bytes(data[at : at + 2], "big"), data[at + 2], data[at + 3]
        key = [segment_key("log", offset), segment_key("log", offset * 10**10), "log", "log.٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠", "log.x"][spelt % 5]
        store.place(key, bytes([spelt]) * size)
    stream = SegmentedStream(store, "log")
    size, whole, position = stream.size(), b"", 0
    while piece := stream.read(position, position + 100):
        position += len(piece)
        whole += piece
        stream.forget(position)
    assert len(whole) == size
    stream.missing()


def log(data: bytes) -> None:
    """A log, from its end and from its beginning."""
    store = MemoryStore()
    store.place(segment_key("log", 0), data)
    for lines in (0, 1, 10, 1_000_000):
        reader = LogReader(store, "log")
        reader.skip_to_tail(lines)
        assert data.endswith(b"".join(reader.read()))


def shards(data: bytes) -> None:
    """The index of a sharded set."""
    read = ShardIndex.from_json(data, INDEX)
    assert ShardIndex.from_json(read.to_json(), INDEX) == read
    for shard in read.shards:
        assert unsafe(shard.name) is None
        assert all(end <= shard.size for end in map(sum, zip(shard.offsets, shard.sizes, strict=True)))


def shards_file(data: bytes) -> None:
    """The index as a file."""
    (FOLDER / INDEX).write_bytes(data)
    read_index(FOLDER / INDEX)


def arrivals(data: bytes) -> None:
    """What runs say to each other in a cache."""
    for kind in ("order", "failed"):
        (FOLDER / f".cloud-train-{kind}-run-0").write_bytes(data)
    (FOLDER / ".cloud-train-source").write_bytes(data)
    said = ShardExchange(FOLDER, "run")
    assert sorted(said.in_order([1, 2, 3])) == [1, 2, 3]
    _keepable(said.failure, said.source)


def run_directory_as_listed(data: bytes) -> None:
    """A run directory, with these bytes as its record, as its status, and as the name of an attempt."""
    name = data[:40].decode(errors="replace").replace("/", "").replace("\0", "")
    for written, stood, attempt in ((data, _STATUS, "1"), (_RECORD, data, "1"), (_RECORD, _STATUS, name)):
        store = MemoryStore()
        store.place(f"{GOOD}/{layout.RUN}", written)
        store.place(f"{GOOD}/{layout.ATTEMPTS}/{attempt}/status.json", stood)
        with suppress(CloudTrainError):
            entry = adopting._entry(store, store.url, GOOD)
            _keepable(*(value for value in vars(entry).values() if isinstance(value, str | int | float)))
            json.dumps(entry.view().to_json(), allow_nan=False)


def _planned() -> bytes:
    """A record with a whole plan."""
    job = FOLDER / "job.yaml"
    job.write_text("name: fuzzed\nmodel: {kind: script, command: 'true'}\nstore: runs\nsecrets: [A]\nenv: {B: c}\n")
    planned = make_plan(Home(FOLDER / "home"), job)
    return RunRecord(planned.run_id, 1.0, planned.job.model_dump(mode="json"), planned.program, planned.facts(), {}).to_json()


def _keepable(*values: object) -> None:
    """SQLite takes these, and they can be printed."""
    _DATABASE.execute(f"SELECT {', '.join('?' * len(values))}", values).fetchone()
    for value in values:
        str(value).encode()


READERS: dict[str, Reader] = {
    reader.__name__: reader
    for reader in (
        record,
        plan,
        status,
        node_status,
        manifest,
        manifest_file,
        mark,
        failure,
        names,
        metrics,
        segments,
        log,
        shards,
        shards_file,
        arrivals,
        run_directory_as_listed,
    )
}

HOSTILE: list[object] = [
    *(None, True, False, 0, -1, 1, 1.5, -1e300, 1e300, 10**30, 10**400, 2**63, 2**64, 999_999, 10**18, 1e-320),
    *(float("nan"), float("inf"), -float("inf"), "", "x", "\0", "\x1b[2J", "\ud800", "٧", "²", "..", "../x", "/etc/passwd", "a\\b", "a\nb"),
    *("x" * 300, "é" * 90, "failed", "running", "succeeded", [], {}, [[]], {"": None}, [1e999], {"size": 1, "sha256": "0" * 64}),
]
"""Values to put where others are expected."""

_MANIFEST = {
    "format": 1,
    "step": 7,
    "metrics": {"validation/loss": 0.5},
    "fingerprint": {"torch": "2.10"},
    "files": {"a/b.bin": {"size": 3, "sha256": "0" * 64}},
}
_SHARD = {"name": "s-0.tar", "part": "train", "size": 4096, "sha256": "0" * 64, "members": ["a/1.png"], "offsets": [512], "sizes": [3]}

EXAMPLES: dict[str, list[bytes]] = {
    "record": [_RECORD],
    "plan": [_planned()],
    "status": [_STATUS],
    "node_status": [_STATUS.rstrip(b"}\n") + b', "is_consequence": true}'],
    "manifest": [json.dumps(_MANIFEST).encode()],
    "manifest_file": [json.dumps(_MANIFEST).encode()],
    "mark": [b"s3://bucket/runs/run\n", b"step-00000012", b"at once\n"],
    "failure": [b'{"message": "no", "cause": "failed", "is_consequence": true}', b"plain text"],
    "names": [GOOD.encode(), b"1\n01\nstep-00000012\nlog.000000000000012\na/../b\n/x\nA\na"],
    "metrics": [b'{"step": 1, "epoch": 0.5, "time": 1795000000.0, "split": "train", "name": "loss", "value": 0.5}\n'],
    "segments": [bytes([0, 0, 10, 0, 0, 10, 10, 0, 0, 5, 200, 0])],
    "log": [b"one\ntwo\nthree"],
    "shards": [json.dumps({"format": 1, "classes": ["a", "b"], "shards": [_SHARD]}).encode()],
    "shards_file": [json.dumps({"format": 1, "classes": ["a", "b"], "shards": [_SHARD]}).encode()],
    "arrivals": [b"[3, 1, 2]"],
    "run_directory_as_listed": [_RECORD, _STATUS],
}
