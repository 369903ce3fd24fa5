"""A provider's platform described as data, because the worker runs where the provider's package is not installed.

The worker's option ``--platform`` takes the JSON of ``NodeVariables``, and ``--secrets`` takes ``file-secret:PATH`` or ``url-secret:`` with
the JSON of ``SecretUrl``. The worker knows the built-in clouds by name.
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from cloud_train.errors import UsageError

CONSOLE_OUTPUT = "CLOUD_TRAIN_CONSOLE_OUTPUT"
"""The environment variable that is 0 if a worker does not write its program's output to its own standard output as well."""
RUN_AS = "_CLOUD_TRAIN_USER"
"""Environment variable of an image that starts as root: the user that its worker becomes, as in an image's ``User``."""

Rules = TypeVar("Rules", "NodeVariables", "SecretUrl")


@dataclass(frozen=True)
class NodeVariables:
    """The environment variables that tell a worker its platform job, its node rank and how to reach node 0."""

    job: str
    """Variable with the platform's id of the job: the same at each restart of this worker, and unique to the job."""
    rank: str | None = None
    """Variable with the node's rank, from 0; None if jobs have a single node."""
    nodes: str | None = None
    """Variable with the number of nodes."""
    address: str | None = None
    """Variable with the host name or address of node 0."""
    port: str | None = None
    """Variable with a free port on node 0; None for the worker's default."""
    failure_file: str | None = None
    """Path of the file from which the platform reads the reason for a failure."""
    restarts_failures: bool = False
    """Whether the platform restarts a worker that exits with a non-zero status."""

    def to_json(self) -> str:
        """The value of the worker's option ``--platform``."""
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str) -> NodeVariables:
        """Parse the output of ``to_json``; raises UsageError."""
        return _from_json(cls, text)


@dataclass(frozen=True)
class SecretUrl:
    """A request that returns the job's secrets: GET, over https, without following redirects."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header → text, in which ``{VARIABLE}`` is replaced by that environment variable, such as ``Bearer {CLUSTER_TOKEN}``."""
    token_file: str | None = None
    """Path of a file with a token, which is sent as ``Authorization: Bearer …``."""
    path: tuple[str, ...] = ()
    """Keys that lead to the secrets in the JSON response, such as ``("data", "data")``; empty if the response is the secrets themselves."""

    def to_option(self) -> str:
        """The value of the worker's option ``--secrets``."""
        return f"url-secret:{_to_json(self)}"

    @classmethod
    def from_json(cls, text: str) -> SecretUrl:
        """Parse the JSON; raises UsageError."""
        return _from_json(cls, text)


def _to_json(rules: NodeVariables | SecretUrl) -> str:
    return json.dumps({name: value for name, value in asdict(rules).items() if value}, sort_keys=True)


def _from_json(kind: type[Rules], text: str) -> Rules:
    names = [each.name for each in fields(kind)]
    try:
        said: dict[str, Any] = json.loads(text)
        rules = kind(**said)
    except (ValueError, TypeError) as error:
        raise UsageError(f"expected {kind.__name__} as JSON with {', '.join(names)}, not {text[:200]!r}") from error
    return rules
