"""Run ids: drawn before anything is sent, and the provider's own idempotency key from then on.

An id is ``<name>-<yymmdd>-<hhmmss>-<4 characters>`` in UTC, at most 59 characters of ``a-z0-9-``: it fits SageMaker's job names (63
characters, no underscore), Vertex AI's label values (63) and Docker's container names, and a store lists runs in the order of their names
and then of time.
"""

import re
import secrets
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread
_RUN_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?-\d{6}-\d{6}-[0-9a-z]{4}")


def new_run_id(name: str, now: datetime | None = None) -> str:
    """Draw an id for a run of the job ``name`` (at most 40 characters), at the UTC time ``now``."""
    stamp = (now or datetime.now(UTC)).strftime("%y%m%d-%H%M%S")
    return f"{name}-{stamp}-" + "".join(secrets.choice(_ALPHABET) for _ in range(4))


def is_run_id(text: str) -> bool:
    """Whether ``text`` has the form of a run id; a name that comes from a store is not trusted before."""
    return _RUN_ID.fullmatch(text) is not None
