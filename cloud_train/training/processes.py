"""What a training process and its launcher share before either has imported torch."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MEETING = "_CLOUD_TRAIN_MEETING"
"""Variable with the file at which the processes of a single node meet; not set on several nodes, which meet at node 0's port."""


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torch's launcher started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in environment


def own_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's rank among those that train together; 0 if it is alone."""
    return int(environment["RANK"]) if is_launched(environment) else 0


@dataclass(frozen=True)
class LastWords:
    """Why a training process ended."""

    message: str
    cause: str = "failed"
    is_consequence: bool = False
    """Whether another process ended first and caused this."""
    time: float = field(default_factory=time.time)
    """Time of the message, in seconds since 1970-01-01 UTC."""


def words_file(failure: Path, rank: int) -> Path:
    """Where the process ``rank`` writes its ``LastWords``, next to the run's own ``failure``, for the launcher to choose from."""
    return failure.with_name(f".{failure.name}-rank-{rank}")
