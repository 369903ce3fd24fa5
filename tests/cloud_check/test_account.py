"""The checks of an account: a quota that doctor did not find is a difference, however its cloud's finding is worded."""

from typing import Any, cast

from cloud_train.providers.azure.diagnosis import _quota_for, _Region
from tools.cloud_check.checks.account import _UNKNOWN_QUOTA


class _Unlimited:
    """A region of Azure that has a machine, and no quota for it."""

    location = "westeurope"

    def sizes(self) -> list[dict[str, Any]]:
        return [{"name": "Standard_NC4as_T4_v3", "vCPUs": 4, "family": "standardNCASv3_T4Family"}]

    def usages(self) -> list[dict[str, Any]]:
        return []


def test_a_quota_that_azure_does_not_list_is_not_taken_for_one_that_was_found() -> None:
    finding = _quota_for(cast(_Region, _Unlimited()), "Standard_NC4as_T4_v3", 1, is_spot=False)
    assert finding.status == "warning"
    assert any(words in finding.detail for words in _UNKNOWN_QUOTA), finding.detail
