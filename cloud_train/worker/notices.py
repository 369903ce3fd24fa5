"""Notices that this machine is about to be reclaimed, from the metadata service of its cloud.

With a notice, the program can save a last checkpoint before its machine is gone. Nothing depends on that: a machine may be reclaimed
without one, and a container may not be able to reach the service, which is then no longer asked. SageMaker has no such service.

- Azure: scheduled events, ``Preempt`` at least 30 s and ``Terminate`` at least 5 min before. The first request may take two minutes.
  A machine may see the events of others, so they are compared with its own name (https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events;
  that they reach Azure ML's containers: microsoft/ai4s-jobq, ai4s/jobq/scheduled_events.py).
- Google: ``instance/preempted`` becomes TRUE 30 s before (https://cloud.google.com/compute/docs/instances/create-use-preemptible).
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

AZURE_ADDRESS = "CLOUD_TRAIN_IMDS_ADDRESS"
"""The environment variable with another address, ``HOST:PORT``, of Azure's metadata service, for simulations."""

_AZURE = "169.254.169.254"
_AZURE_EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
_AZURE_NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_AZURE_HEADERS = {"Metadata": "true"}
_RECLAIMING = ("Preempt", "Terminate")
_GOOGLE_ADDRESS = "GCE_METADATA_HOST"
"""The variable that Google's own libraries read."""
_GOOGLE = "metadata.google.internal"
_GOOGLE_PREEMPTED = "/computeMetadata/v1/instance/preempted"
_GOOGLE_HEADERS = {"Metadata-Flavor": "Google"}

_INTERVAL_SECONDS = 5.0
_TIMEOUT_SECONDS = 10.0
_FAILURES = 30
"""After this many failures in a row, the service counts as missing."""
_MOST_BYTES = 64 * 1024
_MOMENT = re.compile(r"[\w ,:+-]{1,40}", re.ASCII)

Look = Callable[[], str]
"""Asks once; returns the notice, or an empty text if there is none. Raises OSError or ValueError without a valid response."""


def look_of(platform: str, environment: Mapping[str, str] = os.environ) -> Look | None:
    """The service to ask on a platform (``worker.platforms``); None if it has none."""
    if platform == "azureml":
        return partial(_of_azure, environment.get(AZURE_ADDRESS) or _AZURE)
    if platform == "vertex":
        return partial(_of_google, environment.get(_GOOGLE_ADDRESS) or _GOOGLE)
    return None


def wait(look: Look, parent: int, sleep: Callable[[float], None] = time.sleep) -> str:
    """The notice, once there is one; an empty text if the service never answers, or if this process's ``parent`` is gone."""
    failures = 0
    while failures < _FAILURES and os.getppid() == parent:
        try:
            if notice := look():
                return notice
            failures = 0
        except (OSError, ValueError):
            failures += 1
        sleep(_INTERVAL_SECONDS)
    return ""


def _of_azure(address: str) -> str:
    events = json.loads(_answer(address, _AZURE_EVENTS, _AZURE_HEADERS))
    listed = events.get("Events") if isinstance(events, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no list of events")
    found = [each for each in listed if isinstance(each, dict) and each.get("EventType") in _RECLAIMING]
    if not found:
        return ""
    own = ""
    with suppress(OSError, ValueError):
        own = _answer(address, _AZURE_NAME, _AZURE_HEADERS).strip()
    for event in found:
        resources = event.get("Resources")
        if not own or not isinstance(resources, list) or _plain(own) in map(_plain, resources):
            moment = str(event.get("NotBefore") or "")
            return f"Azure announced {event['EventType']}" + (f", not before {moment}" if _MOMENT.fullmatch(moment) else "")
    return ""


def _plain(name: object) -> str:
    return str(name).lstrip("_").casefold()


def _of_google(address: str) -> str:
    said = _answer(address, _GOOGLE_PREEMPTED, _GOOGLE_HEADERS).strip()
    if said not in ("TRUE", "FALSE"):
        raise ValueError("neither TRUE nor FALSE")
    return "Google announced the preemption" if said == "TRUE" else ""


def _answer(address: str, path: str, headers: Mapping[str, str]) -> str:
    """The body of a response; no proxy is used, and no redirect is followed."""
    from http.client import HTTPConnection, HTTPException  # needed only where there is a platform, in a process of its own

    connection = HTTPConnection(address, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"status {response.status}")
        return response.read(_MOST_BYTES).decode(errors="replace")
    except HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
