"""The clouds' own SDKs, as a separate process: ``up`` or ``down``, URL, folder, ``one`` file or ``many``, optionally ``thread``.

Their transfer managers run with eight workers and otherwise default settings: google.cloud.storage's ``transfer_manager``, whose workers
are processes by default, and azure-storage-blob's ``max_concurrency``. For many files, Azure's SDK gets one file for each of eight
threads. Google's verifies a CRC-32C of each chunk, Azure's verifies nothing by default; neither checks the uploaded objects.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cloud_train.storage.registry import bucket_and_prefix

_WORKERS = 8


@dataclass(frozen=True)
class Copy:
    """The transfer to make."""

    is_up: bool
    is_many: bool
    bucket: str
    """The URL of the bucket, or of the container."""
    prefix: str
    folder: Path
    worker_type: str


def main() -> None:
    """Transfer one folder."""
    direction, url, folder, amount, *worker_type = sys.argv[1:]
    bucket, prefix = bucket_and_prefix(url)
    copy = Copy(direction == "up", amount == "many", bucket, f"{prefix}/", Path(folder), *(worker_type or ["process"]))
    if url.startswith("az://"):
        _azure(copy)
    else:
        _google(copy)


def _google(copy: Copy) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client, transfer_manager

    client = Client(project="test", credentials=AnonymousCredentials())  # type: ignore[no-untyped-call] # google-auth ships few types
    bucket, prefix, folder = client.bucket(copy.bucket.removeprefix("gs://")), copy.prefix, str(copy.folder)
    workers = {"worker_type": copy.worker_type, "max_workers": _WORKERS}
    if copy.is_up:
        names = [path.name for path in copy.folder.iterdir()]
        if copy.is_many:
            transfer_manager.upload_many_from_filenames(bucket, names, folder, blob_name_prefix=prefix, raise_exception=True, **workers)
        else:
            transfer_manager.upload_chunks_concurrently(f"{folder}/{names[0]}", bucket.blob(prefix + names[0]), **workers)
        return
    names = [blob.name.removeprefix(prefix) for blob in client.list_blobs(bucket, prefix=prefix)]
    copy.folder.mkdir()
    if copy.is_many:
        transfer_manager.download_many_to_path(bucket, names, folder, blob_name_prefix=prefix, raise_exception=True, **workers)
    else:
        transfer_manager.download_chunks_concurrently(bucket.get_blob(prefix + names[0]), f"{folder}/{names[0]}", **workers)


def _azure(copy: Copy) -> None:
    from azure.storage.blob import ContainerClient

    settings = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    container = ContainerClient.from_connection_string(settings, copy.bucket.rpartition("/")[2])
    concurrency = 1 if copy.is_many else _WORKERS

    def send(path: Path) -> None:
        with path.open("rb") as file:
            container.upload_blob(copy.prefix + path.name, file, overwrite=True, max_concurrency=concurrency)

    def fetch(name: str) -> None:
        with (copy.folder / Path(name).name).open("wb") as file:
            container.download_blob(name, max_concurrency=concurrency).readinto(file)

    with ThreadPoolExecutor(_WORKERS if copy.is_many else 1) as pool:
        if copy.is_up:
            list(pool.map(send, copy.folder.iterdir()))
        else:
            copy.folder.mkdir()
            list(pool.map(fetch, [blob.name for blob in container.list_blobs(copy.prefix)]))


if __name__ == "__main__":
    main()
