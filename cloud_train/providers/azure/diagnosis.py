"""Checks that the resources in the ``azure`` settings exist and may be used. Starts and changes nothing."""

import base64
import difflib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloud_train.errors import CloudTrainError, ProviderError
from cloud_train.job.loopback import is_loopback
from cloud_train.providers.azure import quota
from cloud_train.providers.azure.client import API, VAULT, Client, client, is_registry
from cloud_train.providers.azure.request import USER, checked_workspace_of
from cloud_train.providers.azure.rules import LONGEST_DAYS
from cloud_train.providers.base import Diagnosis
from cloud_train.providers.cloud.errors import ForbiddenError
from cloud_train.providers.cloud.provider import looked, unasked, wrong
from cloud_train.storage.registry import bucket_and_prefix, open_store

if TYPE_CHECKING:
    from cloud_train.job.models import Resources
    from cloud_train.run.plan import Plan

_NEEDED = ("subscription", "resource_group", "workspace")
_ML = "Microsoft.MachineLearningServices/workspaces"
_ACTIONS = (
    f"{_ML}/jobs/write",
    f"{_ML}/jobs/read",
    f"{_ML}/jobs/cancel/action",
    f"{_ML}/environments/versions/write",
    f"{_ML}/environments/write",
    f"{_ML}/environments/build/action",
    f"{_ML}/environments/readSecrets/action",
    f"{_ML}/metadata/artifacts/write",
)
"""Actions that a submission needs in the workspace; the last four are those of Microsoft's table for submitting any run
(https://learn.microsoft.com/azure/machine-learning/how-to-assign-roles), which no request names.
"""
_DOCS = "see docs/clouds/azure.md"
_LOCATIONS = "Microsoft.MachineLearningServices/locations"
_ROLE = "docs/clouds/azure.md has a role with these: assign it to yourself on the workspace"
_READER = "a role on the subscription, such as Reader, allows it"
_LONGEST_SECONDS = (LONGEST_DAYS + 7) * 24 * 3600
"""No job takes longer, including a week of waiting for its machines."""
_MOST_PAGES = 40
"""Of a vault's secrets, 25 to a page."""
_PULL = "Microsoft.ContainerRegistry/registries/pull/read"
_PUSH = "Microsoft.ContainerRegistry/registries/push/write"


def diagnose(settings: Mapping[str, Any], store: str | None) -> Iterator[Diagnosis]:
    """The findings, one at a time. Checks that depend on something missing are skipped."""
    missing = [name for name in _NEEDED if name not in settings]
    if missing:
        names = ", ".join(f"azure.{name}" for name in missing)
        yield Diagnosis("settings", "error", f"not set: {names}", "set them in the config file: see docs/clouds/azure.md")
        return
    try:
        place = checked_workspace_of(settings)
        azure = client(place.get("cloud"))
        azure.token()
        yield Diagnosis("credentials", "ok", "azure-identity found credentials")
        workspace = azure.call(
            "GET", f"{place['endpoint']}{place['path']}", "show the workspace", permission=f"{_ML}/read", params=API
        ).having("location")
    except CloudTrainError as error:
        yield wrong("workspace", error, _DOCS)
        return
    yield _of_workspace(settings, workspace)
    yield looked("permissions", lambda: _of_permissions(azure, place), _DOCS)
    yield looked("machines", lambda: _of_machines(azure, settings, place, str(workspace.get("location"))), _DOCS)
    if "identity" in settings:
        yield looked("identity", lambda: _of_identity(azure, settings, place, workspace), _DOCS)
    if "repository" in settings:
        yield looked("registry", lambda: _of_registry(azure, str(settings["repository"])), _DOCS)
        yield from _of_pulling(settings, workspace)
    if "vault" in settings:
        yield looked("vault", lambda: _of_vault(azure, str(settings["vault"])), _DOCS)
    if store is not None:
        yield looked("store", lambda: _of_store(store), _DOCS)


def diagnose_job(plan: "Plan", machine: str | None) -> Iterator[Diagnosis]:
    """Whether the cluster, or else the quota, has enough of a job's exact machine, dedicated or low-priority, times its nodes.

    ``machine`` is the serverless one; None for a cluster, which has its own.
    """
    settings, resources = plan.provider_settings, plan.job.resources
    try:
        place = checked_workspace_of(settings)
        azure = client(place.get("cloud"))
        if cluster := settings.get("compute"):
            yield from _cluster_for(azure, place, str(cluster), resources)
        elif machine:
            where = azure.call("GET", f"{place['endpoint']}{place['path']}", "show the workspace", permission=f"{_ML}/read", params=API)
            region = _Region(azure, settings, place, str(where.having("location")["location"]))
            yield _quota_for(region, machine, resources.nodes, is_spot=resources.spot)
    except ForbiddenError as error:
        yield unasked("quota", error, _READER)
    except CloudTrainError as error:
        yield wrong("quota", error, _DOCS)


def _of_workspace(settings: Mapping[str, Any], workspace: Mapping[str, Any]) -> Diagnosis:
    location, named = str(workspace.get("location") or ""), settings.get("location")
    if named is not None and named.casefold() != location.casefold():
        return Diagnosis("workspace", "error", f"in {location}, not in {named}", f"set azure.location to {location}")
    return Diagnosis("workspace", "ok", f"{settings['workspace']} in {location}")


def _of_permissions(azure: Client, place: Mapping[str, Any]) -> Diagnosis:
    """The caller's permissions, including inherited ones, as Azure lists them."""
    url = f"{place['endpoint']}{place['path']}/providers/Microsoft.Authorization/permissions"
    permission = "Microsoft.Authorization/permissions/read"
    try:
        answer = azure.call("GET", url, "list your permissions", permission=permission, params={"api-version": "2022-04-01"})
    except ForbiddenError as error:
        return unasked("permissions", error)
    missing = [action for action in _ACTIONS if not any(_grants(each, action) for each in answer.having("value")["value"])]
    if missing:
        return Diagnosis("permissions", "error", f"missing: {', '.join(missing)}", _ROLE)
    return Diagnosis("permissions", "ok", "you may start, see and cancel jobs")


def _grants(permission: Mapping[str, Any], action: str) -> bool:
    def names(kind: str) -> bool:
        return any(re.fullmatch(_action_pattern(each), action, re.IGNORECASE) for each in permission.get(kind) or ())

    return names("actions") and not names("notActions")


def _action_pattern(actions: str) -> str:
    """The regular expression for a role's action, in which ``*`` matches anything. The atomic groups prevent backtracking."""
    first, *starred = (re.escape(part) for part in actions.split("*"))
    last = starred.pop() if starred else None
    return first + "".join(f"(?>.*?{part})" for part in starred) + ("" if last is None else f".*{last}")


@dataclass(frozen=True)
class _Region:
    """The machines of a region, and the subscription's quota there."""

    azure: Client
    settings: Mapping[str, Any]
    place: Mapping[str, Any]
    location: str

    def sizes(self) -> list[dict[str, Any]]:
        return self._listed("vmSizes", f"list the machines of {self.location}")

    def usages(self) -> list[dict[str, Any]]:
        return self._listed("usages", f"show the quota in {self.location}")

    def _listed(self, what: str, doing: str) -> list[dict[str, Any]]:
        scope = f"{self.place['endpoint']}/subscriptions/{self.settings['subscription']}/providers/{_LOCATIONS}/{self.location}"
        answer = self.azure.call("GET", f"{scope}/{what}", doing, permission=f"{_LOCATIONS}/{what}/read", params=API)
        listed: list[dict[str, Any]] = answer.having("value")["value"]
        return listed


def _of_machines(azure: Client, settings: Mapping[str, Any], place: Mapping[str, Any], location: str) -> Diagnosis:
    """The cluster; or for serverless machines, whether the region has the machine, and enough of its quota is left."""
    if cluster := settings.get("compute"):
        return Diagnosis("machines", "ok", f"the cluster {cluster} ({_cluster(azure, place, str(cluster)).get('vmPriority', 'Dedicated')})")
    region, machine = _Region(azure, settings, place, location), settings.get("machine")
    try:
        sizes = region.sizes()
        if machine is None:
            return Diagnosis("machines", "ok", f"{len(sizes)} machine types in {location}; each job gets the smallest that fits")
        size = _named(sizes, str(machine))
        return _without("machines", location, str(machine), sizes) if size is None else _of_quota(size, region.usages(), location)
    except ForbiddenError as error:  # a role on the workspace does not allow this, and a submission does not need it
        return unasked("machines", error, _READER)


def _cluster(azure: Client, place: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The properties of a cluster; empty for a compute of another kind."""
    url, permission = f"{place['endpoint']}{place['path']}/computes/{name}", f"{_ML}/computes/read"
    found = azure.call("GET", url, f"show the cluster {name}", permission=permission, params=API).having("properties")["properties"]
    return found.get("properties") or {}


def _named(sizes: list[dict[str, Any]], machine: str) -> dict[str, Any] | None:
    return next((each for each in sizes if each["name"].casefold() == machine.casefold()), None)


def _without(finding: str, location: str, machine: str, sizes: list[dict[str, Any]]) -> Diagnosis:
    near = difflib.get_close_matches(machine, [each["name"] for each in sizes], 3)
    such = f", such as {', '.join(near)}" if near else ""
    remedy = f"set azure.machine to another one{such}, or use a workspace in another region"
    return Diagnosis(finding, "error", f"{location} has no {machine}", remedy)


def _cluster_for(azure: Client, place: Mapping[str, Any], name: str, resources: "Resources") -> Iterator[Diagnosis]:
    """Whether a cluster may grow to the job's nodes, and whether its machines have what the job asks for."""
    from cloud_train.providers.cloud.machines import known  # imports pydantic, which observing runs does not need

    found = _cluster(azure, place, name)
    most, machine = (found.get("scaleSettings") or {}).get("maxNodeCount"), str(found.get("vmSize") or "")
    said = f"the cluster {name} has up to {most} × {machine}, and the job needs {resources.nodes}"
    if most is None or not machine:
        yield Diagnosis("cluster", "warning", f"it is unknown what machines the compute {name} has")
    elif most < resources.nodes:
        remedy = f"az ml compute update --name {name} --max-instances {resources.nodes} …, or set resources.nodes to {most}"
        yield Diagnosis("cluster", "error", said, remedy)
    else:
        yield Diagnosis("cluster", "ok", said)
    kind = known("azure", machine, resources)
    for lack in kind.lacks(resources) if kind else ():
        yield Diagnosis("cluster", "error", f"{machine}: {lack}", "use another cluster (azure.compute), or serverless machines")


def _quota_for(region: _Region, machine: str, nodes: int, *, is_spot: bool) -> Diagnosis:
    """Whether the remaining quota is enough for all machines of a job."""
    sizes = region.sizes()
    if (size := _named(sizes, machine)) is None:
        return _without("quota", region.location, machine, sizes)
    usages, cores = region.usages(), int(size.get("vCPUs") or 1) * nodes
    limits = quota.of_low_priority(usages) if is_spot else quota.of_dedicated(usages, str(size.get("family") or ""))
    needed = f"the job needs {nodes} × {size['name']} {'low-priority' if is_spot else 'dedicated'}, {cores} cores"
    if not limits:
        return Diagnosis("quota", "warning", f"{needed}; Azure ML lists no quota for them in {region.location}")
    least = min(limits, key=lambda each: each.left)
    if least.left < cores:
        remedy = "request more in the portal (Azure ML, Quota), or choose another azure.machine"
        return Diagnosis("quota", "error", f"{needed}, but only {least.left} are left of '{least.name}'", remedy)
    return Diagnosis("quota", "ok", f"{needed}; {least.left} are left of '{least.name}' in {region.location}")


def _of_quota(size: Mapping[str, Any], usages: Sequence[Mapping[str, Any]], location: str) -> Diagnosis:
    """Whether the remaining quota of its family and of the region is enough for a machine; shows the pool of low-priority machines too."""
    machine, cores, family = size["name"], int(size.get("vCPUs") or 1), str(size.get("family") or "")
    dedicated, pool = quota.of_dedicated(usages, family), quota.of_low_priority(usages)
    low = next((each.left for each in pool), None)
    beside = "" if low is None else f"; for low-priority machines, {low} are left"
    short = next((each for each in dedicated if each.left < cores), None)
    if not dedicated:
        return Diagnosis("machines", "warning", f"{location} has {machine}; its quota ({family}) is unknown{beside}")
    if short is not None:
        found = f"{machine} needs {cores} cores, but only {short.left} are left of '{short.name}'{beside}"
        spot = ", or use low-priority machines (resources.spot)" if low is not None and low >= cores else ""
        return Diagnosis("machines", "error", found, f"request more in the portal: Azure ML, Quota{spot}")
    least = min(dedicated, key=lambda each: each.left)
    return Diagnosis("machines", "ok", f"{machine} in {location}: {least.left} cores of '{least.name}' are left{beside}")


def _of_identity(azure: Client, settings: Mapping[str, Any], place: Mapping[str, Any], workspace: Mapping[str, Any]) -> Diagnosis:
    """Whether the machines can use the identity: serverless machines use the workspace's identities, a cluster its own."""
    if settings["identity"] == USER:
        return Diagnosis("identity", "ok", "the submitter's own: your roles on the store apply")
    owner, where = workspace, "workspace"
    if cluster := settings.get("compute"):
        owner, where = (
            azure.call("GET", f"{place['endpoint']}{place['path']}/computes/{cluster}", "show the cluster", params=API).having(
                "properties"
            ),
            "cluster",
        )
    assigned = ((owner.get("identity") or {}).get("userAssignedIdentities") or {}).values()
    if settings["identity"] in [each.get("clientId") for each in assigned]:
        return Diagnosis("identity", "ok", f"assigned to the {where}")
    return Diagnosis("identity", "error", f"{settings['identity']} is not assigned to the {where}", f"assign it to the {where}")


def _of_registry(azure: Client, repository: str) -> Diagnosis:
    """Whether the submitter may push, according to the access that the registry grants in a token."""
    host, _, name = repository.partition("/")
    if not (is_loopback(host) or is_registry(host)):
        return Diagnosis("registry", "ok", f"{host} is not an Azure registry: Docker's own login is used")
    refresh = azure.registry_password(host)
    form = {"grant_type": "refresh_token", "service": host, "scope": f"repository:{name}:pull,push", "refresh_token": refresh}
    url = f"{'http' if is_loopback(host) else 'https'}://{host}/oauth2/token"
    answer = azure.call("POST", url, f"sign in at {host}", token=None, data=form)
    granted = _claims(answer.having("access_token")["access_token"]).get("access") or []
    actions = {action for each in granted if each.get("name") == name for action in each.get("actions") or ()}
    lacking = [permission for action, permission in (("pull", _PULL), ("push", _PUSH)) if action not in actions]
    if lacking:
        return Diagnosis(
            "registry", "error", f"you lack {', '.join(lacking)} on {host}", "assign yourself the role AcrPush on the registry"
        )
    return Diagnosis("registry", "ok", f"you may push to {repository}")


def _of_pulling(settings: Mapping[str, Any], workspace: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """A warning if serverless machines would pull from another registry than the workspace's, which is reported to fail."""
    host = str(settings["repository"]).partition("/")[0]
    own = str((workspace.get("properties") or {}).get("containerRegistry") or "").rpartition("/")[2]
    if "compute" not in settings and is_registry(host) and host.partition(".")[0].casefold() != own.casefold():
        yield Diagnosis(
            "image",
            "warning",
            f"{host} is not the workspace's own registry ({own or 'it has none'}); serverless machines are reported to be unable to pull"
            " from it (azureml-examples#3463)",
            "use the workspace's registry in azure.repository, attach this one to the workspace, or use a cluster (azure.compute)",
        )


def _claims(token: str) -> dict[str, Any]:
    """The claims of a JSON Web Token. The signature is not checked: only the registry relies on the token."""
    try:
        payload = token.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(f"{payload}{'=' * (-len(payload) % 4)}"))
    except (IndexError, ValueError) as error:
        raise ProviderError("the registry sent an invalid token") from error
    return claims


def _of_vault(azure: Client, vault: str) -> Diagnosis:
    """Whether the vault's secrets may be listed; a warning about those of jobs that ended long ago."""
    before = time.time() - _LONGEST_SECONDS
    old = [each for each in _secrets_in(azure, vault) if (each.get("attributes") or {}).get("created", before) < before]
    left = [name for each in old if (name := str(each.get("id")).rpartition("/")[2]).startswith("cloud-train-")]
    if left:
        kept = f"{vault} still has secrets of jobs that have ended, such as {left[0]}"
        return Diagnosis(
            "vault", "warning", kept, f"delete them with: az keyvault secret delete --id {vault.rstrip('/')}/secrets/{left[0]}"
        )
    return Diagnosis("vault", "ok", vault)


def _secrets_in(azure: Client, vault: str) -> Iterator[dict[str, Any]]:
    """The vault's secrets without their values, from at most ``_MOST_PAGES`` pages."""
    base, permission = f"{vault.rstrip('/')}/secrets", "Microsoft.KeyVault/vaults/secrets/readMetadata/action"
    url, query = base, {"params": {"api-version": "7.4", "maxresults": "25"}}
    for _ in range(_MOST_PAGES):
        page = azure.call("GET", url, "list azure.vault", permission=permission, token=VAULT, **query).having("value")
        yield from page["value"]
        url, query = str(page.get("nextLink") or ""), {}
        if not url.startswith(f"{base}?"):  # the last page; the token is not sent to any other place
            return


def _of_store(store: str) -> Diagnosis:
    container, prefix = bucket_and_prefix(store)
    next(iter(open_store(container).list(prefix)), None)
    return Diagnosis("store", "ok", store)
