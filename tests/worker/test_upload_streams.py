"""Output and metrics on their way into a store: when segments are written, where they are cut, and what becomes of those that get lost."""

from pathlib import Path

import pytest

from cloud_train.run.streams import SegmentedStream, segment_key
from cloud_train.storage.base import TransientStoreError
from cloud_train.worker.uploads import streams
from cloud_train.worker.uploads.streams import StreamUpload
from tests.storage.memory_store import MemoryStore

KEY = "run-1/attempts/1/logs/node-0/output.log"


class Shipped:
    """A file, a store, a clock that stands still until it is turned, and the uploads between them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "output.log"
        self.store = MemoryStore()
        self.now = 1000.0

    def uploads(self, *, by_line: bool = False) -> StreamUpload:
        return StreamUpload(self.path, self.store, KEY, by_line=by_line, clock=lambda: self.now)

    def print(self, text: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(text)

    def arrived(self) -> bytes:
        return SegmentedStream(self.store, KEY).read(0)

    def segments(self) -> list[bytes]:
        return [data for _, (data, _) in sorted(self.store.objects.items())]


@pytest.fixture
def at(tmp_path: Path) -> Shipped:
    return Shipped(tmp_path)


def test_a_first_segment_goes_at_once_and_the_next_two_seconds_later(at: Shipped) -> None:
    uploads = at.uploads()
    at.print(b"one\n")
    uploads.look()
    at.print(b"two\n")
    at.now += 1.9
    uploads.look()
    assert at.segments() == [b"one\n"]
    at.now += 0.1
    uploads.look()
    assert at.segments() == [b"one\n", b"two\n"]


def test_in_a_minute_of_steady_output_there_are_at_most_thirty_segments(at: Shipped) -> None:
    uploads = at.uploads()
    for _ in range(120):
        at.print(b"line\n")
        uploads.look()
        at.now += 0.5
    assert at.store.asked("put") == 30
    assert at.arrived() == b"line\n" * 117


def test_segments_come_less_often_the_longer_an_attempt_lasts_but_at_least_every_ten_seconds(at: Shipped) -> None:
    uploads = at.uploads()
    for hours, seconds in ((0.25, 3.0), (0.5, 6.0), (24, 10.0)):
        at.now = 1000.0 + hours * 3600
        at.print(b"line\n")
        uploads.look()
        before = at.store.asked("put")
        at.print(b"line\n")
        at.now += seconds - 0.1
        uploads.look()
        assert at.store.asked("put") == before
        at.now += 0.2
        uploads.look()
        assert at.store.asked("put") == before + 1


def test_a_file_to_which_nothing_is_added_costs_no_request(at: Shipped) -> None:
    uploads = at.uploads()
    uploads.look()
    at.print(b"one\n")
    uploads.look()
    at.store.calls.clear()
    for _ in range(10):
        at.now += 60
        uploads.look()
    assert at.store.calls == []


def test_metrics_are_cut_behind_a_line_feed_and_the_rest_goes_at_the_end(at: Shipped) -> None:
    uploads = at.uploads(by_line=True)
    at.print(b'{"step": 1}\n{"st')
    uploads.look()
    at.now += 60
    uploads.look()
    assert at.segments() == [b'{"step": 1}\n']
    at.print(b'ep": 2}\n{"ste')
    uploads.look()
    assert at.segments() == [b'{"step": 1}\n', b'{"step": 2}\n']
    uploads.finish()
    assert at.segments()[2:] == [b'{"ste']


def test_a_segment_has_a_largest_size_and_metrics_are_cut_at_a_line_even_then(at: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_SEGMENT_BYTES", 16)
    at.print(b"0123456\n" * 3 + b"a line longer than a segment\nend")
    uploads = at.uploads(by_line=True)
    uploads.look()
    assert at.segments() == [b"0123456\n" * 2]
    uploads.finish()
    assert max(map(len, at.segments())) == 16
    assert at.segments()[1] == b"0123456\n"
    assert at.arrived() == at.path.read_bytes()


def test_the_end_sends_the_rest_without_waiting(at: Shipped) -> None:
    uploads = at.uploads()
    at.print(b"one\n")
    uploads.look()
    at.print(b"no line feed")
    uploads.finish()
    assert at.arrived() == b"one\nno line feed"


def test_the_end_repairs_what_was_acknowledged_and_lost_or_arrived_cut(at: Shipped) -> None:
    uploads = at.uploads()
    for text in (b"one\n", b"two\n", b"three\n"):
        at.print(text)
        uploads.look()
        at.now += 60
    at.store.delete(segment_key(KEY, 4))
    at.store.place(segment_key(KEY, 8), b"th")
    uploads.finish()
    assert at.segments() == [b"one\n", b"two\n", b"three\n"]


def test_an_empty_file_becomes_an_empty_segment_and_no_file_none(at: Shipped) -> None:
    at.uploads().finish()
    assert at.store.objects == {}
    at.path.touch()
    uploads = at.uploads()
    uploads.finish()
    assert at.segments() == [b""]
    at.print(b"after all")
    uploads.finish()
    assert at.segments() == [b"after all"]


def test_a_segment_of_which_the_answer_was_lost_is_sent_again_with_the_same_bytes(at: Shipped) -> None:
    uploads = at.uploads()
    sent: list[bytes] = []

    def lost_answer(name: str, key: str) -> None:
        if name == "put" and not sent:
            sent.append(at.path.read_bytes())
            at.store.place(key, sent[0])  # it is carried out, and nobody is told
            raise TransientStoreError("the connection broke behind")

    at.store.before = lost_answer
    at.print(b"one\n")
    with pytest.raises(TransientStoreError):
        uploads.look()
    reader = SegmentedStream(at.store, KEY)
    assert reader.read(0) == b"one\n"
    at.print(b"two\n")
    at.now += 2
    uploads.look()
    assert at.segments() == [b"one\n"]
    at.now += 2
    uploads.look()
    assert at.segments() == [b"one\n", b"two\n"]
    assert reader.read(4) == b"two\n"


def test_another_shipper_goes_on_where_the_one_before_it_was_killed(at: Shipped) -> None:
    at.print(b"one\n")
    first = at.uploads()
    first.look()
    at.print("zwö".encode()[:3])
    at.now += 2
    first.look()
    at.print("zwö".encode()[3:] + b"\n")
    at.store.calls.clear()
    another = at.uploads()
    another.resume()
    another.finish()
    assert at.store.asked("put") == 1
    assert at.arrived() == "one\nzwö\n".encode()


def test_another_shipper_goes_on_behind_the_last_byte_before_a_gap(at: Shipped) -> None:
    at.print(b"0123456789")
    at.store.place(segment_key(KEY, 0), b"0123")
    at.store.place(segment_key(KEY, 6), b"67")
    another = at.uploads()
    another.resume()
    another.finish()
    assert at.arrived() == b"0123456789"
    assert at.store.objects[segment_key(KEY, 4)][0] == b"456789"


def test_another_shipper_goes_on_behind_an_empty_segment(at: Shipped) -> None:
    at.path.touch()
    at.uploads().finish()
    at.print(b"text")
    another = at.uploads()
    another.resume()
    another.finish()
    assert at.segments() == [b"text"]
