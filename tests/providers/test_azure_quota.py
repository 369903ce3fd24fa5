"""Which lines of Azure ML's list of usages a machine counts against: the list is built like the example in azure-rest-api-specs."""

from typing import Any

import pytest

from cloud_train.providers.azure.quota import Quota, of_dedicated, of_low_priority

KIND = "Microsoft.MachineLearningServices"


def line(name: str, of: str, limit: int, current: int = 0) -> dict[str, Any]:
    return {
        "name": {"value": name, "localizedValue": name},
        "type": f"{KIND}/{of}",
        "limit": limit,
        "currentValue": current,
        "unit": "Count",
    }


USAGES = [
    line("Clusters", "totalCores/usages", 100, 7),
    line("Total Cluster Dedicated Regional vCPUs", "dedicatedCores/usages", 24, 14),
    line("Standard D Family Cluster Dedicated vCPUs", "vmFamily/usages", 48),
    line("Standard DSv2 Family Cluster Dedicated vCPUs", "vmFamily/usages", 24, 2),
    line("Standard DSv2 Family Cluster Dedicated vCPUs", "workspaces/usages", 3, 2),
    line("Standard DSv2 Family Cluster Dedicated vCPUs", "workspaces/computes/usages", 2, 2),
    line("Standard Dv2 Family Cluster Dedicated vCPUs", "vmFamily/usages", 20),
    line("Standard NCASv3_T4 Family Cluster Dedicated vCPUs", "vmFamily/usages", 8),
    line("Standard NDv2 Family Cluster Dedicated vCPUs", "vmFamily/usages", 0),
    line("Total Cluster LowPriority Regional vCPUs", "lowPriorityCores/usages", 50, 18),
    line("Standard Dv2 Family Cluster LowPriority vCPUs", "vmFamily/usages", -1),
    line("Standard DSv2 Family Cluster LowPriority vCPUs", "vmFamily/usages", -1, 6),
]
TOTAL = Quota("Total Cluster Dedicated Regional vCPUs", 10)


@pytest.mark.parametrize(
    ("family", "name", "left"),
    [
        ("standardDSv2Family", "Standard DSv2 Family Cluster Dedicated vCPUs", 22),
        ("standardDv2Family", "Standard Dv2 Family Cluster Dedicated vCPUs", 20),
        ("standardDFamily", "Standard D Family Cluster Dedicated vCPUs", 48),
        ("standardNDv2Family", "Standard NDv2 Family Cluster Dedicated vCPUs", 0),
        ("Standard NCASv3_T4 Family", "Standard NCASv3_T4 Family Cluster Dedicated vCPUs", 8),
    ],
)
def test_a_family_s_quota_is_found_by_its_whole_name_and_the_region_s_total_counts(family: str, name: str, left: int) -> None:
    assert of_dedicated(USAGES, family) == [Quota(name, left), TOTAL]


def test_of_an_unknown_family_the_region_s_total_is_known() -> None:
    assert of_dedicated(USAGES, "standardXYFamily") == [TOTAL]


def test_low_priority_machines_share_one_pool_and_a_family_without_a_limit_has_none() -> None:
    assert of_low_priority(USAGES) == [Quota("Total Cluster LowPriority Regional vCPUs", 32)]
    assert of_low_priority([]) == []
