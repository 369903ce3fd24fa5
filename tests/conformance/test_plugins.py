"""Plugins as real, installed distributions: one that works, one whose import fails, and a third party's run of this suite."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_train.errors import ProviderError
from cloud_train.orchestrator.home import Home
from cloud_train.providers.registry import known_providers, load_provider
from tests.conformance.place import VARIABLE

ROOT = Path(__file__).parent.parent.parent
SUITE = ("pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/conformance/test_protocol.py")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def test_an_installed_plugin_is_known_by_the_name_of_its_entry_point(plugins: Path, home: Home) -> None:
    assert [provider.error for provider in known_providers(home.folder) if provider.name == "toy"] == [None]
    toy = load_provider("toy", home.folder)
    assert Path(sys.modules[type(toy).__module__].__file__ or "").is_relative_to(plugins)


def test_a_plugin_whose_import_fails_is_reported_and_hides_nothing(plugins: Path, home: Home) -> None:
    known = {provider.name: provider.error for provider in known_providers(home.folder)}
    assert {"broken", "docker", "local", "toy"} <= set(known)
    assert "the SDK of this place is not installed" in (known.pop("broken") or "")
    assert set(known.values()) == {None}
    with pytest.raises(ProviderError, match="the SDK of this place is not installed"):
        load_provider("broken", home.folder)


def test_the_doctor_reports_it_and_finds_nothing_else_wrong(plugins: Path, home: Home) -> None:
    ended = run("cloud_train", "doctor", "--json")
    assert ended.returncode == 0, "what is built in works"
    findings = {finding["name"]: finding for finding in json.loads(ended.stdout)["findings"]}
    assert findings["provider broken"]["status"] == "warning"
    assert "the SDK of this place is not installed" in findings["provider broken"]["detail"]
    assert findings["provider broken"]["remedy"]
    assert (findings["provider toy"]["status"], findings["provider toy"]["detail"]) == ("ok", "plugin")


def test_the_command_line_runs_a_job_on_a_plugin(plugins: Path, home: Home, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"name: test\nmodel: {{kind: script, command: echo from the toy}}\nstore: {tmp_path}/runs\n")
    ended = run("cloud_train", "submit", str(job), "--provider", "toy", "--follow")
    assert ended.returncode == 0, ended.stderr
    assert "from the toy" in ended.stdout
    assert not list((home.folder / "toy").iterdir())


def test_a_job_for_a_plugin_whose_import_fails_is_refused_in_words(plugins: Path, home: Home, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("name: test\nprovider: broken\nmodel: {kind: script, command: 'true'}\nstore: runs\n")
    ended = run("cloud_train", "submit", str(job))
    assert ended.returncode == ProviderError.exit_code
    assert "the SDK of this place is not installed" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_third_party_runs_this_suite_against_its_own_plugin(plugins: Path) -> None:
    suite = run(*SUITE, "-k", "rendering or secrets_reach", **{VARIABLE: "cloud_train_toy.place:PLACE"})
    assert suite.returncode == 0, suite.stdout
    assert "2 passed" in suite.stdout
    assert "[cloud_train_toy.place:PLACE] PASSED" in suite.stdout


def test_the_suite_fails_and_says_why_where_the_plugin_is_not_installed(plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("from cloud_train_toy.place import ToyPlace\n\nPLACE = ToyPlace()\nPLACE.name = 'elsewhere'\n")
    path = f"{tmp_path}:{os.environ['PYTHONPATH']}"
    suite = run(*SUITE, "-k", "rendering", **{VARIABLE: "elsewhere:PLACE", "PYTHONPATH": path})
    assert suite.returncode == 1
    assert "the provider 'elsewhere': it is not installed" in suite.stdout
