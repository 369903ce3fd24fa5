"""Run ids, states and causes, records."""

import re
from datetime import UTC, datetime

import pytest

from cloud_train.errors import CorruptError
from cloud_train.run.documents import is_run_id
from cloud_train.run.plan import new_run_id
from cloud_train.run.record import AttemptStatus, Program, RunRecord
from cloud_train.run.states import Cause, State


def test_an_id_fits_the_narrowest_provider_for_the_longest_name() -> None:
    run_id = new_run_id("a" * 40, datetime(2026, 11, 23, 12, 3, 1, tzinfo=UTC))
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", run_id)  # SageMaker's training job names
    assert len(run_id) == 59
    assert "-261123-120301-" in run_id
    assert is_run_id(run_id)


@pytest.mark.parametrize("text", ["", "..", "digits", "../digits-261123-120000-abcd", "digits-261123-120000-abcd/x", "-261123-120000-abcd"])
def test_what_is_no_id_is_not_taken_for_one(text: str) -> None:
    assert not is_run_id(text)


def test_every_cause_has_an_end_a_text_and_an_exit_code_of_its_own() -> None:
    assert all(cause.state.is_end and cause.text for cause in Cause)
    assert len({cause.exit_code for cause in Cause}) == len(Cause)
    assert Cause.CANCELLED.state is State.CANCELLED
    assert Cause.SUCCEEDED.exit_code == 0
    assert not State.STOPPING.is_end


def test_records_come_back_as_they_were_written() -> None:
    program = Program(("sh", "-c", "true"), "/", {"A": "1"}, retry_on=(Cause.FAILED,))
    record = RunRecord("x-261123-120000-abcd", 1.5, {"name": "x"}, program, {"provider": "local"}, {})
    assert RunRecord.from_json(record.to_json(), "run.json") == record
    status = AttemptStatus(State.RUNNING, 1.0, 2.0, "host", 7).ended_with(Cause.FAILED, "no", 3.0, 1)
    assert AttemptStatus.from_json(status.to_json(), "status.json") == status
    assert status.state is State.FAILED


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1}', b'{"format": 1, "state": "x", "cause": null}', b"\xff"]
)
def test_a_record_that_is_none_is_refused_with_its_place(data: bytes) -> None:
    with pytest.raises(CorruptError, match="the-place"):
        RunRecord.from_json(data, "the-place")
    with pytest.raises(CorruptError, match="the-place"):
        AttemptStatus.from_json(data, "the-place")
