"""Run ids: drawn before anything is sent, and the provider's own idempotency key from then on.

An id is ``<name>-<yymmdd>-<hhmmss>-<4 characters>`` in UTC, at most 59 characters of ``a-z0-9-``: it fits SageMaker's job names (63
characters, no underscore), Vertex AI's label values (63) and Docker's container names, and a store lists runs in the order of their names
and then of time.
"""

import secrets
from datetime import UTC, datetime

from cloud_train.run.documents import is_run_id

__all__ = ["is_run_id", "new_run_id"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread


def new_run_id(name: str, now: datetime | None = None) -> str:
    """Draw an id for a run of the job ``name`` (at most 40 characters), at the UTC time ``now``."""
    stamp = (now or datetime.now(UTC)).strftime("%y%m%d-%H%M%S")
    return f"{name}-{stamp}-" + "".join(secrets.choice(_ALPHABET) for _ in range(4))
