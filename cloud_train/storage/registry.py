"""Opens the store for a URL: its scheme selects the module."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.errors import UsageError
from cloud_train.job.cloud_names import AZURE_ACCOUNT, AZURE_CONTAINER, BUCKETS, meant_azure_store
from cloud_train.spec.paths import mistake_in
from cloud_train.spec.secret_names import granting_parameter, without_credentials
from cloud_train.storage.base import Store

if TYPE_CHECKING:
    from cloud_train.retry import RetryPolicy

_FORMS = {"s3": "s3://bucket/prefix", "gs": "gs://bucket/prefix", "az": "az://account/container/prefix"}
_SPACES = re.compile(r"\s")
_LOG_IN = "remove it from the URL; cloud-train uses the credentials of the cloud's own tools"


def scheme_of(url: str) -> str:
    """The part before ``://``; ``file`` for a local folder."""
    head, separator, _ = url.partition("://")
    return head if separator else "file"


def absolute_url(url: str, directory: Path) -> str:
    """The store's URL for a record: a local folder becomes absolute, relative to ``directory``. Raises UsageError for a mistake in it."""
    _refuse_mistake(url)
    if scheme_of(url) != "file":
        return url
    folder = folder_of(url)
    return str(folder if folder.is_absolute() else (directory / folder).absolute())


def folder_of(url: str) -> Path:
    """The folder of a local store's URL. Raises UsageError for what no folder can be named."""
    if "\0" in url:
        raise UsageError(f"invalid folder {url!r}: it contains the character NUL", hint="name a folder, such as ~/.cloud-train/runs")
    path = url.removeprefix("file://")
    if not path.startswith("/"):  # a record's is absolute, and exists however it is named
        _refuse_mistake(path)
    return Path(path).expanduser()


def _refuse_mistake(url: str) -> None:
    if mistake := mistake_in(url):
        reason, expected = mistake
        what = "folder" if scheme_of(url) == "file" else "store URL"
        raise UsageError(f"invalid {what} {without_credentials(url)!r}: {reason}", hint=f"expected: {expected}")


def open_store(url: str, policy: "RetryPolicy | None" = None) -> Store:
    """The store at ``url``, with retries by ``policy``. Nothing is sent yet.

    Raises UsageError for an invalid URL or an unknown scheme, and MissingDependencyError if the cloud's extra is not installed.
    """
    if scheme_of(url) == "file":
        from cloud_train.storage.local import LocalStore

        return LocalStore(folder_of(url))
    from cloud_train.storage.retrying import DEFAULT_POLICY, RetryingStore  # takes 5 ms, and runs in a local folder do not need it

    return RetryingStore(_cloud_store(url), policy or DEFAULT_POLICY)


def check_url(url: str) -> None:
    """Raise UsageError if ``url`` is not a valid store URL. Nothing is opened, and no SDK is needed."""
    if scheme_of(url) == "file":
        folder_of(url)
    else:
        _parts(url)


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """The URL of the bucket (or container) of ``url``, and the prefix in it, without slashes at its ends. Raises UsageError."""
    scheme, first, container, prefix = _parts(url)
    return f"{scheme}://{first}/{container}".rstrip("/"), prefix.rstrip("/")


def _cloud_store(url: str) -> Store:
    scheme, first, container, prefix = _parts(url)
    if scheme == "s3":
        from cloud_train.storage.s3 import S3Store

        return S3Store(first, prefix)
    if scheme == "gs":
        from cloud_train.storage.gcs import GoogleStore

        return GoogleStore(first, prefix)
    from cloud_train.storage.azure_blob import AzureStore

    return AzureStore(first, container, prefix)


def _check_names(url: str, scheme: str, first: str, container: str = "") -> None:
    """Raise UsageError for an invalid name of a bucket, account or container, because it becomes part of the host name."""
    if scheme == "az":
        checks = [("storage account", first, AZURE_ACCOUNT, "3 to 24 characters of a-z and 0-9")]
        checks.append(("container", container, AZURE_CONTAINER, "3 to 63 characters of a-z, 0-9 and '-'"))
    else:
        checks = [("bucket", first, *BUCKETS[scheme])]
    for kind, name, form, expected in checks:
        if not re.fullmatch(form, name):
            raise UsageError(
                f"invalid {kind} name {_without_login(name)!r} in {_shown(url)}: use {expected}",
                hint=f"a store URL looks like {_FORMS[scheme]}",
            )


def _parts(url: str) -> tuple[str, str, str, str]:
    """Scheme, bucket or account, container (for an account), and the prefix, which is empty or ends with '/'."""
    scheme = scheme_of(url)
    if meant := meant_azure_store(url):
        raise UsageError(f"{_shown(url)} names a container in Azure by another form of URL", hint=f"write {meant}")
    if scheme not in _FORMS:
        _refuse_mistake(url)
        known = " or ".join(_FORMS.values())
        raise UsageError(
            f"unsupported store scheme '{scheme}://' in {_shown(url)}", hint=f"use a folder, such as ~/.cloud-train/runs, or {known}"
        )
    names = url.partition("://")[2].strip("/").split("/")
    needed = 2 if scheme == "az" else 1
    if len(names) < needed or not all(names[:needed]):
        raise UsageError(
            f"missing {'container' if scheme == 'az' else 'bucket'} in {_shown(url)}", hint=f"a store URL looks like {_FORMS[scheme]}"
        )
    if any(name in ("", ".", "..") for name in names) or "\\" in url or not url.isprintable():
        raise UsageError(f"invalid store URL {_shown(url)}", hint="use plain names, separated by '/'")
    if granting_parameter(url):
        raise UsageError(f"the store URL {_shown(url)} contains a signature or a key, which would be recorded with it", hint=_LOG_IN)
    _check_names(url, scheme, *names[:needed])
    return scheme, names[0], names[1] if needed > 1 else "", "".join(f"{name}/" for name in names[needed:])


def _shown(url: str) -> str:
    """The URL for a message, without credentials, even if they contain white space."""
    return repr(without_credentials(_SPACES.sub("%20", url)))


def _without_login(name: str) -> str:
    """A name for a message, without the parts before ``@`` and after ``?``, which may be secret."""
    _, at, rest = name.rpartition("@")
    kept, mark, _ = rest.partition("?")
    return f"{'…' if at else ''}{at}{kept}{mark}{'…' if mark else ''}"
