"""What the tests of the job room share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_train.job.loading import LoadedJob, load_job

Load = Callable[..., LoadedJob]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a text to job.yaml and load it."""

    def load(text: str, *overrides: str, **options: Any) -> LoadedJob:
        file = tmp_path / "job.yaml"
        file.write_text(text, encoding="utf-8")
        return load_job(Path("job.yaml"), overrides, **options)

    return load
