"""From a job file to a plan. Nothing is written or sent, and torch is not imported."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cloud_train.data.base import SCHEME
from cloud_train.data.listing import links_out_of
from cloud_train.docker import container_paths
from cloud_train.environment import inherited, waiting_threads
from cloud_train.errors import ProviderError, UsageError
from cloud_train.job.config import Config
from cloud_train.job.effects import remarks_on_effects
from cloud_train.job.loading import LoadedJob, load_job
from cloud_train.job.models import ImageSpec, JobSpec
from cloud_train.job.program_file import program_python
from cloud_train.job.settings import CloudSettings
from cloud_train.job.user_defaults import read_user_defaults
from cloud_train.networks.base import ScriptModel
from cloud_train.orchestrator.configs import Configs
from cloud_train.orchestrator.connections import provider_at
from cloud_train.orchestrator.consent import refuse
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.packaging import ingredients, refuse_outside
from cloud_train.orchestrator.readiness import refusals
from cloud_train.providers.base import Capabilities, Provider, Remarking, Request
from cloud_train.run.plan import Plan, new_run_id
from cloud_train.run.ranking import Ranking
from cloud_train.run.record import Program
from cloud_train.run.states import Cause
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.registry import plugin_code
from cloud_train.storage.registry import absolute_url, check_url, scheme_of

_MOST_LINKS = 1000


def make_plan(
    home: Home,
    job_file: Path,
    overrides: Sequence[str] = (),
    config: str | None = None,
    provider: str | None = None,
    *,
    store: str | None = None,
    dry_run: bool = False,
    configs: Configs | None = None,
) -> Plan:
    """Everything that submitting ``job_file`` will do.

    ``overrides`` are ``key=value`` texts, ``config`` is the name or the path of a config file, ``provider`` and ``store`` override both. A
    folder given as ``store`` is relative to the current one. What none of them sets comes from the user's own defaults. A cloud's config
    file with the provider's name is used by default. For a ``dry_run`` the job's data may be missing: the plan then holds what is known
    without it, and a note. ``configs`` decides which config files may be used; by default, only a dry run uses one that has to be trusted
    first.
    Raises JobFileError with every mistake in the files, NotTrustedError, and ProviderError if the provider cannot run the plan.
    """
    configs = configs or Configs(home, None if dry_run else refuse)
    chosen = configs.named(config, job_file.parent) if config else None
    load = partial(
        load_job,
        job_file,
        overrides,
        store=absolute_url(store, Path.cwd()) if store else store,
        absent_data_is_fine=dry_run,
        defaults=read_user_defaults(home.folder),
    )
    loaded = load(chosen, provider)
    place = provider_at(home, loaded.spec.provider)
    if chosen is None and (chosen := configs.usual(place, job_file.parent)):
        loaded = load(chosen, provider or place.name)
    plan = _plan_of(loaded, place, chosen)
    if loaded.spec.train.start_from is None:
        return plan
    from cloud_train.orchestrator.starting import find_start  # looks for runs in the ledger, which no other plan needs

    return replace(plan, start=find_start(home, loaded))


def _plan_of(loaded: LoadedJob, place: Provider, chosen: Config | None) -> Plan:
    loaded = _with_processes(loaded, place.capabilities)
    spec, directory = loaded.spec, loaded.directory
    settings = with_machine(loaded.settings, spec, place.capabilities, is_last_word=_is_last_word(loaded, chosen))
    url = absolute_url(spec.store, directory)
    _refuse_impossible(spec, place.name, place.capabilities, url)
    _refuse_out_of_reach(spec.data.store_url if spec.data else None, place.name, place.capabilities)
    if place.capabilities.containers:
        refuse_outside(spec, directory, loaded.origins)
    per_epoch, in_all = steps_of(spec, loaded.data)
    host_data = _host_data(spec, directory, place)
    _refuse_links(host_data)
    plan = Plan(
        run_id=new_run_id(spec.name),
        attempt=1,
        job=spec,
        job_file=str(loaded.file),
        provider=place.name,
        provider_settings=dict(settings),
        store=url,
        program=_program(spec, directory, place, settings),
        layers=loaded.layers,
        data=loaded.data,
        steps_per_epoch=per_epoch,
        total_steps=in_all,
        origins=loaded.origins,
        notes=(
            *_data_notes(loaded),
            *_model_notes(loaded),
            *(remarks_on_effects(spec, loaded.layers, per_epoch, in_all) if per_epoch and in_all else ()),
            *_notes(spec, place.name, place.capabilities),
            *_process_notes(spec, place.capabilities, settings),
            *_cloud_notes(spec, place, chosen, settings),
        ),
        image=ingredients(spec, settings) if place.capabilities.containers else None,
        host_data=host_data,
        threads=_threads(spec, place.capabilities),
        most_download_bytes=spec.data.most_download_bytes if spec.data and spec.data.downloads() else None,
    )
    return with_remarks(plan, place)


def with_remarks(plan: Plan, place: Provider) -> Plan:
    """The plan with the provider's remarks on it."""
    return replace(plan, remarks=tuple(place.remarks(plan))) if isinstance(place, Remarking) else plan


def _with_processes(loaded: LoadedJob, capabilities: Capabilities) -> LoadedJob:
    """The job with one training process for each accelerator, if it sets no number, and they can share a batch."""
    spec, path = loaded.spec, "resources.processes"
    wanted = spec.resources.accelerator.count if spec.resources.accelerator else 1
    is_set = loaded.origins.get(path, "default") != "default"
    if is_set or wanted == 1 or "accelerator" not in capabilities.enforces or isinstance(spec.model, ScriptModel):
        return loaded
    in_all, train = wanted * spec.resources.nodes, spec.train
    if in_all * train.accumulate > train.batch_size or (train.carry_state and train.batch_size % in_all):
        return loaded
    spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"processes": wanted})})
    return replace(loaded, spec=spec, origins={**loaded.origins, path: "one per accelerator"})


def with_machine(settings: Mapping[str, Any], spec: JobSpec, capabilities: Capabilities, *, is_last_word: bool = False) -> dict[str, Any]:
    """The settings with ``resources.machine``, unless they name a machine themselves; with ``is_last_word`` even then."""
    machine = spec.resources.machine
    if machine is None or not capabilities.machine_types or (settings.get("machine") and not is_last_word):
        return dict(settings)
    return {**settings, "machine": machine}


def _is_last_word(loaded: LoadedJob, config: Config | None) -> bool:
    """Whether ``resources.machine`` was given with ``--set``, and the setting ``machine`` only in a config file."""
    in_file = config.settings.get(loaded.spec.provider, {}).get("machine") if config else None
    return loaded.origins.get("resources.machine") == "--set" and loaded.settings.get("machine") == in_file


def plan_elsewhere(
    before: Plan,
    place: Provider,
    settings: Mapping[str, Any],
    *,
    store: str,
    data: str | None = None,
    config: Config | None = None,
) -> Plan:
    """``before`` with another provider, settings, store or data path; raises ProviderError if that is not possible."""
    directory, url = Path(before.job_file).parent, absolute_url(store, Path.cwd())
    spec = before.job.model_copy(update={"provider": place.name, "store": url})
    if data is not None:
        if spec.data is None or not hasattr(spec.data, "path"):
            raise UsageError(f"--data: the job of {before.run_id} does not read data from a folder")
        path = data if SCHEME.match(data) else str(Path(data).expanduser().absolute())
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"path": path})})
        before = replace(before, origins={**before.origins, "data.path": "--data"})
    _refuse_impossible(spec, place.name, place.capabilities, url)
    _refuse_out_of_reach(spec.data.store_url if spec.data else None, place.name, place.capabilities)
    if place.name == before.provider:  # the name of a machine means nothing elsewhere
        settings = with_machine(settings, spec, place.capabilities)
    host_data = _host_data(spec, directory, place)
    if data is not None or not before.is_foreign:  # a folder that another machine's user named is refused unread
        _refuse_links(host_data)
    plan = replace(
        before,
        job=spec,
        provider=place.name,
        provider_settings=dict(settings),
        store=url,
        program=_program(spec, directory, place, settings),
        notes=(*_notes(spec, place.name, place.capabilities), *_cloud_notes(spec, place, config, settings)),
        image=ingredients(spec, settings) if place.capabilities.containers else None,
        host_data=host_data,
    )
    return with_remarks(plan, place)


def _threads(spec: JobSpec, capabilities: Capabilities) -> dict[str, str]:
    """How the program's threads wait. An image's own variables are not known here."""
    if capabilities.machine_types:  # rented, for this program alone
        return {}
    return waiting_threads({**({} if capabilities.containers else inherited()), **spec.env})


def _host_data(spec: JobSpec, directory: Path, place: Provider) -> str | None:
    """The folder or file on this machine to mount as the job's data; raises ProviderError if the provider cannot mount it."""
    data = spec.data.place(directory) if spec.data is not None and place.capabilities.containers else None
    if data is None:
        return None
    if not place.capabilities.mounts_folders:
        raise ProviderError(
            f"the machines of {place.name!r} cannot reach the data in {data}",
            hint=f"copy it to a store that they can reach: {shlex.join(['cloud-train', 'upload', str(data)])} {place.capabilities.stores[0]}://…"
            " and add --set data.path= with the same URL",
        )
    return str(data.resolve())


def _refuse_links(data: str | None) -> None:
    """Refuse a folder with links that mean something else in a container, where it has another path: the run would train on other data."""
    try:
        links = list(islice(links_out_of(Path(data)), _MOST_LINKS)) if data and Path(data).is_dir() else []
    except OSError as error:
        raise ProviderError(f"cannot read {error.filename or data}: {(error.strerror or 'unknown reason').lower()}") from error
    if links:
        several = "a link" if len(links) == 1 else f"{len(links):,} links" if len(links) < _MOST_LINKS else f"{_MOST_LINKS:,} links or more"
        link, target = min(links)
        raise ProviderError(
            f"{data} has {several} out of the folder or with an absolute path, which a container cannot follow: {link} → {target}",
            hint=f"copy the files that the links lead to, and set data.path to the copy: {shlex.join(['cp', '-rL', str(data), 'COPY'])}",
        )


def request_of(home: Home, plan: Plan) -> tuple[Request, list[str]]:
    """The request to the provider for this plan, and the reasons why it would be refused, there or on this machine. Nothing is sent."""
    provider = provider_at(home, plan.provider)
    request = provider.render(plan)
    here = (f"{error.message}; {error.hint}" if error.hint else error.message for error in refusals(provider, plan))
    return request, [*provider.check(request), *here]


def _refuse_impossible(spec: JobSpec, name: str, capabilities: Capabilities, store: str) -> None:
    scheme = scheme_of(store)
    if scheme not in capabilities.stores:
        raise ProviderError(
            f"the machines of {name!r} cannot reach the store {store}",
            hint=f"use a store that they can reach: {', '.join(map(_shown_scheme, capabilities.stores))}",
        )
    if spec.resources.nodes > capabilities.max_nodes:
        raise ProviderError(
            f"resources.nodes is {spec.resources.nodes}, but {name!r} runs a job on at most {capabilities.max_nodes}",
            hint=f"set resources.nodes to {capabilities.max_nodes}, or choose another provider with --provider",
        )


def _shown_scheme(scheme: str) -> str:
    return "a folder" if scheme == "file" else f"{scheme}://…"


def _refuse_out_of_reach(data: str | None, name: str, capabilities: Capabilities) -> None:
    if data is not None:
        check_url(data)
        if scheme_of(data) not in capabilities.stores:
            raise ProviderError(f"the machines of {name!r} cannot reach the data at {data}", hint="copy it to a store that they can reach")


def _program(spec: JobSpec, directory: Path, provider: Provider, settings: Mapping[str, Any]) -> Program:
    if isinstance(spec.model, ScriptModel):
        command = spec.model.command
        arguments = ("/bin/sh", "-c", command) if isinstance(command, str) else command
        folder: Path | None = directory / spec.model.directory
    else:
        # Not the job's folder: `python -m` would import modules from there.
        arguments, folder = (provider.interpreter(settings), "-m", "cloud_train.training"), None
    data = None if spec.data is None else spec.data.place(directory)
    data_url = None if spec.data is None else spec.data.store_url
    best = spec.best
    inside = provider.capabilities.containers
    return Program(
        command=arguments,
        directory="/" if folder is None else container_paths.CODE if inside else str(folder.resolve()),
        environment=dict(spec.env),
        data=data_url or (None if data is None else container_paths.DATA if inside else str(data.resolve())),
        grace_seconds=spec.limits.grace.seconds,
        duration_seconds=spec.limits.duration.seconds if spec.limits.duration else None,
        keep_checkpoints=spec.checkpoint.keep,
        ranking=Ranking(best.metric, best.goal, best.keep),
        attempts=spec.retry.attempts,
        retry_on=tuple(Cause(cause) for cause in spec.retry.on),
    )


def steps_of(spec: JobSpec, data: DataFacts | None) -> tuple[int | None, int | None]:
    """Optimizer steps per epoch and in total; None while the data is missing, and for a script."""
    if isinstance(spec.model, ScriptModel):
        return None, None
    per_epoch = spec.train.steps_per_epoch(data.train_samples if data else None)
    return per_epoch, spec.train.total_steps(per_epoch)


def _model_notes(loaded: LoadedJob) -> tuple[str, ...]:
    """The network's own notes. Raises BrokenComponentError if a plugin's code fails."""
    spec = loaded.spec
    with plugin_code(spec.model, "fails in notes"):
        return tuple(spec.model.notes(loaded.data, spec.train.batch_size)) if loaded.data else ()


def _data_notes(loaded: LoadedJob) -> Iterator[str]:
    """Notes about data that is not on this machine: how it will get there, and what is unknown until then."""
    data, missing = loaded.spec.data, loaded.absent
    yield from loaded.data.remarks if loaded.data else ()
    if missing is not None:
        yield f"{missing.place}: {missing.message}; `submit` refuses this job until the data exists{_unknown(loaded)}"
    elif data is None:
        return
    elif (url := data.store_url) is not None:
        yield f"the data is fetched from {url} into the cache when the run starts, unless it is cached{_unknown(loaded)}"
    elif data.given_url is not None:
        yield f"the data is downloaded into the cache when the run starts, unless it is cached: {data.given_url}{_unknown(loaded)}"


def _unknown(loaded: LoadedJob) -> str:
    if isinstance(loaded.spec.model, ScriptModel) or (loaded.data and loaded.data.train_samples is not None):
        return ""
    layers = "" if loaded.layers else "layers, classes, "
    return f"; {layers}samples and the length of an epoch are unknown until then"


def _cloud_notes(spec: JobSpec, place: Provider, config: Config | None, settings: Mapping[str, Any]) -> Iterator[str]:
    """Notes about the source of the settings, and about the time limit of a job that sets none."""
    if not place.capabilities.named_config:
        return
    if config is not None:
        yield f"settings of {place.name!r}: {config.file}"
    named, used = spec.resources.machine, settings.get("machine")
    if named is not None and used is not None and named != used:
        yield f"resources.machine: {named} is not used, because {place.name}.machine is {used}"
    elif named is not None and used is None:
        yield f"resources.machine: {named} is another provider's machine, so the machine is chosen by resources"
    if spec.limits.duration is None and place.capabilities.limits_runtime:
        limit = settings.get("max_runtime", CloudSettings.model_fields["max_runtime"].default)
        yield f"limits.duration is not set: {place.name}.max_runtime ends the job after {limit}, finished or not"
    if spec.resources.spot and settings.get("compute"):
        yield f"resources.spot: the cluster {settings['compute']} ({place.name}.compute) decides on spot machines, not this field"


def _process_notes(spec: JobSpec, capabilities: Capabilities, settings: Mapping[str, Any]) -> Iterator[str]:
    """Whether GPUs will be idle because a built-in trainer has no process for them. Of machines in a cloud's table, its remarks say so."""
    accelerator, processes = spec.resources.accelerator, spec.resources.processes
    if accelerator is None or isinstance(spec.model, ScriptModel) or processes >= accelerator.count:
        return
    if not capabilities.machine_types or settings.get("compute"):
        yield (
            f"resources.processes: {processes} of the {accelerator.count} × {accelerator.kind} will be used, one by each process;"
            f" set it to {accelerator.count} to use all"
        )


def _hides_python(spec: JobSpec) -> bool:
    return isinstance(spec.model, ScriptModel) and program_python(spec.model.command) is None


def _notes(spec: JobSpec, provider: str, capabilities: Capabilities) -> tuple[str, ...]:
    notes = []
    for name in ("accelerator", "cpus", "memory"):
        value = getattr(spec.resources, name)
        if value is None or name in capabilities.enforces:
            continue
        if name == "accelerator":
            notes.append(
                f"resources.accelerator: {provider!r} supplies no accelerators, and the run ends at once if the machine has fewer than"
                f" {value}; to run without, add --set resources.accelerator=null"
            )
        else:
            notes.append(f"resources.{name}: {value} is not enforced by {provider!r}; the program can use the whole machine")
    if spec.resources.machine is not None and not capabilities.machine_types:
        notes.append(f"resources.machine: {provider!r} has no machine types, so {spec.resources.machine} is not used")
    if not capabilities.containers and spec.image != ImageSpec():
        notes.append(f"image: {provider!r} runs no container; the program uses what is installed on this machine")
    if not capabilities.containers and spec.image.requirements and _hides_python(spec):
        notes.append("image.requirements: not checked, because the command does not show which Python it runs")
    if spec.resources.spot and not capabilities.spot:
        notes.append(f"resources.spot: {provider!r} has no spot capacity; the run uses a regular machine")
    return tuple(notes)
