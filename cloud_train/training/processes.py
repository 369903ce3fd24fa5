"""What a training process and its launcher know of each other, before either has imported torch."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MEETING = "_CLOUD_TRAIN_MEETING"
"""The file at which the processes of one node meet; not set where they are on several nodes, and meet at node 0's port."""


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torch's launcher started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in environment


def own_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's number among those that train together; 0 where it is alone."""
    return int(environment["RANK"]) if is_launched(environment) else 0


@dataclass(frozen=True)
class LastWords:
    """Why a training process ends."""

    message: str
    cause: str = "failed"
    is_consequence: bool = False
    """Whether another process ended first, and took this one along."""
    time: float = field(default_factory=time.time)
    """When it was said, in seconds since the epoch."""


def words_file(failure: Path, rank: int) -> Path:
    """Where the process ``rank`` leaves its last words, beside the run's own ``failure``, for the launcher to choose from."""
    return failure.with_name(f".{failure.name}-rank-{rank}")
