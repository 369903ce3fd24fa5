"""One repository of a registry, over its HTTP API (https://github.com/opencontainers/distribution-spec/blob/main/spec.md).

No maintained Python library can carry it. oras (0.2.43) and python-dxf (12.1.1) both send the registry's token to any host that an answer
names for an upload, and a login to any token server that a registry names. oras also reads whole blobs into memory and writes OCI's format
alone, and python-dxf retries nothing. So cloud-train has its own client, based on ``requests``.
"""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cloud_train.errors import CorruptError
from cloud_train.image.answers import Answer
from cloud_train.image.connection import POLICY, Connection
from cloud_train.image.errors import BrokenConnectionError, ImageError, RegistryError
from cloud_train.image.layers import Blob, digest_of
from cloud_train.image.manifest import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Manifest
from cloud_train.image.reference import Reference
from cloud_train.image.registry_rules import rules_of
from cloud_train.image.tokens import Login
from cloud_train.image.uploads import TOO_LARGE, Uploader, location_of
from cloud_train.retry import RetryPolicy

_ACCEPTED = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_INDEX}"
_SMALLER = "keep data and checkpoints out of the image: list them in .dockerignore, and put data into a store"


class Repository:
    """A repository to read from and write to; thread-safe. ``sent_bytes`` counts the uploaded bytes."""

    def __init__(
        self,
        reference: Reference,
        policy: RetryPolicy = POLICY,
        login: Login | None = None,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``note`` receives lines about the upload of large blobs, from several threads."""
        self.reference = reference
        self.sent_bytes = 0
        self._counting = threading.Lock()
        self._connection = Connection(reference, policy, login)
        self._path = f"/v2/{reference.name}"
        self._reading = f"repository:{reference.name}:pull"
        self._writing = f"repository:{reference.name}:pull,push"
        about, takes_chunks = f"accept a blob for {reference.name}", rules_of(reference.host).takes_chunks
        self._uploader = Uploader(self._connection, f"{self._path}/blobs/", self._writing, about, note, takes_chunks)

    def __enter__(self) -> "Repository":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def manifest(self, version: str) -> Manifest | None:
        """The manifest or index with this tag or digest, verified; None if there is none."""
        response = self._connection.request(
            "GET",
            f"{self._path}/manifests/{version}",
            self._reading,
            headers={"Accept": _ACCEPTED},
            expect=(200, 404),
            about=f"show the image {self.reference.name}:{version}",
        )
        if response.status_code == 404:
            return None
        data = response.content
        claimed = version if version.startswith("sha256:") else response.headers.get("Docker-Content-Digest", digest_of(data))
        if claimed != digest_of(data):
            raise CorruptError(f"the digest of the manifest of {self.reference.name}:{version} from {self.reference.host} does not match")
        return Manifest(data, response.headers.get("Content-Type", "").partition(";")[0], digest_of(data))

    def small_blob(self, digest: str) -> bytes:
        """The content of a small blob, such as a configuration, verified."""
        response = self._blob_response("GET", digest, (200,))
        if digest_of(response.content) != digest:
            raise CorruptError(f"{self.reference.host} sent a blob of {self.reference.name} that does not match its digest {digest}")
        return response.content

    def has_blob(self, digest: str) -> bool:
        """Whether the blob is in this repository."""
        return self._blob_response("HEAD", digest, (200, 404)).status_code == 200

    def fetch_blob(self, digest: str, size: int, file: Path) -> Blob:
        """Download a blob of ``size`` bytes to a file, and verify it; resumes after a broken connection."""
        hashing = hashlib.sha256()
        done = 0
        with file.open("wb") as target:
            left = self._connection.policy.attempts_left()
            while True:
                headers = {"Range": f"bytes={done}-"} if done else {}
                with self._blob_response("GET", digest, (200, 206), headers=headers, stream=True) as response:
                    if done and response.status_code == 200:
                        target.seek(0)
                        target.truncate()
                        hashing, done = hashlib.sha256(), 0
                    broken = None
                    try:
                        for piece in response.pieces():
                            done += len(piece)
                            if done > size:
                                raise CorruptError(f"{self.reference.host} sent more than {size:,} bytes for {digest}")
                            target.write(piece)
                            hashing.update(piece)
                    except BrokenConnectionError as error:
                        broken = error
                if broken is None or done >= size:
                    break
                if not left.wait():
                    raise BrokenConnectionError(
                        f"{self.reference.host} closed the connection after {done:,} of {size:,} bytes of {digest}"
                    ) from broken
        if f"sha256:{hashing.hexdigest()}" != digest:
            raise CorruptError(f"{self.reference.host} sent a blob of {self.reference.name} that does not match its digest {digest}")
        return Blob(file, digest, done)

    def mount(self, digest: str, source: Reference) -> bool:
        """Mount a blob from another repository in this registry; returns False if the registry requires an upload instead."""
        scope = f"{self._writing} repository:{source.name}:pull"
        query = urlencode({"mount": digest, "from": source.name})
        response = self._connection.request(
            "POST", f"{self._path}/blobs/uploads/?{query}", scope, expect=(201, 202), about=f"mount {digest}"
        )
        if response.status_code == 202:
            # The registry has opened an upload, which it would keep for a week unless it is cancelled.
            self._connection.once("DELETE", location_of(self._connection, response), self._writing)
        return response.status_code == 201

    def push_blob(self, blob: Blob) -> None:
        """Upload a blob if it is missing. Raises ImageError if it is larger than the registry accepts."""
        host, largest = self.reference.host, rules_of(self.reference.host).largest_layer
        if largest is not None and blob.size > largest:
            raise ImageError(f"a layer of the image has {blob.size:,} bytes, but {host} accepts at most {largest:,}", hint=_SMALLER)
        if not self.has_blob(blob.digest):
            try:
                sent_bytes = self._uploader.send(blob)
            except RegistryError as error:
                if error.status != TOO_LARGE:
                    raise
                words = f"a layer of the image has {blob.size:,} bytes, which is too large for {host}: {error.message}"
                hint = f"{_SMALLER}; {error.hint}" if error.hint else _SMALLER
                raise RegistryError(words, hint=hint, status=TOO_LARGE) from error
            with self._counting:
                self.sent_bytes += sent_bytes

    def push_bytes(self, data: bytes, folder: Path) -> str:
        """Upload a small blob and return its digest. ``folder`` is for a temporary file."""
        file = folder / "small-blob"
        file.write_bytes(data)
        self.push_blob(Blob(file, digest_of(data), len(data)))
        return digest_of(data)

    def push_manifest(self, data: bytes, media_type: str, version: str) -> str:
        """Upload a manifest under a tag or its digest, and return its digest."""
        response = self._connection.request(
            "PUT",
            f"{self._path}/manifests/{version}",
            self._writing,
            data=data,
            headers={"Content-Type": media_type},
            expect=(201,),
            about=f"accept the image {self.reference.name}:{version}",
        )
        with self._counting:
            self.sent_bytes += len(data)
        digest = digest_of(data)
        if response.headers.get("Docker-Content-Digest", digest) != digest:
            raise CorruptError(f"{self.reference.host} stored a manifest of {self.reference.name} whose digest is not {digest}")
        return digest

    def _blob_response(self, method: str, digest: str, expect: tuple[int, ...], **options: Any) -> Answer:
        return self._connection.request(
            method,
            f"{self._path}/blobs/{digest}",
            self._reading,
            expect=expect,
            about=f"show a blob of {self.reference.name}",
            **options,
        )
