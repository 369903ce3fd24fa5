from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.launching import Launched


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    found = Launched(tmp_path)
    yield found
    found.end()
