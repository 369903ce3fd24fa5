import re

import pytest

from tests.cli.command import CommandLine

TALKS_UNTIL_TOLD = "echo begun; while [ ! -e go ]; do sleep 0.02; done; echo done"
MEASURES = """python3 -c '
import json, os, time
with open(os.environ["CLOUD_TRAIN_METRICS"], "a", buffering=1) as file:
    for step in range(1, 4):
        point = {"step": step, "time": step, "split": "train", "name": "loss", "value": 1 / step}
        file.write(json.dumps(point) + chr(10))
'; while [ ! -e go ]; do sleep 0.02; done"""


def test_following_shows_the_programs_output_and_a_live_line_and_ends_with_the_result(cloud_train: CommandLine) -> None:
    with cloud_train.terminal("submit", cloud_train.job(MEASURES), "--follow") as terminal:
        terminal.wait_for("step 3  loss 0.3333")
        (cloud_train.folder / "go").touch()
        assert terminal.end() == 0
        last = terminal.shown.decode().rpartition("\r\x1b[K")[2]
    assert re.search(r"script-\S+\x1b\[0m \x1b\[32msucceeded\x1b\[0m in ", last)
    assert "train/loss 0.3333" in last


@pytest.mark.slow
def test_ctrl_c_stops_watching_but_not_the_run(cloud_train: CommandLine) -> None:
    with cloud_train.terminal("submit", cloud_train.job(TALKS_UNTIL_TOLD), "--follow") as terminal:
        terminal.wait_for("begun")
        terminal.press("\x03")
        assert terminal.end() == 130
        shown = terminal.shown.decode()
    run = cloud_train("list", "--json").json["runs"][0]
    assert f"the run continues; follow it again with: cloud-train logs {run['run_id']} --follow" in shown
    assert "Traceback" not in shown
    assert run["state"] == "running"
    (cloud_train.folder / "go").touch()
    assert cloud_train("logs", "--follow").out == b"begun\ndone\n"
    assert cloud_train("status", "--json").json["state"] == "succeeded"


def test_closing_the_terminal_does_not_end_the_run(cloud_train: CommandLine) -> None:
    with cloud_train.terminal("submit", cloud_train.job(TALKS_UNTIL_TOLD), "--follow") as terminal:
        terminal.wait_for("begun")
    (cloud_train.folder / "go").touch()
    assert cloud_train("logs", "--follow").out == b"begun\ndone\n"
    assert cloud_train("status", "--json").json["state"] == "succeeded"


def test_ctrl_c_ends_logs_follow_with_130(cloud_train: CommandLine) -> None:
    run_id = cloud_train("submit", cloud_train.job(TALKS_UNTIL_TOLD)).text.strip()
    with cloud_train.terminal("logs", "--follow") as terminal:
        terminal.wait_for("begun")
        terminal.press("\x03")
        assert terminal.end() == 130
    assert f"cloud-train logs {run_id} --follow" in terminal.shown.decode()
    cloud_train("cancel", run_id, "--force")


def test_a_terminal_gets_colour_and_relative_times_and_next_commands(cloud_train: CommandLine) -> None:
    job = cloud_train.job("true")
    with cloud_train.terminal("submit", job) as terminal:
        assert terminal.end() == 0
        assert "--follow" in terminal.shown.decode()
    cloud_train("logs", "--follow")
    with cloud_train.terminal("list") as terminal:
        assert terminal.end() == 0
        shown = terminal.shown.decode()
    assert "\x1b[32msucceeded\x1b[0m" in shown
    assert " ago" in shown or " now" in shown


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color_and_a_dumb_terminal_get_no_colour(cloud_train: CommandLine, variable: str, value: str) -> None:
    cloud_train.submit("false")
    for arguments in (["list"], ["status"], ["doctor"], ["status", "nowhere"]):
        with cloud_train.terminal(*arguments, variables={variable: value}) as terminal:
            terminal.end()
            assert not re.search(rb"\x1b\[[0-9;]*m", terminal.shown), arguments
            assert terminal.shown


def test_a_dumb_terminal_gets_the_output_and_no_live_line(cloud_train: CommandLine) -> None:
    with cloud_train.terminal("submit", cloud_train.job("echo hello"), "--follow", variables={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
        assert b"hello" in terminal.shown
        assert b"\x1b" not in terminal.shown


def test_a_failed_run_ends_following_with_its_causes_exit_code(cloud_train: CommandLine) -> None:
    with cloud_train.terminal("submit", cloud_train.job("echo oh no; exit 3"), "--follow") as terminal:
        assert terminal.end() == 10
        assert "oh no" in terminal.shown.decode()
        assert "cloud-train resume" in terminal.shown.decode()


def test_control_characters_of_a_failed_programs_log_do_not_reach_the_terminal_through_status(cloud_train: CommandLine) -> None:
    cloud_train.submit(r"printf '\033]0;owned\007\033[2Jend\n'; exit 1")
    with cloud_train.terminal("status", variables={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
        assert b"owned" in terminal.shown
        assert b"\x1b" not in terminal.shown
        assert b"\x07" not in terminal.shown
