"""Which quota a serverless machine counts against, from Azure ML's list of usages. Pure.

A dedicated machine counts against its family's quota and the region's total; low-priority machines share one pool of the region, and
their families have no limit of their own (-1). The list also has lines for each workspace and cluster, whose names are the same
(https://learn.microsoft.com/azure/machine-learning/how-to-manage-quotas, examples/Usage/list.json in azure-rest-api-specs).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_OF_SUBSCRIPTION = {"family": "vmFamily/usages", "dedicated": "dedicatedCores/usages", "low": "lowPriorityCores/usages"}


@dataclass(frozen=True)
class Quota:
    """A limit of cores."""

    name: str
    """Azure's own name for it."""
    left: int


def of_dedicated(usages: Sequence[Mapping[str, Any]], family: str) -> list[Quota]:
    """The limits of a dedicated machine of this family (``standardDSv2Family``): the family's, if it is listed, and the region's total."""
    wanted = f"{_plain(family)}clusterdedicatedvcpus"
    families = [quota for quota in _of_kind(usages, "family") if _plain(quota.name) == wanted]
    return [*families, *_of_kind(usages, "dedicated")]


def of_low_priority(usages: Sequence[Mapping[str, Any]]) -> list[Quota]:
    """The pool of all low-priority machines of the region."""
    return list(_of_kind(usages, "low"))


def _of_kind(usages: Sequence[Mapping[str, Any]], kind: str) -> Iterator[Quota]:
    for usage in usages:
        of_kind = str(usage.get("type", "")).endswith(f"Microsoft.MachineLearningServices/{_OF_SUBSCRIPTION[kind]}")
        limit = usage.get("limit", -1)
        if of_kind and limit >= 0:
            yield Quota(str((usage.get("name") or {}).get("value") or ""), limit - usage.get("currentValue", 0))


def _plain(name: str) -> str:
    """A name in lower case and without blanks and dashes, which differ between the list of machines and that of usages."""
    plain = re.sub(r"[^a-z0-9]", "", name.casefold())
    return plain if plain.startswith("standard") else f"standard{plain}"
