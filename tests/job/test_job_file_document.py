"""The examples in docs/job-file.md are parts of jobs that work."""

import re
from pathlib import Path

import pytest

from cloud_train.job.loading import load_job

DOCUMENT = Path(__file__).parents[2] / "docs" / "job-file.md"
SNIPPETS = [
    body
    for body in re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if set(re.findall(r"^(\w+):", body, re.MULTILINE)) & {"model", "data", "train", "resources"}
]


def test_the_document_shows_examples() -> None:
    assert len(SNIPPETS) >= 10


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[snippet.splitlines()[1].strip() for snippet in SNIPPETS])
def test_every_example_fits_into_a_job(tmp_path: Path, snippet: str) -> None:
    """What it does not show is filled in: a name, a model and data that are at home with each other."""
    is_text = re.search(r"dataset: (text|sequences)", snippet) is not None
    given = set(re.findall(r"^(\w+):", snippet, re.MULTILINE)) | ({"data"} if "kind: script" in snippet else set())
    rest = {
        "name": "example",
        "model": "{kind: rnn}" if is_text else "{kind: cnn}",
        "data": "{dataset: digits}",
    }
    filled = "".join(f"{key}: {value}\n" for key, value in rest.items() if key not in given)
    for file in ("requirements.txt", "train.py"):
        (tmp_path / file).touch()
    (tmp_path / "job.yaml").write_text(filled + snippet, encoding="utf-8")
    load_job(tmp_path / "job.yaml", absent_data_is_fine=True)
