"""The rows of evidence about one cloud that name a check."""

from collections.abc import Collection
from dataclasses import dataclass

from tests.clouds.evidence import rows

_WORDS = {
    "aws": ("aws", "ecr", "sagemaker"),
    "gcp": ("artifact-registry", "gcp", "gcs", "google", "vertex"),
    "azure": ("azure",),
    "docker": ("docker",),
}
"""Words in the ids of rows that are about one place alone."""
_OF_ALL = ("registries", "accelerators", "everywhere")


@dataclass(frozen=True)
class Claim:
    """A row that names a check."""

    id: str
    check: str
    behaviour: str


def claims(cloud: str, checks: Collection[str]) -> list[Claim]:
    """The rows about a cloud that name one of these checks."""
    found = [row for subject, each in rows().items() if subject in (*_OF_ALL, cloud) for row in each]
    named = [(row, row.check) for row in found if row.check is not None and is_about(row.id, cloud)]
    return [Claim(row.id, check, row.behaviour) for row, check in named if check in checks]


def is_about(row: str, cloud: str) -> bool:
    """Whether a row is about a cloud, judged by its id."""
    others = [word for place, words in _WORDS.items() if place != cloud for word in words]
    padded = f"-{row}-"
    return not any(f"-{word}-" in padded for word in others)
