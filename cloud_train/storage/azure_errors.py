"""Explains Azure's error responses: which account, container, credential or permission is the problem, and what to do.

Error codes: https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
"""

import re
from urllib.parse import urlsplit

from cloud_train.errors import StoreError
from cloud_train.storage.azure_account import LOGIN_HINT, Credentials
from cloud_train.storage.base import AccessDeniedError, CredentialsEndedError, ObjectExistsError, TransientStoreError, UploadGoneError

ROLE = "Storage Blob Data Contributor"
"""The built-in role that allows reading, writing, listing and deleting objects."""

_SECRET = re.compile(r"(?i)\b(sig|AccountKey|SharedAccessSignature)=[^&\s;'\")]+")
_NO_SUCH_HOST = "Name or service not known|No address associated|nodename nor servname"
"""Messages for a nonexistent host, as opposed to "Temporary failure in name resolution"."""

_PLAIN: dict[str, tuple[type[StoreError], str, str | None]] = {
    "UnauthorizedBlobOverwrite": (ObjectExistsError, "it already exists", None),  # for a SAS that may create but not overwrite
    "InvalidBlockList": (UploadGoneError, "the blocks of the upload are no longer in the store", None),
    "InvalidBlobOrBlock": (
        StoreError,
        "another program has an unfinished upload of this object",
        "let it finish, or wait: Azure deletes it a week after its last part",
    ),
    "Md5Mismatch": (TransientStoreError, "the data was damaged in transit", None),
    "ContainerBeingDeleted": (StoreError, "the container is being deleted", "wait half a minute, then create it again"),
    "AccountIsDisabled": (AccessDeniedError, "the storage account is disabled", "check it in the Azure portal"),
}
_NOT_ACCEPTED = ("AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation")
_NOT_PUBLIC = ("ResourceNotFound", "PublicAccessNotPermitted")
_UNAUTHENTICATED = 401
_REFUSED = (401, 403)
_NO_TOKEN: dict[str, type[StoreError]] = {kind.__name__: kind for kind in (AccessDeniedError, TransientStoreError)}
_DATA_ACTIONS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
_ACTIONS = {"read": "read", "list": "read", "write": "write", "delete": "delete", "abort": "write"}
_LETTERS = {"read": "r", "list": "l", "write": "c and w", "delete": "d", "abort": "w"}


class AzureErrors:
    """The errors of requests to one container."""

    def __init__(self, credentials: Credentials, container: str) -> None:
        self._credentials = credentials
        self._account = credentials.account
        self._container = container

    def of_answer(self, status: int, code: str, message: str) -> StoreError | None:
        """The error for an Azure-specific response; None for responses that mean the same on every cloud.

        ``status`` is 0 without a response. If no token could be obtained, ``code`` is the name of the error class.
        """
        if code in _NO_TOKEN:
            return _NO_TOKEN[code](message, hint=self._credentials.hint)
        if status == 0:
            return self._of_connection(message)
        if code == "ContainerNotFound":
            account, container = self._account.name, self._container
            return StoreError(
                f"the storage account {account!r} has no container {container!r}",
                hint=f"create it with: az storage container create --auth-mode login --account-name {account} --name {container}",
            )
        if code in _PLAIN:
            kind, words, hint = _PLAIN[code]
            return kind(words, hint=hint)
        if self._credentials.anonymous and (status in _REFUSED or code in _NOT_PUBLIC):
            return AccessDeniedError(f"no credentials were found, and the container {self._container!r} is not public", hint=LOGIN_HINT)
        return self._of_refusal(status, code)

    def permission(self, action: str) -> str:
        """The permission for 'read', 'write', 'list' or 'delete': a role's data action, or a letter of a SAS token."""
        if self._account.sas is not None:
            return f"a SAS token with {_LETTERS[action]} in sp= (the one in use is in {self._account.source}{self._until()})"
        return f"the role '{ROLE}' on the container {self._container!r}, or another one with {_DATA_ACTIONS}/{_ACTIONS[action]}"

    def _of_connection(self, text: str) -> StoreError | None:
        host = urlsplit(self._account.endpoint).hostname or ""
        unknown = f"failed to lookup address|dns error|Failed to resolve '{re.escape(host)}'"  # obstore's and the SDK's messages
        if not re.search(f"({unknown}).{{0,300}}({_NO_SUCH_HOST})", text, re.DOTALL):
            return None
        return StoreError(
            f"the storage account {self._account.name!r} does not exist: unknown host {host}",
            hint=(
                "check the account's name; list yours with: az storage account list. A store URL is az://ACCOUNT/CONTAINER/…, the account"
                " first; in a sovereign cloud, set AZURE_AUTHORITY_HOST"
            ),
        )

    def _of_refusal(self, status: int, code: str) -> StoreError | None:
        account = self._account
        if code == "KeyBasedAuthenticationNotPermitted":
            hint = f"unset {account.source}, and sign in with: az login"
            return AccessDeniedError(f"the storage account {account.name!r} does not accept account keys", hint=hint)
        if code in _NOT_ACCEPTED or status == _UNAUTHENTICATED:
            words = f"{self._who()} was rejected ({code or status})"
            return CredentialsEndedError(words, hint=f"check this machine's clock; if it has expired, {self._create_again()}")
        if code == "AuthorizationFailure" and account.key is not None:  # a key has all permissions
            hint = f"check that it is the key of {account.name!r}, and that the account's firewall allows this machine"
            return AccessDeniedError(f"{self._who()} was refused ({code})", hint=hint)
        return None

    def _who(self) -> str:
        if self._account.key is not None:
            return f"the account key in {self._account.source}"
        return "the token of this identity" if self._account.sas is None else f"the SAS token in {self._account.source}{self._until()}"

    def _create_again(self) -> str:
        account = self._account
        if account.sas is None:
            return "sign in again with: az login" if account.key is None else f"set {account.source} to the account's current key"
        make = f"az storage container generate-sas --account-name {account.name} --name {self._container} --permissions rcwdl --expiry …"
        return f"create a new one with `{make}` and set {account.source} to it"

    def _until(self) -> str:
        return f", valid until {self._account.sas_end}" if self._account.sas_end else ""


def without_secrets(text: str) -> str:
    """A message of the SDK without keys, signatures and redundant lines."""
    return _SECRET.sub(r"\1=…", re.split(r"\n(?:RequestId|ErrorCode|Content):", text, maxsplit=1)[0])
