"""Reading metrics."""

import json
import tracemalloc
from pathlib import Path

import pytest

from cloud_train.run import metrics
from cloud_train.run.metrics import MergedMetrics, MetricPoint, MetricsReader, rejected_in
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


def read_all(*lines: bytes) -> tuple[list[MetricPoint], MetricsReader]:
    store = MemoryStore()
    store.put(segment_key(KEY, 0), b"".join(line + b"\n" for line in lines))
    reader = MetricsReader(store, RUN, 1)
    return list(reader.read()), reader


def test_a_line_may_have_any_number_of_metrics_with_their_splits_in_their_names() -> None:
    points, reader = read_all(
        b'{"step": 15, "loss": 0.3, "val_loss": 0.4, "test/acc": 1, "validation_f1": 0.5, "eval_bleu": 2, "valid/x": 3, "train_loss": 0.6}',
        b'{"epoch": 2, "loss": NaN, "lr": null, "note": "text", "step": 16.0, "time": 1795435200}',
        b'{"step": 17, "split": "validation", "loss": 0.2, "val_loss": 0.1}',
    )
    assert [(point.step, point.key, point.value) for point in points] == [
        (15, "train/loss", 0.3),
        (15, "validation/loss", 0.4),
        (15, "test/acc", 1.0),
        (15, "validation/f1", 0.5),
        (15, "validation/bleu", 2.0),
        (15, "validation/x", 3.0),
        (15, "train/loss", 0.6),
        (16, "train/loss", None),
        (16, "train/lr", None),
        (17, "validation/loss", 0.2),
        (17, "validation/val_loss", 0.1),
    ]
    assert [(point.epoch, point.time) for point in points][7:9] == [(2.0, 1795435200.0)] * 2
    assert reader.rejected.count == 0


def test_names_that_only_look_like_splits_stay_whole() -> None:
    points, _ = read_all(b'{"step": 1, "value_loss": 1, "validity": 2, "tester_x": 3, "val_": 4, "policy/loss": 5}')
    assert [point.key for point in points] == ["train/value_loss", "train/validity", "train/tester_x", "train/val_", "train/policy/loss"]


@pytest.mark.parametrize(
    "rejected",
    [
        b"not json",
        b"[1,2]",
        b"\xff\xfe",
        b'{"step": 3, "name": "loss"}',
        b'{"step": "5", "loss": 1}',
        b'{"loss": 0.5}',
        b'{"step": 4, "loss": "0.5"}',
        b'{"step": 4',
        b"{" + b" " * (1 << 20) + b"}",
    ],
)
def test_a_line_that_is_no_metric_is_counted_and_the_first_is_shown(rejected: bytes) -> None:
    points, reader = read_all(b'{"step": 1, "loss": 0.5}', b"", b"\r", rejected, b'{"step": 2, "loss": 0.5}', rejected)
    assert [point.step for point in points] == [1, 2]
    assert reader.rejected.count == 2
    assert reader.rejected.first.replace(" ", "") == rejected[:200].decode(errors="replace").replace(" ", "")
    assert str(reader.rejected).startswith('2 lines of the metrics were not understood; write lines such as {"step": 15, "loss": 0.3}')
    assert rejected_in(rejected + b"\n").count == 1


def test_the_first_rejected_line_is_that_of_the_file(tmp_path: Path) -> None:
    _, reader = read_all(b'{"step": 1, "loss": 2}', b"{step: 1}", b"bad", b'{"step": "x", "a": 1}')
    assert (reader.rejected.count, reader.rejected.first) == (3, "{step: 1}")
    assert rejected_in(b'{"step": 1}\nbad\n').first == '{"step": 1}'


def test_lines_with_many_metrics_are_thinned_as_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.put(KEY, b"".join(b'{"step": %d, "loss": %d, "val_loss": 1}\n' % (step, -step % 1000) for step in range(20_000)))
    monkeypatch.setattr(metrics, "_UNTHINNED_BYTES", 1000)
    kept = list(MetricsReader(store, RUN, 1).read_thinned())
    assert 100 < len(kept) < 30_000
    assert {point.key for point in kept} == {"train/loss", "validation/loss"}
    assert {point.value for point in kept if point.key == "train/loss"} >= {0.0, 999.0}
