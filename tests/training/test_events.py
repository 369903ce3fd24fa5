"""TensorBoard's event files, read back with tensorboardX's messages and a reader of records that shares nothing with the writer."""

import math
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import MissingDependencyError, StoreError
from cloud_train.training.events import EventFile

CASTAGNOLI = 0x82F63B78
"""The polynomial of CRC-32C, lowest power first (RFC 3720, appendix B.4)."""


def test_values_are_read_back_with_their_steps_and_times(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "metrics")
    file.add(1, 1_700_000_000.25, {"train/loss": 0.5, "train/accuracy": 0.25})
    file.add(2, 1_700_000_001.5, {"validation/loss": 2.0})
    file.close()
    (path,) = (tmp_path / "metrics").iterdir()
    assert path.name.startswith("events.out.tfevents.1700000000.")
    version, start, *rest = events_of(path)
    assert (version.WhichOneof("what"), version.file_version) == ("file_version", "brain.Event:2")
    assert (start.WhichOneof("what"), start.step, start.session_log.status) == ("session_log", 1, start.session_log.START)
    assert [(event.step, event.wall_time, values_of(event)) for event in rest] == [
        (1, 1_700_000_000.25, {"train/loss": 0.5, "train/accuracy": 0.25}),
        (2, 1_700_000_001.5, {"validation/loss": 2.0}),
    ]


def test_values_that_are_not_finite_are_written_as_they_are(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    file.add(1, 0.0, {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "more than a float32 holds": 1e300})
    file.close()
    values = values_of(events_in(tmp_path)[-1])
    assert math.isnan(values.pop("nan"))
    assert values == {"inf": math.inf, "-inf": -math.inf, "more than a float32 holds": math.inf}


def test_an_event_is_in_the_file_as_soon_as_it_is_added(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    for step in (1, 2, 3):
        file.add(step, 0.0, {"loss": 1.0})
        assert events_in(tmp_path)[-1].step == step
    file.flush()
    file.close()


def test_an_attempt_writes_a_file_of_its_own_and_leaves_the_others(tmp_path: Path) -> None:
    first, second = EventFile(tmp_path), EventFile(tmp_path)
    first.add(5, 0.0, {"loss": 1.0})
    second.add(3, 0.0, {"loss": 2.0})
    first.close()
    second.close()
    files = sorted(tmp_path.iterdir())
    assert [[event.step for event in events_of(path)] for path in files] == [[0, 5, 5], [0, 3, 3]]


def test_nothing_is_made_before_the_first_value_and_closing_twice_is_no_mistake(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "metrics")
    file.flush()
    file.close()
    assert not (tmp_path / "metrics").exists()
    file.add(1, 0.0, {"loss": 1.0})
    file.close()
    file.close()
    assert len(events_in(tmp_path / "metrics")) == 3


def test_no_thread_is_started(tmp_path: Path) -> None:
    before = threading.enumerate()
    file = EventFile(tmp_path)
    file.add(1, 0.0, {"loss": 1.0})
    assert threading.enumerate() == before
    file.close()


def test_a_disk_that_fills_up_is_told_by_the_write_that_fills_it_and_the_events_before_it_stay(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    added: list[int] = []
    with largest_file(1000), pytest.raises(StoreError, match="file too large") as raised:
        add_steps(file, 100, added)
    assert str(tmp_path) in raised.value.message
    assert "train.tensorboard to false" in (raised.value.hint or "")
    assert raised.value.exit_code == StoreError.exit_code
    file.close()
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size == 1000
    assert [event.step for event in events_of(path)] == [0, 0, *added]
    assert added


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(StoreError, match="occupied/metrics: not a directory"):
        EventFile(tmp_path / "occupied" / "metrics").add(1, 0.0, {"loss": 1.0})


def test_a_missing_package_is_named_with_two_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboardX"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingDependencyError, match="need tensorboardX") as raised:
        EventFile(tmp_path).add(1, 0.0, {"loss": 1.0})
    assert "pip install 'cloud-train[train]'" in (raised.value.hint or "")
    assert "train.tensorboard to false" in (raised.value.hint or "")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_writing_imports_neither_a_cloud_nor_torchs_compiler_and_warns_of_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cloud_train.training.events import EventFile\n"
        "assert 'tensorboardX' not in sys.modules\n"
        f"file = EventFile(Path({str(tmp_path)!r})); file.add(1, 0.0, {{'loss': 1.0}}); file.close()\n"
        "assert 'tensorboardX' in sys.modules\n"
        "assert {'boto3', 'google.cloud', 'torch._dynamo', 'sympy', 'onnx', 'scipy'}.isdisjoint(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def add_steps(file: EventFile, count: int, added: list[int]) -> None:
    for step in range(count):
        file.add(step, 0.0, {"a metric with a name": 1.0})
        added.append(step)


def events_in(folder: Path) -> list[Any]:
    (path,) = folder.iterdir()
    return events_of(path)


def events_of(path: Path) -> list[Any]:
    from tensorboardX.proto.event_pb2 import Event

    return [Event.FromString(record) for record in records(path.read_bytes())]


def values_of(event: Any) -> dict[str, float]:
    return {value.tag: value.simple_value for value in event.summary.value}


def records(data: bytes) -> Iterator[bytes]:
    """The whole records in ``data``; what the disk had no room for is left out."""
    place = 0
    while place + 12 <= len(data):
        length, checksum = struct.unpack_from("<QI", data, place)
        assert checksum == masked(crc32c(data[place : place + 8]))
        end = place + 12 + length
        if end + 4 > len(data):
            return
        record = data[place + 12 : end]
        assert struct.unpack_from("<I", data, end) == (masked(crc32c(record)),)
        yield record
        place = end + 4


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (CASTAGNOLI if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """Rotated right by 15 bits, plus a constant: so that the checksum of a record that holds checksums is not trivial."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the nearest thing to a full disk that needs no disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
