import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from cloud_train.run.documents import is_run_id
from tests.cli.command import CommandLine
from tests.support import wait_until

CNN = "name: digits\nmodel: {{kind: cnn}}\ndata: {{dataset: digits}}\nstore: {store}\n"
SHOUTING = """
import sys
print("imported", file=sys.stderr)

class plugin:
    new_schema_validator = lambda *_, **__: (None, None, None)
"""
MEASURES = (
    """for step in 1 2 3 4; do printf '{"step": %d, "epoch": %d, "split": "train", "name": "loss", "value": 0.%d}\\n'"""
    """ $step $(( (step + 1) / 2 )) $(( 9 - step )) >> "$CLOUD_TRAIN_METRICS"; done"""
)


def test_submit_prints_only_the_run_id_for_use_in_a_shell(cloud_train: CommandLine) -> None:
    ended = cloud_train("submit", cloud_train.job("true"))
    assert ended.status == 0
    assert is_run_id(ended.text.removesuffix("\n"))
    assert ended.err == ""


def test_follow_without_a_terminal_prints_the_id_the_programs_output_and_the_result(cloud_train: CommandLine) -> None:
    ended = cloud_train("submit", cloud_train.job("printf 'one\\ntwo'"), "--follow")
    run_id, one, two, *_ = ended.text.split("\n")
    assert ended.status == 0
    assert (one, two.startswith("two")) == ("one", True)
    assert f"{run_id} succeeded in" in ended.text
    assert "\x1b" not in ended.text
    assert "\r" not in ended.text


def test_follow_exits_with_the_code_of_the_cause(cloud_train: CommandLine) -> None:
    ended = cloud_train("submit", cloud_train.job("exit 3"), "--follow")
    assert ended.status == 10
    assert "exit status 3" in ended.text


def test_a_dry_run_shows_the_plan_and_writes_nothing(cloud_train: CommandLine) -> None:
    job = cloud_train.folder / "digits.yaml"
    job.write_text(CNN.format(store=cloud_train.folder / "runs"))
    ended = cloud_train("submit", job, "--dry-run", "--set", "train.epochs=3")
    assert ended.status == 0, ended.err
    assert re.search(r"train\.epochs +3 +--set", ended.text)
    assert re.search(r"data\.dataset +digits +digits\.yaml:3", ended.text)
    assert re.search(r"total +34,826", ended.text)
    assert "-m cloud_train.training" in ended.text
    assert "1,438 for training, 359 for validation" in ended.text
    assert not cloud_train.home.exists()
    assert [path.name for path in cloud_train.folder.iterdir()] == ["digits.yaml"]


def test_a_dry_run_as_json_is_the_plan(cloud_train: CommandLine) -> None:
    plan = cloud_train("submit", cloud_train.job("true"), "--dry-run", "--json").json
    assert plan["job"]["name"] == "script"
    assert plan["program"]["command"] == ["/bin/sh", "-c", "true"]
    assert plan["origins"]["name"].endswith("script.yaml:1")


def test_a_dry_run_that_would_be_refused_exits_with_7(cloud_train: CommandLine) -> None:
    ended = cloud_train(
        "submit", cloud_train.job("true"), "--dry-run", "--json", "--set", "provider=docker", "--set", "resources.memory=1MB"
    )
    assert ended.status == 7
    assert "resources.memory" in ended.json["refused"][0]


def test_a_dry_run_cannot_be_followed(cloud_train: CommandLine) -> None:
    assert cloud_train("submit", cloud_train.job("true"), "--dry-run", "--follow").status == 2


@pytest.mark.slow
def test_every_verbs_json_is_one_document_and_nothing_else(cloud_train: CommandLine) -> None:
    job = cloud_train.job('mkdir -p "$CLOUD_TRAIN_MODEL" && echo w > "$CLOUD_TRAIN_MODEL/weights"; echo hello')
    run_id = cloud_train("submit", job, "--follow", "--json").json["run_id"]
    assert cloud_train("list", "--json").json["runs"][0]["run_id"] == run_id
    assert cloud_train("status", "--json").json["state"] == "succeeded"
    assert cloud_train("metrics", "--json").json == {"run_id": run_id, "points": []}
    assert cloud_train("logs", "--json").json == {"run_id": run_id, "attempt": 1, "node": 0, "lines": ["hello"]}
    assert cloud_train("fetch-model", "--json").json["files"] == ["weights"]
    assert "run.json" in cloud_train("sync", "--json").json["copied"]
    assert cloud_train("doctor", "--json").json["healthy"] is True
    assert cloud_train("validate", job, "--json").json["valid"] is True
    assert cloud_train("schema", "--json").json["title"]
    assert cloud_train("cancel", run_id, "--json").json["error"]["code"] == "conflict"
    assert cloud_train("resume", run_id, "--json").json["error"]["code"] == "conflict"
    assert cloud_train("predict", run_id, "missing.png", "--json").json["error"]["code"] == "not-found"
    assert cloud_train("status", "nowhere", "--json").json["error"]["code"] == "not-found"


def test_times_in_json_are_iso_8601_in_utc(cloud_train: CommandLine) -> None:
    cloud_train.submit("true")
    run = cloud_train("status", "--json").json
    offset = datetime.fromisoformat(run["started"]).utcoffset()
    assert offset is not None
    assert not offset
    assert run["duration_seconds"] >= 0


@pytest.mark.slow
def test_list_shows_the_newest_first_and_says_that_there_are_more(cloud_train: CommandLine) -> None:
    for name in ("one", "two", "three"):
        cloud_train.submit("true" if name != "two" else "false", name)
    ended = cloud_train("list", "--limit", "2")
    assert [line.split("-")[0] for line in ended.text.splitlines()[1:]] == ["three", "two"]
    assert "cloud-train list --all" in ended.err
    assert [line.split("-")[0] for line in cloud_train("list", "--all").text.splitlines()[1:]] == ["three", "two", "one"]
    assert [run["name"] for run in cloud_train("list", "--state", "failed", "--json").json["runs"]] == ["two"]


_MEASURES = """echo '{"step": 15, "loss": 0.3, "val_loss": 0.25}' >> "$CLOUD_TRAIN_METRICS"; """


@pytest.mark.slow
def test_list_chooses_by_name_and_states_and_shows_the_last_metric(cloud_train: CommandLine) -> None:
    for name, command in (("one", "true"), ("two", _MEASURES + "false"), ("two", "true")):
        cloud_train.submit(command, name)
    assert [line.split()[1] for line in cloud_train("list", "--name", "two").text.splitlines()[1:]] == ["succeeded", "failed"]
    states = ("--state", "failed", "--state", "running")
    [failed] = cloud_train("list", *states, "--json").json["runs"]
    assert (failed["name"], failed["step"], failed["progress"]) == ("two", 15, None)
    assert failed["metric"] == {"name": "validation/loss", "value": 0.25}
    assert "step 15  validation/loss 0.2500" in cloud_train("list", "--all", *states).text
    [in_store] = cloud_train("list", "--store", cloud_train.folder / "runs", "--name", "two", *states, "--json").json["runs"]
    assert in_store["metric"] == failed["metric"]
    assert cloud_train("list", "--name", "three").err == "no runs of a job named three\n"
    assert cloud_train("list", "--name", "two", "--state", "queued").err == "no runs in this state\n"
    for more in ((), ("--all",), ("--store", cloud_train.folder / "runs")):
        unknown = cloud_train("list", "--state", "lost", *more)
        assert unknown.status == 2
        assert unknown.err.startswith("error: unknown state: lost\nhint: the states are submitting, queued,")


@pytest.mark.slow
def test_status_shows_the_values_of_the_job_and_apart_from_them_those_of_set(cloud_train: CommandLine) -> None:
    job = cloud_train.job("exit 3")
    overrides = ("--set", "retry.attempts=2", "--set", "retry.on=[failed]", "--set", "limits.grace=30 s")
    run_id = cloud_train("submit", job, *overrides, "--follow", "--json").json["run_id"]
    cloud_train("resume", run_id, "--set", "limits.duration=10 min")
    status = cloud_train("status", "--json").json
    assert status["values"] == {"model.kind": "script", "model.command": "exit 3"}
    assert status["set"] == {"retry.attempts": 2, "retry.on.0": "failed", "limits.grace": "30 s"}
    assert [change["set"] for change in status["changes"]] == [["limits.duration=10 min"]]
    text = cloud_train("status").text
    assert re.search(r"^changed +limits.duration=10 min from attempt 3 on$", text, re.MULTILINE)
    assert re.search(r"^values +model.kind=script\n +model.command=exit 3$", text, re.MULTILINE)
    assert re.search(r"^--set +retry.attempts=2\n", text, re.MULTILINE)


@pytest.mark.slow
def test_list_without_a_run_says_how_to_start_one(cloud_train: CommandLine) -> None:
    ended = cloud_train("list")
    assert ended.out == b""
    assert "cloud-train submit" in ended.err
    assert cloud_train("list", "--json").json == {"runs": [], "more": False}


@pytest.mark.slow
def test_logs_are_the_programs_bytes_and_the_workers_notes_go_to_standard_error(cloud_train: CommandLine) -> None:
    cloud_train.submit(r"printf 'a\r\377\000b\nno end'")
    ended = cloud_train("logs")
    assert ended.out == b"a\r\xff\x00b\nno end"
    assert "worker: " in ended.err
    lines = cloud_train("logs", "--json").json["lines"]
    assert [line.encode("utf-8", "surrogateescape") for line in lines] == [b"a\r\xff\x00b", b"no end"]


@pytest.mark.slow
def test_an_unknown_node_is_a_usage_error(cloud_train: CommandLine) -> None:
    run_id = cloud_train.submit("echo hello")
    for follow in ((), ("--follow",)):
        ended = cloud_train("logs", run_id, "--node", "1", *follow)
        assert (ended.status, ended.out) == (2, b"")
        assert f"error: {run_id} has no node 1; its nodes are 0 only\nhint: resources.nodes in its job is 1\n" in ended.err


@pytest.mark.slow
def test_tail_prints_only_the_last_lines(cloud_train: CommandLine) -> None:
    cloud_train.submit("seq 1 1000")
    assert cloud_train("logs", "--tail", "2").out == b"999\n1000\n"
    assert cloud_train("logs", "--tail", "0").out == b""


def test_status_of_a_failed_run_says_why_shows_its_last_lines_and_what_to_do(cloud_train: CommandLine) -> None:
    run_id = cloud_train.submit("seq 1 30; printf 'bar 1%%\\rbar 2%%\\n'; exit 7")
    text = cloud_train("status", run_id[:6]).text
    assert "The program failed." in text
    assert "exit status 7" in text
    assert "  30\n  bar 2%\n" in text
    assert "  20\n" not in text
    assert f"cloud-train resume {run_id}" in text


@pytest.mark.slow
def test_cancel_waits_and_the_run_is_cancelled_and_resume_begins_the_next_attempt(cloud_train: CommandLine) -> None:
    job = cloud_train.job("if [ -e again ]; then echo again; else touch again; exec sleep 600; fi")
    run_id = cloud_train("submit", job).text.strip()
    wait_until((cloud_train.folder / "again").exists, "the first attempt has begun")
    follower = cloud_train("cancel", run_id)
    assert follower.text == f"{run_id} cancelled\n"
    ended = cloud_train("resume", run_id, "--follow")
    assert ended.status == 0, ended
    assert cloud_train("status", "--json").json["attempt"] == 2
    cloud_train("cancel", run_id, "--force")


@pytest.mark.slow
def test_metrics_are_one_row_an_epoch_and_every_point_as_json(cloud_train: CommandLine) -> None:
    run_id = cloud_train.submit(MEASURES)
    assert cloud_train("metrics").text == "EPOCH  STEP  train/loss\n    1     2      0.7000\n    2     4      0.5000\n"
    points = cloud_train("metrics", run_id, "--json").json["points"]
    assert [point["value"] for point in points] == [0.8, 0.7, 0.6, 0.5]
    missing = cloud_train("metrics", "--name", "acuracy")
    assert missing.status == 4
    assert "train/loss" in missing.err


def test_metrics_of_an_ended_run_without_any_say_that_it_wrote_none(cloud_train: CommandLine) -> None:
    run_id = cloud_train.submit("true")
    ended = cloud_train("metrics", run_id)
    assert (ended.status, ended.out, ended.err) == (0, b"", f"{run_id} ended without writing metrics\n")
    assert cloud_train("metrics", run_id, "--json").json == {"run_id": run_id, "points": []}


def test_rejected_lines_of_a_run_without_metrics_are_named_once(cloud_train: CommandLine) -> None:
    run_id = cloud_train.submit('echo nothing >> "$CLOUD_TRAIN_METRICS"')
    assert cloud_train("metrics", run_id).err.count("nothing") == 1


@pytest.mark.slow
def test_a_plot_needs_no_terminal(cloud_train: CommandLine) -> None:
    cloud_train.submit(MEASURES)
    ended = cloud_train("metrics", "--plot")
    assert ended.status == 0
    assert ended.err == ""
    assert "loss" in ended.text
    assert "\x1b" not in ended.text
    assert max(map(len, ended.text.splitlines())) <= 80


MEASURED = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "cloud_train", *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""
"""Runs a command from a small process, because the peak of a process counts that of the one that started it."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the peak differs")
@pytest.mark.parametrize("count", [60_000, 400_000])
@pytest.mark.parametrize(
    "form", ['{{"step": {0}, "name": "loss", "value": {1}}}\n', '{{"value": {1}, "name": "loss", "step": {0}, "tags": [1]}}\n']
)
def test_a_plot_of_many_values_takes_little_memory(cloud_train: CommandLine, form: str, count: int) -> None:
    run_id = cloud_train.submit("true")
    metrics = cloud_train.folder / "runs" / run_id / "attempts" / "1" / "metrics" / "node-0.jsonl"
    metrics.parent.mkdir(exist_ok=True)
    metrics.write_text("".join(form.format(step, step * 7919 % 9973 / 9973) for step in range(count)))
    ended = subprocess.run(
        [sys.executable, "-c", MEASURED, "metrics", "--plot"],
        cwd=cloud_train.folder,
        env=cloud_train.environment,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert "loss" in ended.stdout.decode()
    assert int(ended.stderr) < 120_000, "more kB than the limit"


@pytest.mark.slow
def test_fetch_model_prints_the_folder_and_sync_copies_only_what_is_new(cloud_train: CommandLine) -> None:
    cloud_train.submit('mkdir -p "$CLOUD_TRAIN_MODEL" && echo w > "$CLOUD_TRAIN_MODEL/weights"')
    folder = Path(cloud_train("fetch-model", "--to", "here").text.strip())
    assert folder == cloud_train.folder / "here"
    assert (folder / "weights").read_text() == "w\n"
    first = cloud_train("sync", "--to", "copy", "--json").json
    assert first["copied"]
    assert cloud_train("sync", "--to", "copy", "--json").json["copied"] == []


def test_validate_reports_every_file_and_exits_with_3_if_one_is_wrong(cloud_train: CommandLine) -> None:
    good, bad = cloud_train.job("true", "good"), cloud_train.folder / "bad.yaml"
    bad.write_text("name: bad\nmodle: {kind: cnn}\n")
    ended = cloud_train("validate", good, bad)
    assert ended.status == 3
    assert f"{good}: valid" in ended.text
    assert re.search(r"bad\.yaml:2:1", ended.err)
    assert "model" in ended.err
    answer = cloud_train("validate", good, bad, "--json")
    assert answer.status == 3
    assert [file["valid"] for file in answer.json["files"]] == [True, False]
    assert answer.json["files"][1]["error"]["problems"]


@pytest.mark.slow
def test_validate_and_the_plan_say_what_of_the_data_will_not_be_read(cloud_train: CommandLine) -> None:
    for name in ("cat", "dog"):
        (cloud_train.folder / "pictures" / name / "more").mkdir(parents=True)
        for file in ("1.jpg", "2.JPG", "more/3.webp", "4.avif"):
            (cloud_train.folder / "pictures" / name / file).touch()
    job = cloud_train.folder / "pictures.yaml"
    job.write_text("name: p\nmodel: {kind: cnn, blocks: [{filters: 2}]}\ndata: {dataset: images, path: pictures, validation: 0.5}\n")
    note = "2 files are not read as images: 2 .avif (only .jpg"
    assert f"valid\n  note: {note}" in cloud_train("validate", job).text
    assert cloud_train("validate", job, "--json").json["files"][0]["notes"][0].startswith(note)
    plan = cloud_train("submit", job, "--dry-run", "--json").json
    assert plan["notes"][0].startswith(note)
    assert (plan["data"]["train_samples"], plan["data"]["validation_samples"], plan["data"]["test_samples"]) == (3, 3, None)


@pytest.mark.parametrize("kind", ["cnn", "rnn", "script"])
def test_init_writes_a_valid_job_and_refuses_to_overwrite(cloud_train: CommandLine, kind: str) -> None:
    assert cloud_train("init", "new.yaml", "--kind", kind).text == "new.yaml\n"
    assert cloud_train("validate", "new.yaml").status == 0
    before = (cloud_train.folder / "new.yaml").read_text()
    again = cloud_train("init", "new.yaml")
    assert again.status == 9
    assert "--force" in again.err
    assert (cloud_train.folder / "new.yaml").read_text() == before
    assert cloud_train("init", "new.yaml", "--force").status == 0


def test_init_refuses_an_unknown_kind(cloud_train: CommandLine) -> None:
    ended = cloud_train("init", "new.yaml", "--kind", "gan")
    assert ended.status == 2
    assert "gan" in ended.err
    assert not (cloud_train.folder / "new.yaml").exists()


def test_init_in_an_unwritable_place_is_an_error_message(cloud_train: CommandLine) -> None:
    ended = cloud_train("init", "nowhere/job.yaml")
    assert ended.status == 6
    assert "cannot write nowhere/job.yaml" in ended.err


@pytest.mark.slow
def test_schema_describes_jobs_and_configs(cloud_train: CommandLine) -> None:
    assert "model" in cloud_train("schema").json["properties"]
    assert "provider" in cloud_train("schema", "--config").json["properties"]


@pytest.mark.slow
def test_doctor_shows_each_finding_and_exits_with_5_for_an_error(cloud_train: CommandLine) -> None:
    well = cloud_train("doctor")
    assert well.status == 0
    assert re.search(r"✔ python +3\.", well.text)
    cloud_train.home.write_text("a file where the folder would be")
    ill = cloud_train("doctor", "--json")
    assert ill.status == 5
    assert not ill.json["healthy"]


def test_doctor_warns_of_an_engine_that_does_not_answer(cloud_train: CommandLine) -> None:
    ended = cloud_train("doctor", "--json", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert ended.status == 0
    (finding,) = [finding for finding in ended.json["findings"] if finding["name"] == "provider docker"]
    assert finding["status"] == "warning"
    assert "unix:///nowhere/docker.sock" in finding["detail"]
    assert finding["remedy"]


def test_output_survives_an_encoding_that_lacks_its_characters(cloud_train: CommandLine) -> None:
    ended = cloud_train("doctor", PYTHONIOENCODING="ascii")
    assert ended.status == 0
    assert b"python" in ended.out


@pytest.mark.slow
def test_the_shell_completes_verbs_and_run_ids_and_makes_no_ledger(cloud_train: CommandLine) -> None:
    def complete(words: str) -> str:
        asked = {"_CLOUD_TRAIN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return cloud_train(**asked).text

    assert complete("cloud-train fet").split() == ["fetch-model"]
    assert complete("cloud-train status ").strip() == ""
    assert not cloud_train.home.exists()
    run_id = cloud_train.submit("true")
    assert complete("cloud-train status scr").split() == [run_id]
    assert complete("cloud-train submit job.yaml --provider lo").split() == ["local"]


def test_version_prints_the_packages_version(cloud_train: CommandLine) -> None:
    from cloud_train import __version__

    assert cloud_train("--version").text == f"cloud-train {__version__}\n"


def test_no_environment_variable_but_the_home_is_needed(cloud_train: CommandLine) -> None:
    bare = CommandLine(cloud_train.home, cloud_train.folder, {"CLOUD_TRAIN_HOME": str(cloud_train.home), "PATH": os.defpath})
    assert bare("list").status == 0
    assert json.loads(bare("list", "--json").out)["runs"] == []


@pytest.mark.parametrize("own", [None, "another-plugin"])
def test_pydantic_plugins_are_disabled_in_commands_but_not_in_programs(own: str | None, cloud_train: CommandLine) -> None:
    metadata = cloud_train.folder / "shouting-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[pydantic]\nshouting = shouting:plugin\n")
    (cloud_train.folder / "shouting.py").write_text(SHOUTING)
    variables = {"PYTHONPATH": str(cloud_train.folder)} | ({"PYDANTIC_DISABLE_PLUGINS": own} if own else {})
    ended = cloud_train("submit", cloud_train.job('printf "${PYDANTIC_DISABLE_PLUGINS-unset}"'), "--follow", **variables)
    assert ended.status == 0
    assert ended.text.split("\n")[1].startswith(own or "unset")
    assert ("imported" in ended.err) == (own is not None)  # the caller's own setting applies


def test_a_run_whose_directory_was_deleted_is_shown_as_that(cloud_train: CommandLine) -> None:
    run = cloud_train.submit("true")
    shutil.rmtree(cloud_train.folder / "runs" / run)
    shown = cloud_train("status", run)
    assert shown.status == 0
    assert "The run directory was deleted: its log, metrics, checkpoints and model are gone." in shown.text
    assert "fetch-model" not in shown.text
    assert f"cloud-train submit {cloud_train.folder / 'script.yaml'}" in shown.text
    artifacts = cloud_train("status", run, "--json").json["artifacts"]
    assert artifacts == {"model": False, "checkpoint": False, "directory": False, "model_step": None, "model_metrics": {}}
    for verb in ("logs", "metrics", "fetch-model", "sync"):
        ended = cloud_train(verb, run)
        assert ended.status == 4, ended
        assert "is gone" in ended.err or "was deleted" in ended.err
    assert cloud_train("resume", run).status == 9  # it has succeeded
