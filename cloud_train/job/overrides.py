"""``--set key=value``: an override of any leaf of the job file.

The value is read as YAML 1.2 (``3``, ``1e-3``, ``[1, 2]``), except where the job takes text. A relative path starts at the working
directory, not at the job file's folder. Setting ``train.steps`` takes the place of the file's ``train.epochs``, and the reverse.
"""

import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from cloud_train.job.document import Document, parse_value
from cloud_train.job.problems import JobFileError, Path, Place, Problem

_PATHS = {("store",), ("data", "path")}
_INSTEAD: dict[Path, tuple[str, str]] = {("train", "steps"): ("train", "epochs"), ("train", "epochs"): ("train", "steps")}
_KEY = re.compile(r"[^\s=.]+(?:\.[^\s=.]+)*")


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """``document`` with each ``key=value`` in place; raises JobFileError naming every override that cannot be applied."""
    data, values, keys = _copy(document.data), dict(document.values), dict(document.keys)
    problems = []
    given = {_split(text)[0] for text in overrides}
    for text in overrides:
        place = Place(f"--set {_shown(text)}")
        path, value_text = _split(text)
        if not path or value_text is None:
            problems.append(Problem(place, "not an override", "key=value, such as train.epochs=3"))
            continue
        try:
            value = _value(path, value_text, place.file)
        except JobFileError as error:
            problems.extend(error.problems)
            continue
        wrong = _put(data, path, value)
        if wrong:
            problems.append(Problem(place, wrong))
            continue
        for where in [where for where in values if where[: len(path)] == path]:
            del values[where]  # the file's places inside what was replaced
        values[path] = keys[path] = place
        other = _INSTEAD.get(path)
        if other and other not in given and isinstance(data.get(other[0]), dict):
            data[other[0]].pop(other[1], None)
    if problems:
        raise JobFileError(problems)
    return Document(data, values, keys)


def _split(text: str) -> tuple[Path, str | None]:
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key.strip()):
        return (), None
    return tuple(int(part) if part.isdecimal() else part for part in key.strip().split(".")), value


def _value(path: Path, text: str, name: str) -> Any:
    if path[0] == "env":
        return text
    if path in _PATHS and "://" not in text and not FilePath(text).expanduser().is_absolute():
        return str(FilePath(text).absolute())
    return parse_value(text, name)


def _put(data: Any, path: Path, value: Any) -> str:
    """Put ``value`` at ``path``; returns what stands in the way, or nothing."""
    for depth, part in enumerate(path[:-1]):
        if isinstance(data, dict):
            data = data.setdefault(part, {})
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return f"there is nothing at {'.'.join(map(str, path[: depth + 1]))} to set a part of"
    try:
        data[path[-1]] = value
    except (TypeError, IndexError):
        return f"there is nothing at {'.'.join(map(str, path))} to set"
    return ""


def _copy(value: Any) -> Any:
    """Dicts and lists that may be changed; ``frozen`` is the way back."""
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, tuple) else value


def frozen(value: Any) -> Any:
    """The same data with tuples for lists."""
    if isinstance(value, dict):
        return {key: frozen(inner) for key, inner in value.items()}
    return tuple(frozen(inner) for inner in value) if isinstance(value, list | tuple) else value


def _shown(text: str) -> str:
    # A value for env may be a secret.
    key, equals, _ = text.partition("=")
    return f"{key}{equals}…" if key.startswith("env.") else text
