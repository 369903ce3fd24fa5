import socket

import pytest

from cloud_train.errors import UsageError
from cloud_train.worker.nodes import NodeContext, from_variables, wait_for_name


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


class Names:
    """A clock, and a resolver that knows the name from a moment on."""

    def __init__(self, known_at: float) -> None:
        self.now, self._known_at = 0.0, known_at

    def resolve(self, host: str) -> str:
        if self.now < self._known_at:
            raise socket.gaierror(-2, f"Name or service not known: {host}")
        return "10.0.0.1"

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, seconds: float) -> str:
        return wait_for_name("algo-1", seconds, resolve=self.resolve, sleep=self.sleep, clock=lambda: self.now)


def test_a_name_that_appears_after_eighteen_minutes_is_waited_for() -> None:
    names = Names(known_at=18 * 60)
    assert names.wait(1200) == ""
    assert 18 * 60 <= names.now < 18 * 60 + 16


def test_a_name_that_never_appears_is_given_up() -> None:
    with pytest.raises(OSError, match="algo-1"):
        Names(known_at=9999).wait(1200)
