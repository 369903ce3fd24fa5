"""The buckets and objects of gcp-storage-emulator, as ``tests/gcs_server.py`` asks for them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

Resource = dict[str, Any]
JSON = {"Content-Type": "application/json; charset=UTF-8"}
XML = {"Content-Type": "application/xml; charset=UTF-8"}


@dataclass(frozen=True)
class Answer:
    """One answer over HTTP."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class RequestError(Exception):
    """An answer that is an error, in the words of either API."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Emulator:
    """The objects in the emulator. Names are stored encoded, because it confuses 'a//b' with 'a/b' and drops a request that names '..'."""

    def __init__(self, port: int) -> None:
        self._port = port

    def forward(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, target, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def require_bucket(self, bucket: str) -> None:
        if self.forward("GET", f"/storage/v1/b/{bucket}").status == 404:
            raise RequestError(404, "NoSuchBucket", "The specified bucket does not exist.")

    def find(self, bucket: str, name: str) -> Resource | None:
        answer = self.forward("GET", self._path(bucket, name))
        return _decoded(json.loads(answer.body)) if answer.status == 200 else None

    def get(self, bucket: str, name: str, conditions: Mapping[str, str], generation: str | None = None) -> Resource:
        found = self.find(bucket, name)
        if found is None or (generation is not None and found["generation"] != generation):
            self.require_bucket(bucket)
            raise RequestError(404, "NoSuchKey", f"No such object: {bucket}/{name}")
        check(found, conditions)
        return found

    def read(self, bucket: str, name: str, start: int, end: int) -> bytes:
        return self.forward("GET", f"{self._path(bucket, name)}?alt=media", headers={"Range": f"bytes={start}-{end - 1}"}).body

    def write(self, bucket: str, name: str, data: bytes, metadata: Resource) -> Resource:
        place = f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name={quote(_encoded(name), safe='')}"
        begun = self.forward("POST", place, json.dumps({"contentType": "application/octet-stream"} | metadata).encode(), JSON)
        if begun.status == 404:
            raise RequestError(404, "NoSuchBucket", "The specified bucket does not exist.")
        target = "/upload" + begun.headers["location"].partition("/upload")[2]
        sent = f"bytes 0-{len(data) - 1}/{len(data)}" if data else "bytes */0"
        answer = self.forward("PUT", target, data, {"Content-Range": sent})
        if answer.status != 200:
            raise RequestError(answer.status, "InvalidDigest", json.loads(answer.body)["error"]["message"])
        return _decoded(json.loads(answer.body))

    def delete(self, bucket: str, name: str) -> None:
        self.forward("DELETE", self._path(bucket, name))

    def list(self, bucket: str, prefix: str) -> list[Resource]:
        above = _encoded(prefix.rpartition("/")[0] + "/") if "/" in prefix else ""
        answer = self.forward("GET", f"/storage/v1/b/{bucket}/o?prefix={quote(above.removesuffix('~'), safe='')}")
        if answer.status == 404:
            raise RequestError(404, "NoSuchBucket", "The specified bucket does not exist.")
        found = [_decoded(item) for item in json.loads(answer.body)["items"]]
        return sorted((item for item in found if item["name"].startswith(prefix)), key=lambda item: str(item["name"]))

    def _path(self, bucket: str, name: str) -> str:
        return f"/storage/v1/b/{bucket}/o/{quote(_encoded(name), safe='')}"


def _encoded(name: str) -> str:
    parts = [part.replace("~", "~7E").replace("\\", "~5C") for part in name.split("/")]
    return "/".join(f"~{part}" if part in ("", ".", "..") else part for part in parts)


def _decoded(resource: Resource) -> Resource:
    """An object's description as clients may see it: without ``mediaLink``, which would lead them past the server in front."""
    parts = [part[1:] if part in ("~", "~.", "~..") else part for part in str(resource["name"]).split("/")]
    name = "/".join(parts).replace("~5C", "\\").replace("~7E", "~")
    return {title: value for title, value in resource.items() if title != "mediaLink"} | {"name": name}


def check(found: Resource | None, conditions: Mapping[str, str]) -> None:
    """Raise 412 where an object's generation (0 for no object) is not as a precondition wants it."""
    generation = found["generation"] if found is not None else "0"
    wanted, unwanted = conditions.get("ifGenerationMatch"), conditions.get("ifGenerationNotMatch")
    if (wanted is not None and generation != wanted) or (unwanted is not None and generation == unwanted):
        raise RequestError(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
