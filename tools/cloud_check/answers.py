"""Records the responses of the services, one line of JSON for each request, without secrets; and looks them up.

The requests of boto3, google-auth, google-cloud-storage, azure-core and cloud-train's own registry client all pass through urllib3's
``HTTPConnectionPool.urlopen``, so they are recorded there. obstore, with which runs read and write their store, is written in Rust and
sends its requests itself: those are not recorded. Requests to a Docker Engine are left out, because they are not about the cloud.
"""

import gzip
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from tools.cloud_check.masking import Mask

_MOST_CHARACTERS = 100_000
"""How much of a response's body is kept."""
_TEXT = re.compile(r"json|xml|text/|html|manifest|index", re.IGNORECASE)
"""Types of bodies that are kept; others, such as layers, are not."""
_ENGINE = re.compile(r"(?:http[^/]*//[^/]+)?/(?:v1\.\d\d/|_ping$|version$)")
_SECRETS = re.compile(r"/secrets(?:/|\?|$)")
_KEPT_HEADERS = ("content-length", "content-type", "docker-content-digest", "location", "range", "retry-after", "www-authenticate")


@dataclass(frozen=True)
class Answer:
    """One answer of a service."""

    check: str
    at: float
    """Seconds since the epoch."""
    seconds: float
    """Until the response arrived."""
    method: str
    host: str
    path: str
    operation: str
    """The service's own name of the operation, if the request has it."""
    status: int | None
    """None without a response."""
    headers: dict[str, str]
    body: Any
    """The JSON document, or the text; None for other content."""
    lost: bool = False
    """Whether it was withheld from the SDK, to test what cloud-train does then."""

    @property
    def name(self) -> str:
        """The operation as a report shows it."""
        return self.operation or f"{self.method} {_shortened(self.path)}"


class Answers:
    """The answers of all checks, in memory and in a folder with one file for each check."""

    def __init__(self, folder: Path, mask: Mask) -> None:
        self.mask = mask
        self.check = "preparation"
        """The check that is being carried out."""
        self._folder = folder
        self._lock = threading.Lock()
        self._all: list[Answer] = []
        self._to_lose: Callable[[Answer], bool] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, check: str) -> list[Answer]:
        """The responses during a check."""
        with self._lock:
            return [answer for answer in self._all if answer.check == check]

    def all(self) -> list[Answer]:
        """All responses."""
        with self._lock:
            return list(self._all)

    def since(self, number: int) -> list[Answer]:
        """All responses but the first ``number``."""
        with self._lock:
            return self._all[number:]

    def lose_next(self, is_meant: Callable[[Answer], bool]) -> None:
        """Withhold the next response for which ``is_meant`` holds from the SDK, as if the connection broke. The request took effect."""
        self._to_lose = is_meant

    def lose_none(self) -> None:
        """Undo ``lose_next``, if no response has matched yet."""
        self._to_lose = None

    def add(self, answer: Answer) -> bool:
        """Record an answer; returns whether it is the one to lose."""
        with self._lock:
            lost = self._to_lose is not None and self._to_lose(answer)
            if lost:
                self._to_lose = None
                answer = replace(answer, lost=True)
            self._all.append(answer)
            with (self._folder / f"{answer.check}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
        return lost

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the requests of this process's SDKs while the context is active."""
        from urllib3.connectionpool import HTTPConnectionPool

        original = HTTPConnectionPool.urlopen

        def urlopen(pool: Any, method: str, url: str, *arguments: Any, **options: Any) -> Any:
            if _ENGINE.match(url) or pool.host in (None, "localhost"):
                return original(pool, method, url, *arguments, **options)
            headers = options.get("headers") or (arguments[1] if len(arguments) > 1 else None) or {}
            asked = self._asked(pool, method, url, headers, options.get("body"))
            return self._recorded(asked, url, lambda: original(pool, method, url, *arguments, **options))

        HTTPConnectionPool.urlopen = urlopen  # type: ignore[method-assign,assignment]  # recorded where every SDK's requests pass
        try:
            yield
        finally:
            HTTPConnectionPool.urlopen = original  # type: ignore[method-assign]  # as it was

    def _asked(self, pool: Any, method: str, url: str, headers: Mapping[str, Any], body: Any) -> Answer:
        """A request without its response yet."""
        self.mask.learn_headers(headers)
        host = str(pool.host) if pool.port in (None, 80, 443) else f"{pool.host}:{pool.port}"
        operation, path = _operation(headers, body), self.mask.path(url)
        return Answer(self.check, round(time.time(), 3), 0.0, method, self.mask.text(host), path, operation, None, {}, None)

    def _recorded(self, asked: Answer, url: str, send: Callable[[], Any]) -> Any:
        """The response of ``send``, recorded. Raises the SDK's error for an answer that is to be lost."""
        from urllib3.exceptions import HTTPError, ProtocolError

        try:
            response, body = send(), None
            if _TEXT.search(response.headers.get("Content-Type") or "") or response.status >= 400:
                response, body = _read(response, asked.method, url)
        except HTTPError as error:
            self.add(replace(asked, seconds=_since(asked.at), body=type(error).__name__))
            raise
        kept = {name: self.mask.text(response.headers[name]) for name in _KEPT_HEADERS if name in response.headers}
        document = self._document(body, url)
        if self.add(replace(asked, seconds=_since(asked.at), status=response.status, headers=kept, body=document)):
            response.close()
            raise ProtocolError("Connection aborted.", ConnectionResetError("the check of lost answers ended the connection"))
        return response

    def _document(self, body: bytes | None, url: str) -> Any:
        if body is None:
            return None
        try:
            document = self.mask.document(json.loads(body), of_secret=_SECRETS.search(url) is not None)
        except ValueError:
            return self.mask.text(body[:_MOST_CHARACTERS].decode(errors="replace"))
        text = json.dumps(document, ensure_ascii=False)
        return document if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS]


def read_back(folder: Path) -> list[Answer]:
    """The answers that an earlier process recorded in this folder."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    found = []
    for line in lines:
        try:
            found.append(Answer(**json.loads(line)))
        except (ValueError, TypeError):  # the process ended while it wrote this line
            continue
    return sorted(found, key=lambda answer: answer.at)


def _read(response: Any, method: str, url: str) -> tuple[Any, bytes]:
    """The response with its body read, as another response from which it can be read once more; and the body, decompressed."""
    from urllib3 import HTTPResponse

    raw = response.read(decode_content=False) or b""
    again = HTTPResponse(
        body=io.BytesIO(raw),
        headers=response.headers,
        status=response.status,
        version=response.version,
        reason=response.reason,
        preload_content=False,
        decode_content=False,
        request_method=method,
        request_url=url,
    )
    try:
        body = gzip.decompress(raw) if response.headers.get("Content-Encoding", "") == "gzip" else raw
    except OSError:
        body = b""
    return again, body


def _operation(headers: Mapping[str, Any], body: Any) -> str:
    """AWS's name of the operation: in a header, or in a form."""
    for name, value in headers.items():
        if name.lower() == "x-amz-target":
            return (value.decode() if isinstance(value, bytes) else str(value)).rpartition(".")[2]
    text = body.decode(errors="replace") if isinstance(body, bytes) else body if isinstance(body, str) else ""
    return parse_qs(text).get("Action", [""])[0] if text.startswith("Action=") or "&Action=" in text else ""


def _since(began: float) -> float:
    return round(time.time() - began, 3)


def _shortened(path: str) -> str:
    """The path without its query, with '…' for what differs from run to run."""
    parts = path.partition("?")[0].split("/")
    return "/".join("…" if re.search(r"\d{6}-\d{6}|sha256:|[0-9a-f]{8}-[0-9a-f]{4}|\d{8,}|_state", part) else part for part in parts)
