"""Small parts and several threads."""

from pathlib import Path

import pytest

from cloud_train.storage.transfer.engine import Options


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(threads=4, part_bytes=1000, state=tmp_path / "state")
