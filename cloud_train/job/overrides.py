"""``--set key=value`` overrides one value of the job file or of a provider's settings (``aws.machine``), or a whole section.

The value is read as YAML 1.2 (``3``, ``1e-3``, ``[1, 2]``), except for fields that are always strings. A relative path starts at the
working directory, not at the job file's folder. Setting ``train.steps`` removes the file's ``train.epochs``, and vice versa; the same
holds for ``data.path`` and ``data.url``.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

from cloud_train.job.document import Document, parse_value
from cloud_train.job.models import Retry
from cloud_train.job.start_from import local_place
from cloud_train.networks.cnn import CnnModel
from cloud_train.spec.paths import has_home
from cloud_train.spec.problems import JobFileError, Path, Place, Problem, dotted, shortened

_PATHS = {("store",), ("data", "path"), ("local", "python")}
_TEXTS = {("name",), ("provider",), ("resources", "machine"), ("model", "directory"), ("data", "url"), *_PATHS}
_START: Path = ("train", "start_from")
_NOTHING = ("", "~", "null")
_INSTEAD: dict[Path, tuple[tuple[str, str], ...]] = {
    ("train", "steps"): (("train", "epochs"),),
    ("train", "epochs"): (("train", "steps"),),
    ("data", "path"): (("data", "url"), ("data", "sha256")),
    ("data", "url"): (("data", "path"),),
}
_SHORT_FORMS: dict[Path, str] = {("train", "schedule"): "name"}
"""Sections that a file may write as one string → the field that this string sets."""
_CHECKSUM = re.compile(r"[0-9a-f]{64}")  # one that happens to have only digits would be read as a number
_NAMED_TEXTS = {"tags", "labels"}
"""Fields of providers' settings that hold texts under names of the user's choice."""
_KEY = re.compile(r"[^\s=.]+(?:\.[^\s=.]+)*")


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """``document`` with each ``key=value`` applied; raises JobFileError naming every override that cannot be."""
    changed = Document(_thawed(document.data), dict(document.values), dict(document.keys))
    problems: list[Problem] = []
    given = {_split(text)[0] for text in overrides}
    for text in overrides:
        place = Place(f"--set {_shown(text)}")
        path, value = _split(text)
        if value is None:
            problems.append(Problem(place, "invalid override", "key=value, such as train.epochs=3"))
            continue
        try:
            _apply(changed, path, _value(path, value, place.file), place)
            for other in _INSTEAD.get(path, ()):
                if other not in given:
                    _remove(changed, other)
        except JobFileError as error:
            problems.extend(error.problems)
    if problems:
        raise JobFileError(problems)
    return Document(frozen(changed.data), changed.values, changed.keys)


def section_of(override: str) -> str:
    """The top-level key that a ``key=value`` sets; empty if it has another form."""
    path, _ = _split(override)
    return str(path[0]) if path else ""


def path_of(override: str) -> Path:
    """The path that a ``key=value`` sets; empty if it has another form."""
    return _split(override)[0]


def override_text(key: str, value: object) -> str:
    """The ``key=value`` text that sets the field ``key`` to a Python value."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and _is_text(_split(f"{key}=")[0], value):
        return f"{key}={value}"
    return f"{key}={json.dumps(value)}"


def frozen(value: Any) -> Any:
    """The same data with tuples for lists."""
    if isinstance(value, dict):
        return {key: frozen(inner) for key, inner in value.items()}
    return tuple(frozen(inner) for inner in value) if isinstance(value, list | tuple) else value


def _thawed(value: Any) -> Any:
    """The same data as dicts and lists that may be changed."""
    if isinstance(value, dict):
        return {key: _thawed(inner) for key, inner in value.items()}
    return [_thawed(inner) for inner in value] if isinstance(value, tuple) else value


def _split(text: str) -> tuple[Path, str | None]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not _KEY.fullmatch(key) or not text.isprintable():
        return (), None
    # Eighteen digits are enough for any index.
    return tuple(int(part) if part.isascii() and part.isdecimal() and len(part) < 19 else part for part in key.split(".")), value


def _value(path: Path, text: str, name: str) -> Any:
    if path == _START and _is_text(path, text) and (place := local_place(text, FilePath.cwd())):
        return str(place)
    if path in _PATHS and "://" not in text and has_home(text) and not FilePath(text).expanduser().is_absolute():
        return str(FilePath(text).absolute())
    return text if _is_text(path, text) else parse_value(text, name)


def _is_text(path: Path, text: str) -> bool:
    """Whether a value is taken literally, not as YAML."""
    if (path[:1] == ("env",) and len(path) > 1) or (len(path) > 2 and path[1] in _NAMED_TEXTS):
        return True
    if path == _START:  # the last characters of a run's id may look like a number
        return text.strip() not in _NOTHING and not text.lstrip().startswith("{")
    return path in _TEXTS or (path == ("data", "sha256") and bool(_CHECKSUM.fullmatch(text)))


def _apply(document: Document, path: Path, value: Any, place: Place) -> None:
    inside: Any = document.data
    for depth, part in enumerate(path[:-1], start=1):
        if isinstance(inside, dict) and inside.get(str(part)) is None:
            inside[str(part)] = _default(path[:depth], path[depth])
            document.keys[path[:depth]] = place
        elif isinstance(inside, dict) and path[:depth] in _SHORT_FORMS and isinstance(inside[str(part)], str):
            _write_out(document, path[:depth], inside)
        inside = _step(inside, part, path[:depth], place)
    _step(inside, path[-1], path, place, missing_is_fine=isinstance(inside, dict))
    last = str(path[-1]) if isinstance(inside, dict) else path[-1]
    inside[last] = _thawed(value)
    path = (*path[:-1], last)
    _forget(document, path)
    document.values[path] = document.keys[path] = place


def _write_out(document: Document, path: Path, around: dict[str, Any]) -> None:
    """Replace the string at ``path`` by the section that it abbreviates, so that more of it can be set."""
    field = _SHORT_FORMS[path]
    around[str(path[-1])] = {field: around[str(path[-1])]}
    document.values[*path, field] = document.keys[*path, field] = document.values[path]


def _default(path: Path, then: str | int) -> Any:
    """The value at ``path`` if the file sets none: the default list if an item of it is to be set."""
    if not isinstance(then, int):
        return {}
    if path == ("model", "blocks"):
        return [block.model_dump() for block in CnnModel(kind="cnn").blocks]
    return list(Retry().on) if path == ("retry", "on") else {}


def _step(inside: Any, part: str | int, path: Path, place: Place, missing_is_fine: bool = False) -> Any:
    if isinstance(inside, dict) and (missing_is_fine or str(part) in inside):
        return inside.get(str(part))
    if isinstance(inside, list) and isinstance(part, int) and part < len(inside):
        return inside[part]
    there = f"an index below {len(inside)}" if isinstance(inside, list) else "a key of a section, or an index of a list"
    raise JobFileError([Problem(place, f"cannot set {dotted(path)}: it does not exist", there)])


def _remove(document: Document, path: tuple[str, str]) -> None:
    section = document.data.get(path[0])
    if isinstance(section, dict):
        section.pop(path[1], None)
        _forget(document, path)


def _forget(document: Document, path: Path) -> None:
    """Forget the file's places for ``path`` and everything inside it."""
    for places in (document.values, document.keys):
        for where in list(_within(places, path)):
            del places[where]


def _within(places: dict[Path, Place], path: Path) -> Iterator[Path]:
    return (where for where in places if where[: len(path)] == path)


def _shown(text: str) -> str:
    # A value for env may be a secret, and a secret's value may be given by mistake instead of its name.
    key, equals, _ = text.partition("=")
    return f"{key}{equals}…" if key.strip().split(".")[0] in ("env", "secrets") else shortened(text)
