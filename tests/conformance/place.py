"""What the conformance suite has to know of a provider: its place. Everything else in the suite is the same for each of them.

A third party writes one for its plugin, in a module of its own, and names it: ``CLOUD_TRAIN_CONFORMANCE_PLACE=package.module:PLACE`` runs
the suite against that alone. docs/providers.md has an example.
"""

import importlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from cloud_train.providers.base import Request

VARIABLE = "CLOUD_TRAIN_CONFORMANCE_PLACE"


class Place(Protocol):
    """One provider as the tests use it. ``home`` is always the folder of ``CLOUD_TRAIN_HOME``."""

    name: str
    """The provider's name, as job files have it."""
    trains: bool
    """Whether its machines have what the built-in trainers need."""
    job: Mapping[str, Any]
    """What each job file needs here beside the test's own, such as ``image``."""
    settings: Mapping[str, Any]
    """The provider's part of the config file."""

    def require(self) -> None:
        """Skip or fail the test, with the reason, where the provider cannot be used at all: no engine, no credentials."""

    def store(self, folder: Path) -> str:
        """The URL of a store for one test; ``folder`` is that test's own."""

    def spoil(self, request: Request) -> Request:
        """This request with one mistake that ``check`` has to find."""

    def kill(self, home: Path, run_id: str) -> None:
        """What a power cut does to the machine of this run: nothing of the attempt gets to say a word. Returns without waiting."""

    def leftovers(self, home: Path, run_id: str) -> list[str]:
        """What there is at the provider of this run, in words: processes, containers, networks. Not what says that it was launched."""

    def clear(self, home: Path, run_id: str) -> None:
        """End and remove whatever a test left of this run, even a test that failed."""


class FarPlace(Place, Protocol):
    """A place whose machines share no folder with this one."""

    def start(self, running: ExitStack, factory: pytest.TempPathFactory) -> None:
        """Start what the place consists of, unless it runs; it ends with ``running``, which is the session's."""

    environment: Mapping[str, str]
    """What whoever submits has to have in the environment: credentials, endpoints."""

    def touch(self, run_id: str, path: str) -> None:
        """Make an empty file in the workspace of this run, on its machine; ``path`` starts at the run directory."""


def named_place(text: str) -> Place:
    """The place that ``package.module:attribute`` names."""
    module, _, attribute = text.partition(":")
    return cast(Place, getattr(importlib.import_module(module), attribute))


def named_by_environment() -> str | None:
    """The place that this run of the suite is about; None for all that the project has."""
    return os.environ.get(VARIABLE) or None
