"""Maps the state of a Vertex AI custom job to that of the attempt. Pure.

While a worker runs, it reports to the run directory. The state derived here counts only if a worker could not report. Vertex AI has a few
states and one error. Only the error's text distinguishes a bad image from a failed worker, so the causes come from that text. After a
container's exit it holds the program's last output too, which says nothing about the platform and is not searched. The error's codes are
those of https://cloud.google.com/apis/design/errors.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cloud_train import exit_status
from cloud_train.providers.base import TAKEN, Observation, ended, said_by, unknown
from cloud_train.run.states import Cause, State

STATES = {
    "JOB_STATE_UNSPECIFIED": Observation(State.QUEUED),
    "JOB_STATE_QUEUED": Observation(State.QUEUED, None, "waiting for machines, or for quota: see gcp.machine in docs/clouds/gcp.md"),
    "JOB_STATE_PENDING": Observation(State.STARTING, None, "machines are being prepared"),
    "JOB_STATE_RUNNING": Observation(State.RUNNING),
    "JOB_STATE_UPDATING": Observation(State.RUNNING),
    "JOB_STATE_PAUSED": Observation(State.QUEUED, None, "Vertex AI has paused the job and will resume it"),
    "JOB_STATE_CANCELLING": Observation(State.STOPPING),
}
"""The states of a running job."""

NOT_YET = Observation(State.QUEUED, Cause.UNKNOWN, "Vertex AI does not show the job yet")
"""The observation of a job that is missing shortly after it was created."""

DELETED = ended(Cause.INFRASTRUCTURE, "the job was deleted from Vertex AI")
"""The observation of a job that no longer exists."""

_NO_COMMAND = (126, 127)  # exit statuses of shells and engines for a missing or non-executable program

_EXIT = re.compile(r"exited with a non-zero status of (\d+) ?(\(SIG\w+\))?")
_OWN = re.compile(
    r"(?P<own>.*?exited with a non-zero status of \d+ ?(?:\(SIG\w+\))?\.?(?: Termination reason: (?P<reason>\w+))?)", re.DOTALL
)
"""Vertex AI's own part of the text about a container's exit. The program's last output follows it."""
_LINK = re.compile(r"https?://\S+")
_CANNOT_START = "StartError"
_NO_MEMORY = "OOMKilled"
_MEMORY = "the machine ran out of memory: increase resources.memory, or choose a larger gcp.machine"
_NO_PYTHON = "the image has no working python3"
_TEXTS: tuple[tuple[re.Pattern[str], Cause, str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), cause, advice)
    for pattern, cause, advice in (
        (
            r"out[- ]of[- ]memory|low on memory",
            Cause.OUT_OF_MEMORY,
            _MEMORY,
        ),
        (r"no space left|disk.{0,20} full", Cause.FAILED, "the boot disk is full: increase gcp.disk"),
        (
            r"quota",
            Cause.REJECTED,
            "request more of that quota at https://console.cloud.google.com/iam-admin/quotas, or choose another gcp.region or gcp.machine",
        ),
        (
            r"insufficient|stockout|not enough resources|resource[ _]pool[ _]exhausted|unavailable in the requested",
            Cause.INFRASTRUCTURE,
            "no capacity for this machine: retry later, or choose another gcp.region or gcp.machine",
        ),
        (
            r"(pull|access|find|download)\w{0,20} (the )?(\w{1,40} )?image|image .{0,300}(not found|does not exist|could not be)"
            r"|ErrImagePull|ImagePullBackOff|manifest .{0,300}unknown|Artifact Registry",
            Cause.REJECTED,
            "the machines cannot pull the image: check that it is in gcp.repository, and that Vertex AI's service agents (not"
            " gcp.service_account) have roles/artifactregistry.reader there",
        ),
        (r"preempt", Cause.PREEMPTED, ""),
        (r"time[d ]*out|deadline|maximum (job )?running time", Cause.TIMED_OUT, "the job reached Vertex AI's time limit"),
        (
            r"permission|service account|unauthorized|forbidden",
            Cause.REJECTED,
            "give gcp.service_account that permission: docs/clouds/gcp.md has the roles",
        ),
        (r"internal error", Cause.INFRASTRUCTURE, ""),
    )
)
_CODES = {3: Cause.REJECTED, 4: Cause.TIMED_OUT, 5: Cause.REJECTED, 7: Cause.REJECTED, 8: Cause.INFRASTRUCTURE}
_CODES |= {10: Cause.INFRASTRUCTURE, 13: Cause.INFRASTRUCTURE, 14: Cause.INFRASTRUCTURE, 16: Cause.REJECTED}
_SHOWN_CHARACTERS = 400


def observation_of(job: Mapping[str, Any]) -> Observation:
    """The state of the attempt of this CustomJob. An unknown state does not end the attempt."""
    state = str(job.get("state", "JOB_STATE_UNSPECIFIED"))
    if state in STATES:
        return STATES[state]
    error = job.get("error") or {}
    message, code = " ".join(str(error.get("message", "")).split()), int(error.get("code", 0))
    match state:
        case "JOB_STATE_SUCCEEDED" | "JOB_STATE_PARTIALLY_SUCCEEDED":
            # Workers exit with 0 once the run directory has the end, whatever it is: see ``worker.platforms``.
            return replace(TAKEN, message="the job has ended; see the run directory")
        case "JOB_STATE_FAILED":
            return _failed(message, code)
        case "JOB_STATE_CANCELLED":
            timed_out = _of_text(message)
            return timed_out if timed_out and timed_out.cause is Cause.TIMED_OUT else ended(Cause.CANCELLED, _shown(message))
        case "JOB_STATE_EXPIRED":
            return ended(Cause.INFRASTRUCTURE, _shown(message) or "the job expired before it could run")
    return unknown(f"unknown Vertex AI state {state}")


def _failed(message: str, code: int) -> Observation:
    exited = _OWN.match(message)
    if exited is None:
        return _of_text(message) or ended(_CODES.get(code, Cause.FAILED), _shown(message) or "Vertex AI gives no reason for the failure")
    by_text = _of_text(exited["own"], message)
    if exited["reason"] == _NO_MEMORY or (by_text is not None and by_text.cause is Cause.OUT_OF_MEMORY):
        return by_text or ended(Cause.OUT_OF_MEMORY, _shown(message, _MEMORY))
    if exited["reason"] == _CANNOT_START:
        return ended(Cause.REJECTED, _shown(message, _NO_PYTHON))
    status, signal = _EXIT.findall(exited["own"])[-1]
    return _of_exit(int(status) % 128 + 128 if signal else int(status), message)


def _of_exit(status: int, message: str) -> Observation:
    if said := said_by(status):
        return said if said is TAKEN else replace(said, message=_shown(message, said.message))
    if status in (exit_status.STORE, exit_status.STORE_ON_VERTEX):
        advice = "the worker could not reach the run directory: gcp.service_account needs roles/storage.objectUser on the bucket"
        return ended(Cause.INFRASTRUCTURE, _shown(message, advice))
    if status in (exit_status.KILLED, exit_status.TERMINATED):
        return ended(Cause.INFRASTRUCTURE, _shown(message, "the worker was killed before it could report why"))
    if status in _NO_COMMAND:
        return ended(Cause.REJECTED, _shown(message, _NO_PYTHON))
    return ended(Cause.FAILED, _shown(message, "the worker ended before it could report why"))


def _of_text(own: str, message: str | None = None) -> Observation | None:
    """The observation that Vertex AI's ``own`` words stand for; ``message`` is the whole text, for the user."""
    searched = _LINK.sub("", own)
    for pattern, cause, advice in _TEXTS:
        if pattern.search(searched):
            return ended(cause, _shown(own if message is None else message, advice))
    return None


def _shown(message: str, advice: str = "") -> str:
    words = message[:_SHOWN_CHARACTERS]
    return f"{words.rstrip('.')}; {advice}" if advice else words
