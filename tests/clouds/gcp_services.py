"""What is around the simulated Vertex AI: tokens, the machines' metadata server, Cloud Logging, Secret Manager, and who may do what."""

import base64
import itertools
import json
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tests.clouds.clock import Clock
from tests.clouds.gcp_answers import RefusedError, accepted, answered, timestamp
from tests.clouds.server import Answer, Request

PROJECT_NUMBER = "123456789012"
TOKEN_SECONDS = 3600.0
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Accounts:
    """Service accounts, their keys and tokens. One submits; another is what the machines are."""

    def __init__(self, clock: Clock, project: str) -> None:
        self.submitter = f"submitter@{project}.iam.gserviceaccount.com"
        self.machines = f"trainer@{project}.iam.gserviceaccount.com"
        self.is_revoked = False
        """Whether the submitter's key was deleted: no token is given for it."""
        self.announces_preemption = False
        """Whether every machine's metadata server says that it is preempted."""
        self._clock, self._project = clock, project
        self._key = _key()
        self._tokens: dict[str, float] = {}

    def key_file(self, token_url: str) -> str:
        """The JSON that ``gcloud iam service-accounts keys create`` writes."""
        private = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        return json.dumps(
            {
                "type": "service_account",
                "project_id": self._project,
                "private_key_id": "test",
                "private_key": private,
                "client_email": self.submitter,
                "client_id": "1",
                "token_uri": token_url,
            }
        )

    def exchange(self, request: Request) -> Answer:
        """A token for an assertion that the submitter's key has signed (https://datatracker.ietf.org/doc/html/rfc7523)."""
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        head, _, signature = form.get("assertion", "").rpartition(".")
        try:
            self._key.public_key().verify(_decoded(signature), head.encode(), padding.PKCS1v15(), SHA256())
            claims = json.loads(_decoded(head.partition(".")[2]))
        except (ValueError, TypeError) as error:
            raise AssertionError(f"this is no assertion: {form}") from error
        if form.get("grant_type") != GRANT or claims["iss"] != self.submitter or self.is_revoked:
            return Answer.json({"error": "invalid_grant", "error_description": "Invalid grant: account not found"}, 400)
        return Answer.json(self._token())

    def metadata(self, path: str) -> Answer:
        """What a machine's metadata server says of its account (https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys)."""
        headers = {"Metadata-Flavor": "Google"}
        account = "/computeMetadata/v1/instance/service-accounts/"
        if path.startswith(account) and path.endswith("/token"):
            return Answer.json(self._token(), headers=headers)
        if path.startswith(account):
            return Answer.json({"email": self.machines, "aliases": ["default"], "scopes": []}, headers=headers)
        if path == "/computeMetadata/v1/instance/preempted":
            return Answer(200, {**headers, "Content-Type": "text/plain"}, b"TRUE" if self.announces_preemption else b"FALSE")
        words = {"/computeMetadata/v1/project/project-id": self._project, "/computeMetadata/v1/universe/universe-domain": "googleapis.com"}
        return Answer(200, {**headers, "Content-Type": "text/plain"}, words.get(path, "").encode())

    def check(self, request: Request) -> None:
        """Refuse a request without a token that is good now."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._tokens.get(token, 0.0) <= self._clock.now():
            raise RefusedError(401, "Request had invalid authentication credentials. Expected OAuth 2 access token.")

    def _token(self) -> dict[str, Any]:
        token = f"ya29.{secrets.token_hex(16)}"
        self._tokens[token] = self._clock.now() + TOKEN_SECONDS
        return {"access_token": token, "expires_in": int(TOKEN_SECONDS), "token_type": "Bearer"}


@dataclass
class Logging:
    """Cloud Logging's entries: they show after a lag, in pages."""

    clock: Clock
    lag: float = 0.0
    most_entries: int = 1000
    """Of one page, whatever is asked for."""
    repeats: int = 0
    """How many of the next pages come twice."""
    _entries: list[dict[str, Any]] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, job: str, task: str, line: str, *, at: float | None = None) -> None:
        """One line; the platform's own words have the task ``service``."""
        now = self.clock.now()
        resource = {"type": "ml_job", "labels": {"job_id": job, "task_name": task, "project_id": PROJECT_NUMBER}}
        payload: dict[str, Any] = {"textPayload": line} if task == "service" else {"jsonPayload": {"message": line, "levelname": "INFO"}}
        with self._lock:
            entry = {
                "insertId": f"{next(self._numbers):012d}",
                "logName": f"projects/{PROJECT_NUMBER}/logs/{task}",
                "timestamp": timestamp(now if at is None else at),
                "receiveTimestamp": timestamp(now),
                "severity": "INFO",
                "resource": resource,
                **payload,
            }
            self._entries.append(entry)

    def keep(self, entries: int) -> None:
        """Let all but the newest entries expire."""
        with self._lock:
            del self._entries[:-entries]

    def list(self, body: Mapping[str, Any]) -> Answer:
        """``entries:list``."""
        shown = timestamp(self.clock.now() - self.lag)
        found = re.fullmatch(
            r'resource\.type="ml_job" AND resource\.labels\.job_id="([^"]*)"(?: AND timestamp>="([^"]*)")?', body["filter"]
        )
        if found is None:
            raise RefusedError(400, f"Unparseable filter: {body['filter']}")
        job, since = found[1], found[2] or ""
        with self._lock:
            fitting = [each for each in self._entries if each["resource"]["labels"]["job_id"] == job and each["receiveTimestamp"] <= shown]
        fitting = sorted((each for each in fitting if each["timestamp"] >= since), key=lambda each: (each["timestamp"], each["insertId"]))
        start, size = int(body.get("pageToken") or 0), min(int(body.get("pageSize") or 50), self.most_entries)
        page: dict[str, Any] = {"entries": fitting[start : start + size]}
        following = start + size
        if self.repeats and following < len(fitting):
            self.repeats -= 1
            following = max(0, following - size // 2)
        if following < len(fitting):
            page["nextPageToken"] = str(following)
        return answered("logging", "ListLogEntriesResponse", page)


class Secrets:
    """Secret Manager."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._versions: dict[str, list[str]] = {}
        self._expire: dict[str, float] = {}

    def names(self) -> list[str]:
        """The secrets that there are now."""
        now = self._clock.now()
        return sorted(name for name, expires in self._expire.items() if expires > now)

    def create(self, parent: str, name: str, body: Any) -> Answer:
        secret = accepted("secretmanager", "Secret", body)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name):
            raise RefusedError(400, f"The provided Secret ID [{name}] does not match the expected format")
        full = f"{parent}/secrets/{name}"
        if full in self.names():
            raise RefusedError(409, f"Secret [{full}] already exists.")
        self._expire[full] = self._clock.now() + float(secret["ttl"].rstrip("s"))
        self._versions[full] = []
        kept = {key: value for key, value in secret.items() if key != "ttl"}
        shown = {"name": full, "createTime": timestamp(self._clock.now()), "expireTime": timestamp(self._expire[full])}
        return answered("secretmanager", "Secret", {**kept, **shown})

    def add_version(self, name: str, body: Any) -> Answer:
        data = accepted("secretmanager", "AddSecretVersionRequest", body)["payload"]["data"]
        self._needed(name).append(data)
        version = f"{name}/versions/{len(self._versions[name])}"
        return answered("secretmanager", "SecretVersion", {"name": version, "createTime": timestamp(self._clock.now()), "state": "ENABLED"})

    def access(self, version: str) -> Answer:
        name, _, number = version.partition("/versions/")
        versions = self._needed(name)
        if number != "latest" or not versions:
            raise RefusedError(404, f"Secret Version [{version}] not found.")
        return answered(
            "secretmanager",
            "AccessSecretVersionResponse",
            {"name": f"{name}/versions/{len(versions)}", "payload": {"data": versions[-1]}},
        )

    def delete(self, name: str) -> Answer:
        self._needed(name)
        del self._versions[name], self._expire[name]
        return Answer.json({})

    def _needed(self, name: str) -> list[str]:
        if name not in self.names():
            raise RefusedError(404, f"Secret [{name}] not found or has no versions.")
        return self._versions[name]


@dataclass
class Rights:
    """What a test takes away from the submitter, and from the project."""

    denied: set[str] = field(default_factory=set)
    """Permissions, such as ``aiplatform.customJobs.create``."""
    disabled: set[str] = field(default_factory=set)
    """APIs, such as ``logging.googleapis.com``."""
    quota: dict[str, int] = field(default_factory=lambda: {"custom_model_training_cpus": 1000})
    """Metrics of Vertex AI, and their limits; whatever is not here has none."""

    def check(self, api: str, permission: str, resource: str) -> None:
        if api in self.disabled:
            words = f"{api} has not been used in project {PROJECT_NUMBER} before or it is disabled."
            raise RefusedError(403, words, reason="SERVICE_DISABLED", metadata={"consumer": f"projects/{PROJECT_NUMBER}", "service": api})
        if permission in self.denied:
            words = f"Permission '{permission}' denied on resource '//{api}/{resource}' (or it may not exist)."
            raise RefusedError(403, words, reason="IAM_PERMISSION_DENIED")

    def granted(self, permissions: Sequence[str]) -> list[str]:
        return [permission for permission in permissions if permission not in self.denied]


@cache
def _key() -> rsa.RSAPrivateKey:
    """The submitter's key, one for the process: drawing it takes a moment."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
