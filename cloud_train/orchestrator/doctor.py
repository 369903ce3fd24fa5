"""The checks of ``cloud-train doctor``: what is installed, what is missing, which stores work, and how to fix the rest."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Literal

from cloud_train import locks
from cloud_train.errors import CloudTrainError, StoreError
from cloud_train.job.config import Config
from cloud_train.job.user_defaults import read_user_defaults
from cloud_train.orchestrator.configs import Configs
from cloud_train.orchestrator.connections import provider_at
from cloud_train.orchestrator.consent import Ask, refuse
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan, request_of
from cloud_train.orchestrator.repairing import damage_of
from cloud_train.providers.base import Diagnosed, JobDiagnosed
from cloud_train.providers.registry import known_providers
from cloud_train.retry import RetryPolicy
from cloud_train.run import ledger_file
from cloud_train.run.ledger_file import REPAIR
from cloud_train.run.ledger_reader import LedgerReader
from cloud_train.run.plan import Plan
from cloud_train.storage.probing import probe
from cloud_train.storage.registry import folder_of, open_store, scheme_of
from cloud_train.version import __version__

_TRAINING = {
    "torch": "torch",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "tensorboardX": "tensorboardX",
}
_LITTLE_SPACE_BYTES = 1 << 30
_PROBE_BYTES = 256 << 10
_DEFAULT_STORE = "~/.cloud-train/runs"


@dataclass(frozen=True)
class Finding:
    """The result of one check. An error means that a built-in part does not work; a warning, that an optional one does not."""

    name: str
    status: Literal["ok", "warning", "error"]
    detail: str
    remedy: str = ""


def examine(
    home: Home,
    stores: Sequence[str] = (),
    config: str | None = None,
    *,
    job: Path | None = None,
    ask: Ask = refuse,
    store_seconds: float = 10.0,
) -> list[Finding]:
    """Check everything that cloud-train uses on this machine, the stores with these URLs, and the provider configured in the config file of
    this name. Leaves nothing behind.

    With a ``job``, its store and its provider's settings are checked, whether the provider would refuse it, and the quota for its machines.
    ``ask`` is shown a config file that has to be trusted first. ``store_seconds`` limits each step at a store that is busy or does not
    respond.
    """
    configs = Configs(home, ask)
    plan = make_plan(home, job, config=config, dry_run=True, configs=configs) if job else None
    place = configs.named(config, Path()) if config else None
    if plan and not stores:
        stores = [plan.store]
    if place and place.store and not stores:
        stores = [place.store]
    defaults, of_defaults = _defaults(home)
    if not stores and "store" in defaults:
        stores = [defaults["store"]]
    return [
        _python(),
        *_training(),
        _home(home),
        _ledger(home),
        *of_defaults,
        *(finding for url in stores or [_DEFAULT_STORE] for finding in _store(url, store_seconds)),
        *_providers(home),
        *(_job(home, plan) if plan else _settings(home, place) if place else ()),
    ]


def _python() -> Finding:
    detail = f"{platform.python_version()} at {sys.executable}, cloud-train {__version__} on {platform.system()} {platform.machine()}"
    if platform.system() not in ("Linux", "Darwin"):
        return Finding("python", "error", detail, "cloud-train runs on Linux and macOS; on Windows use WSL")
    return Finding("python", "ok", detail)


def _training() -> Iterator[Finding]:
    missing = [package for module, package in _TRAINING.items() if find_spec(module) is None]
    found = ", ".join(f"{package} {_version(package)}" for package in _TRAINING.values() if package not in missing)
    if missing:
        remedy = "pip install 'cloud-train[train]'"
        yield Finding("training", "warning", f"missing: {', '.join(missing)}; script jobs do not need them", remedy)
    else:
        yield Finding("training", "ok", found)
    if platform.system() == "Linux":
        driver = shutil.which("nvidia-smi")
        yield Finding("accelerator", "ok", f"NVIDIA driver found ({driver})" if driver else "none found; training uses the CPU")


def _home(home: Home) -> Finding:
    problem = _write_problem(home.folder)
    if not problem and (problem := _lock_problem(home.folder)):
        return Finding("home", "error", problem, "set CLOUD_TRAIN_HOME to a folder on a local disk, or mount this one with locks")
    if problem:
        return Finding(
            "home", "error", f"{home.folder}: {problem}", "make it writable or free some space, or set CLOUD_TRAIN_HOME to another folder"
        )
    return Finding("home", "ok", str(home.folder))


def _defaults(home: Home) -> tuple[Mapping[str, str], list[Finding]]:
    """The user's own defaults, and a finding about each that is set, or about the mistakes in them."""
    try:
        read = read_user_defaults(home.folder)
    except CloudTrainError as error:
        return {}, [Finding("defaults", "error", error.message, error.hint or "correct the file, or remove it")]
    return read.values, [Finding(f"default {name}", "ok", f"{value} ({read.places[name]})") for name, value in read.values.items()]


def _lock_problem(folder: Path) -> str:
    """Why no file in the folder can be locked; empty if one can be."""
    try:
        locks.check(_existing(folder))
    except StoreError as error:
        return error.message
    return ""


def _ledger(home: Home) -> Finding:
    if not home.ledger_path.exists() and not ledger_file.has_log(home.ledger_path):
        return Finding("ledger", "ok", "none yet; the first submission creates it")
    try:
        if damage := damage_of(home):
            return Finding("ledger", "error", f"{home.ledger_path}: {damage}", REPAIR)
        ledger_file.check_writable(home.ledger_path)
        with LedgerReader(home.ledger_path) as ledger:
            runs = ledger.count()
    except CloudTrainError as error:
        return Finding("ledger", "error", error.message, error.hint or "")
    return Finding("ledger", "ok", f"{home.ledger_path}, {runs:,} run{'' if runs == 1 else 's'}")


def _store(url: str, seconds: float) -> Iterator[Finding]:
    if scheme_of(url) == "file":
        try:
            yield _folder(folder_of(url))
        except CloudTrainError as error:
            yield Finding("store", "error", error.message, error.hint or "")
        return
    try:
        steps = probe(open_store(url, RetryPolicy(time_limit=seconds)))
    except CloudTrainError as error:  # a URL without a bucket, a missing extra, unreadable credentials
        yield Finding("store", "error", f"{url}: {error.message}", error.hint or "")
        return
    for step in steps:
        if step.error is None:
            yield Finding(f"store {step.name}", "ok", f"{url} {step.detail}")
        else:
            yield Finding(f"store {step.name}", "error", step.detail, step.error.hint or "")


def _folder(folder: Path) -> Finding:
    problem = _write_problem(folder)
    if problem:
        return Finding(
            "store", "error", f"{folder}: {problem}", "make it writable or free some space, or name another folder with --store FOLDER"
        )
    if problem := _lock_problem(folder):
        return Finding("store", "error", problem, "name a folder on a local disk with --store FOLDER, or mount this one with locks")
    free = shutil.disk_usage(_existing(folder)).free
    detail = f"{folder}, {free / 1e9:,.1f} GB free"
    if free < _LITTLE_SPACE_BYTES:
        return Finding("store", "warning", detail, "free some space: a full disk stops a run")
    return Finding("store", "ok", detail)


def _providers(home: Home) -> Iterator[Finding]:
    for known in known_providers(home.folder):
        if known.error:
            yield Finding(f"provider {known.name}", "warning", known.error, "reinstall or remove its package")
        elif known.name == "docker":
            yield _docker()
        else:
            yield Finding(f"provider {known.name}", "ok", known.source)


def _settings(home: Home, config: Config) -> Iterator[Finding]:
    """Whether the resources named in a config file exist, as far as its provider can tell."""
    if config.provider is None:
        yield Finding("config", "warning", f"{config.file} names no provider", "add the line: provider: NAME")
        return
    try:
        provider = provider_at(home, config.provider)
        if not isinstance(provider, Diagnosed):
            yield Finding("config", "ok", f"{config.file}: the provider {config.provider!r} has nothing to check")
            return
        for each in provider.diagnose(config.settings.get(config.provider, {}), config.store):
            yield Finding(f"{config.provider} {each.name}", each.status, each.detail, each.remedy)
    except CloudTrainError as error:
        yield Finding(f"provider {config.provider}", "error", error.message, error.hint or "")


def _job(home: Home, plan: Plan) -> Iterator[Finding]:
    """Whether the plan would be refused, whether what its settings name exists, and whether the quota allows its machines."""
    _, refused = request_of(home, plan)
    for problem in refused:
        yield Finding(f"{plan.provider} job", "error", problem, "correct it in the job file or the config file")
    if not refused:
        yield Finding(f"{plan.provider} job", "ok", f"{plan.job_file} can be submitted, as far as can be known here")
    unmet = [note for note in plan.notes if note.startswith("resources.")]
    yield from (Finding(f"{plan.provider} job", "warning", remark) for remark in (*plan.remarks, *unmet))
    try:
        provider = provider_at(home, plan.provider)
        checks = [provider.diagnose(plan.provider_settings, plan.store)] if isinstance(provider, Diagnosed) else []
        checks += [provider.diagnose_job(plan)] if isinstance(provider, JobDiagnosed) else []
        for each in chain.from_iterable(checks):
            yield Finding(f"{plan.provider} {each.name}", each.status, each.detail, each.remedy)
    except CloudTrainError as error:
        yield Finding(f"provider {plan.provider}", "error", error.message, error.hint or "")


def _docker() -> Finding:
    """Whether an engine responds and has the base image. If not, it is only a warning: other providers need no engine."""
    from cloud_train.docker.engine import connected
    from cloud_train.docker.host import address_of
    from cloud_train.orchestrator.packaging import DEFAULT_BASE

    try:
        with connected(address_of(None)) as engine:
            detail, has_base = f"Docker Engine {engine.version()} at {engine.address}", engine.image(DEFAULT_BASE)
    except CloudTrainError as error:
        return Finding("provider docker", "warning", error.message, error.hint or "")
    if not has_base:
        remedy = "build it with `make image` in a clone of cloud-train, or name your own base with image.base"
        return Finding("provider docker", "warning", f"{detail}, without the base image {DEFAULT_BASE}", remedy)
    return Finding("provider docker", "ok", f"{detail}, base image {DEFAULT_BASE}")


def _write_problem(folder: Path) -> str:
    """Why ``folder`` cannot be written to, or an empty string. If it does not exist yet, the folder above it is checked."""
    place = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            for _ in range(_PROBE_BYTES // 4096):  # a full disk still takes an empty file
                file.write(bytes(4096))
            return ""
    except OSError as error:
        return f"cannot write to {place}: {os.strerror(error.errno or 0).lower()}"


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"
