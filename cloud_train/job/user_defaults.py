"""The provider and the store of jobs that name none: from the environment, or from the user's ``config.yaml`` in ``CLOUD_TRAIN_HOME``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloud_train.job.document import read_document
from cloud_train.job.validation_errors import explain
from cloud_train.spec.paths import mistake_in
from cloud_train.spec.problems import JobFileError, Place, Problem
from cloud_train.spec.types import Name

USER_FILE = "config.yaml"
"""Its name, in the folder of the ledger."""
VARIABLES = {"provider": "CLOUD_TRAIN_PROVIDER", "store": "CLOUD_TRAIN_STORE"}


class UserFile(BaseModel):
    """What the file may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    provider: Name | None = None
    store: Annotated[str, Field(min_length=1)] | None = None
    """A relative path starts at the file's folder."""


@dataclass(frozen=True)
class UserDefaults:
    """The values, and where each was written."""

    values: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)


NO_DEFAULTS = UserDefaults()


def read_user_defaults(home: FilePath, environment: Mapping[str, str] = os.environ) -> UserDefaults:
    """The user's defaults; a variable counts before the file. Raises JobFileError with every mistake."""
    of_file = _of_file(home / USER_FILE)
    given = {name: value for name, variable in VARIABLES.items() if (value := environment.get(variable))}
    places = {name: Place(VARIABLES[name]) for name in given}
    wrong = [Problem(places[name], *mistake) for name, value in given.items() if name == "store" and (mistake := mistake_in(value))]
    if wrong:
        raise JobFileError(wrong)
    if "store" in given:
        given["store"] = _absolute(given["store"], FilePath())
    return UserDefaults({**of_file.values, **given}, {**of_file.places, **places})


def _of_file(path: FilePath) -> UserDefaults:
    if not os.path.lexists(path):
        return NO_DEFAULTS
    document = read_document(path)
    try:
        read = UserFile.model_validate(document.data)
    except ValidationError as error:
        problems = explain(error.errors(include_url=False), UserFile, document.data, document.values, document.keys)
        raise JobFileError(list(problems.values())) from error
    if read.store and (mistake := mistake_in(read.store)):
        raise JobFileError([Problem(document.values[("store",)], *mistake)])
    store = read.store and _absolute(read.store, path.absolute().parent)
    values = {name: value for name, value in (("provider", read.provider), ("store", store)) if value}
    return UserDefaults(values, {name: document.values[(name,)] for name in values})


def _absolute(store: str, folder: FilePath) -> str:
    return store if "://" in store else str((folder / FilePath(store).expanduser()).absolute())
