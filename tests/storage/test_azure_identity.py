"""Which identity a machine of Azure ML asks for a token, and how soon a machine without one says so."""

import json
import os
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from cloud_train.errors import StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.storage import azure_identity
from cloud_train.storage.azure_account import Credentials, account_from
from cloud_train.storage.azure_blob import AzureStore
from cloud_train.storage.base import AccessDeniedError, RetriesExhaustedError, TransientStoreError
from cloud_train.storage.retrying import RetryingStore, retrying
from tests.answers import Answer
from tests.storage.scripted import Asked, Scripted, scripted

ASSIGNED = "99999999-8888-7777-6666-555555555555"
"""The client ID of the identity that is assigned to the machine's cluster."""
JSON = {"Content-Type": "application/json"}
REFUSAL = {"error": {"code": "UserError", "message": "No identity is assigned to this compute"}}


def answered(asked: Asked) -> Answer:
    """As a cluster of Azure ML: a token only for the identity that the request names."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(asked.target).query).items()}
    if query.get("clientid") != ASSIGNED:
        return Answer(400, JSON, json.dumps(REFUSAL).encode())
    token = {"access_token": "the-token", "expires_on": str(int(time.time()) + 7200), "resource": query["resource"], "token_type": "Bearer"}
    return Answer(200, JSON, json.dumps(token).encode())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    pytest.importorskip("azure.identity")
    with scripted(answered) as server:
        monkeypatch.setenv("MSI_ENDPOINT", f"{server.endpoint}/msi")
        monkeypatch.setenv("MSI_SECRET", "secret")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        for name in ("AZURE_CLIENT_ID", "DEFAULT_IDENTITY_CLIENT_ID", "OBO_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        yield server


def test_the_identity_of_a_cluster_is_asked_by_the_id_that_the_platform_tells(cluster: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFAULT_IDENTITY_CLIENT_ID", ASSIGNED)
    assert Credentials(account_from("acct", os.environ))()["token"] == "the-token"  # type: ignore[typeddict-item] # one of three forms


def test_the_configured_identity_goes_before_that_of_the_platform(cluster: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFAULT_IDENTITY_CLIENT_ID", "11111111-2222-3333-4444-555555555555")
    monkeypatch.setenv("AZURE_CLIENT_ID", ASSIGNED)
    assert "token" in Credentials(account_from("acct", os.environ))()


@pytest.mark.parametrize(("platform", "named"), [("clientid", None), ("", None), (ASSIGNED, ASSIGNED)])
def test_a_word_in_place_of_an_id_names_no_identity(platform: str, named: str | None) -> None:
    assert azure_identity.client_id({"DEFAULT_IDENTITY_CLIENT_ID": platform}) == named


def test_a_machine_without_an_identity_says_so_in_seconds_and_not_minutes(cluster: Scripted) -> None:
    waits: list[float] = []
    policy = RetryPolicy(sleep=waits.append, jitter=lambda: 1.0)
    credentials = Credentials(account_from("acct", os.environ))
    with pytest.raises(AccessDeniedError, match="No identity is assigned to this compute") as caught:
        retrying(policy, credentials)
    assert sum(waits) < 4
    assert "assign a managed identity to the cluster" in (caught.value.hint or "")
    assert "az login" not in (caught.value.hint or "")


def test_a_store_says_the_same_of_a_machine_without_an_identity(cluster: Scripted) -> None:
    store = RetryingStore(AzureStore("acct1", "runs", ""), RetryPolicy(sleep=lambda _: None))
    with pytest.raises(AccessDeniedError, match="No identity is assigned to this compute") as caught:
        store.create("run.json", b"{}")
    assert "assign a managed identity to the cluster" in (caught.value.hint or "")


def test_an_identity_that_gave_tokens_before_is_asked_for_as_long_as_the_store(cluster: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_ID", ASSIGNED)
    credentials = Credentials(account_from("acct", os.environ))
    credentials()
    cluster.answer = lambda asked: Answer(400, JSON, json.dumps(REFUSAL).encode())
    for _ in range(8):
        with pytest.raises(TransientStoreError):
            credentials.renew()


@pytest.mark.slow
def test_an_identity_that_cannot_be_reached_is_asked_for_as_long_as_the_store(cluster: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSI_ENDPOINT", "http://127.0.0.1:9/msi")
    credentials = Credentials(account_from("acct", os.environ))
    with pytest.raises(RetriesExhaustedError):
        retrying(RetryPolicy(attempts=6, time_limit=None, sleep=lambda _: None), credentials)


@pytest.mark.parametrize("expiry", [{"expires_on": "4102444800"}, {"expiresOn": "2100-01-01T00:00:00Z"}, {"expires_in": 3600}])
def test_a_job_with_the_identity_of_its_user_gets_that_user_s_token(
    cluster: Scripted, monkeypatch: pytest.MonkeyPatch, expiry: dict[str, object]
) -> None:
    monkeypatch.setenv("OBO_ENDPOINT", f"{cluster.endpoint}/obo")
    cluster.answer = lambda asked: Answer(200, JSON, json.dumps({"token": f"for-{asked.target}", **expiry}).encode())
    credentials = Credentials(account_from("acct", os.environ))()
    assert credentials["token"] == "for-/obo?resource=https%3A%2F%2Fstorage.azure.com"  # type: ignore[typeddict-item] # one of three forms


def test_a_user_s_token_that_is_refused_says_why(cluster: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBO_ENDPOINT", f"{cluster.endpoint}/obo")
    cluster.answer = lambda asked: Answer(403, JSON, b"the user has signed out")
    with pytest.raises(StoreError, match="error 403: the user has signed out"):
        retrying(RetryPolicy(sleep=lambda _: None), Credentials(account_from("acct", os.environ)))
