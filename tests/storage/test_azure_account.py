"""Azure: which endpoint and credentials the environment's settings name, and what is said where they are wrong."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from cloud_train.errors import StoreError, UsageError
from cloud_train.storage.azure_account import AzureAccount, Credentials, account_from
from cloud_train.storage.base import AccessDeniedError, TransientStoreError
from cloud_train.storage.registry import open_store
from tests.answers import Answer
from tests.storage.scripted import Scripted, scripted

KEY = "c2VjcmV0LWtleQ=="
SAS = "sv=2025-11-05&se=2030-01-01T00:00:00Z&sp=racwdl&sig=c2lnbmF0dXJl%3D"
USUAL = "https://acct.blob.core.windows.net"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, AzureAccount("acct", USUAL)),
        ({"AZURE_STORAGE_KEY": KEY}, AzureAccount("acct", USUAL, KEY, None, "AZURE_STORAGE_KEY")),
        ({"AZURE_STORAGE_ACCOUNT_KEY": KEY}, AzureAccount("acct", USUAL, KEY, None, "AZURE_STORAGE_ACCOUNT_KEY")),
        ({"AZURE_STORAGE_SAS_TOKEN": f"?{SAS}"}, AzureAccount("acct", USUAL, None, SAS, "AZURE_STORAGE_SAS_TOKEN")),
        ({"AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_SAS_TOKEN": SAS}, AzureAccount("acct", USUAL, KEY, None, "AZURE_STORAGE_KEY")),
        ({"AZURE_CLIENT_ID": "app"}, AzureAccount("acct", USUAL, identity_configured=True)),
        ({"AZURE_STORAGE_ENDPOINT": "https://blobs.example.com/"}, AzureAccount("acct", "https://blobs.example.com")),
        ({"AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:10000"}, AzureAccount("acct", "http://127.0.0.1:10000/acct")),
        ({"AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:10000/acct/"}, AzureAccount("acct", "http://127.0.0.1:10000/acct")),
        ({"AZURE_STORAGE_ENDPOINT": "http://acct.blob.localhost"}, AzureAccount("acct", "http://acct.blob.localhost")),
        ({"AZURE_STORAGE_ACCOUNT": "other"}, AzureAccount("acct", USUAL)),
    ],
)
def test_single_settings_are_read_as_azures_own_tools_read_them(settings: dict[str, str], expected: AzureAccount) -> None:
    assert account_from("acct", settings) == expected


@pytest.mark.parametrize(
    ("text", "endpoint", "key", "sas"),
    [
        (f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};EndpointSuffix=core.windows.net", USUAL, KEY, None),
        (f"AccountName=acct;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn", "https://acct.blob.core.chinacloudapi.cn", KEY, None),
        (f"accountname=acct; accountkey={KEY};", USUAL, KEY, None),
        (f"BlobEndpoint={USUAL}/;SharedAccessSignature={SAS}", USUAL, None, SAS),
        (f"BlobEndpoint=http://azurite:10000/acct;AccountName=acct;AccountKey={KEY}", "http://azurite:10000/acct", KEY, None),
        (f"BlobEndpoint=https://blobs.example.com;SharedAccessSignature=?{SAS}", "https://blobs.example.com", None, SAS),
        ("AccountName=acct", USUAL, None, None),
    ],
)
def test_a_connection_string_says_it_all(text: str, endpoint: str, key: str | None, sas: str | None) -> None:
    account = account_from("acct", {"AZURE_STORAGE_CONNECTION_STRING": text, "AZURE_STORAGE_KEY": "aWdub3JlZA=="})
    assert (account.endpoint, account.key, account.sas) == (endpoint, key, sas)
    assert account.source == ("AZURE_STORAGE_CONNECTION_STRING" if key or sas else "")


def test_development_storage_is_the_emulator_on_its_usual_port() -> None:
    account = account_from("devstoreaccount1", {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"})
    assert account.endpoint == "http://127.0.0.1:10000/devstoreaccount1"
    assert account.key


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=other;AccountKey={KEY}"}, "'other'"),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint=https://other.blob.core.windows.net;SharedAccessSignature={SAS}"}, "'other'"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}, "'devstoreaccount1'"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "nothing that means anything"}, "neither AccountName nor BlobEndpoint"),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acct;AccountKey=not base64!"},
            "AZURE_STORAGE_CONNECTION_STRING is not valid base64",
        ),
        ({"AZURE_STORAGE_KEY": "YQ"}, "AZURE_STORAGE_KEY is not valid base64"),
        ({"AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_ACCOUNT": "other"}, "AZURE_STORAGE_ACCOUNT is for 'other'"),
        ({"AZURE_STORAGE_ENDPOINT": f"acct.blob.core.windows.net?{SAS}"}, "is not the endpoint of a storage account"),
    ],
)
def test_settings_that_are_broken_or_of_another_account_are_named(settings: dict[str, str], named: str) -> None:
    with pytest.raises(StoreError, match=named) as caught:
        account_from("acct", settings)
    assert caught.value.hint
    assert not any(secret in f"{caught.value.message}{caught.value.hint}" for secret in (KEY, "not base64!", "sig="))


@pytest.mark.parametrize("name", ["", "ab", "Acct", "with-dash", "a" * 25, "acct.blob"])
def test_a_name_that_no_account_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="3 to 24"):
        account_from(name, {})


def test_an_account_that_is_printed_shows_neither_key_nor_signature() -> None:
    for settings in ({"AZURE_STORAGE_KEY": KEY}, {"AZURE_STORAGE_SAS_TOKEN": SAS}):
        account = account_from("acct", settings)
        assert not any(secret in repr(account) for secret in (KEY, "sig="))


def test_how_long_a_sas_token_is_valid_is_read_from_it() -> None:
    assert account_from("acct", {"AZURE_STORAGE_SAS_TOKEN": SAS}).sas_end == "2030-01-01T00:00:00Z"
    assert account_from("acct", {"AZURE_STORAGE_SAS_TOKEN": "sv=1&si=policy&sig=x"}).sas_end == ""


def test_obstore_gets_the_key_or_the_sas_token_as_it_is() -> None:
    assert Credentials(AzureAccount("acct", USUAL, key=KEY))() == {"access_key": KEY, "expires_at": None}
    assert Credentials(AzureAccount("acct", USUAL, sas=SAS))() == {"sas_token": SAS, "expires_at": None}


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """A managed identity's endpoint, as a machine of Azure has one."""
    pytest.importorskip("azure.identity")
    end = int(time.time()) + 7_200
    token = f'{{"access_token": "the-token", "expires_on": "{end}", "resource": "https://storage.azure.com", "token_type": "Bearer"}}'
    with scripted(lambda asked: Answer(200, {"Content-Type": "application/json"}, token.encode())) as server:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.endpoint}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        yield server


def test_a_managed_identity_is_asked_once_for_a_token_of_the_storage_service(identity: Scripted) -> None:
    credentials = Credentials(account_from("acct", os.environ))
    first = credentials()
    assert first["token"] == "the-token"  # type: ignore[typeddict-item] # one of three forms
    assert first["expires_at"] is not None
    assert first["expires_at"] > datetime.now(UTC)
    assert credentials()["token"] == "the-token"  # type: ignore[typeddict-item] # see above
    assert credentials.for_sdk() is not None
    assert not credentials.anonymous
    assert [asked.target.partition("resource=")[2] for asked in identity.asked] == ["https://storage.azure.com"]


def test_a_refusal_by_microsoft_entra_is_final_and_tells_its_reason() -> None:
    text = (
        "DefaultAzureCredential failed\nAttempted credentials:\n\tEnvironmentCredential: AADSTS7000215: Invalid client secret provided.\n"
    )
    error = Credentials(AzureAccount("acct", USUAL)).failed(text)
    assert isinstance(error, AccessDeniedError)
    assert error.message == "no token for the storage account 'acct': AADSTS7000215: Invalid client secret provided."
    assert "az login" in (error.hint or "")


def test_an_identity_that_cannot_be_asked_just_now_is_asked_again(identity: Scripted) -> None:
    good, identity.answer = identity.answer, lambda asked: Answer(400, {"Content-Type": "application/json"}, b'{"error": "try_later"}')
    credentials = Credentials(account_from("acct", os.environ))
    with pytest.raises(TransientStoreError, match=r"no token for the storage account 'acct': ManagedIdentityCredential: .*rror"):
        credentials()
    assert not credentials.anonymous, "an identity that is configured is not done without"
    identity.answer = good
    assert "token" in credentials()


def test_where_there_is_nothing_requests_are_not_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.identity")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")  # not the whole chain: that asks the network
    credentials = Credentials(account_from("acct", {}))
    assert credentials() == {"sas_token": [], "expires_at": None}
    assert credentials.for_sdk() is None
    assert credentials.anonymous


def test_no_token_goes_to_a_server_without_encryption(identity: Scripted) -> None:
    credentials = Credentials(account_from("acct", {**os.environ, "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:9"}))
    assert credentials() == {"sas_token": [], "expires_at": None}
    assert identity.asked == []


@pytest.mark.parametrize(
    ("authority", "domain"),
    [
        ("", "core.windows.net"),
        ("https://login.microsoftonline.com", "core.windows.net"),
        ("https://login.microsoftonline.us/", "core.usgovcloudapi.net"),
        ("login.microsoftonline.us", "core.usgovcloudapi.net"),
        ("https://login.chinacloudapi.cn", "core.chinacloudapi.cn"),
        ("https://login.partner.microsoftonline.cn", "core.chinacloudapi.cn"),
        ("https://login.microsoftonline.us.example.com", "core.windows.net"),
    ],
)
def test_the_blobs_of_a_sovereign_cloud_are_where_its_sign_in_says(authority: str, domain: str) -> None:
    assert account_from("acct", {"AZURE_AUTHORITY_HOST": authority}).endpoint == f"https://acct.blob.{domain}"


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("abfss://runs@acct.dfs.core.windows.net/team/digits", "az://acct/runs/team/digits"),
        ("abfs://runs@acct.dfs.core.windows.net", "az://acct/runs"),
        ("wasbs://runs@acct.blob.core.usgovcloudapi.net/x/", "az://acct/runs/x"),
        ("https://acct.blob.core.windows.net/runs/digits", "az://acct/runs/digits"),
        ("https://acct.dfs.core.chinacloudapi.cn/runs", "az://acct/runs"),
        ("az://acct.blob.core.windows.net/runs/digits", "az://acct/runs/digits"),
        ("https://acct.blob.core.windows.net", "az://acct/CONTAINER"),
    ],
)
def test_what_others_write_for_a_container_is_answered_by_the_store_s_url(url: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert caught.value.hint == f"write {meant}"


@pytest.mark.parametrize("url", ["https://example.com/runs", "https://acct.blob.core.windows.net.example.com/runs", "abfss://runs/x"])
def test_other_urls_are_not_taken_for_containers(url: str) -> None:
    with pytest.raises(UsageError, match="unsupported store scheme"):
        open_store(url)


def test_a_container_in_the_place_of_the_account_is_answered_by_the_right_order() -> None:
    with pytest.raises(StoreError) as caught:
        account_from("runs", {"AZURE_STORAGE_ACCOUNT": "mystorage", "AZURE_STORAGE_KEY": KEY})
    assert "if 'runs' is a container, write az://mystorage/runs/…" in (caught.value.hint or "")


@pytest.mark.parametrize("container", ["ab", "x" * 64, "Runs", "my_runs", "-runs", "runs-", "a--b", "ru.ns", "läufe"])
def test_a_name_that_no_container_can_have_is_refused(container: str) -> None:
    with pytest.raises(UsageError, match="invalid container name"):
        open_store(f"az://acct/{container}")
