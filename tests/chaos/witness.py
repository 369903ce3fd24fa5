"""A witness of everything that becomes visible in a run directory, without the product's code.

For S3 the server keeps every version of every object, so that nothing escapes. For the other clouds the machines' fault proxies keep what
they pass on. For a folder a thread looks every few milliseconds: a document that exists for a shorter time is not seen, and each write is
known to have happened between two looks.
"""

import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import urlopen

from tests.chaos.machines import Passage
from tests.stores import StoreServer

_PACE = 0.03


@dataclass(frozen=True)
class Write:
    """An object that was written, or deleted with ``data`` None, between two times."""

    key: str
    data: bytes | None
    after: float
    """In seconds, on the witness's clock."""
    before: float


class Witness(Protocol):
    """What both kinds of store can say."""

    def writes(self) -> list[Write]:
        """Every write so far, in the order in which it was seen. Statuses, checkpoints and models of all runs."""

    def now(self) -> Mapping[str, bytes]:
        """Every object."""


class S3Witness:
    """Asks the server itself, around the proxies; keeps all versions of the bucket of ``url``."""

    def __init__(self, server: StoreServer, url: str, passages: list[Passage]) -> None:
        import boto3
        from botocore.config import Config

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._client: Any = boto3.client(
            "s3", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing",
            config=Config(retries={"max_attempts": 3}),
        )  # fmt: skip
        self._client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        self._passages = passages
        """The requests that may have reached the server: the times of its versions are full seconds."""
        self._bodies: dict[tuple[str, str], bytes] = {}

    def writes(self) -> list[Write]:
        """See ``Witness``."""
        versions: dict[str, list[Any]] = defaultdict(list)
        for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=self._prefix):
            for version in page.get("Versions", []):
                if _is_told(version["Key"]):
                    versions[version["Key"]].insert(0, version)  # the newest comes first
        found = []
        for key, each in versions.items():
            for version, (after, before) in zip(
                each, self._times(key, [version["LastModified"].timestamp() for version in each]), strict=True
            ):
                found.append(Write(key.removeprefix(self._prefix), self._body(key, version["VersionId"]), after, before))
        return sorted(found, key=lambda write: write.after)

    def _times(self, key: str, seconds: list[float]) -> list[tuple[float, float]]:
        """Between which times each version of a key was written: as its request says, or else within the second that the server says."""
        path = f"/{self._bucket}/{key}"
        times = sorted((each.began, each.ended) for each in list(self._passages) if each.method == "PUT" and each.path == path)
        fits = [began < second + 1 and ended >= second for second, (began, ended) in zip(seconds, times, strict=False)]
        return times if len(times) == len(seconds) and all(fits) else [(second, second + 1) for second in seconds]

    def now(self) -> Mapping[str, bytes]:
        """See ``Witness``."""
        found = {}
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
            for item in page.get("Contents", []):
                with suppress(self._client.exceptions.NoSuchKey):
                    body = self._client.get_object(Bucket=self._bucket, Key=item["Key"])["Body"].read()
                    found[item["Key"].removeprefix(self._prefix)] = body
        return found

    def _body(self, key: str, version: str) -> bytes:
        if (key, version) not in self._bodies:
            self._bodies[key, version] = self._client.get_object(Bucket=self._bucket, Key=key, VersionId=version)["Body"].read()
        return self._bodies[key, version]


class ProxyWitness:
    """Every write as the proxies passed it on, and the objects as the server has them: Google's storage and Azure's."""

    def __init__(self, server: StoreServer, url: str, passages: list[Passage]) -> None:
        place = urlsplit(url)
        above = [place.netloc] if server.scheme == "gs" else [place.netloc, place.path.split("/")[1]]
        self._server, self._passages, self._bucket = server, passages, above[-1]
        self._prefix = f"/{'/'.join(above)}/"
        self._below = f"{url.removeprefix(f'{server.scheme}:/{self._prefix}')}/"

    def writes(self) -> list[Write]:
        """See ``Witness``."""
        found = []
        for each in list(self._passages):
            key = unquote(each.path).removeprefix(self._prefix).removeprefix(self._below)
            if each.is_done and each.method == "PUT" and _is_told(key):
                found.append(Write(key, each.body, each.began, each.ended))
        return sorted(found, key=lambda write: write.after)

    def now(self) -> Mapping[str, bytes]:
        """See ``Witness``."""
        listed = self._of_google() if self._server.scheme == "gs" else self._of_azure()
        return {key.removeprefix(self._below): data for key, data in listed}

    def _of_google(self) -> Iterator[tuple[str, bytes]]:
        address = f"{self._server.endpoint}/storage/v1/b/{self._bucket}/o?prefix={quote(self._below)}"
        with urlopen(address, timeout=30) as answer:
            names = [item["name"] for item in json.load(answer).get("items", [])]
        for name in names:
            with suppress(HTTPError), urlopen(f"{self._server.endpoint}{self._prefix}{quote(name)}", timeout=30) as answer:
                yield name, answer.read()

    def _of_azure(self) -> Iterator[tuple[str, bytes]]:
        from azure.core.exceptions import ResourceNotFoundError
        from azure.storage.blob import ContainerClient

        access = self._server.environment["AZURE_STORAGE_CONNECTION_STRING"]
        with ContainerClient.from_connection_string(access, self._bucket) as container:
            for name in container.list_blob_names(name_starts_with=self._below):
                with suppress(ResourceNotFoundError):
                    yield name, container.download_blob(name).readall()


@dataclass
class FolderWitness:
    """Looks at the folder of a store, from a thread of its own."""

    folder: Path
    _writes: list[Write] = field(default_factory=list)
    _known: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _listed: dict[Path, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def watching(self) -> Iterator["FolderWitness"]:
        """Look until the context ends."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_PACE):
                self._look()

        thread = threading.Thread(target=watch, name="witness")
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()

    def writes(self) -> list[Write]:
        """See ``Witness``."""
        self._look()
        with self._lock:
            return list(self._writes)

    def now(self) -> Mapping[str, bytes]:
        """See ``Witness``."""
        found = {}
        for path in self.folder.rglob("*"):
            with suppress(OSError):
                if path.is_file() and not any(part.startswith(".") for part in path.relative_to(self.folder).parts):
                    found[path.relative_to(self.folder).as_posix()] = path.read_bytes()
        return found

    def _look(self) -> None:
        with self._lock:
            for run in _entries(self.folder):
                # The statuses come first: a checkpoint that is new in a look was published after what was seen in the look before.
                for attempt in _entries(run / "attempts"):
                    self._read(attempt / "status.json", 0.0)
                after, self._listed[run] = self._listed.get(run, 0.0), monotonic()
                of_attempts = [folder for folder in _entries(run) if folder.name.startswith("checkpoints")]
                for folder in [*(each for above in of_attempts for each in _entries(above)), run / "model"]:
                    self._read(folder / "manifest.json", after, folder / "chain")

    def _read(self, path: Path, after: float, *first: Path) -> None:
        with suppress(OSError):
            found = path.stat()
            if self._known.get(path) != (found.st_ino, found.st_mtime_ns):
                for each in (*first, path):
                    with suppress(OSError):
                        self._writes.append(Write(each.relative_to(self.folder).as_posix(), each.read_bytes(), after, monotonic()))
                self._known[path] = found.st_ino, found.st_mtime_ns


def _entries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _is_told(key: str) -> bool:
    return key.endswith(("/status.json", "/manifest.json", "/chain"))


def _files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and its sub folders, some of which may vanish meanwhile."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(Path(entry.path))
            else:
                yield Path(entry.path)
