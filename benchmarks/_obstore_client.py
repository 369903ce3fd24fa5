"""Measures the server's limit with obstore alone: ``up`` or ``down``, URL, folder. Nothing is hashed, verified, listed twice or synced."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cloud_train.storage.registry import bucket_and_prefix, open_store

_WORKERS = 8


def main() -> None:
    """Transfer one folder, each file in one request."""
    direction, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    bucket, prefix = bucket_and_prefix(url)
    client = open_store(bucket)._store._client  # type: ignore[attr-defined] # the client inside our stores, without the layers around it
    import obstore

    with ThreadPoolExecutor(_WORKERS) as pool:
        if direction == "up":
            list(pool.map(lambda path: obstore.put(client, f"{prefix}/{path.name}", path, use_multipart=False), folder.iterdir()))
            return
        folder.mkdir()
        keys = [meta["path"] for page in obstore.list(client, f"{prefix}/") for meta in page]
        list(pool.map(lambda key: (folder / Path(key).name).write_bytes(obstore.get(client, key).bytes()), keys))


if __name__ == "__main__":
    main()
