import json
from pathlib import Path
from typing import Any

import pytest

from cloud_train import exit_status
from cloud_train.errors import UsageError
from cloud_train.run.platform_rules import NodeVariables
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.platforms import platform_of


def resource_config(root: Path, document: Any) -> None:
    folder = root / "opt/ml/input/config"
    folder.mkdir(parents=True)
    (folder / "resourceconfig.json").write_text(json.dumps(document))


def test_sagemaker_names_the_hosts_in_a_file(tmp_path: Path) -> None:
    resource_config(tmp_path, {"current_host": "algo-2", "hosts": ["algo-1", "algo-2", "algo-3"], "network_interface_name": "eth0"})
    platform = platform_of("sagemaker", {"TRAINING_JOB_NAME": "run-1"}, tmp_path)
    assert (platform.node, platform.job) == (NodeContext(1, 3, "algo-1"), "run-1")


def test_the_interface_between_sagemakers_machines_is_that_of_nccl_and_gloo(tmp_path: Path) -> None:
    resource_config(tmp_path, {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth1"})
    platform = platform_of("sagemaker", {"TRAINING_JOB_NAME": "run-1"}, tmp_path)
    assert platform.variables == {"NCCL_SOCKET_IFNAME": "eth1", "GLOO_SOCKET_IFNAME": "eth1"}


def test_a_single_machine_of_sagemaker_needs_no_interface_and_machines_may_come_late(tmp_path: Path) -> None:
    resource_config(tmp_path, {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"})
    platform = platform_of("sagemaker", {"TRAINING_JOB_NAME": "run-1"}, tmp_path)
    assert (platform.variables, platform.join_seconds) == ({}, 1200)


def test_sagemaker_is_told_the_end_in_a_file_where_it_can_be_written(tmp_path: Path) -> None:
    resource_config(tmp_path, {"current_host": "algo-1", "hosts": ["algo-1"]})
    platform = platform_of("sagemaker", {"TRAINING_JOB_NAME": "run-1"}, tmp_path)
    platform.tell("it broke")  # there is no such folder: nothing happens
    (tmp_path / "opt/ml/output").mkdir()
    platform.tell("it broke")
    assert (tmp_path / "opt/ml/output/failure").read_text() == "it broke"


@pytest.mark.parametrize(("kind", "index", "rank"), [("workerpool0", 0, 0), ("workerpool1", 0, 1), ("workerpool1", 1, 2)])
def test_vertex_names_the_pools_in_a_variable(kind: str, index: int, rank: int) -> None:
    spec = {
        "cluster": {"workerpool0": ["cmle-master-0:2222"], "workerpool1": ["cmle-worker-0:2222", "cmle-worker-1:2222"]},
        "task": {"type": kind, "index": index},
    }
    platform = platform_of("vertex", {"CLOUD_ML_JOB_ID": "4711", "CLUSTER_SPEC": json.dumps(spec)})
    assert (platform.node, platform.job) == (NodeContext(rank, 3, "cmle-master-0", 2222), "4711")


def test_vertex_without_pools_is_one_node() -> None:
    assert platform_of("vertex", {"CLOUD_ML_JOB_ID": "4711"}).node == NodeContext()


def test_azure_ml_names_the_nodes_in_variables() -> None:
    variables = {"AZUREML_RUN_ID": "run-1", "AZUREML_NODE_COUNT": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105"}
    platform = platform_of("azureml", variables)
    assert (platform.node, platform.job) == (NodeContext(1, 2, "10.0.0.4", 6105), "run-1")
    assert platform_of("azureml", {"AZUREML_RUN_ID": "run-1"}).node == NodeContext()


@pytest.mark.parametrize("name", ["sagemaker", "vertex", "azureml"])
def test_a_platform_that_does_not_show_itself_is_said_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot determine the node rank on platform '{name}'"):
        platform_of(name, {}, tmp_path)


def test_another_platform_is_refused() -> None:
    with pytest.raises(UsageError, match="sagemaker, vertex, azureml or JSON, not 'moon'"):
        platform_of("moon")


def test_what_vertex_would_restart_leaves_with_0_once_there_is_nothing_more_to_do() -> None:
    vertex, azure = platform_of("vertex", {"CLOUD_ML_JOB_ID": "1"}), platform_of("azureml", {"AZUREML_RUN_ID": "1"})
    assert [platform.exit_status(10, is_final=True) for platform in (vertex, azure)] == [0, 10]
    assert [platform.exit_status(10) for platform in (vertex, azure)] == [10, 10]


CRASHES = {6, 11, 134, 139}
"""The exit statuses that Vertex AI takes for a crash, which is worth three more starts of the whole job."""
REFUSALS = (
    exit_status.USAGE,
    exit_status.MISSING_DEPENDENCY,
    exit_status.STORE,
    exit_status.PROVIDER,
    exit_status.CORRUPT,
    exit_status.WORKSPACE,
)


@pytest.mark.parametrize("status", REFUSALS)
def test_a_worker_that_refuses_its_own_start_is_not_taken_for_a_crash_by_vertex(status: int) -> None:
    given = platform_of("vertex", {"CLOUD_ML_JOB_ID": "1"}).exit_status(status)
    assert given not in {0, *CRASHES}
    assert platform_of("azureml", {"AZUREML_RUN_ID": "1"}).exit_status(status) == status


def test_a_machine_has_twenty_minutes_to_appear_after_the_first_one() -> None:
    """Vertex AI starts each node as it becomes ready, which may take longer than five minutes."""
    assert platform_of("vertex", {"CLOUD_ML_JOB_ID": "1"}).join_seconds == 20 * 60


CLUSTER = NodeVariables(job="JOB", rank="RANK", nodes="TASKS", address="FIRST", port="PORT")


def test_a_platform_that_no_worker_knows_names_its_variables_as_json(tmp_path: Path) -> None:
    variables = {"JOB": "4711", "RANK": "1", "TASKS": "3", "FIRST": "node-0", "PORT": "29517"}
    platform = platform_of(CLUSTER.to_json(), variables)
    assert (platform.node, platform.job) == (NodeContext(1, 3, "node-0", 29517), "4711")
    assert platform_of(CLUSTER.to_json(), {**variables, "CLOUD_TRAIN_MASTER_PORT": "1234"}).node.master_port == 1234
    assert platform_of(CLUSTER.to_json(), {"JOB": "4711", "TASKS": "1"}).node == NodeContext()
    alone = NodeVariables(job="JOB", failure_file="/var/failure", restarts_failures=True)
    platform = platform_of(alone.to_json(), {"JOB": "4711"}, tmp_path)
    assert (platform.node, platform.failure_file, platform.restarts_failures) == (NodeContext(), tmp_path / "var/failure", True)


@pytest.mark.parametrize(
    ("name", "variables", "message"),
    [
        (CLUSTER.to_json(), {"TASKS": "2", "RANK": "1", "FIRST": "a", "PORT": "1"}, "cannot determine the node rank.*JOB"),
        (CLUSTER.to_json(), {"JOB": "4711", "TASKS": "two"}, "cannot determine the node rank"),
        ('{"rank": "RANK"}', {}, "expected NodeVariables as JSON with job, rank"),
        ('{"job": "JOB", "colour": "red"}', {}, "expected NodeVariables as JSON with job, rank"),
        ("{", {}, "expected NodeVariables as JSON with job, rank"),
        ("slurm", {}, "--platform must be one of sagemaker, vertex, azureml or JSON, not 'slurm'"),
    ],
)
def test_variables_that_are_missing_or_no_rules_are_said(name: str, variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        platform_of(name, variables)
