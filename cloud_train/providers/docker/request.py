"""Builds the requests for the Docker Engine from a plan, with its field names, and validates them. Pure.

Reference: ``POST /containers/create`` and ``POST /networks/create`` of https://docs.docker.com/reference/api/engine/version/v1.41/.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train.docker import container_paths as places
from cloud_train.errors import ProviderError
from cloud_train.job import cloud_names as forms
from cloud_train.providers.base import Request, worker_arguments
from cloud_train.providers.docker import data_folder
from cloud_train.run.platform_rules import CONSOLE_OUTPUT
from cloud_train.storage.registry import scheme_of

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

RUN = "cloud-train.run"
ATTEMPT = "cloud-train.attempt"
NODE = "cloud-train.node"
STORE = "cloud-train.store"

_LEAST_MEMORY = 6 * 2**20
"""Bytes. The engine refuses less."""
_LEAST_SHARED_MEMORY = 64 * 2**20
"""Bytes. The engine's default, which is too little for batches from torch's data loaders."""
_USUAL_SHARED_MEMORY = 2**30
_STOP_MARGIN_SECONDS = 15
"""Time for the worker, beyond the job's grace period, when the engine itself stops the container."""
_VOLUMES = (places.WORK, places.CACHE)
_RUNS_ELSEWHERE = "the run directory", "use a store that both machines can reach: --store s3://bucket/runs"
_DATA_ELSEWHERE = "the data", "put it in a store that both machines can reach: data.path: s3://bucket/folder"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")


def labels_of(run_id: str, attempt: int, store: str) -> dict[str, str]:
    """The labels that identify everything that belongs to an attempt."""
    return {RUN: run_id, ATTEMPT: str(attempt), STORE: store}


def request_of(plan: "Plan", user: str, caches: Path, workspaces: Path) -> Request:
    """One container per node, and a network if there are several.

    ``user`` is ``uid:gid``, ``caches`` the folder with the caches of containers (``cache_of``), and ``workspaces`` the folder with the
    workspaces of runs in a cloud store.
    """
    nodes = plan.job.resources.nodes
    name = f"ct-{plan.run_id}-{plan.attempt}"
    labels = labels_of(plan.run_id, plan.attempt, plan.store)
    network = {"Name": name, "Driver": "bridge", "CheckDuplicate": True, "Labels": labels} if nodes > 1 else None
    return {
        "engine": plan.provider_settings.get("host"),
        "run_id": plan.run_id,
        "attempt": plan.attempt,
        "store": plan.store,
        "network": network,
        "containers": [
            {
                "name": f"{name}-{rank}",
                "body": _container(plan, rank, user=user, network=name, labels=labels, mounts=_mounts(plan, rank, caches, workspaces)),
            }
            for rank in range(nodes)
        ],
    }


def _container(plan: "Plan", rank: int, *, user: str, network: str, labels: dict[str, str], mounts: list[dict[str, Any]]) -> dict[str, Any]:
    nodes = plan.job.resources.nodes
    store = ["--store", places.RUNS] if _is_folder(plan.store) else ["--store", plan.store, "--workspace", places.WORK]
    worker = [*store, *worker_arguments(plan)]
    environment = _environment(plan)
    joined: dict[str, Any] = {}
    if nodes > 1:
        worker += ["--node-rank", str(rank), "--nodes", str(nodes)]
        environment.append("MASTER_ADDR=node-0")
        joined = {"NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": [f"node-{rank}"]}}}}
    return {
        "Image": plan.image,
        "Entrypoint": [places.PYTHON, "-m", "cloud_train.worker"],
        "Cmd": worker,
        "WorkingDir": "/",  # the worker must not import the user's code
        "Hostname": f"node-{rank}",
        "User": user,
        "Env": environment,
        "Labels": {**labels, NODE: str(rank)},
        "StopSignal": "SIGTERM",
        "StopTimeout": math.ceil(plan.program.grace_seconds) + _STOP_MARGIN_SECONDS,
        "HostConfig": {
            **_limits(plan),
            "NetworkMode": network if nodes > 1 else plan.provider_settings.get("network", "bridge"),
            "Mounts": mounts,
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},  # exec: torch builds and loads extensions there
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Privileged": False,
            "Init": False,  # the worker is process 1, and reaps orphaned processes
            "AutoRemove": False,  # its end must be observed first
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}},
        },
        **joined,
    }


def _environment(plan: "Plan") -> list[str]:
    environment = ["HOME=/tmp", "USER=cloud-train"]  # many programs need both, and the image's /etc/passwd does not have the user
    if plan.provider_settings.get("console_output") is False:
        environment.append(f"{CONSOLE_OUTPUT}=0")
    if plan.host_data is None:
        environment.append(f"CLOUD_TRAIN_HOME={places.HOME}")
    return environment


def _limits(plan: "Plan") -> dict[str, Any]:
    resources = plan.job.resources
    limits: dict[str, Any] = {"ShmSize": _USUAL_SHARED_MEMORY}
    if resources.cpus is not None:
        limits["NanoCpus"] = resources.cpus * 10**9
    if resources.memory is not None:
        size = resources.memory.bytes
        limits |= {"Memory": size, "MemorySwap": size, "ShmSize": max(size // 2, _LEAST_SHARED_MEMORY)}  # equal: no swap
    if resources.accelerator is not None:
        limits["DeviceRequests"] = [{"Driver": "", "Count": resources.accelerator.count, "Capabilities": [["gpu"]]}]
    return limits


def _is_folder(store: str) -> bool:
    return scheme_of(store) == "file"


def workspace_of(workspaces: Path, run_id: str, rank: int) -> Path:
    """The folder on this machine that is a node's workspace."""
    return workspaces / f"{run_id}.node-{rank}"


def cache_of(caches: Path, plan: "Plan") -> Path:
    """The cache of downloads for a job's containers, if its data is not on this machine.

    A container may write anything to its cache, so containers share one only if they run the same code. Built-in trainers share by the
    image's digest. A script's image changes with every line of code, so a script shares with other runs of the same job file in the same
    store. The cache of runs directly on this machine is never mounted.
    """
    is_script = plan.job.model.kind == "script"
    owner = plan.run_id if plan.is_foreign else ""  # its job file and name come from another machine, and are not trusted
    identity = ("script", plan.job_file, plan.job.name, plan.store, owner) if is_script else ("image", plan.image or "")
    return caches / hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]


def _mounts(plan: "Plan", rank: int, caches: Path, workspaces: Path) -> list[dict[str, Any]]:
    # Mounts, not Binds: Binds would create a missing folder, owned by root.
    if _is_folder(plan.store):
        source, target = Path(plan.store) / plan.run_id, f"{places.RUNS}/{plan.run_id}"
    else:
        source, target = workspace_of(workspaces, plan.run_id, rank), places.WORK
    mounts = [{"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": False}]
    if plan.host_data is None:
        mounts.append({"Type": "bind", "Source": str(cache_of(caches, plan)), "Target": places.CACHE, "ReadOnly": False})
    else:
        mounts.append({"Type": "bind", "Source": plan.host_data, "Target": places.DATA, "ReadOnly": True})
    return mounts


def without_our_folders(body: dict[str, Any], address: str) -> dict[str, Any]:
    """The same container for an engine that cannot see this machine's folders: empty volumes replace them.

    Raises ProviderError for the run directory and the data, which empty volumes cannot replace.
    """
    mounts = body["HostConfig"]["Mounts"]
    for mount in mounts:
        if not mount["Target"].startswith((*_VOLUMES, places.CREDENTIALS)):
            what, instead = _DATA_ELSEWHERE if mount["Target"] == places.DATA else _RUNS_ELSEWHERE
            raise ProviderError(
                f"the Docker Engine at {address} cannot see {what} at {mount['Source']}, because it runs on another machine",
                hint=f"{instead} (or gs://, az://); in Docker Desktop, share the folder under Settings, File sharing",
            )
    targets = {mount["Target"] if mount["Target"] in _VOLUMES else places.CREDENTIALS for mount in mounts}
    volumes = [{"Type": "volume", "Target": target} for target in sorted(targets)]
    return {**body, "HostConfig": {**body["HostConfig"], "Mounts": volumes}}


def problems_of(request: Request, sockets: tuple[str, ...] = _SOCKETS) -> Iterator[str]:
    """The problems for which the engine, or cloud-train, would refuse the request, each with the field and the rule.

    The engine is not contacted. ``sockets`` are the engines' own: access to one is root access to the machine.
    """
    host = request["engine"]
    if host is not None and not forms.has_form(forms.DOCKER_HOST, host):
        yield f"docker.host: {host!r} is not {forms.EXPECTED[forms.DOCKER_HOST]}"
        host = None
    first = request["containers"][0]
    body, limits = first["body"], first["body"]["HostConfig"]
    if not body["Image"]:
        yield "image: the plan has no image"
    if not _NAME.fullmatch(first["name"]):
        yield f"name: {first['name']!r} is not a valid container name"
    if not forms.has_form(forms.DOCKER_NETWORK, limits["NetworkMode"]):
        yield f"docker.network: {limits['NetworkMode']!r} is not {forms.EXPECTED[forms.DOCKER_NETWORK]}"
    if not forms.has_form(forms.DOCKER_USER, body["User"]):
        yield f"docker.user: {body['User']!r} is not {forms.EXPECTED[forms.DOCKER_USER]}"
    if limits.get("Memory", _LEAST_MEMORY) < _LEAST_MEMORY:
        yield f"resources.memory: {limits['Memory']} bytes is too little; a container needs at least 6MiB"
    own = (host.removeprefix("unix://"),) if host is not None and host.startswith("unix://") else ()
    for mount in limits["Mounts"]:
        if mount["Target"] == places.DATA:
            yield from data_folder.problems_of(Path(mount["Source"]), (*sockets, *own))
