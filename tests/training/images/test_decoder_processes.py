"""Processes that work ahead: in order, and with an end, however they or their parent come to it."""

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count, islice
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cloud_train.errors import CorruptError
from cloud_train.training.data.decoder_processes import DecoderProcessError, done_ahead, shared_memory
from tests.support import wait_until

IsStopped = Callable[[], bool]


def square(number: int, _slot: int, _is_stopped: IsStopped) -> int:
    return number * number


def processes() -> list[int]:
    return [process.pid or 0 for process in multiprocessing.active_children()]


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert not processes()


@pytest.mark.parametrize("number", [1, 3])
def test_results_come_in_the_order_of_the_requests(number: int) -> None:
    assert list(done_ahead(square, range(10), number)) == [number * number for number in range(10)]


def test_fewer_requests_than_processes_are_done_as_well() -> None:
    assert list(done_ahead(square, [7], 3)) == [49]
    assert list(done_ahead(square, [], 1)) == []


def test_tensors_arrive_whole_though_their_memory_is_used_again() -> None:
    memory: dict[int, Tensor] = {}

    def fill(number: int, slot: int, _is_stopped: IsStopped) -> Tensor:
        if slot not in memory:
            memory[slot] = shared_memory((1000,), torch.int64)
        return memory[slot].fill_(number)[: number + 1]

    addresses = set()
    with closing(done_ahead(fill, range(40), 2)) as results:
        for number, tensor in enumerate(results):
            assert tensor.tolist() == [number] * (number + 1)
            addresses.add(tensor.data_ptr())
    assert len(addresses) == 2 * 3


def test_an_error_in_a_process_is_raised_in_its_turn_as_it_was() -> None:
    def work(number: int, _slot: int, _is_stopped: IsStopped) -> int:
        if number == 3:
            raise CorruptError("the third is broken", hint="mend it")
        return number

    with closing(done_ahead(work, count(), 2)) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(CorruptError) as caught:
            next(results)
    assert (caught.value.message, caught.value.hint) == ("the third is broken", "mend it")


def test_an_error_of_whoever_makes_the_requests_is_raised_in_its_turn_too() -> None:
    def requests() -> Iterator[int]:
        yield 1
        raise CorruptError("there is no second one")

    with closing(done_ahead(square, requests(), 2)) as results:
        assert next(results) == 1
        with pytest.raises(CorruptError, match="no second one"):
            next(results)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of torch, whose loader is left half made
def test_where_no_more_processes_can_be_started_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    started = count()
    start = ForkProcess.start

    def start_two(process: ForkProcess) -> None:
        if next(started) == 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        start(process)

    monkeypatch.setattr(ForkProcess, "start", start_two)
    with (
        closing(done_ahead(square, count(), 3)) as results,
        pytest.raises(DecoderProcessError, match="cannot start the processes") as caught,
    ):
        next(results)
    assert caught.value.hint == "lower data.workers"
    assert not processes()
    del caught
    gc.collect()  # so that torch complains here, and not in another test


def test_used_up_memory_stays_what_it_is() -> None:
    def work(_number: int, _slot: int, _is_stopped: IsStopped) -> None:
        raise MemoryError

    with pytest.raises(MemoryError), closing(done_ahead(work, [0], 1)) as results:
        next(results)


def test_closing_ends_a_process_in_the_middle_of_its_work() -> None:
    def work(number: int, _slot: int, is_stopped: IsStopped) -> int:
        wait_until(lambda: number == 0 or is_stopped(), "told to stop")
        return number

    before = signal.getsignal(signal.SIGCHLD)
    with closing(done_ahead(work, count(), 2)) as results:
        assert next(results) == 0
        workers = multiprocessing.active_children()
        assert signal.getsignal(signal.SIGCHLD) is before
    assert [process.exitcode for process in workers] == [0, 0]  # none had to be killed


def test_two_at_the_same_time_do_not_end_each_other() -> None:
    with closing(done_ahead(square, count(), 1)) as ones, closing(done_ahead(square, count(), 1)) as others:
        assert [next(ones), next(others)] == [0, 0]
        others.close()
        assert list(islice(ones, 4)) == [1, 4, 9, 16]


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (signal.SIGKILL, "a process that decodes images was killed (SIGKILL)", "data.workers"),
        (signal.SIGBUS, "shared memory (/dev/shm), which passes decoded images, is full", "--shm-size"),
    ],
)
def test_a_process_that_is_killed_ends_the_training_and_says_so(number: signal.Signals, message: str, hint: str) -> None:
    with closing(done_ahead(square, count(), 2)) as results:
        next(results)
        os.kill(processes()[0], number)
        wait_until(lambda: len(processes()) == 1, "killed")
        with pytest.raises(DecoderProcessError) as caught:
            next(results)
    assert caught.value.message == message
    assert hint in (caught.value.hint or "")


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_is_waited_for_ends_the_training_too() -> None:
    def work(number: int, _slot: int, is_stopped: IsStopped) -> int:
        if number == 1:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0.2)  # by then, it is waited for
            wait_until(is_stopped, "told to stop")
        return number

    with closing(done_ahead(work, count(), 1)) as results:
        assert next(results) == 0
        with pytest.raises(DecoderProcessError, match="SIGALRM"):
            next(results)


def script(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text("from itertools import count\nfrom cloud_train.training.data.decoder_processes import *\n" + textwrap.dedent(text))
    return path


@pytest.mark.slow
def test_sigterm_to_the_whole_group_leaves_the_processes_at_work(tmp_path: Path) -> None:
    text = """
        import signal
        told = []
        signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
        results = done_ahead(lambda number, _slot, _is_stopped: number, count(), 2)
        print(next(results), flush=True)
        while not told:
            next(results)
        print(sum(1 for _ in zip(range(20), results)))
        results.close()
        """
    with subprocess.Popen([sys.executable, script(text, tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None  # for the type checker
        assert process.stdout.readline() == "0\n"
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("20\n", 0)


@pytest.mark.slow
def test_a_program_that_ends_without_closing_takes_its_processes_along(tmp_path: Path) -> None:
    text = """
        results = done_ahead(lambda number, _slot, _is_stopped: number, count(), 2)
        print(next(results), flush=True)
        print(*(process.pid for process in multiprocessing.active_children()))
        """
    ended = subprocess.run([sys.executable, script(text, tmp_path)], capture_output=True, text=True, timeout=60, check=True)
    first, pids = ended.stdout.splitlines()
    assert (first, ended.stderr) == ("0", "")
    for pid in pids.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 400])
def test_where_the_shared_memory_is_too_small_the_message_says_so(tmp_path: Path, kilobytes: int) -> None:
    text = """
        def work(_number, _slot, _is_stopped):
            return shared_memory((1 << 20,), torch.uint8)
        try:
            list(done_ahead(work, range(3), 1))
        except DecoderProcessError as error:
            print(error)
        """
    mounted = f"mount -t tmpfs -o size={kilobytes}k tmpfs /dev/shm"
    if subprocess.run(["unshare", "--mount", "sh", "-c", mounted], capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount another /dev/shm")
    command = ["unshare", "--mount", "sh", "-c", f"{mounted} && exec {sys.executable} {script(text, tmp_path)}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "shared memory (/dev/shm), which passes decoded images, is full\n"
