"""Streams in segments, as a reader sees them while they appear, in any order that a listing may show."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from cloud_train.run.metrics import MetricsReader
from cloud_train.run.streams import LogReader, SegmentedStream, open_stream, segment_key, start_of_tail, stream_of
from tests.storage.memory_store import MemoryStore

KEY = "run-1/attempts/1/logs/node-0/output.log"
REQUESTS = ("list", "get", "stat")


def write(store: MemoryStore, *pieces: bytes, start: int = 0) -> int:
    """Segments one behind another; returns where they end."""
    for piece in pieces:
        store.place(segment_key(KEY, start), piece)
        start += len(piece)
    return start


def read_all(reader: LogReader) -> bytes:
    return b"".join(reader.read())


def test_a_segments_name_tells_its_stream_and_where_it_begins() -> None:
    assert segment_key("a/output.log", 1846) == "a/output.log.000000000001846"
    assert stream_of("a/output.log.000000000001846") == ("a/output.log", 1846)
    assert stream_of("a/output.log") is None
    assert stream_of("a/output.log.00000000000184") is None
    assert stream_of("a/weights.0000000000018460") is None


@pytest.mark.parametrize("seed", range(6))
def test_a_reader_that_polls_while_segments_appear_in_any_order_reads_every_byte_once(seed: int) -> None:
    dice = random.Random(seed)
    text = "".join(dice.choice("aé漢🙂\n\r") for _ in range(400)).encode()
    cuts = sorted({0, len(text), *(dice.randrange(len(text)) for _ in range(20))})
    segments = list(pairwise(cuts))
    dice.shuffle(segments)
    store, read = MemoryStore(), b""
    reader = LogReader(store, KEY)
    for start, end in segments:
        store.place(segment_key(KEY, start), text[start:end])
        if dice.random() < 0.3:
            store.place(segment_key(KEY, start), text[start:end])  # an answer was lost, and the segment written again
        read += read_all(reader)
        assert text.startswith(read)
    assert read == text
    assert read_all(LogReader(store, KEY)) == text


def test_a_character_that_is_cut_between_segments_arrives_whole() -> None:
    store, character = MemoryStore(), "🙂".encode()
    write(store, b"a" + character[:1], character[1:3], character[3:] + b"\n")
    assert read_all(LogReader(store, KEY)).decode() == "a🙂\n"


def test_what_lies_behind_a_gap_waits_and_is_said_to_be_missing() -> None:
    store = MemoryStore()
    write(store, b"0123")
    write(store, b"89", start=8)
    stream = SegmentedStream(store, KEY)
    assert (stream.size(), stream.read(0), stream.missing()) == (4, b"0123", (4, 8))
    write(store, b"4567", start=4)
    assert stream.missing() is None
    assert stream.read(4, 10) == b"456789"


def test_a_stream_of_which_the_first_segment_never_arrived_is_missing_from_its_beginning() -> None:
    store = MemoryStore()
    write(store, b"89", start=8)
    stream = SegmentedStream(store, KEY)
    assert (stream.read(0), stream.size(), stream.missing()) == (b"", 0, (0, 8))
    assert stream.exists()


def test_a_stream_that_begins_late_is_read_from_its_beginning() -> None:
    store = MemoryStore()
    reader = LogReader(store, KEY)
    assert not reader.stream.exists()
    assert read_all(reader) == b""
    write(store, b"one\n", b"two\n")
    assert read_all(reader) == b"one\ntwo\n"


def test_an_empty_stream_exists() -> None:
    store = MemoryStore()
    assert not SegmentedStream(store, KEY).exists()
    write(store, b"")
    stream = SegmentedStream(store, KEY)
    assert stream.exists()
    assert (stream.size(), stream.read(0), stream.missing()) == (0, b"", None)
    write(store, b"later")
    assert stream.read(0) == b"later"


def test_a_last_segment_that_was_written_again_longer_leaves_no_gap() -> None:
    store = MemoryStore()
    reader = LogReader(store, KEY)
    write(store, b"one\n", b"tw")
    assert read_all(reader) == b"one\ntw"
    write(store, b"one\n", b"two\nthree\n", b"four\n")
    assert read_all(reader) == b"o\nthree\nfour\n"


def test_a_segment_that_became_shorter_behind_the_readers_back_shifts_nothing() -> None:
    store = MemoryStore()
    write(store, b"one\ntwo\n", b"three\n")
    stream = SegmentedStream(store, KEY)
    assert stream.size() == 14
    store.place(segment_key(KEY, 0), b"one\n")
    assert stream.read(0, 14) == b"one\n"
    assert stream.read(4, 14) == b""
    store.place(segment_key(KEY, 0), b"one\ntwo\n")
    assert stream.read(4, 14) == b"two\nthree\n"


def test_segments_that_overlap_are_read_once() -> None:
    store = MemoryStore()
    write(store, b"01234567")
    write(store, b"6789", start=6)
    write(store, b"45", start=4)
    assert read_all(LogReader(store, KEY)) == b"0123456789"


def test_objects_beside_a_stream_are_none_of_it() -> None:
    store = MemoryStore()
    for name in ("-copy", ".gz", ".000000000000004.tmp", ".00000000000000x"):
        store.place(KEY + name, b"else")
    assert not SegmentedStream(store, KEY).exists()
    write(store, b"text")
    assert SegmentedStream(store, KEY).read(0) == b"text"


def test_a_stream_that_was_copied_as_one_object_is_read_and_goes_on_in_segments() -> None:
    store = MemoryStore()
    store.place(KEY, b"0123")
    write(store, b"4567", start=4)
    assert SegmentedStream(store, KEY).read(0) == b"01234567"


@pytest.mark.parametrize("segments", [0, 1, 2, 40])
def test_a_look_at_an_idle_stream_is_one_request(segments: int) -> None:
    store = MemoryStore()
    write(store, *[b"line\n"] * segments)
    reader = LogReader(store, KEY)
    assert read_all(reader) == b"line\n" * segments
    store.calls.clear()
    for looks in range(1, 4):
        assert read_all(reader) == b""
        assert store.asked(*REQUESTS) == looks


def test_a_look_at_metrics_that_nobody_adds_to_is_one_request() -> None:
    store = MemoryStore()
    key = "run-1/attempts/1/metrics/node-0.jsonl"
    store.place(segment_key(key, 0), b'{"step": 1, "name": "loss", "value": 2}\n')
    reader = MetricsReader(store, "run-1", 1)
    assert [point.value for point in reader.read()] == [2]
    store.calls.clear()
    assert list(reader.read()) == []
    assert store.asked(*REQUESTS) == 1


def test_metrics_go_on_behind_a_line_that_was_cut_between_segments() -> None:
    store = MemoryStore()
    line, key = b'{"step": 1, "name": "loss", "value": 2}\n', "run-1/attempts/1/metrics/node-0.jsonl"
    reader = MetricsReader(store, "run-1", 1)
    store.place(segment_key(key, 0), line + line[:9])
    assert len(list(reader.read())) == 1
    assert list(reader.read()) == []
    store.place(segment_key(key, len(line) + 9), line[9:] + line)
    assert len(list(reader.read())) == 2


@pytest.mark.parametrize("ends_with_a_feed", [True, False])
@pytest.mark.parametrize("cut", range(1, 12))
def test_a_tail_begins_at_a_line_wherever_the_segments_are_cut(cut: int, ends_with_a_feed: bool) -> None:
    store = MemoryStore()
    text = b"one\ntwo\nthree" + b"\n" * ends_with_a_feed
    write(store, *(text[start : start + cut] for start in range(0, len(text), cut)))
    for lines, wanted in ((0, b""), (1, text[8:]), (2, text[4:]), (3, text), (9, text)):
        reader = LogReader(store, KEY)
        reader.skip_to_tail(lines)
        assert read_all(reader) == wanted
        write(store, b"more\n", start=len(text))
        assert read_all(reader) == b"more\n"
        store.delete(segment_key(KEY, len(text)))


def test_a_tail_of_a_stream_with_nothing_in_it_begins_at_its_beginning() -> None:
    store = MemoryStore()
    assert start_of_tail(SegmentedStream(store, KEY), 3) == 0
    write(store, b"")
    assert start_of_tail(SegmentedStream(store, KEY), 3) == 0


def test_a_stream_of_thousands_of_segments_is_read_whole_and_from_its_end() -> None:
    store, count, line = MemoryStore(), 2500, b"abcdefg\n"
    write(store, *[line] * count)
    stream = open_stream(store, KEY)
    assert stream.size() == count * len(line)
    assert read_all(LogReader(store, KEY)) == line * count
    store.calls.clear()
    assert start_of_tail(stream, 2) == (count - 2) * len(line)
    assert store.asked("list") == 1


def appearing(store: MemoryStore, pieces: list[bytes]) -> Callable[[str, str], None]:
    """Writes one more segment at each request, so that each falls between two of the reader's own."""
    left, position = iter(pieces), 0

    def before(name: str, key: str) -> None:
        nonlocal position
        piece = next(left, None)
        if piece is not None:
            store.place(segment_key(KEY, position), piece)
            position += len(piece)

    return before


def test_segments_that_appear_between_a_listing_and_the_reading_are_read_at_the_next_look() -> None:
    store = MemoryStore()
    pieces = [b"%d\n" % number for number in range(12)]
    store.before = appearing(store, pieces)
    reader, read, looks = LogReader(store, KEY), b"", 0
    while read != b"".join(pieces):
        read += read_all(reader)
        assert b"".join(pieces).startswith(read)
        looks += 1
        assert looks < 30
