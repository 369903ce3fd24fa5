"""From a job file to a plan. Pure but for reading: nothing is written, nothing is sent, and torch is not imported."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloud_train.errors import ProviderError
from cloud_train.job.architecture import steps_per_epoch, total_steps
from cloud_train.job.config import find_config, load_config
from cloud_train.job.loading import load_job
from cloud_train.job.models import FilesData, JobSpec, ScriptModel, TextData
from cloud_train.orchestrator.home import Home
from cloud_train.providers.base import Capabilities, Provider
from cloud_train.providers.registry import load_provider
from cloud_train.run.ids import new_run_id
from cloud_train.run.plan import Plan
from cloud_train.run.record import Program
from cloud_train.run.states import Cause
from cloud_train.storage.registry import absolute_url, scheme_of


def make_plan(home: Home, job_file: Path, overrides: Sequence[str] = (), config: str | None = None, provider: str | None = None) -> Plan:
    """Everything that submitting ``job_file`` will do.

    ``overrides`` are ``key=value`` texts, ``config`` is the name or the path of a config file, ``provider`` outranks both.
    Raises JobFileError with every mistake of the files, and ProviderError where the provider cannot carry this out.
    """
    chosen = load_config(find_config(config, job_file.parent)) if config else None
    loaded = load_job(job_file, overrides, chosen, provider)
    spec, directory = loaded.spec, loaded.directory
    place = load_provider(spec.provider, home.folder)
    settings = chosen.settings.get(spec.provider, {}) if chosen else {}
    store = absolute_url(spec.store, directory)
    _refuse_impossible(spec, place.name, place.capabilities, store)
    per_epoch = steps_per_epoch(loaded.data, spec.train.batch_size) if loaded.data else None
    return Plan(
        run_id=new_run_id(spec.name),
        attempt=1,
        job=spec,
        job_file=str(loaded.file),
        provider=place.name,
        provider_settings=dict(settings),
        store=store,
        program=_program(spec, directory, place, settings),
        layers=loaded.layers,
        data=loaded.data,
        steps_per_epoch=per_epoch,
        total_steps=total_steps(spec.train, per_epoch) if per_epoch else None,
        origins=loaded.origins,
        notes=_notes(spec, place.name, place.capabilities),
    )


def _refuse_impossible(spec: JobSpec, name: str, capabilities: Capabilities, store: str) -> None:
    scheme = scheme_of(store)
    if scheme not in capabilities.stores:
        raise ProviderError(
            f"the machines of {name!r} cannot reach the store {store}",
            hint=f"name a store of this kind: {', '.join(capabilities.stores)} (file means a folder)",
        )
    if spec.resources.nodes > capabilities.max_nodes:
        raise ProviderError(
            f"resources.nodes is {spec.resources.nodes}, and {name!r} runs a job on at most {capabilities.max_nodes}",
            hint=f"set resources.nodes to {capabilities.max_nodes}, or choose another provider with --provider",
        )


def _program(spec: JobSpec, directory: Path, provider: Provider, settings: Mapping[str, Any]) -> Program:
    if isinstance(spec.model, ScriptModel):
        command = spec.model.command
        arguments = ("/bin/sh", "-c", command) if isinstance(command, str) else command
        folder = directory / spec.model.directory
    else:
        arguments, folder = (provider.interpreter(settings), "-m", "cloud_train.training"), directory
    return Program(
        command=arguments,
        directory=str(folder.resolve()),
        environment=dict(spec.env),
        data=str((directory / Path(spec.data.path).expanduser()).resolve()) if isinstance(spec.data, FilesData | TextData) else None,
        grace_seconds=spec.limits.grace.seconds,
        duration_seconds=spec.limits.duration.seconds if spec.limits.duration else None,
        keep_checkpoints=spec.checkpoint.keep,
        attempts=spec.retry.attempts,
        retry_on=tuple(Cause(cause) for cause in spec.retry.on),
    )


def _notes(spec: JobSpec, provider: str, capabilities: Capabilities) -> tuple[str, ...]:
    notes = []
    for name in ("accelerator", "cpus", "memory"):
        value = getattr(spec.resources, name)
        if value is not None and name not in capabilities.enforces:
            notes.append(f"resources.{name}: {value} is not enforced by {provider!r}; the program has what the machine has")
    if spec.resources.spot and not capabilities.spot:
        notes.append(f"resources.spot: {provider!r} has no spot capacity; it runs as usual")
    return tuple(notes)
