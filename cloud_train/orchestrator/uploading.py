"""Copying a folder of data into a store, as ``cloud-train upload`` does. Every object is verified; what is there already is not sent again.

A run that trains on the copy must see what it would see in the folder. So hidden files, which are never data, are left out; a link is
followed to a file in the same folder, and any other link is refused; and so is a name under which the file could not be downloaded.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cloud_train.data.listing import may_be_data
from cloud_train.errors import UsageError
from cloud_train.image.context import names_a_secret
from cloud_train.spec.paths import mistake_in
from cloud_train.storage.registry import bucket_and_prefix, check_url, open_store
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.folders import upload_folder
from cloud_train.storage.transfer.paths import explained, unsafe
from cloud_train.storage.transfer.progress import Progress
from cloud_train.storage.transfer.uploading import Upload, upload

_STORES = ("s3://", "gs://", "az://")
_COPY = "to upload the files that links point to, upload a copy without links: cp -rL FOLDER COPY"


@dataclass(frozen=True)
class Uploaded:
    """The result of an upload."""

    url: str
    files: int
    """Files that were sent."""
    bytes: int
    """Bytes that were sent."""
    unchanged: int
    """Files that the store had already."""
    others: int
    """Other objects at the URL, which a run would read too."""
    an_other: str
    """The key of one of them, or empty."""


def upload_data(source: Path, url: str, report: Callable[[Progress], None] | None = None) -> Uploaded:
    """Copy a folder, or a single file, to ``url`` in a store. Nothing is deleted there.

    Raises UsageError before anything is sent: for a URL that is not in a cloud's store, a link out of the folder, a file that looks like a
    key, or a name that another machine could not download.
    """
    if not url.startswith(_STORES):
        reason, expected = mistake_in(url) or ("", "")
        hint = f"{reason}; write {expected}" if reason else "name a place such as s3://my-bucket/photos, gs://… or az://…"
        raise UsageError(f"{url} is not in a cloud's store", hint=hint)
    check_url(url)
    bucket, prefix = bucket_and_prefix(url.rstrip("/"))
    if source.is_file():
        return _one_file(source, bucket, f"{prefix}/{source.name}".lstrip("/") if url.endswith("/") or not prefix else prefix)
    if not source.is_dir():
        raise UsageError(f"there is no file or folder {source}")
    root = source.resolve()
    above = f"{prefix}/" if prefix else ""
    store, options = open_store(bucket), Options(report=report)
    summary, others = upload_folder(store, above, root, dict(_files(root, above)), options)
    return Uploaded(url, summary.files, summary.bytes, summary.unchanged, len(others), others[0] if others else "")


def _one_file(source: Path, bucket: str, key: str) -> Uploaded:
    _refuse_name(source, source.name, key)
    summary = upload(open_store(bucket), [Upload(source.resolve(), key)])
    return Uploaded(f"{bucket}/{key}", summary.files, summary.bytes, summary.unchanged, 0, "")


def _files(root: Path, above: str) -> Iterator[tuple[str, Path]]:
    """The path of each file below ``root``, and its real place, in order of their names; ``above`` is what their keys begin with."""
    waiting, seen = [("", root)], {root}
    while waiting:
        prefix, folder = waiting.pop()
        with explained(f"read {folder}"), os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if may_be_data(entry.name)), key=lambda entry: entry.name)
        folders = []
        for entry in found:
            path, place = prefix + entry.name, Path(entry.path)
            if entry.is_symlink():
                place = _inside(place, root)
            if place.is_dir():
                if place not in seen:  # a link may lead back
                    seen.add(place)
                    folders.append((f"{path}/", place))
                continue
            if not place.is_file():
                raise UsageError(f"{root / path} is not a file or folder", hint="move it away, or upload another folder")
            _refuse_name(root / path, path, above + path)
            yield path, place
        waiting += reversed(folders)


def _inside(link: Path, root: Path) -> Path:
    """Where a link leads; raises UsageError if that is nowhere, or outside the folder."""
    try:
        place = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{link} is a broken link, to {link.readlink()}", hint="remove it, or repair it") from error
    if not place.is_relative_to(root):
        raise UsageError(f"{link} links to {place}, outside the folder to upload", hint=_COPY)
    return place


def _refuse_name(file: Path, path: str, key: str) -> None:
    if why := unsafe(key):
        raise UsageError(f"{str(file)!r} could not be downloaded under its name: {why}", hint="rename it")
    if names_a_secret(path.rpartition("/")[2].lower()):
        raise UsageError(
            f"{file} looks like a key or a password, and was not sent to a store", hint="move it out of the folder, or rename it"
        )
