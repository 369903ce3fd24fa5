import pytest

from cloud_train.errors import UsageError
from cloud_train.worker.nodes import NodeContext, from_variables


def test_without_variables_there_is_one_node() -> None:
    assert from_variables({}) == NodeContext(rank=0, nodes=1, master_address="127.0.0.1")


def test_plain_variables_say_the_place_among_others() -> None:
    variables = {"CLOUD_TRAIN_NODE_RANK": "1", "CLOUD_TRAIN_NODES": "4", "MASTER_ADDR": "10.0.0.7"}
    assert from_variables(variables) == NodeContext(rank=1, nodes=4, master_address="10.0.0.7")


def test_what_a_provider_says_of_the_place_goes_before_variables() -> None:
    variables = {"CLOUD_TRAIN_NODE_RANK": "1", "CLOUD_TRAIN_NODES": "4", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4000"}
    assert from_variables(variables, rank=2, nodes=3) == NodeContext(2, 3, "10.0.0.7", 4000)


def test_the_port_of_cloud_train_goes_before_a_platforms() -> None:
    assert from_variables({"CLOUD_TRAIN_MASTER_PORT": "29501", "MASTER_PORT": "4000"}).master_port == 29501
    assert from_variables({}).master_port == 29500
    with pytest.raises(UsageError, match="MASTER_PORT must be a number, not 'http'"):
        from_variables({"MASTER_PORT": "http"})


@pytest.mark.parametrize(("rank", "nodes"), [("4", "4"), ("-1", "2"), ("0", "0"), ("one", "2")])
def test_a_place_that_does_not_exist_is_refused(rank: str, nodes: str) -> None:
    with pytest.raises(UsageError):
        from_variables({"CLOUD_TRAIN_NODE_RANK": rank, "CLOUD_TRAIN_NODES": nodes})
