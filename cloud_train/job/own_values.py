"""The values that make a job differ from one that leaves everything out, by their dotted keys."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cloud_train.job.models import JobSpec
from cloud_train.spec.problems import Path, dotted

_OPTION = "--set"
_SHOWN_ELSEWHERE = ("name", "provider", "store")


@dataclass(frozen=True)
class OwnValues:
    """A job's values by their dotted keys, such as ``train.epochs``."""

    values: dict[str, Any]
    """Those that differ from the defaults, except those in ``set``."""
    set: dict[str, Any]
    """Those from ``--set``, whether or not they differ."""


def own_values(spec: JobSpec, origins: Mapping[str, str]) -> OwnValues:
    """The values of a job that was loaded with these ``origins``; without its name, provider and store, which belong to the run."""
    leaves = dict(_leaves(spec.model_dump(mode="json"), ()))
    given = {path for path, _ in _leaves(spec.model_dump(mode="json", exclude_unset=True), ())}
    # A default that depends on another value, as the optimizer's learning rate does, is only known not to be given.
    differing = [path for path, _ in _leaves(spec.model_dump(mode="json", exclude_defaults=True), ()) if path in given]
    origin_of = {path: origins.get(dotted(path), "default") for path in leaves}
    values: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for path, value in leaves.items():
        if path[0] in _SHOWN_ELSEWHERE or origin_of[path] == "default" or value in (None, [], {}):
            continue
        differs = any(path[: len(one)] == one or one[: len(path)] == path for one in differing)
        if origin_of[path] == _OPTION and (differs or not _is_set_whole(path[:-1], origin_of)):
            chosen[dotted(path)] = value
        elif origin_of[path] != _OPTION and differs:
            values[dotted(path)] = value
    return OwnValues(values, chosen)


def _is_set_whole(section: Path, origin_of: Mapping[Path, str]) -> bool:
    """Whether ``--set`` gave a whole section, such as ``train.optimizer={name: sgd}``: then most of its values are still defaults."""
    return all(origin == _OPTION for path, origin in origin_of.items() if path[: len(section)] == section)


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """As the origins of a job are recorded: every scalar, and each empty list or mapping."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value
