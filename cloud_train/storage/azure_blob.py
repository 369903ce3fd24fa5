"""Azure Blob Storage: azure-storage-blob for multipart uploads and for listings that obstore cannot do; obstore for the rest.

``storage.azure_account`` finds the endpoint and the credentials. The SDKs are imported on first use, because that takes longer than most
commands.
"""

import base64
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from cloud_train.errors import MissingDependencyError, UsageError
from cloud_train.storage.azure_account import Credentials, account_from, quiet_sdk
from cloud_train.storage.azure_errors import AzureErrors, without_secrets
from cloud_train.storage.base import (
    Multipart,
    ObjectChangedError,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    TransientStoreError,
    UploadGoneError,
)
from cloud_train.storage.http_errors import BAD_CERTIFICATE
from cloud_train.storage.objects import CLIENT_OPTIONS, ONE_TRY, SHA256, ObjectStorage

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, ContainerClient
    from obstore.store import AzureStore as Client

INSTALL = "pip install 'cloud-train[azure]'"

Result = TypeVar("Result")

_CONTAINER = re.compile(r"\$(root|web|logs)|(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")
_CONNECTIONS = 32
_FOLDER = "hdi_isfolder"
"""Metadata of folders, which accounts with a hierarchical namespace list as empty objects."""
_EMPTY_RANGE = "Wanted range starting at"


class AzureStore(ObjectStorage):
    """The objects under ``az://account/container/prefix``."""

    def __init__(self, account: str, container: str, prefix: str) -> None:
        """``prefix`` is empty or ends with '/'. Nothing is sent yet.

        Raises UsageError for invalid names, StoreError for settings that are invalid or belong to another account.
        """
        if not _CONTAINER.fullmatch(container):
            raise UsageError(f"invalid container name {container!r}: use 3 to 63 characters of a-z, 0-9 and single '-'")
        _require()
        self.account = account_from(account, os.environ)
        self.container = container
        self._credentials = Credentials(self.account)
        self._errors = AzureErrors(self._credentials, container)
        self._folders: set[str] = set()
        url = f"az://{account}/{container}/{prefix}".rstrip("/")
        super().__init__(url, self._obstore(), prefix, explain=self._errors.of_answer, listing=self._list_with_sdk)

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write an object that must not exist yet."""
        try:
            return super().create(key, data)
        except ObjectChangedError as error:  # the response to "If-None-Match: *" may also be 412
            raise ObjectExistsError(f"cannot write {self.url}/{key}: it already exists") from error

    def replace(self, seen: ObjectInfo, data: bytes) -> ObjectInfo:
        """Write an object only if it is still as ``seen`` describes it."""
        return super().replace(replace(seen, version=_quoted(seen.version)), data)

    def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of an object."""
        try:
            return super().get(key, start, end, version=version)
        except TransientStoreError as error:  # past the end, Azure responds with 416, Azurite with something that obstore rejects
            if _EMPTY_RANGE not in error.message:
                raise
            return self._nothing(key, version)

    def stat(self, key: str) -> ObjectInfo:
        """Information about one object."""
        info = super().stat(key)
        return replace(info, version=_quoted(info.version))

    def permission(self, action: str) -> str:
        """The role, or the permissions of a SAS token, that an action needs."""
        return self._errors.permission(action)

    def delete(self, key: str) -> None:
        """Delete an object; no error if it does not exist."""
        blob = self.blob(key)
        try:  # without obstore, which sends a batch of one and panics on a damaged response
            self.call(key, "delete", blob.delete_blob)
        except ObjectMissingError:
            return

    def multipart(self) -> Multipart:
        """Uploads in blocks of a block blob."""
        return _Blocks(self)

    def blob(self, key: str) -> "BlobClient":
        """The SDK's client for one object."""
        return self._sdk.get_blob_client(self.full_key(key))

    def call(self, key: str, action: str, operation: Callable[[], Result]) -> Result:
        """The result of an SDK call; raises StoreError."""
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        try:
            return operation()
        except (AzureError, ValueError) as error:  # the SDK raises ValueError for a damaged response
            status, code, message = 0, "", without_secrets(str(error))
            if isinstance(error, HttpResponseError) and (error.status_code or 0) >= _FIRST_ERROR:
                found = getattr(error, "error_code", None)
                status, code = int(error.status_code or 0), str(getattr(found, "value", found) or "")
            elif isinstance(error, ClientAuthenticationError):  # no request was sent, because no token could be obtained
                failed = self._credentials.failed(message)
                code, message = type(failed).__name__, failed.message
            elif "CERTIFICATE_VERIFY_FAILED" in message:
                code = BAD_CERTIFICATE
            raise self.failure(action, key, status, code, message) from error

    def _listed(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        # obstore would list everything and filter by `after`; the SDK can have the service begin there.
        found = self._sdk_listed(prefix, after) if after else super()._listed(prefix, after)
        return (replace(info, version=_quoted(info.version)) for info in found if info.key not in self._folders)

    def _is_empty_object(self, path: str) -> bool:
        try:
            found = self._client.get(path, options={"head": True})
        except FileNotFoundError:
            return False
        if found.attributes.get(_FOLDER) == "true":
            self._folders.add(path)
        return found.meta["size"] == 0

    def _list_with_sdk(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        start = {"start_from": after} if after.startswith(prefix) and after else {}
        options: dict[str, Any] = {"include": ["metadata"], **start}
        pages = self._sdk.list_blobs(prefix or None, **options).by_page()
        while (page := self.call("", "list", lambda: next(pages, None))) is not None:
            for blob in page:
                metadata = blob.metadata or {}
                if metadata.get(_FOLDER) != "true":
                    yield ObjectInfo(blob.name, blob.size, blob.last_modified.timestamp(), _quoted(blob.etag or ""), metadata.get(SHA256))

    def _renew_credentials(self) -> bool:
        if not self._credentials.renew():
            return False
        self.__dict__.pop("_sdk", None)  # it caches the token
        self._client = self._obstore()
        return True

    def _obstore(self) -> "Client":
        """The container for obstore, with explicit settings, because obstore reads missing ones from the environment."""
        from obstore.store import AzureStore as Client

        return Client(
            self.container,
            account_name=self.account.name,
            endpoint=self.account.endpoint,
            use_emulator=False,
            use_fabric_endpoint=False,
            skip_signature=False,
            client_options=CLIENT_OPTIONS,
            retry_config=ONE_TRY,
            credential_provider=self._credentials,
        )

    @cached_property
    def _sdk(self) -> "ContainerClient":
        """The container for the SDK. It attempts each request once; ``storage.retrying`` retries."""
        quiet_sdk()
        import requests
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import ContainerClient
        from requests.adapters import HTTPAdapter

        trusted = os.environ.get("SSL_CERT_FILE") or True  # as obstore does
        session = requests.Session()
        for scheme in ("http://", "https://"):  # the default pool of 10 connections is too small for a transfer's threads
            session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS, max_retries=0))
        return ContainerClient(
            self.account.endpoint,
            self.container,
            credential=self._credentials.for_sdk(),
            transport=RequestsTransport(session=session, connection_timeout=10, read_timeout=30, connection_verify=trusted),
            retry_total=0,
        )


class _Blocks:
    """Uploads in blocks: at most 50,000 per object, with names of equal length.

    A block's name is its upload's name, its number and the MD5 of its bytes, which the service verifies on arrival. Azure deletes
    uncommitted blocks a week after the last one, or when the object is written in another way. They cannot be deleted earlier without
    creating an object, so ``abort`` leaves them.
    """

    in_order = False

    def __init__(self, store: AzureStore) -> None:
        self._store = store
        self._over: set[str] = set()
        """Tokens of uploads that have ended."""

    def part_bytes(self, size: int) -> int:
        return max(8 << 20, -(-size // 50_000))

    def begin(self, key: str, size: int, sha256: str) -> str:
        """No request: an upload begins with its first block."""
        self._store.full_key(key)
        return f"{secrets.token_hex(8)}-{sha256}"

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        self._check(key, token)
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        name = f"{token.partition('-')[0]}.{number:05d}.{md5.hex()}"
        headers = {"Content-MD5": base64.b64encode(md5).decode("ascii")}
        blob = self._store.blob(key)
        self._store.call(key, "write", lambda: blob.stage_block(name, data, length=len(data), headers=headers))
        return name

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        from azure.storage.blob import BlobBlock

        self._check(key, token)
        blob = self._store.blob(key)
        blocks = [BlobBlock(receipt) for _, receipt in sorted(receipts.items())]
        metadata = {SHA256: token.partition("-")[2]}
        self._store.call(key, "write", lambda: blob.commit_block_list(blocks, metadata=metadata))
        self._over.add(token)

    def abort(self, key: str, token: str) -> None:
        self._over.add(token)

    def _check(self, key: str, token: str) -> None:
        if token in self._over:  # the service would accept its blocks again
            raise UploadGoneError(f"the upload of {self._store.url}/{key} has ended")


_FIRST_ERROR = 400


def _quoted(etag: str) -> str:
    """An ETag with the quotes that HTTP requires, which listings omit."""
    return f'"{etag}"' if etag and not etag.endswith('"') else etag


def _require() -> None:
    """Raise MissingDependencyError if the extra is not installed, without importing it."""
    try:
        absent = [name for name in ("azure.identity", "azure.storage.blob", "obstore") if find_spec(name) is None]
    except ModuleNotFoundError as error:  # a parent package is missing
        absent = [error.name or "azure"]
    if absent:
        raise MissingDependencyError(f"stores on az:// need {', '.join(absent)}", hint=f"install it with: {INSTALL}")
