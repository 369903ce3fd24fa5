"""Azure: what its answers mean, in words that name the account, the container, the permission and the next step."""

import pytest

from cloud_train.errors import StoreError
from cloud_train.storage.azure_account import AzureAccount, Credentials
from cloud_train.storage.azure_errors import AzureErrors, without_secrets
from cloud_train.storage.base import AccessDeniedError, CredentialsEndedError, ObjectExistsError, TransientStoreError, UploadGoneError

USUAL = "https://acct.blob.core.windows.net"
BY_KEY = AzureErrors(Credentials(AzureAccount("acct", USUAL, key="a2V5", source="AZURE_STORAGE_KEY")), "data")
BY_SAS = AzureErrors(Credentials(AzureAccount("acct", USUAL, sas="se=2020-01-01&sig=secret", source="AZURE_STORAGE_SAS_TOKEN")), "data")
BY_IDENTITY = AzureErrors(Credentials(AzureAccount("acct", USUAL)), "data")


@pytest.mark.parametrize(
    ("errors", "status", "code", "kind", "words"),
    [
        (BY_KEY, 404, "ContainerNotFound", StoreError, ["'data'", "'acct'", "az storage container create", "--account-name acct"]),
        (BY_KEY, 409, "ContainerBeingDeleted", StoreError, ["being deleted", "wait"]),
        (BY_SAS, 403, "UnauthorizedBlobOverwrite", ObjectExistsError, ["exists"]),
        (BY_KEY, 400, "InvalidBlockList", UploadGoneError, ["no longer in the store"]),
        (BY_KEY, 400, "InvalidBlobOrBlock", StoreError, ["another program has", "a week"]),
        (BY_KEY, 400, "Md5Mismatch", TransientStoreError, ["damaged in transit"]),
        (BY_KEY, 403, "AccountIsDisabled", AccessDeniedError, ["disabled"]),
        (BY_KEY, 403, "KeyBasedAuthenticationNotPermitted", AccessDeniedError, ["'acct'", "unset AZURE_STORAGE_KEY", "az login"]),
        (BY_KEY, 403, "AuthenticationFailed", CredentialsEndedError, ["the account key in AZURE_STORAGE_KEY", "clock"]),
        (BY_KEY, 403, "AuthorizationFailure", AccessDeniedError, ["the account key in AZURE_STORAGE_KEY", "'acct'", "firewall"]),
        (BY_SAS, 403, "AuthenticationFailed", CredentialsEndedError, ["AZURE_STORAGE_SAS_TOKEN, valid until 2020-01-01", "expired"]),
        (BY_IDENTITY, 401, "InvalidAuthenticationInfo", CredentialsEndedError, ["the token of this identity", "clock"]),
        (BY_IDENTITY, 401, "", CredentialsEndedError, ["the token of this identity was rejected (401)"]),
        (BY_IDENTITY, 401, "TransientStoreError", TransientStoreError, ["the service said", "az login"]),
    ],
)
def test_a_code_of_azures_is_told_in_words(errors: AzureErrors, status: int, code: str, kind: type[StoreError], words: list[str]) -> None:
    error = errors.of_answer(status, code, "the service said")
    assert type(error) is kind
    text = f"{error.message} | {error.hint}"
    assert all(word in text for word in words), text
    assert "secret" not in text


@pytest.mark.parametrize(("status", "code"), [(503, "ServerBusy"), (404, "BlobNotFound"), (500, "InternalError"), (412, "ConditionNotMet")])
def test_what_means_the_same_on_every_cloud_is_left_to_its_status(status: int, code: str) -> None:
    assert BY_KEY.of_answer(status, code, "") is None


@pytest.mark.parametrize("code", ["AuthorizationPermissionMismatch", "AuthorizationFailure", "InsufficientAccountPermissions", ""])
def test_a_missing_permission_is_named_by_role_and_data_action_or_by_the_letter_of_a_sas_token(code: str) -> None:
    assert BY_IDENTITY.of_answer(403, code, "") is None
    assert "'Storage Blob Data Contributor' on the container 'data'" in BY_IDENTITY.permission("write")
    assert BY_IDENTITY.permission("delete").endswith("Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete")
    assert BY_IDENTITY.permission("list").endswith("/blobs/read")
    assert "a SAS token with l in sp= " in BY_SAS.permission("list")
    assert "2020-01-01" in BY_SAS.permission("read")


@pytest.mark.parametrize(("status", "code"), [(401, ""), (403, ""), (404, "ResourceNotFound"), (409, "PublicAccessNotPermitted")])
def test_who_has_no_credentials_is_told_to_sign_in(status: int, code: str) -> None:
    credentials = Credentials(AzureAccount("acct", "http://127.0.0.1:9/acct"))
    credentials()  # of which nothing comes, because no token goes over HTTP
    error = AzureErrors(credentials, "data").of_answer(status, code, "")
    assert isinstance(error, AccessDeniedError)
    assert "'data' is not public" in error.message
    assert "az login" in (error.hint or "")
    assert AzureErrors(credentials, "data").of_answer(404, "BlobNotFound", "") is None


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("HTTP error: error sending request (failed to lookup address information: Name or service not known)", False),
        ("HTTPSConnection(host='acct.blob.core.windows.net', port=443): Failed to resolve 'acct.blob.core.windows.net' "
         "([Errno -2] Name or service not known)", False),
        ("HTTP error: error sending request (failed to lookup address information: Temporary failure in name resolution)", True),
        ("Failed to resolve 'login.microsoftonline.com' ([Errno -2] Name or service not known)", True),
        ("HTTP error: error sending request (Connection refused)", True),
    ],
)  # fmt: skip
def test_an_account_that_does_not_exist_is_told_from_a_network_that_is_down(words: str, known: bool) -> None:
    error = BY_KEY.of_answer(0, "", words)
    if known:
        assert error is None, "left to storage.retrying"
        return
    assert error is not None
    assert not isinstance(error, TransientStoreError)
    assert "the storage account 'acct' does not exist" in error.message
    assert "az storage account list" in (error.hint or "")


def test_the_sdks_words_are_told_without_signatures() -> None:
    text = "Max retries exceeded with url: /data/a?sv=1&sig=secret%3D (Caused by …)\nRequestId:1\nTime:2\nErrorCode:X\nContent: <xml/>"
    assert without_secrets(text) == "Max retries exceeded with url: /data/a?sv=1&sig=… (Caused by …)"
    assert without_secrets("AccountName=acct;AccountKey=secret==;x") == "AccountName=acct;AccountKey=…;x"
