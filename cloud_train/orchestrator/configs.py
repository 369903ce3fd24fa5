"""Which config file applies, and whether its settings may take effect.

A file found beside a job comes with the job, so the author of the job wrote it. If it decides where credentials, secrets or images go, or
what runs them, it takes effect only after it was trusted: as in direnv, by path and content, so that a changed file asks again. A file that
the caller names by its path, or keeps in ``~/.cloud-train/configs``, needs no trust.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cloud_train.errors import NotFoundError, StoreError
from cloud_train.job.config import Config, find_config, is_path, load_config, own_configs
from cloud_train.orchestrator.consent import Ask, NotTrustedError, Question
from cloud_train.orchestrator.home import Home
from cloud_train.private import make_folder
from cloud_train.providers.base import Provider

_DECISIVE = {
    "local": ("python",),
    "docker": ("host", "network", "user", "repository"),
    "aws": ("repository", "role"),
    "gcp": ("endpoint", "repository", "service_account"),
    "azure": ("endpoint", "history_endpoint", "vault", "repository", "identity"),
}
"""Settings that decide where credentials, secrets and images go, what runs the job's code, and with which rights; of any other provider,
all do.
"""


class Configs:
    """The config files of one command.

    ``ask`` is called with settings that have to be trusted; with None every file counts, for a command that sends nothing, such as a dry
    run. ``note`` is told which file is used.
    """

    def __init__(self, home: Home, ask: Ask | None, note: Callable[[str], None] = lambda _: None) -> None:
        self._home, self._ask, self._note = home, ask, note
        self._told: set[Path] = set()

    def named(self, name: str, beside: Path) -> Config:
        """The config that the caller named, by a path or by its name; raises NotFoundError, JobFileError or NotTrustedError."""
        config = load_config(find_config(name, beside))
        if self._ask is not None and not is_path(name):
            self._check(config, self._ask)
        if config.file not in self._told:
            self._note(f"using the settings in {config.file}")
            self._told.add(config.file)
        return config

    def usual(self, place: Provider, beside: Path) -> Config | None:
        """The config file of the provider's own name, if it uses one and there is one; raises JobFileError or NotTrustedError."""
        if not place.capabilities.named_config:
            return None
        try:
            return self.named(place.name, beside)
        except NotFoundError:
            return None

    def _check(self, config: Config, ask: Ask) -> None:
        decisive = list(decisive_settings(config))
        if not decisive or _is_own(config.file) or is_trusted(self._home, config):
            return
        question = Question(f"{config.file} was found by its name and may have come with the job; it sets", tuple(decisive), "Trust it?")
        if not ask(question):
            raise NotTrustedError(
                f"{config.file} is not trusted: it sets {', '.join(name for name, _ in decisive)}",
                hint=f"read it, then trust it as it is now with: cloud-train trust {shlex.quote(str(config.file))}",
            )
        trust(self._home, config)


def decisive_settings(config: Config) -> Iterator[tuple[str, str]]:
    """Each setting of the file that has to be trusted, as its name and its value."""
    for provider, settings in config.settings.items():
        usual = config.usual.get(provider, {})
        for name, value in settings.items():
            if name in _DECISIVE.get(provider, settings) and value != usual.get(name):
                yield f"{provider}.{name}", str(value)


def is_trusted(home: Home, config: Config) -> bool:
    """Whether the present content of this file was trusted."""
    return _mark(home, config).is_file()


def trust(home: Home, config: Config) -> None:
    """Trust the present content of the file; raises StoreError if that cannot be recorded."""
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
    """Trust the present content of a config file; returns the settings that needed trust, by name. Raises StoreError and JobError."""
    config = load_config(file)
    trust(home, config)
    return dict(decisive_settings(config))


def _mark(home: Home, config: Config) -> Path:
    said: dict[str, Any] = {"provider": config.provider, "store": config.store, "settings": config.settings}
    content = os.fsencode(config.file.resolve()) + b"\0" + json.dumps(said, sort_keys=True).encode()
    return home.folder / "trusted" / hashlib.sha256(content).hexdigest()


def _is_own(file: Path) -> bool:
    return file.absolute().parent.resolve() == own_configs().resolve()
