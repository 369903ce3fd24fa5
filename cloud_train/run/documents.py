"""Reading what a run directory holds: every document with a limit to its size, every field with a type and a range.

A run directory is filled by a worker, by other machines, and by anyone else who can write to the store. What it says is data: here it is
decided which data is accepted, and everything else becomes a ``CorruptError`` that names the place and the field. Fields that are not known
are left out where a newer version may have added them, and refused where they would change what is executed (``program``).
"""

from __future__ import annotations  # the worker runs on Python 3.10 as well, in images of the user's

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from cloud_train.errors import CorruptError

LARGEST_RECORD = 16 << 20
"""Bytes of the largest ``run.json`` that is read: that of a job with thousands of layers has some hundred kilobytes."""
LARGEST_STATUS = 1 << 20
"""Bytes of the largest ``status.json``; the longest message has 64 KiB."""
LARGEST_MARK = 64 << 10
"""Bytes of the largest mark (``cancel``, ``moved``, ``start``, ``next``, ``failure``) that is read."""
LARGEST_LINE = 64 << 10
"""Bytes of the longest line of metrics that is read."""

LATEST = 253402300799.0
"""The last second of the year 9999, in seconds since the epoch: no time is later, and none is before the epoch."""
MOST_ATTEMPTS = 999_999
LARGEST_STEP = 10**18 - 1
LONGEST_TEXT = 4096
"""Characters of a name, a host, a path; messages may be longer."""
LONGEST_MESSAGE = 100_000

_DEEPEST = 64
_MOST_VALUES = 330_000
"""Values of one document, by the commas and brackets in it: each may take a hundred times the memory of its few bytes."""
_ATTEMPT = re.compile(r"[1-9][0-9]{0,5}")
_RUN_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?-[0-9]{6}-[0-9]{6}-[0-9a-z]{4}")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Readable(Protocol):
    """What is needed of a store here (``storage.base.Store``)."""

    url: str

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes of an object."""


def is_run_id(text: str) -> bool:
    """Whether ``text`` has the form of a run id: at most 59 characters of ``a-z0-9-``, which neither a shell nor a terminal minds."""
    return _RUN_ID.fullmatch(text) is not None


def check_run_id(text: str) -> str:
    """``text``, if it has the form of a run id; raises CorruptError, which shows it escaped."""
    if not is_run_id(text):
        raise CorruptError(f"{_shown(text)} is not a run id", hint="a run id looks like digits-cnn-261130-091500-k3f9")
    return text


def read(store: Readable, key: str, limit: int) -> bytes:
    """An object that must not be larger than ``limit`` bytes; no more is read. Raises CorruptError, and what ``Store.get`` raises."""
    data = store.get(key, 0, limit + 1)
    if len(data) > limit:
        raise CorruptError(f"{store.url}/{key} has more than {limit:,} bytes, the most that is read of such a file")
    return data


def read_text(store: Readable, key: str) -> str:
    """A mark's text on one line; raises as ``read`` does."""
    return one_line(read(store, key, LARGEST_MARK).decode(errors="replace"))


def one_line(text: str) -> str:
    """``text`` from a store on one line, so that no line of it looks as if cloud-train had written it."""
    return " ".join(text.split())


def attempt_number(name: str) -> int | None:
    """The attempt that a folder's name stands for: 1 to 999999, as ``str`` writes it; None for every other name."""
    return int(name) if _ATTEMPT.fullmatch(name) else None


def load(data: bytes, largest: int) -> dict[str, Any]:
    """The JSON object in ``data``. Raises ValueError for what is not one, or is larger, deeper or has more values than any that is written.

    Its numbers are finite. Where a key is there twice, the last one counts.
    """
    if len(data) > largest:
        raise ValueError(f"it has {len(data):,} bytes, and {largest:,} are the most that is read")
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MOST_VALUES:
        raise ValueError(f"it has more than {_MOST_VALUES:,} values")
    if not data.isascii() and len(data) > largest // 4:  # each character may take four bytes in memory
        raise ValueError(f"it has {len(data):,} bytes, and characters other than ASCII's")
    try:
        document = _DECODER.decode(data.decode())
    except RecursionError:
        raise ValueError("its brackets are too deep") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    _check_depth(document)
    return document


def check_format(document: Mapping[str, Any], expected: int) -> None:
    """Raise ValueError if the document is not of this format."""
    if type(found := document.get("format")) is not int or found != expected:
        raise ValueError(f"its format is not {expected}")


class Fields:
    """The fields of one JSON object, taken out one by one; each method raises ValueError that names the field."""

    def __init__(self, values: object, name: str = "") -> None:
        """``name``: of the field that holds the object; empty for the document itself."""
        if not isinstance(values, dict):
            raise ValueError(f"'{name}' is not an object")
        self._values, self._name, self._taken = values, name, set[str]()

    def number(self, name: str, low: float, high: float, *, default: float | None = None) -> float:
        """A finite number within the bounds; ``default`` where the field is missing."""
        value = self._take(name, default)
        if type(value) not in (int, float) or not low <= value <= high:
            self._refuse(name, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def time(self, name: str) -> float:
        """Seconds since the epoch, up to the year 9999."""
        value = self._take(name, None)
        if type(value) not in (int, float) or not 0 <= value <= LATEST:
            self._refuse(name, "a time", value)
        return float(value)

    def whole(self, name: str, low: int, high: int, *, default: int | None = None) -> int:
        """A whole number within the bounds."""
        value = self._take(name, default)
        if type(value) is not int or not low <= value <= high:
            self._refuse(name, f"a whole number from {low} to {high}", value)
        return int(value)

    def text(self, name: str, longest: int = LONGEST_TEXT, *, default: str | None = None) -> str:
        """A text; lone surrogates, which no file and no database takes, are replaced."""
        value = self._take(name, default)
        if not isinstance(value, str) or len(value) > longest:
            self._refuse(name, f"a text of at most {longest:,} characters", value)
        return _SURROGATE.sub("\ufffd", value)

    def value(self, name: str) -> object:
        """Whatever the field holds."""
        return self._take(name, None)

    def argument(self, name: str, value: object) -> str:
        """A text as it stands: what a process is given, byte for byte."""
        if not isinstance(value, str):
            self._refuse(name, "a text", value)
        return value

    def number_or_none(self, name: str, low: float, high: float) -> float | None:
        """As ``number``, or None where the field is missing or null."""
        return None if self.is_null(name) else self.number(name, low, high)

    def whole_or_none(self, name: str, low: int, high: int) -> int | None:
        """As ``whole``, or None where the field is missing or null."""
        return None if self.is_null(name) else self.whole(name, low, high)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            self._refuse(name, "true or false", value)
        return value

    def mapping(self, name: str, *, default: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """An object, with whatever is in it."""
        value = self._take(name, default)
        if not isinstance(value, dict):
            self._refuse(name, "an object", value)
        return value

    def items(self, name: str, most: int, *, default: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
        """A list, with whatever is in it."""
        value = self._take(name, default)
        if not isinstance(value, (list, tuple)) or len(value) > most:
            self._refuse(name, f"a list of at most {most:,}", value)
        return tuple(value)

    def is_null(self, name: str) -> bool:
        """Whether the field is null or missing; then it counts as taken."""
        self._taken.add(name)
        return self._values.get(name) is None

    def refuse_others(self) -> None:
        """Raise ValueError if there is a field that nobody took."""
        for name in self._values:
            if name not in self._taken:
                raise ValueError(f"{_shown(self._where(str(name)))} is not a field that is known")

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Raise ValueError: the field is not what is expected."""
        self._refuse(name, expected, self._values.get(name))

    def _take(self, name: str, default: object) -> Any:
        self._taken.add(name)
        if name in self._values:
            return self._values[name]
        if default is None:
            raise ValueError(f"there is no {_shown(self._where(name))}")
        return default

    def _refuse(self, name: str, expected: str, value: object) -> NoReturn:
        raise ValueError(f"{_shown(self._where(name))} is not {expected}, but {_shown(value)}")

    def _where(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name


def _shown(value: object) -> str:
    """A value for a message: short whatever it is, and without anything that a terminal would obey."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int) and value.bit_length() > 100:
        return "a number of more than 30 digits"
    if isinstance(value, (int, float)):
        return repr(value)
    return "an object" if isinstance(value, dict) else "a list"


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("it has a number that is not finite")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_float, parse_constant=_constant)


def _check_depth(document: dict[str, Any]) -> None:
    level: list[Any] = [document]
    for _ in range(_DEEPEST):
        level = [
            value
            for container in level
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, (dict, list)) and value
        ]
        if not level:
            return
    raise ValueError(f"its brackets are more than {_DEEPEST} deep")
