"""What a provider tells its worker about their platform, as data: the worker runs where the provider's package is not installed.

The worker's option ``--platform`` takes the JSON of ``NodeVariables``, and ``--secrets`` takes ``file-secret:PATH`` or ``url-secret:`` with
the JSON of ``SecretUrl``. The built-in clouds have rules of their own in the worker, by name.
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from cloud_train.errors import UsageError

Rules = TypeVar("Rules", "NodeVariables", "SecretUrl")


@dataclass(frozen=True)
class NodeVariables:
    """The environment variables in which a platform tells a worker its job and its place among the nodes."""

    job: str
    """Variable with the platform's name of the job: the same each time that it starts this worker, and never that of another job."""
    rank: str | None = None
    """Variable with the node's number, from 0; None where a job has one node only."""
    nodes: str | None = None
    """Variable with the number of nodes."""
    address: str | None = None
    """Variable with the host name or address of node 0."""
    port: str | None = None
    """Variable with a port of node 0 that is free; None for the worker's own choice."""
    failure_file: str | None = None
    """Path of a file in which the platform looks for a sentence about the end."""
    restarts_failures: bool = False
    """Whether the platform starts a worker again that exits with another status than 0."""

    def to_json(self) -> str:
        """The value of the worker's option ``--platform``."""
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str) -> NodeVariables:
        """The rules in that value; raises UsageError."""
        return _from_json(cls, text)


@dataclass(frozen=True)
class SecretUrl:
    """A request that returns the job's secrets: GET, over https, without following redirects."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header → text. In the text, ``{VARIABLE}`` stands for the value of an environment variable, such as ``Bearer {CLUSTER_TOKEN}``."""
    token_file: str | None = None
    """Path of a file whose content is sent as ``Authorization: Bearer …``."""
    path: tuple[str, ...] = ()
    """Keys from the JSON document that comes back to the secrets in it, such as ``("data", "data")``; empty for the document itself."""

    def to_option(self) -> str:
        """The value of the worker's option ``--secrets``."""
        return f"url-secret:{_to_json(self)}"

    @classmethod
    def from_json(cls, text: str) -> SecretUrl:
        """The request in the JSON; raises UsageError."""
        return _from_json(cls, text)


def _to_json(rules: NodeVariables | SecretUrl) -> str:
    return json.dumps({name: value for name, value in asdict(rules).items() if value}, sort_keys=True)


def _from_json(kind: type[Rules], text: str) -> Rules:
    names = [each.name for each in fields(kind)]
    try:
        said: dict[str, Any] = json.loads(text)
        rules = kind(**said)
    except (ValueError, TypeError) as error:
        raise UsageError(f"a {kind.__name__} is JSON with {', '.join(names)}, not {text[:200]!r}") from error
    return rules
