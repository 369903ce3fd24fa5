"""Which config file applies, and whether its settings may take effect.

A file found next to a job comes with the job, so the author of the job is the author of the file. If it decides where data, code,
credentials or secrets go, or what runs the job and with which rights, it must be trusted first: as with direnv, by path and content, so
that a changed file asks again. Everything that such a file sets is shown, because it is trusted as a whole. A file that the caller names by
its path, or that is in ``~/.cloud-train/configs``, counts as the caller's own decision.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloud_train.errors import NotFoundError, StoreError
from cloud_train.job.config import Config, find_config, is_path, load_config, own_configs
from cloud_train.orchestrator.consent import Ask, NotTrustedError, Question
from cloud_train.orchestrator.home import Home
from cloud_train.private import make_folder
from cloud_train.providers.base import Provider

_CLOUD_HARMLESS = ("create_repository", "platform", "machine", "max_runtime")
_HARMLESS = {
    "docker": ("platform",),
    "aws": (*_CLOUD_HARMLESS, "volume", "tags", "max_wait"),
    "gcp": (*_CLOUD_HARMLESS, "disk", "disk_type", "labels", "flex_start", "max_wait"),
    "azure": (*_CLOUD_HARMLESS, "tags"),
}
"""Settings that affect only the size, the duration and the labels of a job. All others must be trusted, including any added later: an
account, a project or a network decides where the job's data and secrets go, a base image what runs them.
"""


class Configs:
    """The config files of one command.

    ``ask`` is called with settings that have to be trusted; None accepts every file, for a command that sends nothing, such as a dry run.
    ``note`` receives a line about each file that is used.
    """

    def __init__(self, home: Home, ask: Ask | None, note: Callable[[str], None] = lambda _: None) -> None:
        self._home, self._ask, self._note = home, ask, note
        self._told: set[Path] = set()

    def named(self, name: str, beside: Path) -> Config:
        """The config that the caller named, by path or name; raises NotFoundError, JobFileError or NotTrustedError."""
        config = load_config(find_config(name, beside))
        if self._ask is not None and not is_path(name):
            self._check(config, self._ask)
        if config.file not in self._told:
            self._note(f"using the settings in {config.file}")
            self._told.add(config.file)
        return config

    def usual(self, place: Provider, beside: Path) -> Config | None:
        """The config file with the provider's name, if the provider uses one and it exists; raises JobFileError or NotTrustedError."""
        if not place.capabilities.named_config:
            return None
        try:
            return self.named(place.name, beside)
        except NotFoundError:
            return None

    def _check(self, config: Config, ask: Ask) -> None:
        decisive = _decisive(config)
        if not decisive or _is_own(config.file) or is_trusted(self._home, config):
            return
        facts = tuple(settings_of(config).items())
        question = Question(f"{config.file} was found by its name and may have come with the job; it sets", facts, "Trust it?")
        if not ask(question):
            raise NotTrustedError(
                f"{config.file} is not trusted: it sets {', '.join(decisive)}",
                hint=f"read it, then trust it as it is now with: cloud-train trust {shlex.quote(str(config.file))}",
            )
        trust(self._home, config)


def settings_of(config: Config) -> dict[str, str]:
    """Everything that the file sets, by name, such as ``gcp.project``, except values equal to the default."""
    found = {name: value for name, value in (("provider", config.provider), ("store", config.store)) if value is not None}
    for provider, settings in config.settings.items():
        usual = config.usual.get(provider, {})
        found |= {f"{provider}.{name}": str(value) for name, value in settings.items() if value != usual.get(name)}
    return found


def _decisive(config: Config) -> list[str]:
    """The names of the settings for which the file has to be trusted.

    The provider alone is not among them: the caller chose it with the config's name, and the job file may name any provider as well.
    """
    harmless = {"provider"} | {f"{provider}.{name}" for provider, names in _HARMLESS.items() for name in names}
    return [name for name in settings_of(config) if name not in harmless]


def is_trusted(home: Home, config: Config) -> bool:
    """Whether the file was trusted with its current content."""
    return _mark(home, config).is_file()


def trust(home: Home, config: Config) -> None:
    """Trust the file with its current content; raises StoreError if that cannot be recorded."""
    mark = _mark(home, config)
    try:
        make_folder(home.folder)
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(f"{config.file.resolve()}\n", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise StoreError(
            f"cannot write {mark}: {error.strerror}", hint="make it writable, or set CLOUD_TRAIN_HOME to another folder"
        ) from error


def trust_file(home: Home, file: Path) -> dict[str, str]:
    """Trust a config file with its current content; returns everything that it sets, by name. Raises StoreError and JobError."""
    config = load_config(file)
    trust(home, config)
    return settings_of(config)


def _mark(home: Home, config: Config) -> Path:
    said: dict[str, Any] = {"provider": config.provider, "store": config.store, "settings": config.settings}
    content = os.fsencode(config.file.resolve()) + b"\0" + json.dumps(said, sort_keys=True).encode()
    return home.folder / "trusted" / hashlib.sha256(content).hexdigest()


def _is_own(file: Path) -> bool:
    return file.absolute().parent.resolve() == own_configs().resolve()
