"""The stores that commands look at: each is opened once a process, and looked at no more often than it may be."""

from functools import lru_cache

from cloud_train.storage.base import Store
from cloud_train.storage.registry import open_store
from cloud_train.storage.retrying import RetryPolicy

CLOUD_PAUSE_SECONDS = 2.0
"""Between two looks at a cloud's store, where each look is paid for."""
_PATIENCE_SECONDS = 30.0  # of somebody at a terminal, with a store that cannot be reached


_PATIENCE_SECONDS = 30.0
"""For a store that cannot be reached: somebody is waiting at a terminal."""


@lru_cache(maxsize=16)
def store_at(url: str) -> Store:
    """The store behind ``url``. Opening one reads credentials and makes connections, which a command that looks again and again keeps."""
    return open_store(url, RetryPolicy(time_limit=_PATIENCE_SECONDS))


def pause_of(store: Store, local: float) -> float:
    """Seconds between two looks: ``local`` for a folder of this machine."""
    return local if store.local_path("run") is not None else CLOUD_PAUSE_SECONDS
