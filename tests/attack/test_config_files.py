"""A config file that comes with a cloned repository: used only once it was trusted, by what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import CommandLine

JOB = "name: cloned\nmodel: {kind: script, command: 'true'}\nstore: runs\n"
GCP = "gcp:\n  project: my-project\n  region: europe-west4\n  endpoint: 'http://127.0.0.1:9/{service}'\n"


@pytest.fixture
def repository(cloud_train: CommandLine) -> CommandLine:
    """The command line in a cloned repository, whose config for Google Cloud names a host of the attacker's."""
    folder = cloud_train.folder
    (folder / "configs").mkdir()
    (folder / "job.yaml").write_text(JOB)
    (folder / "configs" / "gcp.yaml").write_text(GCP)
    return cloud_train


def python_of(folder: Path) -> Path:
    """An interpreter of the attacker's, which leaves a canary."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\ntouch {folder}/canary\n")
    program.chmod(0o755)
    return program


def test_a_config_that_was_found_beside_a_job_and_names_a_host_is_refused_with_its_setting(repository: CommandLine) -> None:
    ended = repository("submit", "job.yaml", "--provider", "gcp", "--store", "gs://bucket/runs")
    assert ended.status == 2
    assert "configs/gcp.yaml is not trusted: it sets gcp.project, gcp.region, gcp.endpoint" in ended.err
    assert "cloud-train trust configs/gcp.yaml" in ended.err
    assert not (repository.home / "ledger.sqlite3").exists()


@pytest.mark.parametrize("verb", [["package", "job.yaml", "--provider", "gcp", "--push"], ["doctor", "--config", "gcp"]])
def test_other_verbs_that_send_something_ask_too(repository: CommandLine, verb: list[str]) -> None:
    ended = repository(*verb)
    assert ended.status == 2
    assert "configs/gcp.yaml is not trusted" in ended.err


def test_a_dry_run_sends_nothing_and_needs_no_trust(repository: CommandLine) -> None:
    ended = repository("submit", "job.yaml", "--provider", "gcp", "--store", "gs://bucket/runs", "--dry-run", "--json")
    assert ended.json["provider_settings"]["project"] == "my-project"


def test_a_trusted_file_is_used_until_it_says_something_else(repository: CommandLine) -> None:
    folder = repository.folder
    (folder / "configs" / "mine.yaml").write_text(f"provider: local\nlocal: {{python: {python_of(folder)}}}\n")
    assert repository("submit", "job.yaml", "--config", "mine").status == 2
    assert not (folder / "canary").exists()
    trusted = repository("trust", "configs/mine.yaml")
    assert trusted.text.splitlines()[:2] == ["provider: local", f"local.python: {folder}/python"]
    started = repository("submit", "job.yaml", "--config", "mine")
    assert (started.status, "using the settings in configs/mine.yaml" in started.err) == (0, True)
    with (folder / "configs" / "mine.yaml").open("a") as file:
        file.write("# a comment says nothing\n")
    assert repository("submit", "job.yaml", "--config", "mine").status == 0
    (folder / "configs" / "mine.yaml").write_text("provider: local\nlocal: {python: /tmp/other}\n")
    assert repository("submit", "job.yaml", "--config", "mine").status == 2


def test_trust_in_one_file_is_no_trust_in_its_copy(repository: CommandLine) -> None:
    repository("trust", "configs/gcp.yaml")
    other = repository.folder / "elsewhere"
    (other / "configs").mkdir(parents=True)
    (other / "job.yaml").write_text(JOB)
    (other / "configs" / "gcp.yaml").write_text(GCP)
    copied = CommandLine(repository.home, other, repository.environment)
    assert "is not trusted" in copied("submit", "job.yaml", "--provider", "gcp", "--store", "gs://bucket/runs").err


def test_a_file_that_decides_nothing_of_the_kind_needs_no_trust(repository: CommandLine) -> None:
    (repository.folder / "configs" / "plain.yaml").write_text("provider: local\ndocker: {platform: linux/arm64}\n")
    started = repository("submit", "job.yaml", "--config", "plain")
    assert (started.status, "using the settings in configs/plain.yaml" in started.err) == (0, True)


def test_a_file_that_the_caller_names_by_its_path_is_the_callers_word(repository: CommandLine) -> None:
    folder = repository.folder
    (folder / "configs" / "mine.yaml").write_text(f"provider: local\nlocal: {{python: {python_of(folder)}}}\n")
    assert repository("submit", "job.yaml", "--config", "configs/mine.yaml").status == 0


def test_at_a_terminal_the_settings_are_shown_and_the_answer_counts(repository: CommandLine) -> None:
    folder = repository.folder
    (folder / "configs" / "mine.yaml").write_text(f"provider: local\nlocal: {{python: {python_of(folder)}}}\n")
    with repository.terminal("submit", "job.yaml", "--config", "mine") as terminal:
        terminal.wait_for("Trust it? [y/N]")
        assert f"{folder}/python".encode() in terminal.shown
        terminal.press("n\r")
        assert terminal.end() == 2
    with repository.terminal("submit", "job.yaml", "--config", "mine") as terminal:
        terminal.wait_for("Trust it? [y/N]")
        terminal.press("y\r")
        assert terminal.end() == 0
    assert repository("submit", "job.yaml", "--config", "mine").status == 0


def test_a_foreign_run_is_shown_at_a_terminal_and_trust_accepts_it_for_scripts(cloud_train: CommandLine, tmp_path: Path) -> None:
    run_id = cloud_train.submit("echo ran >> ran; false")
    stranger = CommandLine(tmp_path / "stranger", cloud_train.folder, {**cloud_train.environment, "CLOUD_TRAIN_HOME": str(tmp_path / "s")})
    stranger("adopt", cloud_train.folder / "runs" / run_id)
    refused = stranger("resume", run_id, "--json")
    assert (refused.status, refused.json["error"]["code"]) == (2, "not-trusted")
    with stranger.terminal("resume", run_id) as terminal:
        terminal.wait_for("Start it? [y/N]")
        assert b"/bin/sh -c 'echo ran >> ran; false'" in terminal.shown
        terminal.press("\r")
        assert terminal.end() == 2
    assert (cloud_train.folder / "ran").read_text() == "ran\n"
    started = stranger("resume", run_id, "--trust", "--follow")
    assert "command" in started.err
    assert (cloud_train.folder / "ran").read_text() == "ran\nran\n"


@pytest.mark.parametrize("keys", ["\x03", "\x04"])
def test_ctrl_c_or_the_end_of_input_at_the_question_starts_nothing(cloud_train: CommandLine, tmp_path: Path, keys: str) -> None:
    run_id = cloud_train.submit("echo ran >> ran; false")
    stranger = CommandLine(tmp_path / "stranger", cloud_train.folder, {**cloud_train.environment, "CLOUD_TRAIN_HOME": str(tmp_path / "s")})
    stranger("adopt", cloud_train.folder / "runs" / run_id)
    with stranger.terminal("resume", run_id) as terminal:
        terminal.wait_for("Start it? [y/N]")
        terminal.press(keys)
        assert terminal.end() == 130
        assert b"bug" not in terminal.shown
    assert (cloud_train.folder / "ran").read_text() == "ran\n"


@pytest.mark.parametrize("store", ["gs://bucket-of-an-attacker/x", "../kept"])
def test_a_file_that_only_decides_where_run_directories_go_has_to_be_trusted(repository: CommandLine, store: str) -> None:
    (repository.folder / "configs" / "mine.yaml").write_text(f"provider: local\nstore: {store}\n")
    ended = repository("submit", "job.yaml", "--config", "mine")
    assert (ended.status, "configs/mine.yaml is not trusted: it sets store" in ended.err) == (2, True)


@pytest.mark.parametrize(
    "setting",
    [
        "docker: {base: registry.example.com/base}",
        "docker: {network: host}",
        "docker: {user: 0}",
        "docker: {repository: registry.example.com/x/y}",
        "aws: {region: eu-west-1}",
        "aws: {role: 'arn:aws:iam::123456789012:role/admin'}",
        "aws: {subnets: [subnet-1]}",
        "aws: {security_groups: [sg-1]}",
        "aws: {kms_key: alias/theirs}",
        "aws: {base: registry.example.com/base}",
        "gcp: {project: project-of-an-attacker}",
        "gcp: {region: europe-west4}",
        "gcp: {network: projects/12345/global/networks/theirs}",
        "gcp: {base: registry.example.com/base}",
        "azure: {subscription: 00000000-0000-0000-0000-000000000000}",
        "azure: {resource_group: theirs}",
        "azure: {workspace: theirs}",
        "azure: {location: westeurope}",
        "azure: {compute: theirs}",
        "azure: {base: registry.example.com/base}",
    ],
)
def test_each_setting_that_decides_where_data_code_or_secrets_go_has_to_be_trusted(repository: CommandLine, setting: str) -> None:
    (repository.folder / "configs" / "mine.yaml").write_text(f"{setting}\n")
    provider, _, rest = setting.partition(": {")
    ended = repository("doctor", "--config", "mine")
    assert f"configs/mine.yaml is not trusted: it sets {provider}.{rest.partition(':')[0]}" in ended.err
    assert ended.status == 2


def test_the_question_and_the_verb_show_everything_that_is_trusted(repository: CommandLine) -> None:
    (repository.folder / "configs" / "gcp.yaml").write_text(
        "provider: gcp\nstore: gs://bucket-of-an-attacker/x\n"
        "gcp:\n  project: project-of-an-attacker\n  region: europe-west4\n  base: registry.example.com/base\n"
        "  repository: registry.example.com/images\n  machine: a3-megagpu-8g\n  disk: 100GB\n"
    )
    shown = {
        "provider": "gcp",
        "store": "gs://bucket-of-an-attacker/x",
        "gcp.project": "project-of-an-attacker",
        "gcp.region": "europe-west4",
        "gcp.base": "registry.example.com/base",
        "gcp.repository": "registry.example.com/images",
        "gcp.machine": "a3-megagpu-8g",
    }
    with repository.terminal("submit", "job.yaml", "--provider", "gcp") as terminal:
        terminal.wait_for("Trust it? [y/N]")
        for name, value in shown.items():
            assert name.encode() in terminal.shown
            assert value.encode() in terminal.shown
        terminal.press("n\r")
        assert terminal.end() == 2
    assert repository("trust", "configs/gcp.yaml", "--json").json["settings"] == shown


@pytest.mark.parametrize("settings", ["gcp: {machine: g2-standard-8, max_runtime: 1 d, labels: {team: vision}}", "aws: {volume: 30GB}"])
def test_the_size_and_the_labels_of_a_job_need_no_trust(repository: CommandLine, settings: str) -> None:
    (repository.folder / "configs" / "mine.yaml").write_text(f"provider: local\n{settings}\n")
    assert repository("submit", "job.yaml", "--config", "mine").status == 0


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&1", "<&- 2>&-"])
def test_without_an_input_nothing_is_accepted_and_nothing_is_called_a_bug(cloud_train: CommandLine, tmp_path: Path, closed: str) -> None:
    run_id = cloud_train.submit("echo ran >> ran; false")
    environment = {**cloud_train.environment, "CLOUD_TRAIN_HOME": str(tmp_path / "s")}
    stranger = CommandLine(tmp_path / "stranger", cloud_train.folder, environment)
    stranger("adopt", cloud_train.folder / "runs" / run_id)
    ended = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m cloud_train resume "$1" {closed}', sys.executable, run_id],
        cwd=cloud_train.folder,
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, b"bug" in ended.stdout + ended.stderr) == (2, False)
    assert not (tmp_path / "s" / "errors").exists()
    assert (cloud_train.folder / "ran").read_text() == "ran\n"
