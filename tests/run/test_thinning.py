"""Thinning metrics while reading: what a table of epochs and a plot show is the same as without it."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_train.run import metrics
from cloud_train.run.metrics import MetricPoint, MetricsReader
from cloud_train.run.streams import segment_key
from cloud_train.run.thinning import telling_lines
from cloud_train.storage.local import LocalStore
from cloud_train.worker.metrics import MetricsWriter
from tests.storage.memory_store import MemoryStore

RUN = "digits-261123-120000-abcd"
KEY = f"{RUN}/attempts/1/metrics/node-0.jsonl"


def written(folder: Path, steps: int, steps_per_epoch: int, value: Callable[[int], float]) -> bytes:
    """Metrics as the worker's own writer writes them: the loss and a constant of every step, the accuracy of every epoch."""
    path = folder / "metrics.jsonl"
    writer = MetricsWriter(path)
    for step in range(1, steps + 1):
        writer.add(step, step / steps_per_epoch, "train", {"loss": value(step), "learning_rate": 1e-3})
        if step % steps_per_epoch == 0:
            writer.add(step, step / steps_per_epoch, "validation", {"accuracy": step / steps})
    writer.flush()
    return path.read_bytes()


def last_of_epochs(points: list[MetricPoint]) -> dict[tuple[str, int], tuple[int, float | None]]:
    return {(point.key, math.ceil(point.epoch or 1)): (point.step, point.value) for point in points}


def extremes(points: list[MetricPoint]) -> dict[str, tuple[float, float]]:
    values: dict[str, list[float]] = {}
    for point in points:
        if point.value is not None:
            values.setdefault(point.key, []).append(point.value)
    return {key: (min(each), max(each)) for key, each in values.items()}


@pytest.mark.parametrize("kind", ["file", "segments"])
@pytest.mark.parametrize("steps_per_epoch", [7, 100, 3_000, 10**6])
def test_the_last_value_of_each_epoch_and_the_lowest_and_highest_of_all_are_kept(
    kind: str, steps_per_epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(0)
    data = written(tmp_path, 20_000, steps_per_epoch, lambda step: math.nan if step % 997 == 0 else chance.gauss(0, 1) + step)
    store = LocalStore(tmp_path / "store") if kind == "file" else MemoryStore()
    if isinstance(store, LocalStore):
        store.put(KEY, data)
    else:
        for start in range(0, len(data), 50_000):
            store.put(segment_key(KEY, start), data[start : start + 50_000])
    every = list(MetricsReader(store, RUN, 1).read())
    monkeypatch.setattr(metrics, "_UNTHINNED_BYTES", 1000)
    kept = list(MetricsReader(store, RUN, 1).read_thinned())
    assert last_of_epochs(kept) == last_of_epochs(every)
    assert extremes(kept) == extremes(every)
    assert [point.step for point in kept] == sorted(point.step for point in kept)
    assert steps_per_epoch < 100 or len(kept) < len(every) / 10


FORMS: dict[str, Callable[[dict[str, Any]], str]] = {
    "without spaces": lambda fields: json.dumps(fields, separators=(",", ":")),
    "another order": lambda fields: json.dumps(dict(sorted(fields.items(), reverse=True))),
    "further fields": lambda fields: json.dumps({"tags": [{"a": 1}], **fields, "note": "a } and a {"}),
    "with odd lines": lambda fields: "[]\n{}\n" + json.dumps(fields) + '\n{"step": -1, "name": "loss", "value": 1e9}\n{"half": ',
    "short": lambda fields: json.dumps({key: fields[key] for key in ("step", "name", "value")}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps_per_epoch", [100, pytest.param(3_000, marks=pytest.mark.slow)])
def test_lines_of_any_form_are_thinned_alike(form: str, steps_per_epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    data = written(tmp_path, 20_000, steps_per_epoch, lambda step: math.nan if step % 997 == 0 else chance.gauss(0, 1) + step)
    lines = [FORMS[form](json.loads(line)) for line in data.splitlines()]
    store = LocalStore(tmp_path / "store")
    store.put(KEY, "".join(f"{line}\n" for line in lines).encode())
    every = list(MetricsReader(store, RUN, 1).read())
    assert len(every) == len(lines)
    monkeypatch.setattr(metrics, "_UNTHINNED_BYTES", 1000)
    kept = list(MetricsReader(store, RUN, 1).read_thinned())
    assert extremes(kept) == extremes(every)
    assert form == "short" or last_of_epochs(kept) == last_of_epochs(every)
    assert [point.step for point in kept] == sorted(point.step for point in kept)
    assert set(kept) <= set(every)
    assert kept[-500:] == every[-500:]
    assert len(kept) < len(every) / 3


def test_few_metrics_are_read_as_they_are(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put(KEY, written(tmp_path, 1_000, 100, float))
    assert list(MetricsReader(store, RUN, 1).read_thinned()) == list(MetricsReader(store, RUN, 1).read())


LINE = b'{"step": 1, "epoch": 0.5, "time": 1.000, "split": "train", "name": "loss", "value": 0.5}\n'


@pytest.mark.parametrize(
    "other",
    [
        b'{"name": "loss", "step": 2, "value": 1}\n',
        b"hello\n",
        LINE.replace(b"0.5}", b'"a"}'),
        LINE.replace(b"0.5}", b"1.2.3}"),
        LINE.replace(b'"value"', b'"more": 1, "value"'),
        LINE.replace(b'"epoch": 0.5', b'"epoch": 1e300'),
    ],
)
def test_a_piece_with_a_line_of_another_form_is_parsed_whole(other: bytes) -> None:
    assert telling_lines(LINE * 50, set()) is not None
    assert telling_lines(LINE * 50 + other, set()) is None


def test_a_line_that_is_longer_than_a_part_does_not_end_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_UNTHINNED_BYTES", 1000)
    store = LocalStore(tmp_path)
    long = json.dumps({"note": "x" * 60_000, "step": 2, "name": "loss", "value": 1}).encode() + b"\n"
    store.put(KEY, LINE * 3 + long + b"x" * 500_000 + b"\n" + LINE.replace(b'"step": 1', b'"step": 3'))
    assert [point.step for point in MetricsReader(store, RUN, 1).read_thinned()] == [1, 1, 1, 2, 3]


@given(st.lists(st.sampled_from([LINE, LINE.replace(b"loss", b"error"), b"\n", b"{}\n", b'"split": "train", "name": "loss"\n', b"\xff\n"])))
def test_whatever_the_lines_are_only_whole_lines_of_the_piece_are_kept(lines: list[bytes]) -> None:
    kept = telling_lines(b"".join(lines), set())
    assert kept is None or set(kept) <= set(lines)
