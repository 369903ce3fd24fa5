"""A custom job's log in Cloud Logging: the platform's messages, and the worker's output from before it could write its own log.

Entries arrive late and not always in order. So each request starts a little before the newest entry that was read, and skips entries that
were read already. The cursor is that state as JSON, with the token of the next page of a long response.
Reference: https://cloud.google.com/logging/docs/reference/v2/rest/v2/entries/list.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cloud_train.providers.gcp.client import Google

_BACK = timedelta(seconds=60)
"""How much older than the newest entry a late entry may be."""
_PAGE_ENTRIES = 1000
_MOST_PAGES = 10
"""Maximum number of pages per call, to limit memory."""
_FIRST_NODE = "workerpool0-0"


@dataclass
class _Cursor:
    """The position in the log."""

    since: str = ""
    """The timestamp at which the next request starts, RFC 3339; empty for the beginning."""
    newest: str = ""
    page: str = ""
    """The token of the next page, if any; ``since`` must not change while there is one."""
    seen: dict[str, str] = field(default_factory=dict)
    """Entries that were read and may be returned again: id → timestamp."""


def read(google: Google, project: str, job: str, cursor: str | None) -> tuple[bytes, str]:
    """The lines from ``cursor`` on, and the next cursor. ``job`` is the number at the end of the job's name. Raises CloudError."""
    at = _Cursor(**json.loads(cursor)) if cursor else _Cursor()
    read_now: list[str] = []
    asked = {at.page}
    for _ in range(_MOST_PAGES):
        answer = google.call("POST", "logging", "v2/entries:list", body=_question(project, job, at))
        read_now += _new_lines(answer, at)
        token = str(answer.get("nextPageToken") or "")
        if not token or token in asked:  # a repeated token would loop forever
            at.page, at.since = "", _back(at.newest)
            break
        at.page = token
        asked.add(token)
    horizon = _back(at.newest)
    at.seen = {key: time for key, time in at.seen.items() if _instant(time) >= _instant(horizon)}
    return "".join(read_now).encode(), json.dumps(asdict(at))


def _question(project: str, job: str, at: _Cursor) -> dict[str, Any]:
    words = ['resource.type="ml_job"', f'resource.labels.job_id="{job}"', *([f'timestamp>="{at.since}"'] if at.since else [])]
    question = {"resourceNames": [f"projects/{project}"], "filter": " AND ".join(words), "orderBy": "timestamp asc"}
    return {**question, "pageSize": _PAGE_ENTRIES, **({"pageToken": at.page} if at.page else {})}


def _new_lines(answer: Mapping[str, Any], at: _Cursor) -> Iterator[str]:
    for entry in answer.get("entries", ()):
        identifier, time = str(entry.get("insertId", "")), str(entry.get("timestamp") or entry.get("receiveTimestamp", ""))
        if not identifier or not time or identifier in at.seen:
            continue
        at.seen[identifier] = time
        if not at.newest or _instant(time) > _instant(at.newest):
            at.newest = time
        yield _line(entry)


def _line(entry: Mapping[str, Any]) -> str:
    payload = entry.get("jsonPayload") or {}
    text = str(entry.get("textPayload") or payload.get("message") or "").rstrip("\n")
    task = str((entry.get("resource") or {}).get("labels", {}).get("task_name", ""))
    another = f"{task}: " if task.startswith("workerpool") and task != _FIRST_NODE else ""
    return f"{another}{text}\n"


def _back(time: str) -> str:
    return f"{_instant(time) - _BACK:%Y-%m-%dT%H:%M:%S}Z" if time else ""


def _instant(time: str) -> datetime:
    """Parse Google's timestamps, which may have nine decimals; the last three are dropped."""
    head, _, fraction = time.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{fraction[:6]:0<6}").replace(tzinfo=UTC) if time else datetime.min.replace(tzinfo=UTC)
