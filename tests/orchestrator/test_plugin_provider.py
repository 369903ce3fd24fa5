"""A provider plugin from outside the package, with typed settings, and with nodes and secrets declared as data."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cloud_train.errors import ProviderError
from cloud_train.job.config import load_config
from cloud_train.job.schema import config_schema
from cloud_train.orchestrator.configs import settings_of
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.submitting import submit
from cloud_train.plugins import settings_models
from cloud_train.providers.registry import UnknownProviderError, load_provider
from cloud_train.run import layout
from cloud_train.run.states import Cause
from cloud_train.spec.problems import JobFileError
from tests.orchestrator.cluster_plugin import ClusterProvider, ClusterSettings
from tests.support import wait_until

SECRET = "sesame-open-4711"
JOB = """
name: test
model:
  kind: script
  command: echo "node $CLOUD_TRAIN_NODE_RANK of $CLOUD_TRAIN_NODES meets at $MASTER_PORT, secret of ${#API_KEY} characters"
store: runs
resources: {nodes: 2}
secrets: [API_KEY]
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin as pip would install it, with its metadata on the path."""
    metadata = tmp_path / "site" / "cluster-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: cluster\nVersion: 1.0\n")
    target = f"{ClusterProvider.__module__}:{ClusterProvider.__name__}"
    (metadata / "entry_points.txt").write_text(f"[cloud_train.providers]\ncluster = {target}\n")
    monkeypatch.syspath_prepend(metadata.parent)


def config(folder: Path, text: str) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return file


def test_a_job_of_two_nodes_runs_on_it_and_gets_its_secret(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", SECRET)
    (tmp_path / "job.yaml").write_text(JOB)
    file = config(tmp_path, "provider: cluster\ncluster: {queue: night, patience: 5 min}\n")
    plan = make_plan(home, tmp_path / "job.yaml", config=str(file))
    assert plan.provider_settings == {"queue": "night", "priority": "low", "patience": "5 min"}
    run = submit(home, plan)
    wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run has ended")
    assert update_run(home, run.run_id).cause is Cause.SUCCEEDED
    said = {(Path(run.run_directory) / layout.output_log(1, rank)).read_text().strip() for rank in range(2)}
    assert said == {f"node {rank} of 2 meets at 29517, secret of {len(SECRET)} characters" for rank in range(2)}
    assert not (home.folder / "cluster" / f"{run.run_id}.1" / "secrets").exists()


def test_mistakes_in_its_settings_are_reported_with_their_positions(tmp_path: Path) -> None:
    with pytest.raises(JobFileError) as caught:
        load_config(config(tmp_path, "provider: cluster\ncluster: {queue: Night, priorty: high, patience: soon}\n"))
    found = {str(problem.place): (problem.message, problem.suggestion) for problem in caught.value.problems}
    place = tmp_path / "cluster.yaml"
    assert found[f"{place}:2:25"] == ("unknown key 'priorty'", "priority")
    assert {f"{place}:2:18", f"{place}:2:50"} <= set(found)
    with pytest.raises(JobFileError, match="'queue' is missing in 'cluster'"):
        load_config(config(tmp_path, "cluster: {priority: high}\n"))


def test_its_settings_are_in_the_schema_with_their_descriptions(tmp_path: Path) -> None:
    schema = config_schema(settings_models({"cluster", "local"}))
    section = schema["$defs"]["ClusterSettings"]
    assert section["properties"]["queue"]["description"] == "The queue in which jobs wait. Needed."
    validator = jsonschema.Draft202012Validator(schema)
    good: dict[str, Any] = {"provider": "cluster", "cluster": {"queue": "night"}, "slurm": {"partition": "x"}}
    assert validator.is_valid(good)
    assert not validator.is_valid({"cluster": {"priority": "low"}})
    assert "cluster" not in config_schema()["properties"], "what is published describes what is built in"


def test_only_settings_that_differ_from_the_defaults_need_trust(tmp_path: Path) -> None:
    read = load_config(config(tmp_path, "cluster: {queue: night, priority: low}\n"))
    assert settings_of(read) == {"cluster.queue": "night"}


def test_its_refusals_are_raised_before_anything_starts(home: Home, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB.replace("secrets: [API_KEY]", ""))
    with pytest.raises(ProviderError, match=r"cluster\.queue: no queue is named"):
        submit(home, make_plan(home, tmp_path / "job.yaml", provider="cluster"))
    assert not (home.folder / "cluster").exists()


def test_a_misspelled_name_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UnknownProviderError, match="unknown provider 'clustr'") as caught:
        load_provider("clustr", tmp_path)
    assert caught.value.hint == "did you mean 'cluster'?"


def test_a_plugin_without_a_settings_model_accepts_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ClusterProvider, "settings")
    read = load_config(config(tmp_path, "cluster: {anything: [1, 2]}\n"))
    assert json.loads(json.dumps(read.settings)) == {"cluster": {"anything": [1, 2]}}


def test_the_model_is_the_plugin_s_own() -> None:
    assert settings_models({"cluster"}) == {"cluster": ClusterSettings}
    assert settings_models(set()) == {}
