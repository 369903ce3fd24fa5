import json
import os
import signal
import sys
from pathlib import Path

import pytest

from cloud_train.run.record import Program
from cloud_train.run.states import Cause, State
from cloud_train.worker import ending
from cloud_train.worker.ending import Stop
from tests.worker.launching import RUN_ID, Launched


@pytest.mark.parametrize(
    "line", ["OSError: [Errno 30] Read-only file system: 'checkpoints'", "mkdir: cannot create directory 'out': Read-only file system"]
)
def test_a_program_that_writes_where_a_container_is_read_only_is_told_where_it_may(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(f"{line}\n")
    end = ending.of_program(1, False, tmp_path / "failure", tmp_path / "log")
    assert end.message.startswith(
        f"exit status 1: {line} (in a container, write into $CLOUD_TRAIN_CHECKPOINTS, $CLOUD_TRAIN_MODEL or /tmp)"
    )


def test_a_program_that_ends_well_has_succeeded(launched: Launched) -> None:
    launched.job("true")
    status = launched.run()
    assert (status.state, status.cause, status.program_exit_code, status.message) == (State.SUCCEEDED, Cause.SUCCEEDED, 0, "")
    assert launched.workers[0].returncode == 0


def test_a_program_that_fails_shows_its_exit_status_and_its_last_line(launched: Launched) -> None:
    launched.shell("echo first; printf 'ValueError: \\033[31mno\\033[0m such\\tlayer\\n\\n   \\n'; exit 3")
    status = launched.run()
    assert (status.state, status.cause, status.program_exit_code) == (State.FAILED, Cause.FAILED, 3)
    assert status.message == "exit status 3: ValueError: no such layer"
    assert launched.workers[0].returncode == Cause.FAILED.exit_code


def test_a_program_that_is_killed_shows_the_signal(launched: Launched) -> None:
    launched.shell("kill -SEGV $$")
    status = launched.run()
    assert (status.cause, status.program_exit_code, status.message) == (Cause.FAILED, -signal.SIGSEGV, "killed by SIGSEGV")


def test_what_the_program_says_of_its_failure_is_the_message(launched: Launched) -> None:
    launched.shell('echo noise; echo "the data are empty" > "$CLOUD_TRAIN_FAILURE"; exit 1')
    status = launched.run()
    assert (status.cause, status.message) == (Cause.FAILED, "the data are empty")


def test_a_program_may_name_its_cause(launched: Launched) -> None:
    launched.python(
        "from cloud_train.worker.api import Run\n"
        "Run.from_environment().fail('the GPU has 8 GB, and 12 are needed', 'out-of-memory')\n"
        "raise SystemExit(1)"
    )
    status = launched.run()
    assert (status.cause, status.message) == (Cause.OUT_OF_MEMORY, "the GPU has 8 GB, and 12 are needed")


@pytest.mark.parametrize(
    ("written", "cause", "message"),
    [
        (b"plain text\n", None, "plain text"),
        (json.dumps({"message": "no network", "cause": "infrastructure"}).encode(), Cause.INFRASTRUCTURE, "no network"),
        (json.dumps({"message": "no", "cause": "succeeded"}).encode(), None, "no"),
        (json.dumps({"message": "no", "cause": ["odd"]}).encode(), None, "no"),
        (json.dumps({"cause": "failed"}).encode(), None, '{"cause": "failed"}'),
        (b"[" * 50_000, None, "[" * 50_000),
        (b"\xff\xfe", None, "��"),
        (b"", None, ""),
    ],
)
def test_a_failure_file_is_text_or_json_and_never_trusted(tmp_path: Path, written: bytes, cause: Cause | None, message: str) -> None:
    (tmp_path / "failure").write_bytes(written)
    assert ending.read_failure(tmp_path / "failure") == ending.Said(message, cause)


def test_a_failure_file_that_is_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    assert ending.read_failure(tmp_path / "link") == ending.Said()
    assert ending.read_failure(tmp_path / "pipe") == ending.Said()


def test_a_message_has_at_most_1024_characters_on_one_line(launched: Launched) -> None:
    launched.python("import os\nopen(os.environ['CLOUD_TRAIN_FAILURE'], 'w').write('a\\x00b\\nc' + 'x' * 5000)\nraise SystemExit(1)")
    message = launched.run().message
    assert len(message) == 1024
    assert message.startswith("a b cxx")


def test_the_last_line_is_found_at_the_end_of_a_huge_log(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    with log.open("wb") as file:
        file.truncate(3 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe end\r\n")
    assert ending.telling_line(log) == "the end"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("no-such-command-here",), "the command 'no-such-command-here' was not found"),
        (("./notes.txt",), "the command './notes.txt' cannot be started: it is not executable"),
        (("./script",), "it is neither a program nor a script with a first line such as '#!/bin/sh'"),
        (("echo", "a\0b"), "'echo' cannot be started"),
        (("echo", "\ud800"), "'echo' cannot be started"),
        (("echo", "x" * 3_000_000), "its arguments and environment are too long"),
    ],
)
def test_a_command_that_cannot_start_is_a_failure_that_names_it(launched: Launched, command: tuple[str, ...], message: str) -> None:
    (launched.work / "notes.txt").write_text("notes")
    (launched.work / "script").write_text("echo no first line\n")
    (launched.work / "script").chmod(0o755)
    launched.job(*command)
    status = launched.run()
    assert (status.state, status.cause, status.program_exit_code) == (State.FAILED, Cause.FAILED, None)
    assert message in status.message


def test_a_folder_that_does_not_exist_is_a_failure_that_names_it(launched: Launched) -> None:
    launched.job("true", directory="/no/such/folder")
    status = launched.run()
    assert status.cause is Cause.FAILED
    assert "the folder '/no/such/folder' does not exist" in status.message


def test_a_kill_by_the_kernel_for_want_of_memory_is_told_from_any_other_kill(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert ending.of_program(-signal.SIGKILL, True, nothing, nothing).cause is Cause.OUT_OF_MEMORY
    assert ending.of_program(137, True, nothing, nothing).cause is Cause.OUT_OF_MEMORY
    assert ending.of_program(-signal.SIGKILL, False, nothing, nothing).cause is Cause.FAILED
    assert ending.of_program(1, True, nothing, nothing).cause is Cause.FAILED


def test_kills_for_want_of_memory_are_counted_over_the_machine_and_the_control_group(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/user/job").mkdir(parents=True)
    assert ending.oom_kills(tmp_path) == 0
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 12\noom_kill 4\n")
    assert ending.oom_kills(tmp_path) == 4
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/elsewhere\n0::/user/job\n")
    (tmp_path / "sys/fs/cgroup/user/job/memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 9\n")
    assert ending.oom_kills(tmp_path) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_counter_of_this_machine_can_be_read() -> None:
    assert "oom_kill " in Path("/proc/vmstat").read_text()
    assert ending.oom_kills() >= 0


def test_the_end_of_a_stopped_program_says_who_stopped_it_and_whether_it_had_to_be_killed(tmp_path: Path) -> None:
    program = Program(("true",), "/", grace_seconds=30, duration_seconds=90)
    nothing = tmp_path / "nothing"
    assert ending.of_stop(Stop.TIME_LIMIT, program, 143, "", nothing).message == "reached its time limit of 90 s"
    killed = ending.of_stop(Stop.TOLD, program, -9, "killed after the grace period of 30 s", nothing)
    assert (killed.cause, killed.message) == (Cause.PREEMPTED, "told to stop; killed after the grace period of 30 s")
    early = ending.of_stop(Stop.CANCELLED, program, None, "", nothing)
    assert (early.cause, early.message) == (Cause.CANCELLED, "cancelled before the program started")


def test_no_value_of_a_secret_is_written_down_by_the_worker(launched: Launched) -> None:
    key = "-----BEGIN KEY-----\nMIIBVgIBADANBg\n-----END KEY-----"
    launched.shell(
        'echo "$API_TOKEN"; echo "$API_KEY"; printf "%s" "cannot log in with $API_TOKEN, $API_KEY" > "$CLOUD_TRAIN_FAILURE"; exit 1',
        secrets=("API_TOKEN", "API_KEY", "UNSET"),
    )
    status = launched.run(environment={"API_TOKEN": "hunter2-hunter2", "API_KEY": key})
    assert status.message.startswith("cannot log in with ***, ***")
    assert launched.output().startswith(b"hunter2-hunter2\n")  # the program's own output is the program's own, byte for byte
    for path in (launched.store / RUN_ID).rglob("*"):
        if path.is_file() and path.name not in {"output.log", "failure"}:
            assert b"hunter2" not in path.read_bytes(), path
            assert b"MIIBVg" not in path.read_bytes(), path


def test_a_secret_in_the_last_line_of_the_output_does_not_reach_the_status(launched: Launched) -> None:
    launched.shell('echo "denied: $API_TOKEN"; exit 1', secrets=("API_TOKEN",))
    assert launched.run(environment={"API_TOKEN": "hunter2-hunter2"}).message == "exit status 1: denied: ***"
    assert "hunter2" not in launched.worker_log()


def test_lines_of_metrics_that_were_not_understood_are_in_the_worker_s_log(launched: Launched) -> None:
    launched.shell('echo \'{"step": 1, "loss": 0.5}\' > $CLOUD_TRAIN_METRICS; echo "loss: 0.4" >> $CLOUD_TRAIN_METRICS')
    assert launched.run().cause is Cause.SUCCEEDED
    assert "1 line of the metrics was not understood" in launched.worker_log()
    assert "The first: loss: 0.4" in launched.worker_log()


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("ValueError: the true reason\n\x1b[0m\x1b[?25h\n", "ValueError: the true reason"),
        ("RuntimeError: CUDA error: assert\n" + "".join(f"\r{n}%|####| {n}/100" for n in range(40)), "RuntimeError: CUDA error: assert"),
        (
            "torch.cuda.OutOfMemoryError: CUDA out of memory.\nwandb: Synced 5 files\nwandb: Find logs at: ./run\n",
            "torch.cuda.OutOfMemoryError: CUDA out of memory.",
        ),
        ("step 1\nstep 2\nno more data\n", "no more data"),
        ("sh: 1: Segmentation fault\n\n", "sh: 1: Segmentation fault"),
        ("an error: ignored\n" + "step\n" * 40 + "gave up\n", "gave up"),
        ("\x1b]0;title\x07\x1b[31mKeyError\x1b[0m\n", "KeyError"),
        ("10/10 ━━━━━━━━━━━━━━━━━━━━ 1s 2ms/step - loss: 0.1\n", "10/10 ━━━━━━━━━━━━━━━━━━━━ 1s 2ms/step - loss: 0.1"),
        ("", ""),
    ],
)
def test_the_reason_of_a_failure_is_the_last_line_that_looks_like_an_error(tmp_path: Path, output: str, reason: str) -> None:
    (tmp_path / "log").write_text(output, encoding="utf-8", newline="")
    assert ending.telling_line(tmp_path / "log") == reason


def test_what_has_another_name_than_a_checkpoint_is_named_once(launched: Launched) -> None:
    launched.shell(
        "cd $CLOUD_TRAIN_CHECKPOINTS; mkdir step-1 .half checkpoint-40; echo 1 > step-1/w; touch last.pt 'epoch=3-step=30.ckpt' step-7"
    )
    assert launched.run().cause is Cause.SUCCEEDED
    said = [line for line in launched.worker_log().splitlines() if "not kept as checkpoints" in line]
    assert len(said) == 1
    assert "because of 4 names: 'checkpoint-40', 'epoch=3-step=30.ckpt', 'last.pt', …; a checkpoint is a folder step-<number>" in said[0]


def test_a_program_with_checkpoints_alone_hears_nothing_of_names(launched: Launched) -> None:
    launched.shell("mkdir $CLOUD_TRAIN_CHECKPOINTS/step-1; echo 1 > $CLOUD_TRAIN_CHECKPOINTS/step-1/w")
    assert launched.run().cause is Cause.SUCCEEDED
    assert "not kept" not in launched.worker_log()
