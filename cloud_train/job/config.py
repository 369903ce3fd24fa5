"""``configs/<name>.yaml``: settings of a place rather than of a job, so that the same job file runs anywhere.

``provider`` and ``store`` override the job file's. Every other top-level key is a provider's name, and its value holds that provider's
settings::

    provider: local
    store: /data/runs
    local: {python: ~/venvs/torch/bin/python}

An installed provider may bring a model of its section (``cloud_train.plugins``); without one, its section may hold any keys and values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from cloud_train.errors import NotFoundError
from cloud_train.job.document import Document, read_document
from cloud_train.job.overrides import apply_overrides
from cloud_train.job.settings import AwsSettings, AzureSettings, DockerSettings, GcpSettings, LocalSettings
from cloud_train.job.validation_errors import explain, nearest
from cloud_train.plugins import provider_plugins, settings_models
from cloud_train.spec.paths import has_home
from cloud_train.spec.problems import JobFileError, Path, Place, Problem
from cloud_train.spec.types import NAME_PATTERN, Name


class ConfigFile(BaseModel):
    """Settings of a place: provider, store, and one section for each provider."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        strict=True,
        defer_build=True,
        json_schema_extra={"propertyNames": {"pattern": NAME_PATTERN}},
    )
    __pydantic_extra__: dict[Name, dict[str, Any]]

    provider: Name | None = None
    """Where runs execute; overrides the job file."""
    store: Annotated[str, Field(min_length=1)] | None = None
    """Where run directories are kept; overrides the job file. A relative path starts at this file's folder."""
    local: LocalSettings = Field(default_factory=LocalSettings)
    """Settings of the provider ``local``."""
    docker: DockerSettings | None = None
    """Settings of the provider ``docker``."""
    aws: AwsSettings | None = None
    """Settings of the provider ``aws``."""
    gcp: GcpSettings | None = None
    """Settings of the provider ``gcp``."""
    azure: AzureSettings | None = None
    """Settings of the provider ``azure``."""


SECTIONS: dict[str, type[BaseModel]] = {
    "local": LocalSettings,
    "docker": DockerSettings,
    "aws": AwsSettings,
    "gcp": GcpSettings,
    "azure": AzureSettings,
}
"""The models of the built-in providers' sections."""


def config_model(sections: Mapping[str, type[BaseModel]]) -> type[ConfigFile]:
    """``ConfigFile`` with the sections of further providers."""
    if not sections:
        return ConfigFile
    fields: dict[str, Any] = {name: (model | None, None) for name, model in sections.items()}
    return create_model("ConfigFile", __base__=ConfigFile, __doc__=ConfigFile.__doc__, **fields)


@dataclass(frozen=True)
class Config:
    """A config file that was read."""

    file: FilePath
    provider: str | None = None
    store: str | None = None
    settings: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Provider's name → its settings."""
    usual: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Provider's name → the defaults of its settings."""
    places: Mapping[Path, Place] = field(default_factory=dict)
    document: Document = field(default_factory=lambda: Document({}), repr=False)
    """What the file holds, for ``overridden_settings``."""


def find_config(name: str, beside: FilePath) -> FilePath:
    """The file of the config ``name``: itself a path, or ``configs/<name>.yaml`` here, in or beside the job's folder ``beside``, or under
    ``~/.cloud-train``.

    Raises NotFoundError, which names every file that was tried and the configs that exist.
    """
    if is_path(name):
        return FilePath(name).expanduser() if has_home(name) else FilePath(name)
    folders = [FilePath("configs"), beside / "configs", beside.parent / "configs", own_configs()]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    there = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    tried = ", ".join(dict.fromkeys(str(folder / f"{name}.yaml") for folder in folders))
    raise NotFoundError(
        f"config {name!r} not found; tried {tried}",
        hint=f"available: {', '.join(there)}" if there else "create one of these files, or pass the path of a config file",
    )


def is_path(name: str) -> bool:
    """Whether a config's name is the path of its file."""
    return name.endswith((".yaml", ".yml")) or "/" in name


def own_configs() -> FilePath:
    """The folder of the user's own config files, which come with no job."""
    return FilePath("~/.cloud-train/configs").expanduser()


def load_config(path: FilePath) -> Config:
    """Read a config file. Raises NotFoundError if it cannot be read, and JobFileError with every mistake in it."""
    return _config_of(path, read_document(path, hint="pass a config's path, or its name if it is in a folder called configs"))


def overridden_settings(config: Config | None, overrides: Sequence[str], provider: str) -> dict[str, Any]:
    """The settings of ``provider`` after ``overrides``, such as ``aws.machine=ml.g5.xlarge``; ``config`` is the file, if there is one.

    Raises JobFileError with every mistake in the overrides.
    """
    if not overrides:
        return dict(config.settings.get(provider, {})) if config else {}
    file = config.file if config else FilePath("config")
    document = apply_overrides(config.document if config else Document({}), overrides)
    return dict(_config_of(file, document).settings.get(provider, {}))


def is_provider(name: str) -> bool:
    """Whether this is the name of a built-in or installed provider, so that a config file may have its section."""
    return name in SECTIONS or name in provider_plugins()


def _config_of(path: FilePath, document: Document) -> Config:
    sections = settings_models({str(name) for name in document.data} - ConfigFile.model_fields.keys())
    read = _validate(document, config_model(sections))
    folder = path.absolute().parent
    settings = {name: dict(value) for name, value in (read.model_extra or {}).items()}
    if read.local.python is not None:
        settings["local"] = {"python": _absolute(read.local.python, folder)}
    models = {**SECTIONS, **sections}
    for name in models:
        if name != "local" and (section := getattr(read, name)) is not None:
            settings[name] = section.model_dump(mode="json", exclude_none=True)
    usual = {name: models[name].model_construct().model_dump(mode="json") for name in settings if name in models}
    store = read.store
    if store is not None and "://" not in store:
        store = _absolute(store, folder)
    return Config(path, read.provider, store, settings, usual, document.values, document)


def _absolute(path: str, folder: FilePath) -> str:
    # Not resolved: the Python of a virtual environment is a symbolic link, and works only under its own name.
    return str(folder / FilePath(path).expanduser())


def _validate(document: Document, model: type[ConfigFile]) -> ConfigFile:
    try:
        read = model.model_validate(document.data)
    except ValidationError as error:
        problems = explain(error.errors(include_url=False), model, document.data, document.values, document.keys)
        raise JobFileError([_meant(problem, path, document) for path, problem in problems.items()]) from error
    lost = [path for path, text in ((("store",), read.store), (("local", "python"), read.local.python)) if text and not has_home(text)]
    if lost:
        raise JobFileError([Problem(document.values[path], "unknown home folder for '~'", "an absolute path") for path in lost])
    return read


def _meant(problem: Problem, path: Path, document: Document) -> Problem:
    """A clearer problem for a top-level key that is neither a field nor a provider's section, with the nearest field."""
    if len(path) != 1 or path[0] in ConfigFile.model_fields:
        return problem
    expected = "provider, store, or a provider's name with its settings as keys and values"
    return Problem(document.keys[path], f"unknown key {path[0]!r}", expected, nearest(path[0], tuple(ConfigFile.model_fields)))
