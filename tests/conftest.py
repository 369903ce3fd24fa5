"""Every test is put into its lanes, by what it uses: tests/lanes.py."""

import os
from collections.abc import Iterator

import pytest

from tests import lanes

# Several tests share the machine's processors: a training with a thread for each of them, the default, spends its time waiting for threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for lane in lanes.lanes_of(item):
            item.add_marker(lane)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    lanes.enter(item)
    try:
        return (yield)
    finally:
        lanes.enter(None)
