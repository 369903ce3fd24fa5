"""From a store's URL to the store: which schemes there are, and which module each one needs."""

from pathlib import Path

from cloud_train.errors import UsageError
from cloud_train.storage.base import Store


def scheme_of(url: str) -> str:
    """``file`` for a local folder, otherwise what stands before ``://``."""
    head, separator, _ = url.partition("://")
    return head if separator else "file"


def absolute_url(url: str, directory: Path) -> str:
    """The store's URL in the form in which it is written down: a local folder is absolute, relative ones start at ``directory``."""
    if scheme_of(url) != "file":
        return url
    folder = Path(url.removeprefix("file://")).expanduser()
    return str(folder if folder.is_absolute() else (directory / folder).absolute())


def open_store(url: str) -> Store:
    """The store behind ``url``; raises UsageError for a scheme that is not known."""
    if scheme_of(url) == "file":
        from cloud_train.storage.local import LocalStore

        return LocalStore(Path(url.removeprefix("file://")))
    raise UsageError(
        f"no store is known for '{scheme_of(url)}://' (in {url!r})",
        hint="name a folder, such as ~/.cloud-train/runs",
    )
