"""What Vertex AI's states and errors mean for an attempt."""

import json
from typing import Any

import pytest

from cloud_train.providers.base import TAKEN
from cloud_train.providers.gcp.state import STATES, observation_of
from cloud_train.run.states import Cause, State
from tests.clouds.gcp_description import SIMULATOR

REPLICA = "The replica workerpool0-0 exited with a non-zero status of"


def job(state: str, message: str = "", code: int = 0, *, restarts: bool = False) -> dict[str, Any]:
    error = {"error": {"code": code, "message": message}} if message or code else {}
    return {"state": state, "jobSpec": {"scheduling": {"disableRetries": not restarts}}, **error}


def test_every_state_of_the_discovery_document_means_something() -> None:
    described = json.loads(SIMULATOR.read_text(encoding="utf-8"))["aiplatform"]["$defs"]["answered.CustomJob"]["properties"]["state"][
        "enum"
    ]
    for state in described:
        observation = observation_of(job(state))
        assert observation.cause is not Cause.UNKNOWN, state
        assert observation.state.is_end is (state not in STATES), state


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("JOB_STATE_QUEUED", State.QUEUED),
        ("JOB_STATE_PENDING", State.STARTING),
        ("JOB_STATE_RUNNING", State.RUNNING),
        ("JOB_STATE_CANCELLING", State.STOPPING),
        ("JOB_STATE_CANCELLED", State.CANCELLED),
        ("JOB_STATE_FAILED", State.FAILED),
        ("JOB_STATE_EXPIRED", State.INTERRUPTED),
    ],
)
def test_a_state_is_the_attempt_s(state: str, expected: State) -> None:
    assert observation_of(job(state)).state is expected


def test_a_state_that_comes_tomorrow_ends_nothing() -> None:
    observation = observation_of(job("JOB_STATE_DREAMING"))
    assert (observation.state, observation.cause) == (State.RUNNING, Cause.UNKNOWN)
    assert "JOB_STATE_DREAMING" in observation.message


@pytest.mark.parametrize(
    ("message", "code", "cause", "words"),
    [
        (f"{REPLICA} 10.", 3, Cause.FAILED, "The program failed"),
        (f"{REPLICA} 11.", 3, Cause.OUT_OF_MEMORY, ""),
        (f"{REPLICA} 12.", 3, Cause.PREEMPTED, ""),
        (f"{REPLICA} 13.", 3, Cause.CANCELLED, ""),
        (f"{REPLICA} 14.", 3, Cause.TIMED_OUT, ""),
        (f"{REPLICA} 15.", 3, Cause.INFRASTRUCTURE, ""),
        (f"{REPLICA} 1. Termination reason: Error.", 3, Cause.FAILED, "before it could report why"),
        (f"{REPLICA} 6.", 3, Cause.INFRASTRUCTURE, "roles/storage.objectUser"),
        (f"{REPLICA} 20.", 3, Cause.INFRASTRUCTURE, "roles/storage.objectUser"),
        (f"{REPLICA} 127.", 3, Cause.REJECTED, "no working python3"),
        (f"{REPLICA} 137.", 3, Cause.INFRASTRUCTURE, "killed"),
        (f"{REPLICA} 9(SIGKILL).", 3, Cause.INFRASTRUCTURE, "killed"),
        (f"{REPLICA} 137(SIGKILL). Termination reason: Error.", 3, Cause.INFRASTRUCTURE, "killed"),
        (f"{REPLICA} 15(SIGTERM).", 3, Cause.INFRASTRUCTURE, "killed"),
        (f"{REPLICA} 137. Termination reason: OOMKilled.", 3, Cause.OUT_OF_MEMORY, "resources.memory"),
        (
            f"{REPLICA} 128. Termination reason: StartError. Termination log message: failed to create containerd task",
            3,
            Cause.REJECTED,
            "no working python3",
        ),
        ("The following quotas are exceeded: CustomModelTrainingCPUsPerProjectPerRegion", 8, Cause.REJECTED, "request more of that quota"),
        ("Failed to pull image: write /var/lib/layer: no space left on device", 13, Cause.FAILED, "increase gcp.disk"),
        ("The replica workerpool0-0 ran out-of-memory and exited with a non-zero status of 9(SIGKILL).", 3, Cause.OUT_OF_MEMORY, "memory"),
        ("Replicas low on memory: workerpool0", 3, Cause.OUT_OF_MEMORY, "resources.memory"),
        ("Resources are insufficient in region: europe-west4. Please try a different region.", 8, Cause.INFRASTRUCTURE, "gcp.region"),
        (
            "The following quota metrics exceed quota limits: aiplatform.googleapis.com/custom_model_training_cpus",
            8,
            Cause.REJECTED,
            "quota",
        ),
        ("Failed to pull image eu.gcr.io/a/b@sha256:0: manifest unknown", 9, Cause.REJECTED, "roles/artifactregistry.reader"),
        ("The VM of replica workerpool0-0 was preempted.", 14, Cause.PREEMPTED, ""),
        ("The job ran past its timeout of 60 seconds.", 4, Cause.TIMED_OUT, "time limit"),
        ("Permission denied for service account trainer@p.iam.gserviceaccount.com", 7, Cause.REJECTED, "gcp.service_account"),
        ("Internal error occurred for the current attempt.", 13, Cause.INFRASTRUCTURE, ""),
        ("Something new.", 3, Cause.REJECTED, "Something new."),
        ("Something new.", 99, Cause.FAILED, "Something new."),
    ],
)
def test_a_failure_s_text_tells_its_cause_and_what_to_do(message: str, code: int, cause: Cause, words: str) -> None:
    observation = observation_of(job("JOB_STATE_FAILED", message, code))
    assert (observation.cause, observation.state) == (cause, cause.state)
    assert words in observation.message


@pytest.mark.parametrize(
    "printed",
    [
        "FileNotFoundError: manifest.json not found, quota exceeded",
        "torch.OutOfMemoryError: CUDA out of memory",
        "PermissionError: permission denied: service account",
        "the model was preempted by a deadline; internal error; cannot pull the image",
        "my child exited with a non-zero status of 6.",
    ],
)
def test_what_the_program_printed_is_never_taken_for_vertex_ais_words(printed: str) -> None:
    text = (
        f"{REPLICA} 1. Termination reason: Error. Traceback (most recent call last): {printed} To find out more, see https://quota.example"
    )
    observation = observation_of(job("JOB_STATE_FAILED", text, 3))
    assert observation.cause is Cause.FAILED
    assert observation.message.startswith(text[:60])
    assert observation.message.endswith("the worker ended before it could report why")


def test_vertex_ais_words_come_first() -> None:
    words = "Resources are insufficient in region: europe-west4"
    assert observation_of(job("JOB_STATE_FAILED", words, 8)).message.startswith(f"{words}; no capacity")


def test_a_job_that_was_cancelled_for_its_time_has_timed_out() -> None:
    assert observation_of(job("JOB_STATE_CANCELLED", "The job timed out.", 1)).cause is Cause.TIMED_OUT


def test_a_worker_that_found_its_attempt_taken_tells_nothing_of_it() -> None:
    assert observation_of(job("JOB_STATE_FAILED", f"{REPLICA} 3.", 3)) == TAKEN


@pytest.mark.parametrize("restarts", [True, False])
def test_the_success_of_a_job_says_nothing_about_the_attempt_because_workers_always_exit_with_0(restarts: bool) -> None:
    observation = observation_of(job("JOB_STATE_SUCCEEDED", restarts=restarts))
    assert observation.state.is_end
    assert observation.is_elsewhere


@pytest.mark.parametrize("document", [{}, {"state": "JOB_STATE_FAILED"}, {"state": "JOB_STATE_FAILED", "error": {}}])
def test_a_job_that_says_little_is_understood_all_the_same(document: dict[str, Any]) -> None:
    assert observation_of(document).message is not None
