"""Our side of benchmarks/transfer.py, as a process of its own: ``up``, ``down`` or ``list``, URL, folder, state folder, perhaps ``fast``.

It does what `cloud-train sync` does, without the command line. ``fast`` leaves out the sync to the disk, which no other client does.
"""

import sys
from pathlib import Path

from cloud_train.storage.registry import open_store
from cloud_train.storage.transfer.files import Options
from cloud_train.storage.transfer.folders import download_folder, upload_folder


def main() -> None:
    """Transfer one folder."""
    direction, url, folder, state, *fast = sys.argv[1:]
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    store, options = open_store(f"s3://{bucket}"), Options(state=Path(state), durable=not fast)
    if direction == "up":
        upload_folder(store, Path(folder), prefix, options)
    elif direction == "down":
        download_folder(store, prefix, Path(folder), options)
    else:
        sum(1 for _ in store.list(prefix))


if __name__ == "__main__":
    main()
