"""Azure's clouds: the public one, and the sovereign ones with their own hosts, scopes and sign-in.

Names and hosts as in the Azure CLI (``az cloud list``) and in ``azure/ai/ml/_azure_environments.py`` of
https://github.com/Azure/azure-sdk-for-python. The storage scope is the same everywhere; the blob host follows ``AZURE_AUTHORITY_HOST``
(``storage.azure_account``). Hosts of the studio: https://learn.microsoft.com/azure/machine-learning/how-to-access-azureml-behind-firewall.
"""

import difflib
from dataclasses import dataclass
from urllib.parse import urlsplit

REGISTRY_SCOPE = "https://containerregistry.azure.net/.default"


@dataclass(frozen=True)
class AzureCloud:
    """One of Azure's clouds."""

    name: str
    manager: str
    """Host of the resource manager."""
    history: str
    """Domain of the run history; the region's name comes before it."""
    vault: str
    """Domain of key vaults."""
    registry: str
    """Domain of container registries."""
    registry_scope: str
    """For a token that a container registry takes in exchange (https://learn.microsoft.com/python/api/overview/azure/containerregistry-readme)."""
    authority: str
    """Host of the sign-in, for ``AZURE_AUTHORITY_HOST``."""
    studio: str
    """Host of Azure ML's studio, the console for jobs."""

    @property
    def endpoint(self) -> str:
        """The resource manager's URL."""
        return f"https://{self.manager}"

    @property
    def scope(self) -> str:
        """For a token of the resource manager."""
        return f"{self.endpoint}/.default"

    @property
    def vault_scope(self) -> str:
        """For a token of a key vault."""
        return f"https://{self.vault}/.default"

    def history_of(self, location: str) -> str:
        """The URL of a region's run history."""
        return f"https://{location}.{self.history}"


PUBLIC = AzureCloud(
    "AzureCloud",
    "management.azure.com",
    "api.azureml.ms",
    "vault.azure.net",
    "azurecr.io",
    REGISTRY_SCOPE,
    "login.microsoftonline.com",
    "ml.azure.com",
)
CLOUDS = {
    cloud.name: cloud
    for cloud in (
        PUBLIC,
        AzureCloud(
            "AzureUSGovernment",
            "management.usgovcloudapi.net",
            "api.ml.azure.us",
            "vault.usgovcloudapi.net",
            "azurecr.us",
            "https://management.usgovcloudapi.net/.default",
            "login.microsoftonline.us",
            "ml.azure.us",
        ),
        AzureCloud(
            "AzureChinaCloud",
            "management.chinacloudapi.cn",
            "api.ml.azure.cn",
            "vault.azure.cn",
            "azurecr.cn",
            "https://management.chinacloudapi.cn/.default",
            "login.chinacloudapi.cn",
            "studio.ml.azure.cn",
        ),
    )
}
_SOVEREIGN = {"usgov": "AzureUSGovernment", "usdod": "AzureUSGovernment", "china": "AzureChinaCloud"}
"""What the names of a cloud's regions begin with."""
_LOCATIONS = """
australiacentral australiacentral2 australiaeast australiasoutheast brazilsouth brazilsoutheast canadacentral canadaeast
centralindia centralus chinaeast chinaeast2 chinanorth chinanorth2 chinanorth3 eastasia eastus eastus2 francecentral
francesouth germanynorth germanywestcentral israelcentral italynorth japaneast japanwest koreacentral koreasouth
mexicocentral northcentralus northeurope norwayeast norwaywest polandcentral qatarcentral southafricanorth southafricawest
southcentralus southeastasia southindia spaincentral swedencentral swedensouth switzerlandnorth switzerlandwest uaecentral
uaenorth uksouth ukwest usdodcentral usdodeast usgovarizona usgoviowa usgovtexas usgovvirginia westcentralus westeurope
westindia westus westus2 westus3
"""
LOCATIONS = frozenset(_LOCATIONS.split())
"""Regions: those of ``AzureLocation`` in https://github.com/Azure/azure-sdk-for-net, and newer ones. Not complete: Azure adds some."""


def cloud_of(name: str | None, endpoint: str | None = None) -> AzureCloud:
    """The cloud of this name; without one, that of the resource manager at ``endpoint``, otherwise the public one."""
    if name is not None:
        return CLOUDS.get(name, PUBLIC)
    host = urlsplit(endpoint or "").hostname
    return next((cloud for cloud in CLOUDS.values() if cloud.manager == host), PUBLIC)


def cloud_with(name: str) -> AzureCloud | None:
    """The cloud of a region, or of the host of a resource manager, a registry or a key vault, by its name; None for other names."""
    for cloud in CLOUDS.values():
        if name == cloud.manager or name.endswith((f".{cloud.vault}", f".{cloud.registry}")):
            return cloud
    if name not in LOCATIONS:
        return None
    return CLOUDS[next((cloud for prefix, cloud in _SOVEREIGN.items() if name.startswith(prefix)), PUBLIC.name)]


def meant_location(name: str) -> str | None:
    """The region that a mistyped name most likely means; None for a known name, and for one that resembles none."""
    if name in LOCATIONS:
        return None
    return next(iter(difflib.get_close_matches(name, sorted(LOCATIONS), 1, cutoff=0.85)), None)
