"""Reading metrics."""

import json
import tracemalloc
from pathlib import Path

import pytest

from cloud_train.run.metrics import MergedMetrics, MetricPoint, MetricsReader
from cloud_train.run.streams import segment_key
from cloud_train.storage.base import Store
from cloud_train.storage.local import LocalStore
from tests.storage.memory_store import MemoryStore

RUN = "digits-261123-120000-abcd"
KEY = f"{RUN}/attempts/1/metrics/node-0.jsonl"


def line(step: int, value: float | None, name: str = "loss") -> bytes:
    return json.dumps({"step": step, "name": name, "value": value}).encode() + b"\n"


def test_only_what_was_added_is_read_again_and_a_half_line_waits(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    reader = MetricsReader(store, RUN, 1)
    assert list(reader.read()) == []
    store.put(KEY, line(1, 0.5) + line(2, 0.4)[:-3])
    assert [point.step for point in reader.read()] == [1]
    store.put(KEY, line(1, 0.5) + line(2, 0.4) + line(3, None))
    assert [(point.step, point.value) for point in reader.read()] == [(2, 0.4), (3, None)]


def test_a_line_that_is_no_metric_is_passed_over(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    junk = [
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"step": "x", "name": "a", "value": 1}\n',
        b"\xff\n",
        b'{"step": 1e999, "name": "a", "value": 1}\n',
    ]
    store.put(KEY, b"".join(junk) + b"[" * 100_000 + b"\n" + line(7, 1.0))
    assert [point.step for point in MetricsReader(store, RUN, 1).read()] == [7]


def test_of_more_than_one_look_reads_the_newest_are_read_from_a_whole_line_on(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    reader = MetricsReader(store, RUN, 1, most_bytes=3 * len(line(1, 0.5)) + 5)
    looks: list[tuple[list[int], bool]] = []
    for steps in (3, 9, 10):
        store.put(KEY, b"".join(line(step, 0.5) for step in range(steps)))
        looks.append(([point.step for point in reader.read()], reader.has_skipped))
    assert looks == [([0, 1, 2], False), ([6, 7, 8], True), ([9], True)]


def written(step: int, split: str, name: str, value: float) -> bytes:
    """A line as the worker writes it."""
    return f'{{"step": {step}, "epoch": 0.5, "time": 1795435200.000, "split": "{split}", "name": "{name}", "value": {value}}}\n'.encode()


@pytest.mark.parametrize("segment_bytes", [None, 700, 100_000])
def test_a_glance_reads_the_newest_and_finds_metrics_that_are_rare(segment_bytes: int | None, tmp_path: Path) -> None:
    lines = [written(1, "validation", "loss", 0.9), written(1, "validation", "accuracy", 0.1)]
    lines += [written(step, "train", "loss", step / 1000) for step in range(2, 9000)]
    lines.insert(6000, written(6000, "validation", "loss", 0.5))
    data = b"".join(lines)
    store: Store = LocalStore(tmp_path) if segment_bytes is None else MemoryStore()
    if segment_bytes is None:
        store.put(KEY, data)
    else:
        for start in range(0, len(data), segment_bytes):
            store.put(segment_key(KEY, start), data[start : start + segment_bytes])
    reader = MetricsReader(store, RUN, 1, most_bytes=2 * len(lines[-1]) + 9)
    assert [(point.step, point.key) for point in reader.read()] == [(8998, "train/loss"), (8999, "train/loss")]
    skipped = {point.key: (point.step, point.value) for point in reader.read_skipped() if point.split == "validation"}
    assert skipped == {"validation/loss": (6000, 0.5), "validation/accuracy": (1, 0.1)}


@pytest.mark.parametrize("cut", range(0, 150, 7))
def test_a_glance_finds_a_rare_metric_in_the_line_where_it_begins(cut: int, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put(KEY, written(1, "train", "loss", 0.5) + written(1, "validation", "loss", 0.25) + written(2, "train", "loss", 0.4))
    reader = MetricsReader(store, RUN, 1, most_bytes=len(written(2, "train", "loss", 0.4)) + cut)
    found = {point.key: point.value for point in reader.read()}
    for point in reader.read_skipped():
        found.setdefault(point.key, point.value)
    assert found == {"train/loss": 0.4, "validation/loss": 0.25}


def test_a_glance_at_few_metrics_reads_nothing_twice() -> None:
    store = MemoryStore()
    store.put(segment_key(KEY, 0), line(1, 0.5))
    reader = MetricsReader(store, RUN, 1, most_bytes=1000)
    assert len(list(reader.read())) == 1
    store.calls.clear()
    assert list(reader.read_skipped()) == []
    assert store.calls == []


GOOD = '{"step": 1, "name": "loss", "value": 0.5}'


@pytest.mark.parametrize(
    ("lines", "steps"),
    [
        ([GOOD, '{"step": 2, "name": "loss", "value": 1}, {"step": 3, "name": "loss", "value": 1}', GOOD], [1, 1]),
        ([GOOD, '{"step": 2, "name": "loss", "value": 1}, 7', GOOD], [1, 1]),
        (['{"step": 2, "name": "a', 'b", "value": 1}', GOOD], [1]),
        (['{"more": [{}', '{}], "step": 2, "name": "loss", "value": 1}', GOOD, "{}, {}"], [1]),
        (['{"more": {"step": 4', '"name": "loss", "value": 1}}', "{}, {}", GOOD], [1]),
        ([GOOD, '{"step": 2, "name": "\\u007b[", "value": 1}', '{"step": 3, "name": "{[", "value": 1}'], [1, 2, 3]),
        ([GOOD, '{"step": 2, "name": "loss", "value": 1' + "0" * 5_000 + "}", GOOD], [1, 1]),
    ],
)
def test_each_line_is_read_by_itself(lines: list[str], steps: list[int]) -> None:
    store = MemoryStore()
    store.put(segment_key(KEY, 0), "".join(f"{each}\n" for each in lines).encode())
    assert [point.step for point in MetricsReader(store, RUN, 1).read()] == steps


@pytest.mark.slow
def test_a_look_at_many_metrics_holds_no_more_of_them_than_a_piece(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put(KEY, b"".join(line(step, 0.5) for step in range(200_000)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in MetricsReader(store, RUN, 1).read()) == 200_000
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_where_an_attempt_repeats_a_step_the_later_attempt_counts() -> None:
    def point(attempt: int, step: int, value: float) -> MetricPoint:
        return MetricPoint(attempt, step, None, None, "train", "loss", value)

    points = [point(1, 1, 0.9), point(1, 2, 0.8), point(1, 3, 0.7), point(2, 2, 0.81), point(2, 3, 0.71)]
    metrics = MergedMetrics()
    for each in points:
        metrics.add(each)
    assert [(p.attempt, p.step, p.value) for p in metrics.points()] == [(1, 1, 0.9), (2, 2, 0.81), (2, 3, 0.71)]


def test_of_too_many_values_those_of_rare_metrics_and_the_newest_are_all_kept() -> None:
    kept = MergedMetrics(most_points=1_000)
    for step in range(20_000):
        kept.add(MetricPoint(1, step, None, None, "train", "loss", 1.0))
        if step % 100 == 0:
            kept.add(MetricPoint(1, step, None, None, "validation", "loss", 1.0))
    points = kept.points()
    train = [point.step for point in points if point.split == "train"]
    assert kept.is_thinned
    assert len(points) <= 1_000
    assert [point.step for point in points if point.split == "validation"] == list(range(0, 20_000, 100))
    assert (train[0], train[-1]) == (0, 19_999)
    assert train == sorted(train)
    assert len(train) > 300
