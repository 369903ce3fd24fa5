"""The stores that the tests of this folder run on: a local folder and, on real servers, one for each cloud."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import Store
from cloud_train.storage.local import LocalStore
from cloud_train.storage.registry import open_store
from cloud_train.storage.retrying import RetryingStore
from tests.stores import SCHEMES, StoreServer, server_or_skip, use

QUICK = RetryPolicy(first_wait=0.01, longest_wait=0.1, time_limit=5.0)
"""So that a fault which does not pass shows in seconds."""

LOCAL = ("local", "local-retrying")


@pytest.fixture(params=SCHEMES)
def store_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StoreServer:
    """The server of each cloud in turn; the environment says where it is."""
    server = server_or_skip(request.param)
    use(server, monkeypatch)
    return server


@pytest.fixture(params=(*LOCAL, *SCHEMES))
def open_again(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Store]:
    """Opens one store, empty at first, as often as it is called: each time a new client, as another process has it."""
    if request.param in LOCAL:
        folder = tmp_path / "store"
        return lambda: LocalStore(folder) if request.param == "local" else RetryingStore(LocalStore(folder), QUICK)
    server = server_or_skip(request.param)
    use(server, monkeypatch)
    url = f"{server.new_url()}/some/prefix"
    return lambda: open_store(url, QUICK)


@pytest.fixture
def store(open_again: Callable[[], Store]) -> Store:
    """An empty store of each kind in turn."""
    return open_again()
