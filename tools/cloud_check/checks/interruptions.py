"""Checks of jobs that something happens to: a cancellation, a preemption, a lost answer."""

import time
from collections.abc import Iterator

from cloud_train.run import layout
from cloud_train.run.states import State
from tools.cloud_check.answers import Answer
from tools.cloud_check.bench import Bench
from tools.cloud_check.verdicts import Fact, compared, succeeded, untried

_SPOT_ROWS = {"aws": ("sagemaker-spot-restarts",), "gcp": (), "azure": ("azure-preemption-fails", "azure-no-notice")}


def cancel(bench: Bench) -> Iterator[Fact]:
    """A job that is cancelled saves a last checkpoint, and ends at the cloud as well."""
    run = bench.submit("cancel")
    bench.printed(run, "ready")
    run.cancel(wait=False)
    began = time.monotonic()
    view = bench.ended(run)
    yield compared("the run is cancelled", f"{view.state}: {view.message}", view.state is State.CANCELLED, "cancel-terminates")
    keys = [info.key for info in bench.store.list(f"{run.id}/{layout.CHECKPOINTS}/{layout.step_folder(7)}")]
    saved = any(key.endswith(layout.MANIFEST) for key in keys)
    seen = "it is complete" if saved else f"it is not: {', '.join(keys) or 'nothing of it is there'}"
    yield compared("the program had time to save a last checkpoint", seen, saved, "cancel-terminates")
    said = bench.ended_at_cloud(run)
    yield compared("the job ends at the cloud as well", f"{said}, after {time.monotonic() - began:,.0f} s", True)


def lost_answer(bench: Bench) -> Iterator[Fact]:
    """The response to the creation of a job is withheld from the SDK: the job must be found, and be the only one."""
    number = len(bench.answers.all())
    bench.answers.lose_next(creates_job)
    began = time.monotonic()
    try:
        run = bench.submit("lost-answer")
    finally:
        bench.answers.lose_none()
    seconds = time.monotonic() - began
    creations = [answer for answer in bench.answers.since(number) if _creates(answer)]
    if not any(answer.lost for answer in creations):
        yield untried("the answer to a creation is lost", "no such answer was seen")
        return
    view = bench.ended(run)
    yield succeeded("the run succeeds", view)
    made = [answer for answer in creations if creates_job(answer)]
    seen = ", ".join(str(answer.status) for answer in creations)
    yield compared("only one job is created", f"{len(made)} (answers: {seen})", len(made) == 1)
    looks = [answer for answer in bench.answers.since(number) if answer.at > made[0].at and not _creates(answer)]
    missed = [answer for answer in looks[:20] if answer.status in (400, 404)]
    after = f"the submission took {seconds:,.1f} s; {len(missed)} lookups did not find the job yet"
    yield compared("cloud-train finds the job, at once or later", after, True, "job-shows-late")


def spot(bench: Bench) -> Iterator[Fact]:
    """A job runs on spot capacity. A preemption cannot be ordered, so it is only seen if there is one."""
    run = bench.submit("spot")
    view = bench.ended(run)
    yield succeeded("a job on spot capacity succeeds", view)
    expected, rows = "after a preemption the job continues on another machine, from its checkpoint", _SPOT_ROWS[bench.cloud]
    if view.attempt == 1:
        yield untried(expected, f"the machine was not preempted within {bench.options.spot_seconds:g} s", *rows)
        return
    yield compared(expected, f"attempt {view.attempt} resumed from step {view.resumed_step}", view.resumed_step == 1, *rows)


def creates_job(answer: Answer) -> bool:
    """Whether it says that a job was created."""
    return _creates(answer) and answer.status in (200, 201)


def _creates(answer: Answer) -> bool:
    """Whether it is the response to the creation of a job, successful or not."""
    path = answer.path.partition("?")[0]
    return (
        answer.operation == "CreateTrainingJob"
        or (answer.method == "POST" and path.endswith("/customJobs"))
        or (answer.method == "PUT" and "/workspaces/" in path and "/jobs/" in path)
    )
