"""cloud-train's client for benchmarks/transfer.py, a separate process: ``up``, ``down``, ``list`` or ``forget``, URL, folder, state folder.

It calls ``storage/transfer`` directly, without the command line. ``fast`` at the end skips the sync to the disk, which no other client
does.
"""

import sys
from pathlib import Path

from cloud_train.storage.registry import bucket_and_prefix, open_store
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.folders import download_folder
from cloud_train.storage.transfer.uploading import Upload, upload


def main() -> None:
    """Transfer one folder."""
    direction, url, folder, state, *fast = sys.argv[1:]
    bucket, path = bucket_and_prefix(url)
    prefix, store, options = f"{path}/", open_store(bucket), Options(state=Path(state), durable=not fast)
    if direction == "up":
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        upload(store, [Upload(path, prefix + path.relative_to(folder).as_posix()) for path in files], options)
    elif direction == "down":
        download_folder(store, prefix, Path(folder), options)
    elif direction == "forget":
        for info in store.list(prefix):
            store.delete(info.key)
    else:
        sum(1 for _ in store.list(prefix))


if __name__ == "__main__":
    main()
