"""The container image of a job: its contents, their git commit, and building or pushing it."""

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train.errors import ConflictError, ProviderError, UsageError
from cloud_train.job.models import JobSpec
from cloud_train.networks.base import ScriptModel
from cloud_train.orchestrator.home import Home
from cloud_train.providers.base import Provider, RegistryLogin
from cloud_train.run.plan import Plan
from cloud_train.run.repository import commit_of
from cloud_train.spec.problems import FieldError, dotted
from cloud_train.version import __version__

if TYPE_CHECKING:
    from cloud_train.image.recipe import Built, Recipe
    from cloud_train.image.tokens import Login


DEFAULT_BASE = f"cloud-train-worker:{__version__}"
"""The project's own image, built from its Dockerfile: Python and everything that the built-in trainers need."""
_BASE_HINT = f"build {DEFAULT_BASE} once with `make image` in a clone of cloud-train, or name another base with image.base in the job file"
_REFUSED = (401, 403)
_DOCTOR = "`cloud-train doctor --config` shows what is missing"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
"""Docker's name for each machine type of ``os.uname``."""


def base_image(spec: JobSpec, settings: Mapping[str, Any]) -> str:
    """The base image: from the job, else from the config file (``base``), else the project's own."""
    return spec.image.base or str(settings.get("base") or DEFAULT_BASE)


def ingredients(spec: JobSpec, settings: Mapping[str, Any]) -> str:
    """The parts that a job's image will be built from, as one line."""
    image = spec.image
    parts = [image.dockerfile or base_image(spec, settings)]
    parts += [image.requirements] if image.requirements else []
    parts += [f"folder {spec.model.directory}"] if isinstance(spec.model, ScriptModel) else []
    return f"{' + '.join([*parts, 'worker'])}, built when submitted"


def refuse_outside(spec: JobSpec, directory: Path, origins: Mapping[str, str]) -> None:
    """Refuse a job whose image would contain files from outside the job's folder ``directory``, after following links.

    A job file may come from someone else, who must not choose which files of this machine are packed. Values from the command line (see
    ``origins``) are the user's own.
    """
    script = spec.model.directory if isinstance(spec.model, ScriptModel) else None
    named = {
        ("model", "directory"): script,
        ("image", "dockerfile"): spec.image.dockerfile,
        ("image", "requirements"): spec.image.requirements,
    }
    root = directory.resolve()
    for field, name in named.items():
        if name is None or origins.get(dotted(field)) == "--set":
            continue
        place = (directory / name if field[0] == "model" else directory / Path(name).expanduser()).resolve()
        if not place.is_relative_to(root):
            said = shlex.join(["--set", f"{dotted(field)}={name}"])
            raise FieldError(
                field,
                f"{place} is outside the job's folder {root}, but would go into the image",
                hint=f"move it into that folder, or name it on the command line: {said}",
            )


def recipe_of(plan: Plan, *, starts_as_root: bool = False) -> "Recipe":
    """The recipe of the image for ``plan``. Raises FieldError for a file outside the job's folder that only the job file names."""
    from cloud_train.image.recipe import Recipe

    directory = Path(plan.job_file).parent
    refuse_outside(plan.job, directory, plan.origins)
    model, image = plan.job.model, plan.job.image
    code = directory / model.directory if isinstance(model, ScriptModel) else None
    source = commit_of(directory) if code else None
    revision = {"org.opencontainers.image.revision": source["commit"] + ("" if source["dirty"] is False else "-dirty")} if source else {}
    return Recipe(
        folder=code.resolve() if code else None,
        base=base_image(plan.job, plan.provider_settings),
        requirements=_path(directory, image.requirements),
        dockerfile=_path(directory, image.dockerfile),
        starts_as_root=starts_as_root,
        uses_gpus=_may_use_gpus(plan),
        platform=str(plan.provider_settings.get("platform") or f"linux/{_ARCHITECTURES.get(os.uname().machine, os.uname().machine)}"),
        labels={"org.opencontainers.image.title": plan.job.name, "cloud-train.version": __version__, **revision},
    )


def _may_use_gpus(plan: Plan) -> bool:
    """Whether the job asks for accelerators, or for machines by their name, which may have some."""
    resources, settings = plan.job.resources, plan.provider_settings
    return bool(resources.accelerator or resources.machine or settings.get("machine") or settings.get("compute"))


def with_image(home: Home, provider: Provider, plan: Plan, note: Callable[[str], None]) -> Plan:
    """The plan with the image for the provider's machines: built in the local engine, or for a cloud pushed to its registry."""
    if not provider.capabilities.containers:
        return plan
    if not provider.capabilities.pulls_images:
        return replace(plan, image=build_image(plan, note).reference)
    repository = plan.provider_settings.get("repository")
    if not repository:
        raise UsageError(
            f"no image repository is configured for provider {provider.name!r}",
            hint=f"set `repository` under `{provider.name}` in configs/{provider.name}.yaml",
        )
    return replace(plan, image=push_image(home, provider, plan, str(repository), note).reference)


def refuse_repository(provider: Provider, plan: Plan, repository: str) -> None:
    """Refuse a repository, such as that of a sample config, from which the provider's machines would not pull: the image would be someone
    else's. Raises ProviderError.
    """
    if not provider.capabilities.pulls_images:
        return
    found = provider.check(provider.render(replace(plan, provider_settings={**plan.provider_settings, "repository": repository})))
    if problems := [problem for problem in found if problem.startswith(f"{provider.name}.repository: ")]:
        raise ProviderError(f"nothing was pushed: {'; '.join(problems)}", hint="correct it in the config file, or with --repository")


def push_image(home: Home, provider: Provider, plan: Plan, repository: str, note: Callable[[str], None]) -> "Built":
    """Push the image of ``plan`` to a registry's repository, with the provider's own login if it has one."""
    settings = {**plan.provider_settings, "repository": repository}
    ask = (lambda: provider.registry_login(settings)) if isinstance(provider, RegistryLogin) else (lambda: None)
    return build_image(plan, note, repository, home, ask, starts_as_root=provider.capabilities.starts_as_root)


def with_same_image(provider: Provider, plan: Plan, note: Callable[[str], None]) -> Plan:
    """The plan of a further attempt; its image is rebuilt if the local engine no longer has it.

    Raises ConflictError if the rebuilt image differs, because the code, the base or cloud-train has changed.
    """
    if plan.image is None or not provider.capabilities.containers or provider.capabilities.pulls_images:
        return plan
    from cloud_train.image.engine_images import EngineImages

    with EngineImages(plan.provider_settings.get("host")) as engine:
        if engine.find(plan.image):
            return plan
    note(f"the image of {plan.run_id} is gone from the Docker Engine; rebuilding it")
    if build_image(plan, note).reference != plan.image:
        again = shlex.join(["cloud-train", "resume", plan.run_id, "--code", "current"])
        raise ConflictError(
            f"the image of {plan.run_id} is gone and cannot be rebuilt: the code, the base or cloud-train has changed",
            hint=f"restore what it was built from, or continue with what is here: {again}",
        )
    return plan


def build_image(
    plan: Plan,
    note: Callable[[str], None],
    repository: str | None = None,
    home: Home | None = None,
    login: Callable[[], tuple[str, str] | None] = lambda: None,
    *,
    starts_as_root: bool = False,
) -> "Built":
    """Build the image of ``plan``, or reuse it: in the local engine, or with ``repository`` in that repository of a registry.

    ``home`` remembers what was pushed, so that the next push can skip it. ``login`` returns user and password for that registry, or None
    for Docker's own login; it is called again if they expire during the push. ``starts_as_root``: see ``Recipe``.
    """
    from cloud_train.image.building import build_in_engine, build_in_registry
    from cloud_train.image.errors import ImageError, RegistryError

    recipe = recipe_of(plan, starts_as_root=starts_as_root)
    host = plan.provider_settings.get("host")
    memory = home.folder / "pushed" if home is not None else None
    own = _login(login) if repository else None
    try:
        if repository:
            return build_in_registry(recipe, repository, note, host, memory, login=own)
        return build_in_engine(recipe, note, host)
    except ImageError as error:
        is_refusal = isinstance(error, RegistryError) and error.status in _REFUSED
        if own and repository and is_refusal and repository.partition("/")[0] in error.message:  # not Docker's own login
            error.hint = f"the login of {plan.provider!r} was used: it needs permission to push to {repository}; {_DOCTOR}"
        # If no engine has the base, it is looked up on Docker Hub, like every image name without a registry.
        if recipe.base == DEFAULT_BASE and recipe.dockerfile is None and ("docker.io" in error.message or DEFAULT_BASE in error.message):
            error.hint = _BASE_HINT if repository is None else f"{_BASE_HINT}; without Docker, the base must be in a registry"
        raise


def _login(ask: Callable[[], tuple[str, str] | None]) -> "Login | None":
    from cloud_train.image.tokens import Login

    given = ask()
    return Login(*given, renew=lambda: _login(ask)) if given else None


def _path(directory: Path, name: str | None) -> Path | None:
    return (directory / Path(name).expanduser()).resolve() if name else None
