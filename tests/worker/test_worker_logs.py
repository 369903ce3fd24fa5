import time

from cloud_train.run.states import Cause
from tests.worker.launching import Launched


def test_every_byte_of_the_output_is_in_the_log_as_it_was_written(launched: Launched) -> None:
    launched.python("import os\nos.write(1, bytes(range(256)))\nos.write(2, b'10%\\r20%\\r\\n\\xff\\xfe no newline at the end')\n")
    assert launched.run().cause is Cause.SUCCEEDED
    assert launched.output() == bytes(range(256)) + b"10%\r20%\r\n\xff\xfe no newline at the end"


def test_a_line_of_10_mb_survives(launched: Launched) -> None:
    launched.python("import sys\nsys.stdout.write('x' * 10_000_000 + '\\n')")
    assert launched.run().cause is Cause.SUCCEEDED
    assert launched.output() == b"x" * 10_000_000 + b"\n"


def test_a_hundred_thousand_lines_survive_in_order(launched: Launched) -> None:
    launched.python("import sys\nsys.stdout.write(''.join(f'line {n}\\n' for n in range(100_000)))")
    launched.run()
    assert launched.output() == b"".join(b"line %d\n" % number for number in range(100_000))


def test_processes_that_write_at_once_do_not_overwrite_each_other(launched: Launched) -> None:
    launched.shell("for name in a b c d; do (for i in 1 2 3 4 5 6 7 8 9 10; do echo $name$i; done) & done; wait")
    launched.run()
    expected = [f"{name}{number}".encode() for name in "abcd" for number in range(1, 11)]
    assert sorted(launched.output().split()) == sorted(expected)


def test_what_a_python_program_prints_is_in_the_log_while_it_runs(launched: Launched) -> None:
    launched.python("import time\nprint('epoch 1')\ntime.sleep(60)")
    launched.start()
    launched.says(b"epoch 1\n")


def test_the_program_reads_nothing_from_a_terminal(launched: Launched) -> None:
    launched.shell("cat; echo end of input")
    launched.run()
    assert launched.output() == b"end of input\n"


def test_the_journal_says_what_the_worker_did_in_plain_lines_with_their_time(launched: Launched) -> None:
    launched.shell("exit 3")
    launched.run()
    lines = launched.worker_log().splitlines()
    assert [line.split(" ", 1)[1].split(":")[0].split(" 1 ")[0] for line in lines][-1] == "failed"
    for line in lines:
        time.strptime(line.split()[0], "%Y-%m-%dT%H:%M:%SZ")
