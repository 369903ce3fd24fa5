import pytest

from cloud_train.errors import UsageError
from cloud_train.worker.node import NodeContext, from_variables


def test_without_variables_there_is_one_node() -> None:
    assert from_variables({}) == NodeContext(rank=0, nodes=1, master_address="127.0.0.1")


def test_plain_variables_say_the_place_among_others() -> None:
    variables = {"CLOUD_TRAIN_NODE_RANK": "1", "CLOUD_TRAIN_NODES": "4", "MASTER_ADDR": "10.0.0.7"}
    assert from_variables(variables) == NodeContext(rank=1, nodes=4, master_address="10.0.0.7")


@pytest.mark.parametrize(("rank", "nodes"), [("4", "4"), ("-1", "2"), ("0", "0"), ("one", "2")])
def test_a_place_that_does_not_exist_is_refused(rank: str, nodes: str) -> None:
    with pytest.raises(UsageError):
        from_variables({"CLOUD_TRAIN_NODE_RANK": rank, "CLOUD_TRAIN_NODES": nodes})
