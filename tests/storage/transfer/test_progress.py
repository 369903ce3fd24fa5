"""Rate and time that is left."""

from cloud_train.storage.transfer.progress import Meter, Progress


def test_the_rate_is_that_of_the_last_seconds_and_gives_the_time_that_is_left() -> None:
    now, seen = [0.0], list[Progress]()
    meter = Meter(seen.append, lambda: now[0])
    meter.expect(1, 10_000)
    for _ in range(20):
        now[0] += 1
        meter.add(10)
        meter.tell()
    for _ in range(20):
        now[0] += 1
        meter.add(100)
        meter.tell()
    assert (seen[-1].rate, seen[-1].bytes_done, seen[-1].eta) == (100, 2200, 78)


def test_what_was_there_already_is_done_but_does_not_raise_the_rate() -> None:
    now, seen = [0.0], list[Progress]()
    meter = Meter(seen.append, lambda: now[0])
    meter.expect(1, 1000)
    meter.add(500, 0)
    meter.add(100)
    now[0] = 1.0
    meter.tell()
    assert (seen[-1].rate, seen[-1].bytes_done, seen[-1].eta, meter.moved) == (100, 600, 4, 100)


def test_it_is_told_a_few_times_a_second_and_at_the_end() -> None:
    now, seen = [0.0], list[Progress]()
    meter = Meter(seen.append, lambda: now[0])
    for _ in range(1000):
        now[0] += 0.001
        meter.tell()
    assert len(seen) == 10
    meter.tell(last=True)
    assert len(seen) == 11
    assert (seen[-1].rate, seen[-1].eta) == (0, None)
