"""Checks that start nothing: permissions, quotas, and the store."""

from collections.abc import Iterator

from cloud_train.errors import CloudTrainError
from cloud_train.providers.base import Diagnosis, JobDiagnosed
from cloud_train.retry import RetryPolicy
from cloud_train.run.plan import Plan
from cloud_train.storage.probing import probe
from cloud_train.storage.registry import open_store
from tools.cloud_check.bench import Bench
from tools.cloud_check.verdicts import Fact, compared, untried

_PERMISSIONS = {"aws": ("aws-policies",), "gcp": (), "azure": ("azure-submit-permissions",)}
_QUOTA_NAMES = {
    "aws": ("aws-quota-names",),
    "gcp": ("vertex-quota-names",),
    "azure": ("azure-quota-names", "azure-quota-regional-total"),
}
_UNKNOWN_QUOTA = ("lists no quota for", "reports no quota for", "cannot check", "cannot be checked", "is unknown")
"""Words of doctor's findings about a quota that it did not find, on all clouds."""
_DENIED = (401, 403)


def permissions(bench: Bench) -> Iterator[Fact]:
    """Everything that doctor asks for is permitted."""
    rows = _PERMISSIONS[bench.cloud]
    for finding in bench.client.examine([bench.store_url], config=str(bench.config.file), trust=True):
        if finding.name.startswith((f"{bench.cloud} ", "store ")):
            seen = f"{finding.status}: {finding.detail}"
            yield compared(f"doctor finds nothing wrong: {finding.name}", seen, finding.status != "error", *rows)
    refused = sorted({f"{answer.name} ({answer.status})" for answer in bench.answers.of("permissions") if answer.status in _DENIED})
    expected = "no request of doctor is denied to a user with the documented permissions"
    yield compared(expected, ", ".join(refused) or "none", not refused, *rows)


def quota(bench: Bench) -> Iterator[Fact]:
    """The quotas of the jobs' machines have the names that doctor looks for."""
    asked = False
    for kind in ("plain", "spot", "two-nodes", "accelerator"):
        expected = f"the quota for the machines of the job {kind!r} is found under its name"
        rows = (*_QUOTA_NAMES[bench.cloud], *(["azure-quota-low-priority"] if (bench.cloud, kind) == ("azure", "spot") else []))
        try:
            plan, _, refused = bench.plan(kind)
        except CloudTrainError as error:
            refused = [error.message]
        if refused:
            yield untried(expected, "; ".join(refused), *rows)
            continue
        for finding in _quotas(bench, plan):
            asked = True
            yield compared(expected, finding.detail, not any(words in finding.detail for words in _UNKNOWN_QUOTA), *rows)
    if not asked:
        yield untried("a quota is found under its name", "doctor looks for no quota of these jobs", *_QUOTA_NAMES[bench.cloud])


def store(bench: Bench) -> Iterator[Fact]:
    """The store does what runs need."""
    for step in probe(open_store(bench.store_url, RetryPolicy(time_limit=30))):
        yield compared(f"the store can {step.name}", step.detail, step.error is None)
    if bench.cloud == "gcp":
        yield from _google(bench)


def _quotas(bench: Bench, plan: Plan) -> Iterator[Diagnosis]:
    """The findings of doctor about the quota of a plan's machine."""
    provider = bench.provider
    if isinstance(provider, JobDiagnosed):
        yield from provider.diagnose_job(plan)


def _google(bench: Bench) -> Iterator[Fact]:
    found = [
        each for each in bench.client.examine([bench.store_url], config=str(bench.config.file), trust=True) if each.name == "gcp bucket"
    ]
    for finding in found:
        yield compared(
            "doctor can read how long the bucket keeps deleted objects", finding.detail, finding.status != "error", "gcs-soft-delete"
        )
    try:
        bench.store.put("checksum", b"cloud-check\n" * 1000)
    finally:
        bench.store.delete("checksum")
    yield compared("an object with its checksum is accepted", "it was", True)
