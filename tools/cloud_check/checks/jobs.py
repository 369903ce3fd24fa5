"""Checks of a job that runs to its end: its machine, its output, its secrets, its page in the console."""

import hashlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from cloud_train.providers.aws.request import registry_of
from cloud_train.providers.base import ConsoleLinked
from cloud_train.run.states import Cause, State
from tools.cloud_check.bench import Bench, PatienceError
from tools.cloud_check.programs.check import BYTES, MARK
from tools.cloud_check.verdicts import Fact, compared, succeeded, untried

_VARIABLES = {
    "aws": ("sagemaker-contract", "TRAINING_JOB_NAME"),
    "gcp": ("", "CLOUD_ML_PROJECT_ID"),
    "azure": ("", "AZUREML_RUN_ID"),
}
"""A variable that the platform sets, and the row that says so."""


def smallest_job(bench: Bench) -> Iterator[Fact]:
    """A job succeeds on a machine that is as documented; another one fails with its status."""
    view = bench.plain().status(record=True)
    rows = ("azure-schema",) if bench.cloud == "azure" else ("ecr-docker-format",) if registry_of(bench.repository) else ()
    yield succeeded("the job succeeds", view, *rows)
    facts = bench.said(bench.plain(), "facts")
    if facts is None:
        yield compared("the program describes its machine", "it printed nothing about it", False)
        return
    row, variable = _VARIABLES[bench.cloud]
    is_set = variable in facts["variables"]
    seen = "it does" if is_set else f"it sets {', '.join(facts['variables'])}"
    yield compared(f"the platform sets {variable}", seen, is_set, *([row] if row else []))
    yield compared("the program is not root", f"uid {facts['uid']}", facts["uid"] != 0)
    if bench.cloud == "aws":
        yield from _sagemaker(bench, facts)
    yield from _failing(bench)


def output(bench: Bench) -> Iterator[Fact]:
    """The run's log is what the program printed."""
    got = b"".join(bench.plain().log_bytes()).partition(MARK.encode() + b"\n")[2]
    seen = "the same bytes" if got == BYTES else f"{len(got):,} of {len(BYTES):,} bytes: {got[:80]!r}"
    yield compared("the run's log has the program's output byte for byte", seen, got == BYTES, "output-bytes")


def logs(bench: Bench) -> Iterator[Fact]:
    """The cloud's own log has what the program printed."""
    expected, run = "the cloud's own log has a line that the program printed", bench.plain()
    try:
        lines = bench.until(lambda: _with_mark(run.provider_logs()), expected, bench.options.log_patience)
    except PatienceError as error:
        yield compared(expected, f"{error}; the log has {len(run.provider_logs())} lines", False, "console-output")
    else:
        yield compared(expected, f"it has, among {len(lines)} lines", True, "console-output")
    if bench.cloud == "azure":
        yield from _history_host(bench)


def console_link(bench: Bench) -> Iterator[Fact]:
    """The link leads to the job's page: a person has to look."""
    row = {"aws": "sagemaker-console", "gcp": "vertex-console"}.get(bench.cloud)
    rows = (row,) if row else ()
    if not isinstance(bench.provider, ConsoleLinked):
        yield untried("there is a link to the job's page in the console", f"the provider {bench.cloud} makes none")
        return
    url = bench.plain().console_url
    yield compared("there is a link to the job's page in the console", url or "none", bool(url), *rows)
    if url:
        seen = bench.options.confirm(f"Open {url}\nDoes it show the job {bench.plain().id}?")
        expected = "the link shows this job"
        yield untried(expected, f"open it: {url}", *rows) if seen is None else compared(expected, "yes" if seen else "no", seen, *rows)


def secrets(bench: Bench) -> Iterator[Fact]:
    """A secret reaches the program, and nothing else; it is deleted after the end."""
    rows = ("azure-cluster-identity",) if bench.cloud == "azure" and bench.settings.get("compute") else ()
    run = bench.submit("secrets")
    view = bench.ended(run)
    expected = "the program gets the secret"
    got = bench.said(run, "secret") if view.state is State.SUCCEEDED else None
    same = got == hashlib.sha256(bench.token.encode()).hexdigest()
    yield compared(expected, "it did" if same else f"{view.state}: {view.message}", same, *rows)
    kept = [info.key for info in bench.store.list(run.id) if bench.token.encode() in bench.store.get(info.key)]
    yield compared("no file of the run directory has it", ", ".join(kept) or "none", not kept)
    bench.ended_at_cloud(run)
    if handle := bench.handle(run):
        bench.provider.clean_up(handle)
    deleted = [answer for answer in bench.answers.of("secrets") if _deletes_secret(answer.operation, answer.method, answer.path)]
    statuses = ", ".join(str(answer.status) for answer in deleted) or "no answer to a deletion"
    yield compared("the secret is deleted after the end", statuses, any(answer.status in (200, 204) for answer in deleted))


def _with_mark(lines: list[str]) -> list[str] | None:
    return lines if any(MARK in line for line in lines) else None


def _deletes_secret(operation: str, method: str, path: str) -> bool:
    return operation == "DeleteSecret" or (method == "DELETE" and "/secrets/" in path)


def _sagemaker(bench: Bench, facts: dict[str, Any]) -> Iterator[Fact]:
    """The known properties of SageMaker's containers."""
    folders, region = facts["folders"], facts["values"].get("AWS_REGION")
    owners = {folder: folders[folder]["owner"] for folder in ("/opt/ml/model", "/opt/ml/output", "/tmp") if folder in folders}
    said = ", ".join(f"{folder}: uid {owner}" for folder, owner in owners.items())
    yield compared("SageMaker's folders and /tmp belong to root", said, set(owners.values()) == {0}, "sagemaker-root-folders")
    closed = [folder for folder in owners if not folders[folder]["writable"]]
    yield compared("the program can write to them", ", ".join(closed) or "to all of them", not closed, "sagemaker-root-may-drop")
    temporary = folders.get("/var/tmp", {})
    yield compared(
        "/var/tmp can be written by every user", temporary.get("mode", "missing"), bool(temporary.get("writable")), "sagemaker-own-disk"
    )
    yield compared("AWS_REGION is set", region, bool(region), "sagemaker-region-variable")
    yield compared("resourceconfig.json is there", facts["files"] or "missing", bool(facts["files"]), "sagemaker-contract")


def _failing(bench: Bench) -> Iterator[Fact]:
    """A program that fails is not started again, and its status is where the platform is known to put it."""
    run = bench.submit("failing")
    view = bench.ended(run)
    rows = ("vertex-restarts",) if bench.cloud == "gcp" else ()
    yield compared(
        "a program that fails is not started again",
        f"{view.cause}, attempt {view.attempt}",
        (view.cause, view.attempt) == (Cause.FAILED, 1),
        *rows,
    )
    said = bench.ended_at_cloud(run)
    if bench.cloud == "aws":
        reasons = [str(answer.body["FailureReason"]) for answer in bench.answers.of("smallest-job") if _has_reason(answer.body)]
        ends = bool(reasons) and reasons[-1].rstrip().endswith(f"exit code: {Cause.FAILED.exit_code}")
        yield compared("the worker's exit status ends FailureReason", reasons[-1:] or said, ends, "sagemaker-exit-code-in-reason")


def _has_reason(body: Any) -> bool:
    return isinstance(body, dict) and "FailureReason" in body


def _history_host(bench: Bench) -> Iterator[Fact]:
    expected, row = "the workspace's discoveryUrl names the host of the run history", "azure-history-host"
    hosts = {answer.host for answer in bench.answers.all() if "/history/v1.0/" in answer.path}
    named = [answer.body["properties"]["discoveryUrl"] for answer in bench.answers.all() if _has_discovery(answer.body)]
    if bench.settings.get("history_endpoint") or not (hosts and named):
        yield untried(expected, "azure.history_endpoint names it" if hosts else "the run history was not asked", row)
        return
    host = urlsplit(named[-1]).netloc
    yield compared(expected, f"{host}; asked: {', '.join(sorted(hosts))}", hosts == {host}, row)


def _has_discovery(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(body.get("properties"), dict) and bool(body["properties"].get("discoveryUrl"))
