"""Carrying out checks: what an error, an interruption and a want of machines mean."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_train.client import Run
from cloud_train.errors import ProviderError
from cloud_train.providers.cloud.errors import ForbiddenError, UnansweredError
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from tools.cloud_check.answers import Answer
from tools.cloud_check.bench import Bench, EndedError, Options, PatienceError, config_of
from tools.cloud_check.checks.catalogue import Check
from tools.cloud_check.estimate import Estimate, Job
from tools.cloud_check.session import carry_out, clean_up, new_bench
from tools.cloud_check.verdicts import Fact, Verdict, compared, succeeded


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    config = tmp_path / "account.yaml"
    config.write_text("{provider: aws, store: 's3://my-training-bucket/runs', aws: {region: eu-west-1}}", encoding="utf-8")
    return new_bench(config_of(str(config)), tmp_path / "session", Options(), hide_accounts=False, note=lambda text: None)


def failing(error: BaseException) -> Check:
    def facts(_: Bench) -> Iterator[Fact]:
        yield compared("the beginning", "was fine", True)
        raise error

    return Check("push", "fails", facts)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ForbiddenError("not permitted"), Verdict.NOT_TRIED),
        (PatienceError("waited 1,800 s"), Verdict.NOT_TRIED),
        (ProviderError("the account's quota in eu-west-1 is exceeded"), Verdict.NOT_TRIED),
        (UnansweredError("unexpected response from AWS"), Verdict.DIFFERS),
        (EndedError("the run ended without printing 'ready'"), Verdict.DIFFERS),
        (KeyError("TrainingJobArn"), Verdict.DIFFERS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_keeps_the_facts_before_it_and_the_next_check_is_carried_out(error: Exception, verdict: Verdict, bench: Bench) -> None:
    results, interrupted = carry_out(bench, [Estimate(failing(error), ())] * 2, lambda text: None)
    assert not interrupted
    for result in results:
        assert [fact.verdict for fact in result.facts] == [Verdict.HOLDS, verdict]


def test_a_job_that_does_not_end_is_waited_for_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def submit(kind: str) -> Run:
        started.append(kind)
        return Run(bench.client, "run", RunView("run", "run", "aws", "s3://b", None, 0.0, 1, State.QUEUED))

    def ended(_: Run) -> RunView:
        raise PatienceError("waited 1,800 s")

    monkeypatch.setattr(bench, "submit", submit)
    monkeypatch.setattr(bench, "ended", ended)
    for said in ("waited 1,800 s", "the run run did not end in time"):
        with pytest.raises(PatienceError, match=said):
            bench.plain()
    assert started == ["plain"]


def test_an_interruption_ends_the_checks(bench: Bench) -> None:
    results, interrupted = carry_out(bench, [Estimate(failing(KeyboardInterrupt()), ())] * 2, lambda text: None)
    assert interrupted
    assert [fact.observed for fact in results[0].facts] == ["was fine", "interrupted"]
    assert len(results) == 1


def test_a_job_that_would_be_refused_is_not_started(bench: Bench) -> None:
    job = Job("plain", None, 1, 0.0, None, ("aws.role: required",))
    [result], _ = carry_out(bench, [Estimate(failing(AssertionError("it started")), (job,))], lambda text: None)
    assert [(fact.observed, fact.verdict) for fact in result.facts] == [("aws.role: required", Verdict.NOT_TRIED)]


@pytest.mark.parametrize(
    ("cause", "message", "verdict"),
    [
        (Cause.SUCCEEDED, "", Verdict.HOLDS),
        (Cause.INFRASTRUCTURE, "the region has no capacity for this machine", Verdict.NOT_TRIED),
        (Cause.INFRASTRUCTURE, "the worker could not reach the store", Verdict.DIFFERS),
    ],
)
def test_a_run_for_which_there_was_no_machine_says_nothing(cause: Cause, message: str, verdict: Verdict) -> None:
    view = RunView("run", "run", "aws", "s3://b", None, 0.0, 1, cause.state, cause, message)
    assert succeeded("the job succeeds", view).verdict is verdict


def test_a_ledger_that_cannot_be_read_after_an_error_ends_neither_the_checks_nor_the_clean_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def each_run(**_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(bench.client, "each_run", each_run)
    results, interrupted = carry_out(bench, [Estimate(failing(PatienceError("waited 1,800 s")), ())] * 2, lambda text: None)
    assert len(results) == 2
    assert not interrupted
    [left] = clean_up(bench, (), lambda text: None)
    assert left.why == "OSError: the disk is gone"
    assert "--clean-up" in left.command


def test_an_interruption_between_two_checks_keeps_the_results(bench: Bench) -> None:
    def note(text: str) -> None:
        if text == "push: holds":
            raise KeyboardInterrupt

    results, interrupted = carry_out(bench, [Estimate(failing(PatienceError("waited")), ())] * 2, note)
    assert interrupted
    assert [result.check for result in results] == ["push"]


def test_a_step_of_the_clean_up_that_fails_unexpectedly_does_not_keep_the_others_from_being_tried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object) -> None:
        raise KeyError("failures")

    monkeypatch.setattr("tools.cloud_check.leftovers._delete_objects", raises)
    tried: list[str] = []
    monkeypatch.setattr("tools.cloud_check.leftovers.remove_image", lambda _bench, digest: tried.append(digest))
    monkeypatch.setattr("tools.cloud_check.leftovers.pushed_images", lambda _answers: ["sha256:0"])
    [left] = clean_up(bench, (), lambda text: None)
    assert left.why == "KeyError: 'failures'"
    assert tried == ["sha256:0"]


def test_a_job_that_was_created_and_is_not_shown_is_reported_as_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    view = RunView("cloud-check-1", "cloud-check", "aws", "s3://b", None, 0.0, 1, State.FAILED)
    monkeypatch.setattr(bench.client, "each_run", lambda **_: [Run(bench.client, view.run_id, view)])
    monkeypatch.setattr(bench, "handle", lambda run: None)
    monkeypatch.setattr("tools.cloud_check.leftovers._delete_objects", lambda bench: None)
    monkeypatch.setattr("tools.cloud_check.leftovers._delete_streams", lambda region, job: None)
    body = {"TrainingJobArn": "arn:aws:sagemaker:eu-west-1:123456789012:training-job/cloud-check-1-1"}
    created = Answer("lost-answer", 1.0, 0.1, "POST", "api.sagemaker", "/", "CreateTrainingJob", 200, {}, body)
    [left] = [each for each in clean_up(bench, [created], lambda text: None) if each.costs]
    assert left.why.startswith("it was created, but the cloud does not show it")
    assert [each for each in clean_up(bench, (), lambda text: None) if each.costs] == []
