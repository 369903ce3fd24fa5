"""A provider plugin as a third-party package would bring it: a cluster that starts one process per node on this machine.

It brings everything that an outside cloud needs: typed settings, the variables with a node's rank, and secrets in a file. Each job is a
folder, which can be created only once, so a job is launched only once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import psutil
from pydantic import Field

from cloud_train.providers.base import AlreadyLaunchedError, Capabilities, Handle, Observation, Request, worker_arguments
from cloud_train.run.platform_rules import NodeVariables
from cloud_train.run.states import Cause, State
from cloud_train.spec.types import Duration, Section

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

PLATFORM = NodeVariables(
    job="CLUSTER_JOB", rank="CLUSTER_PROCID", nodes="CLUSTER_TASKS", address="CLUSTER_FIRST_HOST", port="CLUSTER_FREE_PORT"
)


class ClusterSettings(Section):
    """Settings of the provider ``cluster``."""

    queue: Annotated[str, Field(pattern="^[a-z]+$")]
    """The queue in which jobs wait. Required."""
    priority: Literal["low", "high"] = "low"
    """How soon a job runs."""
    patience: Duration = Duration(60)
    """How long a job may wait."""


class ClusterProvider:
    """Runs a job's nodes as processes. ``home`` is the folder for the jobs' secrets and process ids."""

    name = "cluster"
    capabilities = Capabilities(stores=("file",), max_nodes=4, spot=False, enforces=())
    settings = ClusterSettings

    def __init__(self, home: Path) -> None:
        self._folder = home / "cluster"

    def interpreter(self, settings: Mapping[str, Any]) -> str:
        return sys.executable

    def render(self, plan: "Plan") -> Request:
        folder = self._folder / f"{plan.run_id}.{plan.attempt}"
        secrets = ["--secrets", f"file-secret:{folder / 'secrets'}"] if plan.job.secrets else []
        worker = [sys.executable, "-m", "cloud_train.worker", "--store", plan.store, *worker_arguments(plan)]
        return {
            "folder": str(folder),
            "command": [*worker, "--platform", PLATFORM.to_json(), *secrets],
            "nodes": plan.job.resources.nodes,
            "queue": plan.provider_settings.get("queue"),
            "priority": plan.provider_settings.get("priority"),
            "attempt": [plan.run_id, plan.attempt, plan.store],
        }

    def check(self, request: Request) -> list[str]:
        return [] if request["queue"] else ["cluster.queue: no queue is named in the config file"]

    def launch(self, request: Request, secrets: dict[str, str]) -> Handle:
        folder, (run_id, attempt, store) = Path(request["folder"]), request["attempt"]
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise AlreadyLaunchedError(f"{run_id} was launched before") from error
        with open(os.open(folder / "secrets", os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 -- for the mode
            json.dump(secrets, file)
        environment = {name: value for name, value in os.environ.items() if name not in secrets}
        processes = [self._started(request, rank, environment) for rank in range(request["nodes"])]
        return Handle(run_id, attempt, self.name, store, {"folder": str(folder), "processes": processes})

    def _started(self, request: Request, rank: int, environment: Mapping[str, str]) -> int:
        variables = {
            "CLUSTER_JOB": "4711",
            "CLUSTER_PROCID": str(rank),
            "CLUSTER_TASKS": str(request["nodes"]),
            "CLUSTER_FIRST_HOST": "127.0.0.1",
            "CLUSTER_FREE_PORT": "29517",
        }
        with Path(request["folder"], f"{rank}.log").open("wb") as log:
            process = subprocess.Popen(request["command"], env={**environment, **variables}, stdout=log, stderr=log, start_new_session=True)
        process.returncode = 0  # it outlives this process by design: stops the warning of subprocess
        return process.pid

    def find(self, run_id: str, attempt: int, store: str, settings: Mapping[str, Any]) -> Handle | None:
        return None

    def observe(self, handle: Handle) -> Observation:
        if any(_is_alive(process) for process in handle.reference["processes"]):
            return Observation(State.RUNNING)
        return Observation(Cause.INFRASTRUCTURE.state, Cause.INFRASTRUCTURE, "its processes are gone")

    def cancel(self, handle: Handle, force: bool = False) -> None:
        for process in handle.reference["processes"]:
            if _is_alive(process):
                psutil.Process(process).terminate()

    def clean_up(self, handle: Handle) -> None:
        Path(handle.reference["folder"], "secrets").unlink(missing_ok=True)

    def logs(self, handle: Handle, cursor: str | None) -> tuple[bytes, str | None]:
        return Path(handle.reference["folder"], "0.log").read_bytes()[int(cursor or 0) :], cursor


def _is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
