"""The worker's command line: ``python -m cloud_train.worker --store URL --run RUN_ID --attempt N …``, which a provider starts.

::

    --store URL          where the run directory is
    --run RUN_ID         which run
    --attempt N          which attempt, from 1
    --record SHA256      SHA-256 of the run.json that was submitted; any other is refused
    --token TEXT         the launch that the attempt belongs to, for its status; drawn here if it is missing
    --node-rank R        rank of this node, from 0
    --nodes M            number of nodes
    --platform NAME      the platform that tells the node rank: sagemaker, vertex, azureml, or JSON with its variables
    --secrets PLACE      where the job's secrets are kept (worker.secrets)
    --workspace FOLDER   where files wait to be uploaded to a cloud's store, in RUN_ID.N; by default work/ in CLOUD_TRAIN_HOME
    --lock-fd FD         an open, locked file to hold for as long as this process lives
    --turns FOLDER       where the workers of this machine have their locks and their queue
    --needs TEXT         what the run waits for in that queue, such as cpus=2,gpus=1
    --retry-delay S      seconds before another attempt, instead of increasing delays

Exit status: that of the attempt's cause (docs/exit-codes.md), 3 if another worker claimed the attempt, or that of the error on stderr.
A platform that restarts failed workers gets another one (``Platform.exit_status``).
"""

# ruff: noqa: E402 -- process 1 of a container does not receive signals without a handler, so handlers come before the slow imports.
# Modules that only some runs need are imported in functions: a container without cached bytecode compiles them at every start.
from cloud_train.worker.processes.subprocesses import Signals

SIGNALS = Signals() if __name__ == "__main__" else None

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_train.errors import CloudTrainError, UsageError
from cloud_train.run.states import Cause
from cloud_train.storage.credential_forwarding import FORWARDED
from cloud_train.storage.local import LocalStore
from cloud_train.storage.registry import check_url, folder_of, scheme_of
from cloud_train.worker import contract
from cloud_train.worker.context import Timing
from cloud_train.worker.nodes import NodeContext, from_variables
from cloud_train.worker.own_workspace import earlier_runs, open_workspace
from cloud_train.worker.own_workspace import remove as remove_workspace
from cloud_train.worker.processes import subprocesses
from cloud_train.worker.processes.tree import deny_inspection
from cloud_train.worker.supervisor import DEFAULT_TIMING, run_attempts

if TYPE_CHECKING:
    from cloud_train.worker.platforms import Platform
    from cloud_train.worker.remote import Remote

_NEEDED = ("--store", "--run", "--attempt", "--record")
_OPTIONS = (
    *_NEEDED,
    "--token",
    "--node-rank",
    "--nodes",
    "--platform",
    "--secrets",
    "--workspace",
    "--lock-fd",
    "--retry-delay",
    "--turns",
    "--needs",
)
_HINT = "workers are started by a provider: see cloud-train submit"


def main(arguments: list[str], signals: Signals) -> int:
    """Run the attempt that the command line names; returns the exit status."""
    platform = None
    try:
        options = _parsed(arguments)
        if lock := _number(options, "--lock-fd"):
            _keep_to_ourselves(int(lock))
        timing, attempt = _timing(options), _attempt(options)
        platform = _platform(options["--platform"]) if "--platform" in options else None
        if FORWARDED in os.environ:
            deny_inspection()
        check_url(options["--store"])
        if (folder := options.get("--turns")) and not _has_turn(Path(folder), options, attempt, signals):
            return Cause.CANCELLED.exit_code
        if place := options.get("--secrets"):
            os.environ.update(_secrets(place, signals))
        return _run(options, attempt, signals, timing, platform)
    except CloudTrainError as error:
        if platform:
            platform.tell(error.message)
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return platform.exit_status(error.exit_code) if platform else error.exit_code


def _has_turn(folder: Path, options: dict[str, str], attempt: int, signals: Signals) -> bool:
    from cloud_train.worker.turn import parse_needs, wait_for_turn

    return wait_for_turn(folder, options["--run"], attempt, parse_needs(options.get("--needs", "")), signals)


def _run(options: dict[str, str], attempt: int, signals: Signals, timing: Timing, platform: "Platform | None") -> int:
    url, run_id = options["--store"], options["--run"]
    remote = None if scheme_of(url) == "file" else _remote(url, run_id)
    above = Path(options.get("--workspace") or _workspace()).expanduser()
    above = _writable(above) if platform else above
    store = open_workspace(above, run_id, attempt) if remote else LocalStore(folder_of(url))
    try:
        return run_attempts(
            store,
            run_id,
            attempt,
            options["--record"],
            node=platform.node if platform else _node(options),
            signals=signals,
            timing=replace(timing, join=platform.join_seconds) if platform else timing,
            remote=remote,
            platform=platform,
            token=options.get("--token", ""),
            earlier=earlier_runs(store, run_id) if remote else (),
        )
    finally:
        if remote:
            remove_workspace(store, run_id)


def _parsed(arguments: list[str]) -> dict[str, str]:
    # By hand, because argparse takes 6 ms to import, and people do not type these options.
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    unknown = [name for name in options if name not in _OPTIONS]
    missing = [name for name in _NEEDED if name not in options]
    if unknown or missing or len(arguments) % 2:
        raise UsageError(f"the worker's options are {' '.join(_OPTIONS)}, each with a value; the first four are required", hint=_HINT)
    return options


def _number(options: dict[str, str], name: str) -> float | None:
    try:
        return float(options[name]) if name in options else None
    except ValueError as error:
        raise UsageError(f"{name} must be a number, not {options[name]!r}", hint=_HINT) from error


def _timing(options: dict[str, str]) -> Timing:
    delay = _number(options, "--retry-delay")
    return DEFAULT_TIMING if delay is None else replace(DEFAULT_TIMING, retry=(delay,))


def _attempt(options: dict[str, str]) -> int:
    attempt = int(_number(options, "--attempt") or 0)
    if attempt < 1:
        raise UsageError("--attempt must be at least 1", hint=_HINT)
    return attempt


def _node(options: dict[str, str]) -> NodeContext:
    rank, nodes = _number(options, "--node-rank"), _number(options, "--nodes")
    return from_variables(rank=None if rank is None else int(rank), nodes=None if nodes is None else int(nodes))


def _platform(name: str) -> "Platform":
    """The platform; from here on, this process has the image's user, and the environment the platform's variables."""
    from cloud_train.worker.machine_folders import become_user
    from cloud_train.worker.platforms import platform_of

    become_user(name)
    platform = platform_of(name)
    os.environ[contract.PLATFORM] = "plugin" if name.startswith("{") else name
    for variable, value in platform.variables.items():
        os.environ.setdefault(variable, value)
    return platform


def _writable(workspace: Path) -> Path:
    from cloud_train.worker.machine_folders import settle

    return settle(workspace)


def _remote(url: str, run_id: str) -> "Remote":
    from cloud_train.worker.remote import Remote

    return Remote(url, run_id)


def _secrets(place: str, signals: Signals) -> dict[str, str]:
    from cloud_train.worker import secrets

    went_well, text = subprocesses.do(partial(secrets.fetch, place), signals, signals.close_in_child, gives_up=True)
    if not went_well:
        raise secrets.SecretsError(text)
    return secrets.parsed(text, place)


def _workspace() -> str:
    return f"{os.environ.get('CLOUD_TRAIN_HOME') or '~/.cloud-train'}/work"


def _keep_to_ourselves(descriptor: int) -> None:
    """Keep the lock from being inherited by the program, which might outlive the worker and make the attempt look alive."""
    try:
        os.set_inheritable(descriptor, False)
    except OSError as error:
        raise UsageError(f"--lock-fd {descriptor} is not an open file", hint=_HINT) from error


if SIGNALS is not None:
    sys.exit(main(sys.argv[1:], SIGNALS))
