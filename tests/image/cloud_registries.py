"""What the clouds' registries do that a registry of the specification does not: each refuses what the real one was seen to refuse.

``Manners`` stand between a client and a real registry (``tests.clouds.registries``), which judges the rest of the protocol. Beside each
refusal is where it was seen or documented; *assumed* is what no source tells.
"""

import re
import secrets
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.clouds.server import Answer

_TAGGED = re.compile(r"/v2/.+/manifests/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass
class Sent:
    """A request that was let in. ``refuse`` may change where it goes."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def is_upload(self) -> bool:
        """Whether it belongs to an upload that has begun."""
        return "/blobs/uploads/" in self.path and not self.path.endswith("/uploads/")

    @property
    def begins_upload(self) -> bool:
        return self.method == "POST" and self.path.endswith("/blobs/uploads/")


class Manners:
    """Those of the specification: nothing is refused and nothing changed."""

    def refuse(self, sent: Sent) -> Answer | None:
        """The refusal of a request; None if it may pass."""
        return None

    def change(self, sent: Sent, answer: Answer) -> Answer:
        """The answer to a request that has passed."""
        return answer

    def lose(self, target: str, arrived: int) -> None:
        """Note that the connection of an upload broke after so many bytes."""

    def hangs_up(self, method: str, length: int) -> bool:
        """Whether the connection ends before a body of this length is read."""
        return False


def refusal(status: int, code: str, message: str = "") -> Answer:
    return Answer.json({"errors": [{"code": code, "message": message}]}, status)


@dataclass
class _Uploads(Manners):
    """Uploads that know what they have, and tags that may be immutable."""

    immutable: bool = True
    _arrived: dict[str, int] = field(default_factory=dict)
    """Path of an upload → the bytes that it has."""
    tags: dict[str, threading.Event] = field(default_factory=dict)
    """Path of a manifest with a tag → whether it is set and can be read."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def lose(self, target: str, arrived: int) -> None:
        self._arrived[urlsplit(target).path] = arrived

    def tag_refused(self, sent: Sent) -> bool:
        """Whether a manifest is pushed under a tag that is set; otherwise the tag is set now."""
        if sent.method != "PUT" or not self.immutable or not _TAGGED.fullmatch(sent.path):
            return False
        with self._lock:
            there = self.tags.get(sent.path)
            if there is None:
                self.tags[sent.path] = threading.Event()
                return False
        assert there.wait(30)
        return True

    def set_tag(self, path: str) -> None:
        """Let a tag be set."""
        self.tags.setdefault(path, threading.Event()).set()

    def change(self, sent: Sent, answer: Answer) -> Answer:
        if sent.method == "PUT" and _TAGGED.fullmatch(sent.path):
            self.set_tag(sent.path)
        return answer


@dataclass
class Ecr(_Uploads):
    """Amazon ECR."""

    referenced: str = ""
    """The manifests that were pushed. A blob can be mounted only once one of them has it
    (https://github.com/aws/containers-roadmap/issues/2860).
    """
    _first: dict[str, str] = field(default_factory=dict)

    def refuse(self, sent: Sent) -> Answer | None:
        if sent.begins_upload:
            mounted = parse_qs(urlsplit(sent.target).query).get("mount", [""])[0]
            if mounted and mounted not in self.referenced:
                sent.target = sent.path
        if sent.is_upload and sent.method == "GET":
            # https://github.com/dotnet/sdk/pull/33019
            return refusal(404, "BLOB_UPLOAD_UNKNOWN")
        if sent.is_upload and sent.method in ("PATCH", "PUT"):
            return self._refuse_bytes(sent)
        if self.tag_refused(sent):
            # Also for the same digest: https://github.com/aws/containers-roadmap/issues/2179, https://github.com/aws/aws-sdk/issues/750.
            # The words: https://github.com/osscontainertools/kaniko/pull/204.
            tag = sent.path.rpartition("/")[2]
            return refusal(
                400,
                "TAG_INVALID",
                f"The image tag '{tag}' already exists in the 'x' repository and cannot be overwritten because the tag is immutable.",
            )
        return None

    def _refuse_bytes(self, sent: Sent) -> Answer | None:
        arrived = self._arrived.get(sent.path, 0)
        if sent.method == "PUT" and arrived and not sent.body:
            return Answer(500)  # https://github.com/openai/tart/pull/159
        start = int(sent.headers.get("Content-Range", "0-").partition("-")[0])
        if start != arrived:
            # https://github.com/apple/containerization/issues/790
            return refusal(416, "BLOB_UPLOAD_INVALID", f"First byte of the layer part is {start} instead of {arrived}")
        self._arrived[sent.path] = arrived + len(sent.body)
        return None

    def change(self, sent: Sent, answer: Answer) -> Answer:
        answer = super().change(sent, answer)
        if sent.method == "PATCH" and answer.status == 202:
            # 201, and a Range that stays where it was after the first chunk: https://github.com/aws/containers-roadmap/issues/2831,
            # https://github.com/jdx/mise/pull/11376.
            first = self._first.setdefault(sent.path, answer.headers.get("Range", ""))
            return Answer(201, {**answer.headers, "Range": first}, answer.body)
        if "/manifests/" in sent.path and sent.method == "PUT":
            self.referenced += sent.body.decode()
        return answer


@dataclass
class ArtifactRegistry(_Uploads):
    """Google's Artifact Registry."""

    _places: dict[str, str] = field(default_factory=dict)

    def refuse(self, sent: Sent) -> Answer | None:
        if sent.method == "POST" and "Content-Length" not in sent.headers:
            return Answer(411)  # https://github.com/oras-project/rust-oci-client/pull/176
        if sent.path in self._places:
            return self._refuse_bytes(sent)
        if self.tag_refused(sent):
            # The words: https://cloud.google.com/artifact-registry/docs/docker/troubleshoot#push. The status and the code are assumed.
            tag = sent.path.rpartition("/")[2]
            return refusal(400, "MANIFEST_INVALID", f"cannot update tag {tag}. The repository has enabled tag immutability")
        return None

    def _refuse_bytes(self, sent: Sent) -> Answer | None:
        place = sent.path
        if sent.method in ("PATCH", "PUT"):
            # No chunks: https://cloud.google.com/artifact-registry/docs/reference/docker-api. A single PATCH with everything, and a PUT
            # without anything after it, as Docker sends them, have to pass. The status of the refusal is assumed.
            if self._arrived.get(place, 0) and sent.body:
                return refusal(400, "BLOB_UPLOAD_INVALID", "chunked uploads are not supported")
            self._arrived[place] = len(sent.body)
        query = urlsplit(sent.target).query
        real = self._places[place]
        sent.target = f"{real}{'&' if '?' in real else '?'}{query}" if query else real
        return None

    def change(self, sent: Sent, answer: Answer) -> Answer:
        answer = super().change(sent, answer)
        if sent.begins_upload and answer.status == 202:
            # An upload goes to a path of another form: the log in https://github.com/podman-container-tools/skopeo/issues/1101.
            place = f"/artifacts-uploads/namespaces/p/repositories/r/uploads/{secrets.token_hex(8)}"
            real = urlsplit(answer.headers["Location"])
            self._places[place] = f"{real.path}?{real.query}"
            return Answer(202, {**answer.headers, "Location": place}, answer.body)
        return answer


@dataclass
class Acr(_Uploads):
    """Azure Container Registry."""

    immutable: bool = False
    """It has no immutable tags: https://github.com/Azure/acr/issues/890."""
    largest_request: int | None = 20_000_000
    """The limit of a request's body, which some clients met (https://github.com/goharbor/harbor/issues/23015) and others did not, such as
    BuildKit (https://github.com/Azure/acr/issues/866).
    """
    closes: bool = False
    """Whether it closes the connection instead, as in https://github.com/Azure/azure-sdk-for-net/pull/32059."""

    def hangs_up(self, method: str, length: int) -> bool:
        return self.closes and self._is_too_large(method, length)

    def refuse(self, sent: Sent) -> Answer | None:
        if not sent.is_upload or sent.method not in ("PATCH", "PUT"):
            return None
        if "Content-Length" not in sent.headers:
            # https://github.com/goharbor/harbor/pull/23016
            return refusal(400, "CONTENT_LENGTH_INVALID")
        if self._is_too_large(sent.method, len(sent.body)):
            return Answer(413, {"Content-Type": "text/html"}, b"<html><body>413 Request Entity Too Large</body></html>")
        if not re.fullmatch(r"[0-9]+-[0-9]+|", sent.headers.get("Content-Range", "")):
            # https://github.com/dotnet/sdk-container-builds/pull/258
            return refusal(400, "RANGE_INVALID", "the Content-Range header format is invalid")
        arrived = self._arrived.get(sent.path, 0)
        if sent.body and int(sent.headers.get("Content-Range", "0-").partition("-")[0]) != arrived:
            return Answer(416)  # https://github.com/Azure/acr/issues/866
        self._arrived[sent.path] = arrived + len(sent.body)
        return None

    def _is_too_large(self, method: str, length: int) -> bool:
        return method in ("PATCH", "PUT") and self.largest_request is not None and length > self.largest_request
