"""What Google's refusals are told as: one message that names the field or the permission, and what to do. Nothing of an SDK comes out."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_train.errors import MissingDependencyError, ProviderError
from cloud_train.providers.cloud.errors import CloudError, RefusedError, ThrottledError
from cloud_train.providers.gcp.client import credentials_of
from cloud_train.providers.gcp.errors import refusal_of
from cloud_train.providers.gcp.provider import VertexProvider
from tests.clouds.faults import Fault
from tests.providers.gcp_google import Bench, bench
from tests.providers.gcp_plans import plan_of, without


@pytest.fixture
def gcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with bench(tmp_path, monkeypatch) as running:
        yield running


def refusal(gcp: Bench, **fields: object) -> ProviderError:
    """The error of a launch; nothing was started."""
    with pytest.raises(ProviderError) as caught:
        gcp.provider.launch(gcp.request(**fields), {})  # type: ignore[arg-type] # those of a plan
    assert gcp.google.jobs == {}
    return caught.value


def test_a_permission_that_is_missing_is_named(gcp: Bench) -> None:
    gcp.google.rights.denied.add("aiplatform.customJobs.create")
    error = refusal(gcp)
    assert "the credentials lack the permission aiplatform.customJobs.create in the project my-project-123456" in error.message
    assert error.hint is not None
    assert "docs/clouds/gcp.md" in error.hint


def test_a_place_that_is_not_there_is_a_matter_of_project_and_region(gcp: Bench) -> None:
    error = refusal(gcp, settings={"region": "europe-west99"})
    assert "404" in error.message
    assert error.hint is not None
    assert "'europe-west99' (gcp.region)" in error.hint


def test_an_account_that_may_not_be_used_is_named_with_the_role_that_helps(gcp: Bench) -> None:
    error = refusal(gcp, settings={"service_account": "nobody@my-project-123456.iam.gserviceaccount.com"})
    assert "iam.serviceAccounts.actAs" in error.message
    assert "nobody@my-project-123456.iam.gserviceaccount.com" in error.message
    assert error.hint is not None
    assert "roles/iam.serviceAccountUser" in error.hint


def test_an_api_that_is_not_enabled_is_named_with_the_command_that_enables_it(gcp: Bench) -> None:
    gcp.google.rights.disabled.add("aiplatform.googleapis.com")
    error = refusal(gcp)
    assert error.message.startswith("aiplatform.googleapis.com has not been used in project ")
    assert error.hint is not None
    assert "enable it with: gcloud services enable aiplatform.googleapis.com --project=" in error.hint


def test_a_quota_of_zero_is_named_and_not_asked_for_twice(gcp: Bench) -> None:
    gcp.google.rights.quota["custom_model_training_cpus"] = 0
    error = refusal(gcp)
    assert "custom_model_training_cpus" in error.message
    assert error.hint is not None
    assert "https://console.cloud.google.com/iam-admin/quotas" in error.hint
    assert gcp.google.count("customJobs.create") == 1


def test_a_machine_that_the_region_does_not_have_is_named_with_those_near_it(gcp: Bench) -> None:
    error = refusal(gcp, settings={"machine": "n2-standard-7"})
    assert 'Machine type "n2-standard-7" is not supported' in error.message
    assert error.hint is not None
    assert "gcp.machine to a machine type that gcp.region has, such as n2-standard-8" in error.hint


def test_another_project_or_region_is_not_there(gcp: Bench) -> None:
    for settings in ({"region": "europe-west9"}, {"project": "my-other-project"}):
        assert "404" in refusal(gcp, settings=settings).message


def test_a_server_that_is_not_there_names_url_and_region(gcp: Bench) -> None:
    error = refusal(gcp, settings={"endpoint": "http://127.0.0.1:9/{service}"})
    assert "no response from http://127.0.0.1:9/europe-west4-aiplatform/v1/projects/my-project-123456/" in error.message
    assert error.hint == "check the network connection, and that 'europe-west4' (gcp.region) is a region of Vertex AI"


def test_an_endpoint_that_is_no_url_is_told_at_once(gcp: Bench) -> None:
    error = refusal(gcp, settings={"endpoint": "vertex.internal"})
    assert error.hint == "correct gcp.endpoint"
    assert gcp.pauses == []


def test_a_key_that_was_deleted_is_told_with_the_way_to_log_in(gcp: Bench) -> None:
    gcp.google.accounts.is_revoked = True
    error = refusal(gcp)
    assert "the credentials are invalid or have expired" in error.message
    assert error.hint == "log in with: gcloud auth application-default login"


def test_credentials_that_google_does_not_take_are_told(gcp: Bench) -> None:
    gcp.google.faults.add("customJobs.list", Fault.EXPIRED_TOKEN, times=20)
    assert "Google rejected the credentials" in refusal(gcp).message


def test_a_server_that_fails_for_good_is_given_up(gcp: Bench) -> None:
    gcp.google.faults.add("customJobs.list", Fault.SERVER_ERROR, times=20)
    assert "aiplatform.googleapis.com failed with 500" in refusal(gcp).message
    assert gcp.google.count("customJobs.list") == 5


def test_without_credentials_there_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(tmp_path), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    provider = VertexProvider(tmp_path)
    with pytest.raises(ProviderError, match="no credentials for Google Cloud") as caught:
        provider.launch(provider.render(plan_of()), {})
    assert caught.value.hint is not None
    assert "gcloud auth application-default login" in caught.value.hint


def test_a_key_file_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("key.json").write_text("{")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(ProviderError, match=r"no credentials for Google Cloud \(.*key\.json"):
        credentials_of("my-project-123456")


def test_without_google_auth_the_command_is_named_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    provider = VertexProvider(tmp_path)
    with pytest.raises(MissingDependencyError) as caught:
        provider.launch(provider.render(plan_of()), {})
    assert caught.value.hint == "install them with: pip install 'cloud-train[gcp]'"


def test_without_a_project_nobody_is_asked(tmp_path: Path) -> None:
    provider = VertexProvider(tmp_path)
    with pytest.raises(ProviderError, match=r"gcp\.project and gcp\.region are required"):
        provider.find("digits-261124-120000-abcd", 1, "gs://b", without(plan_of(), "project").provider_settings)


def refused(status: int, words: str, reason: str = "", consumer: str = "") -> CloudError:
    details = (
        [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "metadata": {"consumer": consumer}}] if reason else []
    )
    document = {"error": {"code": status, "message": words, "status": "X", "details": details}}
    return refusal_of("europe-west4-aiplatform", status, document, "X", {"project": "mine-123456", "region": "europe-west4"})


def test_the_project_that_google_names_is_used_which_may_be_the_quota_project_of_the_credentials() -> None:
    words = "Vertex AI API has not been used in project 77 before or it is disabled."
    error = refused(403, words, "SERVICE_DISABLED", "projects/77")
    assert error.message == f"{words[:-1]}; aiplatform.googleapis.com is not enabled in the project 77"
    assert str(error.hint).startswith("enable it with: gcloud services enable aiplatform.googleapis.com --project=77; if that is not")
    assert str(error.hint).endswith("gcloud auth application-default set-quota-project mine-123456")
    assert "set-quota-project" not in str(refused(403, words, "SERVICE_DISABLED", "projects/mine-123456").hint)


def test_a_project_without_billing_has_its_own_reason() -> None:
    words = "This API method requires billing to be enabled. Please enable billing on project #77 by visiting https://console.example"
    error = refused(403, words, "BILLING_DISABLED", "projects/77")
    assert error.message == f"{words}; the project 77 has no active billing account"
    assert "https://console.cloud.google.com/billing/linkedaccount?project=77" in str(error.hint)


@pytest.mark.parametrize(
    ("words", "kind", "ours"),
    [
        ("The following quotas are exceeded: CustomModelTrainingCPUsPerProjectPerRegion", RefusedError, "does not have enough quota"),
        ("The following quota metrics exceed quota limits: aiplatform.googleapis.com/x", RefusedError, "does not have enough quota"),
        ("Quota exceeded for quota metric 'Requests' and limit 'Requests per minute' of service 'x'", ThrottledError, "too many requests"),
    ],
)
def test_a_quota_of_machines_is_told_from_too_many_requests(words: str, kind: type[CloudError], ours: str) -> None:
    error = refused(429, words)
    assert type(error) is kind
    assert error.message.startswith(f"{words}; ")
    assert ours in error.message
