import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_train.cli.errors import guarded
from cloud_train.errors import CloudTrainError, ConflictError, NotFoundError
from cloud_train.exit_status import INTERRUPTED, OUTPUT_CLOSED
from cloud_train.spec.problems import JobFileError, Place, Problem
from tests.cli.command import CommandLine
from tests.support import wait_until


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize("kind", [CloudTrainError, ConflictError, NotFoundError], ids=lambda kind: str(kind.__name__))
def test_an_expected_error_shows_message_and_hint_and_sets_the_exit_code(
    kind: type[CloudTrainError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(lambda: raising(kind("it is broken", hint="mend it")), as_json=False) == kind.exit_code
    captured = capsys.readouterr()
    assert captured.err == "error: it is broken\nhint: mend it\n"
    assert captured.out == ""


def test_with_json_the_error_is_one_json_object_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: raising(ConflictError("busy", hint="wait")), as_json=True) == 9
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": {"code": "conflict", "message": "busy", "hint": "wait", "exit_code": 9}}
    assert captured.err == ""


def test_every_problem_of_a_job_file_is_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    places = [Place("job.yaml", 3, 1, "a: 1"), Place("job.yaml", 7, 5000, "x" * 10_000)]
    error = JobFileError([Problem(place, "wrong", "another", "b") for place in places])
    guarded(lambda: raising(error), as_json=True)
    first, second = json.loads(capsys.readouterr().out)["error"]["problems"]
    place = {"file": "job.yaml", "line": 3, "column": 1, "source": "a: 1"}
    assert first == {"place": place, "message": "wrong", "expected": "another", "suggestion": "b"}
    assert second["place"] == {"file": "job.yaml", "line": 7, "column": 5000, "source": ""}, "a long line is not repeated for each mistake"


def test_control_characters_in_a_message_are_made_visible(capsys: pytest.CaptureFixture[str]) -> None:
    guarded(lambda: raising(NotFoundError("no \x1b[2J run\nat all")), as_json=False)
    assert capsys.readouterr().err == "error: no \\x1b[2J run\nat all\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_an_error_from_the_system_is_a_store_error_with_the_path(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: raising(OSError(number, os.strerror(number), "/full/file")), as_json=False) == 6
    assert f"error: {os.strerror(number).lower()}: /full/file\nhint: " in capsys.readouterr().err


def test_a_bug_is_reported_as_one_with_its_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path))
    assert guarded(lambda: raising(KeyError("gone")), as_json=False) == 1
    shown = capsys.readouterr().err
    (file,) = (tmp_path / "errors").iterdir()
    assert "this is a bug in cloud-train: KeyError: 'gone'" in shown
    assert str(file) in shown
    assert "Traceback" not in shown
    assert "Traceback" in file.read_text()


def test_a_bug_is_reported_even_if_its_traceback_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").write_text("a file where the folder would be")
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    assert guarded(lambda: raising(KeyError("gone")), as_json=False) == 1
    assert "could not be saved" in capsys.readouterr().err


def test_ctrl_c_exits_with_130_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: raising(KeyboardInterrupt()), as_json=False) == INTERRUPTED
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments", [["statu"], ["status", "--jsn"], ["list", "--limit", "0"], ["submit"], ["logs", "--tail", "x"], ["predict", "abc"]]
)
def test_a_wrong_command_line_is_an_error_with_a_hint_and_exit_code_2(cloud_train: CommandLine, arguments: list[str]) -> None:
    ended = cloud_train(*arguments)
    assert ended.status == 2
    assert ended.out == b""
    assert ended.err.startswith("error: ")
    assert "\nhint: " in ended.err


def test_a_wrong_command_line_with_json_is_json(cloud_train: CommandLine) -> None:
    ended = cloud_train("list", "--limit", "0", "--json")
    assert ended.status == 2
    assert ended.json["error"]["code"] == "usage"
    assert ended.err == ""


def test_a_mistyped_verb_gets_a_suggestion(cloud_train: CommandLine) -> None:
    assert "Did you mean 'submit'?" in cloud_train("sumbit").err


@pytest.mark.slow
def test_a_closed_pipe_ends_the_command_quietly(cloud_train: CommandLine) -> None:
    cloud_train.submit("head -c 5000000 /dev/zero | tr '\\0' 'x'")
    process = subprocess.Popen(
        [sys.executable, "-m", "cloud_train", "logs"],
        env=cloud_train.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(10) == b"x" * 10
    process.stdout.close()
    assert process.wait(60) == OUTPUT_CLOSED
    assert process.stderr.read() == b""
    process.stderr.close()


def test_an_unwritable_home_is_an_error_message(cloud_train: CommandLine) -> None:
    cloud_train.home.write_text("a file where the folder would be")
    ended = cloud_train("list")
    assert ended.status == 6
    assert "Traceback" not in ended.err
    assert str(cloud_train.home) in ended.err


def test_a_full_disk_under_standard_output_is_an_error_message(cloud_train: CommandLine) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "cloud_train", "doctor"],
            env=cloud_train.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 6
    assert "error: cannot write to standard output: no space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr


def _in_shell(cloud_train: CommandLine, rest: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f"exec {sys.executable} -m cloud_train {rest}"],
        cwd=cloud_train.folder,
        env=cloud_train.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("redirection", "reason"), [(">&-", "it is closed"), ("1</dev/null", "it is open for reading only")])
@pytest.mark.parametrize("words", ["list --json", "--help", "submit script.yaml"])
def test_a_standard_output_that_takes_nothing_is_an_error_before_anything_is_done(
    cloud_train: CommandLine, words: str, redirection: str, reason: str
) -> None:
    cloud_train.job("true")
    ended = _in_shell(cloud_train, f"{words} {redirection}")
    assert (ended.returncode, ended.stdout) == (6, "")
    assert f"error: cannot write to standard output: {reason}\nhint: nothing was done" in ended.stderr
    assert not cloud_train.home.exists()
    assert not (cloud_train.folder / "runs").exists()


@pytest.mark.parametrize("words", ["list >&- 2>&-", "list --json >/dev/full 2>/dev/full", "list --limit 0 >&- 2>&-"])
def test_where_neither_output_can_be_written_the_exit_status_is_all(cloud_train: CommandLine, words: str) -> None:
    ended = _in_shell(cloud_train, words)
    assert (ended.returncode, ended.stdout, ended.stderr) == (6, "", "")


def test_an_error_that_cannot_be_written_as_json_is_said_in_words(cloud_train: CommandLine) -> None:
    ended = _in_shell(cloud_train, "status absent --json >/dev/full")
    assert (ended.returncode, ended.stderr.partition(":")[0], "Traceback" in ended.stderr) == (4, "error", False)


def test_a_closed_standard_error_is_not_an_error(cloud_train: CommandLine) -> None:
    ended = _in_shell(cloud_train, "list --json 2>&-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '{"runs": [], "more": false}\n', "")
    assert _in_shell(cloud_train, "status absent 2>&-").returncode == 4


@pytest.mark.slow
def test_ctrl_c_on_following_with_json_is_json_too(cloud_train: CommandLine) -> None:
    job = cloud_train.job("echo begun; exec sleep 600")
    process = subprocess.Popen(
        [sys.executable, "-m", "cloud_train", "submit", str(job), "--follow", "--json"],
        env=cloud_train.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: cloud_train("list", "--state", "running", "--json").json["runs"] != [], "the run is running")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert err == b""
    assert cloud_train("cancel", "script", "--force", "--json").json["state"] == "cancelled"
