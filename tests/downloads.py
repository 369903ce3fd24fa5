"""Downloads as the worker makes them before a program starts."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from cloud_train.data.base import DataSection
from cloud_train.data.downloads import Download
from cloud_train.worker.data import download_all


def downloaded(section: DataSection, cache: Path) -> Path:
    """The cache, with all that the data set has to download."""
    download_all(section.downloads(), cache, print)
    return cache


def fetched(url: str, sha256: str, cache: Path, *, allow_loopback: bool = True) -> Path:
    """The one file at ``url``, in the cache."""
    file = Download(url, sha256, PurePosixPath(urlsplit(url).path).name)
    download_all([file], cache, print, allow_loopback=allow_loopback)
    return file.place_in(cache)
