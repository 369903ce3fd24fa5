import re
from pathlib import Path

import pytest

from cloud_train.run.manifest import verify
from cloud_train.run.states import Cause
from tests.worker.launching import Launched

DOCUMENT = Path(__file__).parents[2] / "docs" / "script-jobs.md"
EXAMPLES = re.findall(r"```(sh|python)\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)


def test_there_are_three_examples() -> None:
    assert [language for language, _ in EXAMPLES] == ["sh", "python", "python"]


@pytest.mark.parametrize("number", range(3))
def test_the_examples_of_the_document_run_save_resume_and_leave_a_model(launched: Launched, number: int) -> None:
    language, code = EXAMPLES[number]
    if language == "sh":
        launched.shell(code)
    else:
        launched.python(code)
    status = launched.run()
    assert (status.cause, launched.output()) == (Cause.SUCCEEDED, b"")
    steps = [verify(folder).step for folder in (launched.directory / "checkpoints").iterdir()]
    assert set(steps) == {5, 10}
    assert verify(launched.directory / "model").files
    metrics = launched.directory / "attempts/1/metrics/node-0.jsonl"
    assert len(metrics.read_text().splitlines()) == 10
    assert launched.run(attempt=2).resumed_step == 10
    assert launched.ended_with(Cause.SUCCEEDED, 2)
