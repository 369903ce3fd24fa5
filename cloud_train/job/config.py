"""``configs/<name>.yaml``: what belongs to a place and not to a job, so that one job file runs anywhere unchanged.

``provider`` and ``store`` outrank the job file's. Every other top-level key is a provider's name, and what stands under it is that
provider's own::

    provider: local
    store: /data/runs
    local: {python: ~/venvs/torch/bin/python}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cloud_train.errors import NotFoundError
from cloud_train.job.document import Document, read_document
from cloud_train.job.explain import explain
from cloud_train.job.models import Name
from cloud_train.job.problems import JobFileError, Path, Place, Problem


class ConfigFile(BaseModel):
    """A config file: provider, store, and the settings of providers by their names."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True, strict=True)

    provider: Name | None = None
    """Where runs go, instead of what the job file says."""
    store: str | None = Field(default=None, min_length=1)
    """Where run directories are kept, instead of what the job file says; a relative folder starts at this file's folder."""


@dataclass(frozen=True)
class Config:
    """A config file that was read."""

    file: FilePath
    provider: str | None = None
    store: str | None = None
    settings: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Provider's name → its settings."""
    places: Mapping[Path, Place] = field(default_factory=dict)


def find_config(name: str, beside: FilePath) -> FilePath:
    """The file of the config ``name``: itself a path, or ``configs/<name>.yaml`` here, beside the job file, or under ``~/.cloud-train``."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return FilePath(name).expanduser()
    folders = [FilePath("configs"), beside / "configs", beside.parent / "configs", FilePath("~/.cloud-train/configs").expanduser()]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    there = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    tried = ", ".join(dict.fromkeys(str(folder / f"{name}.yaml") for folder in folders))
    raise NotFoundError(f"no config is called {name!r}; looked for {tried}", hint=f"there is: {', '.join(there)}" if there else None)


def load_config(path: FilePath) -> Config:
    """Read a config file; raises JobFileError with every mistake in it."""
    document = read_document(path)
    read = _validate(document)
    settings = dict(read.model_extra or {})
    wrong = [
        Problem(document.values[(name,)], f"{name!r} is neither 'provider', 'store' nor a provider's settings", "keys and values")
        for name, value in settings.items()
        if not isinstance(value, dict)
    ]
    if wrong:
        raise JobFileError(wrong)
    store = read.store
    if store is not None and "://" not in store:
        store = str((path.absolute().parent / FilePath(store).expanduser()).resolve())
    return Config(path, read.provider, store, settings, document.values)


def _validate(document: Document) -> ConfigFile:
    from pydantic import ValidationError

    try:
        return ConfigFile.model_validate(document.data)
    except ValidationError as error:
        problems = explain(error.errors(include_url=False), ConfigFile, document.data, document.values, document.keys)
        raise JobFileError(list(problems.values())) from error
