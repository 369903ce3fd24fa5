"""What ``doctor --config`` says of the place that the settings of ``gcp`` describe."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_train.providers.base import Diagnosis
from tests.clouds.gcp_simulator import REPOSITORY, GcpSimulator
from tests.providers.gcp_google import Bench, bench
from tests.providers.gcp_plans import plan_of

STORE = "gs://my-bucket/runs"


@pytest.fixture
def gcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with bench(tmp_path, monkeypatch) as running:
        running.google.buckets["my-bucket"] = "EUROPE-WEST4"
        yield running


def findings(gcp: Bench, store: str | None = STORE, **settings: object) -> dict[str, Diagnosis]:
    account = {"service_account": gcp.google.accounts.machines}
    return {each.name: each for each in gcp.provider.diagnose({**gcp.google.settings, **account, **settings}, store)}


def test_a_place_where_all_is_well_has_seven_good_findings_and_nothing_was_changed(gcp: Bench) -> None:
    found = findings(gcp)
    assert [each.status for each in found.values()] == ["ok"] * 7, found
    assert found["Google's credentials"].detail == gcp.google.accounts.submitter
    assert found["bucket"].detail == "gs://my-bucket in europe-west4"
    assert found["quota"].detail == "custom_model_training_cpus: 1000 in europe-west4"
    assert {logged.request.method for logged in gcp.google.server.requests if logged.operation.endswith((".create", ".delete"))} == set()


def lose_bucket(google: GcpSimulator) -> None:
    google.buckets.clear()


def move_bucket(google: GcpSimulator) -> None:
    google.buckets["my-bucket"] = "US-EAST1"


def lose_repository(google: GcpSimulator) -> None:
    google.repositories.clear()


def deny(*permissions: str) -> Callable[[GcpSimulator], None]:
    return lambda google: google.rights.denied.update(permissions)


def disable(api: str) -> Callable[[GcpSimulator], None]:
    return lambda google: google.rights.disabled.add(api)


def lose_quota(google: GcpSimulator) -> None:
    google.rights.quota["custom_model_training_cpus"] = 0


@pytest.mark.parametrize(
    ("spoil", "name", "status", "words"),
    [
        (deny("aiplatform.customJobs.create", "logging.logEntries.list"), "permissions", "error", "aiplatform.customJobs.create, logging"),
        (deny("secretmanager.secrets.create"), "permissions", "warning", "missing (for jobs with secrets): secretmanager.secrets.create"),
        (deny("iam.serviceAccounts.actAs"), "gcp.service_account", "error", "missing: iam.serviceAccounts.actAs on trainer@"),
        (deny("storage.objects.create"), "bucket", "error", "missing on gs://my-bucket: storage.objects.create"),
        (lose_bucket, "bucket", "error", "the bucket gs://my-bucket does not exist"),
        (move_bucket, "bucket", "warning", "gs://my-bucket is in us-east1, but the jobs run in europe-west4"),
        (lose_repository, "gcp.repository", "error", f"{REPOSITORY} does not exist"),
        (lose_quota, "quota", "error", "custom_model_training_cpus is 0 in europe-west4"),
        (disable("cloudresourcemanager.googleapis.com"), "permissions", "warning", "cannot be checked"),
        (deny("serviceusage.quotas.get"), "quota", "warning", "the credentials lack the permission serviceusage"),
        (disable("artifactregistry.googleapis.com"), "gcp.repository", "error", "artifactregistry.googleapis.com is not enabled"),
    ],
)
def test_one_thing_that_is_wrong_is_one_finding_with_its_remedy(
    gcp: Bench, spoil: Callable[[GcpSimulator], None], name: str, status: str, words: str
) -> None:
    spoil(gcp.google)
    found = findings(gcp)
    assert [each for each in found.values() if each.status != "ok"] == [found[name]], found
    assert found[name].status == status
    assert words in found[name].detail
    assert found[name].remedy or status == "warning"


def test_what_everything_else_needs_is_found_first_and_alone(gcp: Bench) -> None:
    gcp.google.rights.disabled.add("aiplatform.googleapis.com")
    found = findings(gcp)
    assert list(found) == ["Google's credentials", "Vertex AI"]
    assert found["Vertex AI"].remedy.startswith("enable it with: gcloud services enable aiplatform.googleapis.com")
    gcp.google.accounts.is_revoked = True
    assert [each.status for each in gcp.another().diagnose(gcp.google.settings, None)] == ["error"]


def test_settings_without_a_project_are_an_error_and_no_exception(gcp: Bench) -> None:
    [finding] = gcp.provider.diagnose({}, None)
    assert finding.status == "error"
    assert "gcp.project" in finding.detail


def test_where_a_bucket_is_need_not_be_readable(gcp: Bench) -> None:
    gcp.google.rights.denied.add("storage.buckets.get")
    assert findings(gcp)["bucket"] == Diagnosis("bucket", "ok", "gs://my-bucket (the credentials may not read its location)")


def test_a_bucket_that_keeps_what_is_deleted_is_a_warning_because_that_costs_money(gcp: Bench) -> None:
    gcp.google.soft_delete_seconds = 7 * 86400
    found = findings(gcp)["bucket"]
    assert (found.status, found.remedy) == (
        "warning",
        "turn it off with: gcloud storage buckets update gs://my-bucket --soft-delete-duration=0",
    )
    assert "keeps deleted objects for 7 days (soft delete): pruned checkpoints are billed for that long" in found.detail


def test_an_account_that_does_not_exist_and_none_at_all_are_told_apart(gcp: Bench) -> None:
    nobody = "nobody@my-project-123456.iam.gserviceaccount.com"
    assert findings(gcp, service_account=nobody)["gcp.service_account"].detail == f"the service account {nobody} does not exist"
    assert findings(gcp, service_account=None)["gcp.service_account"].status == "warning"


def test_a_repository_that_will_be_made_or_is_elsewhere_is_fine(gcp: Bench) -> None:
    gcp.google.repositories.clear()
    assert findings(gcp, create_repository=True)["gcp.repository"].status == "ok"
    assert findings(gcp, repository="registry.example.com/jobs")["gcp.repository"].status == "ok"
    assert findings(gcp, repository=None)["gcp.repository"].status == "error"


@pytest.mark.parametrize(
    ("resources", "metric", "limit", "status"),
    [
        ({"accelerator": "L4:1", "nodes": 3}, "custom_model_training_nvidia_l4_gpus", 2, "error"),
        ({"accelerator": "L4:1", "nodes": 3}, "custom_model_training_nvidia_l4_gpus", 3, "ok"),
        ({"accelerator": "T4:2", "spot": True}, "custom_model_training_preemptible_nvidia_t4_gpus", 1, "error"),
        ({"accelerator": "A100-80GB:1"}, "custom_model_training_nvidia_a100_80gb_gpus", 0, "error"),
        ({"accelerator": "H100:8"}, "custom_model_training_nvidia_h100_gpus", 8, "ok"),
        ({"accelerator": "H200:8"}, "custom_model_training_nvidia_h200_gpus", None, "ok"),
    ],
)
def test_the_quota_of_a_jobs_very_accelerators_is_compared_with_what_it_needs(
    gcp: Bench, resources: dict[str, Any], metric: str, limit: int | None, status: str
) -> None:
    if limit is not None:
        gcp.google.rights.quota[metric] = limit
    [found] = gcp.provider.diagnose_job(plan_of(settings=gcp.google.settings, resources=resources))
    assert (found.name, found.status) == ("quota of the job", status), found
    assert metric in found.detail


def test_a_job_without_accelerators_needs_no_quota_of_its_own(gcp: Bench) -> None:
    assert list(gcp.provider.diagnose_job(plan_of(settings=gcp.google.settings))) == []
