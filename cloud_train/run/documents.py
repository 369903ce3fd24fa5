"""Reading the documents in a run directory: each with a size limit, and each field with a type and a range.

Workers, other machines and anyone else with access to the store can write to a run directory, so its contents are untrusted. Anything
unexpected becomes a ``CorruptError`` that names the document and the field. Unknown fields are ignored where a newer version may have added
them, and refused where they would change what is executed (``program``).
"""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from cloud_train.errors import CorruptError

LARGEST_RECORD = 16 << 20
"""Size limit of ``run.json`` in bytes; that of a job with thousands of layers takes a few hundred kilobytes."""
LARGEST_STATUS = 1 << 20
"""Size limit of ``status.json`` in bytes; the longest message takes 64 KiB."""
LARGEST_MARK = 64 << 10
"""Size limit of a mark (``cancel``, ``moved``, ``start``, ``next``, ``failure``) in bytes."""
LARGEST_LINE = 64 << 10
"""Length limit of a line of metrics in bytes."""

LATEST = 253402300799.0
"""The last second of the year 9999, in seconds since the epoch; valid times are from 0 to this."""
MOST_ATTEMPTS = 999_999
LARGEST_STEP = 10**18 - 1
LONGEST_TEXT = 4096
"""Length limit of a name, a host or a path in characters; messages may be longer."""
LONGEST_MESSAGE = 100_000

_DEEPEST = 64
_MOST_VALUES = 330_000
"""Limit of values in one document, estimated from its commas and brackets: a value may take a hundred times its size in memory."""
_ATTEMPT = re.compile(r"[1-9][0-9]{0,5}")
_RUN_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?-[0-9]{6}-[0-9]{6}-[0-9a-z]{4}")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Readable(Protocol):
    """The part of ``storage.base.Store`` that reading documents needs."""

    url: str

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes of an object."""


def is_run_id(text: str) -> bool:
    """Whether ``text`` has the form of a run id: at most 59 characters of ``a-z0-9-``, which are safe in a shell and on a terminal."""
    return _RUN_ID.fullmatch(text) is not None


def check_run_id(text: str) -> str:
    """``text`` if it has the form of a run id; otherwise raises CorruptError, which shows it escaped."""
    if not is_run_id(text):
        raise CorruptError(f"{_shown(text)} is not a run id", hint="a run id looks like digits-cnn-261130-091500-k3f9")
    return text


def read(store: Readable, key: str, limit: int) -> bytes:
    """Read an object of at most ``limit`` bytes. Raises CorruptError for a larger one, and the errors of ``Store.get``."""
    data = store.get(key, 0, limit + 1)
    if len(data) > limit:
        raise CorruptError(f"{store.url}/{key} is larger than the limit of {limit:,} bytes")
    return data


def read_text(store: Readable, key: str) -> str:
    """A mark's text on one line; raises like ``read``."""
    return one_line(read(store, key, LARGEST_MARK).decode(errors="replace"))


def one_line(text: str) -> str:
    """``text`` from a store on one line, so that no part of it can pass for a line of cloud-train's output."""
    return " ".join(text.split())


def attempt_number(name: str) -> int | None:
    """The attempt number in a folder's name, from 1 to 999999; None for other names, such as ``01``."""
    return int(name) if _ATTEMPT.fullmatch(name) else None


def load(data: bytes, largest: int) -> dict[str, Any]:
    """Parse ``data`` as a JSON object. Raises ValueError if it is not one, or exceeds the limits on size, nesting or number of values.

    Its numbers are finite. The last of duplicate keys counts.
    """
    if len(data) > largest:
        raise ValueError(f"it has {len(data):,} bytes; the limit is {largest:,}")
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MOST_VALUES:
        raise ValueError(f"it has more than {_MOST_VALUES:,} values")
    if not data.isascii() and len(data) > largest // 4:  # each character may take four bytes in memory
        raise ValueError(f"it has {len(data):,} bytes and is not ASCII; the limit is then {largest // 4:,}")
    try:
        document = _DECODER.decode(data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    _check_depth(document)
    return document


def check_format(document: Mapping[str, Any], expected: int) -> None:
    """Raise ValueError if the document is not of this format."""
    if type(found := document.get("format")) is not int or found != expected:
        raise ValueError(f"its format is not {expected}")


class Fields:
    """The fields of one JSON object, taken one by one; each method raises a ValueError that names the field."""

    def __init__(self, values: object, name: str = "") -> None:
        """``name`` is the field that holds the object; empty for the document itself."""
        if not isinstance(values, dict):
            raise ValueError(f"'{name}' is not an object")
        self._values, self._name, self._taken = values, name, set[str]()

    def number(self, name: str, low: float, high: float, *, default: float | None = None) -> float:
        """A finite number within the bounds, or ``default`` if the field is missing."""
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
        """An integer within the bounds."""
        value = self._take(name, default)
        if type(value) is not int or not low <= value <= high:
            self._refuse(name, f"a whole number from {low} to {high}", value)
        return int(value)

    def text(self, name: str, longest: int = LONGEST_TEXT, *, default: str | None = None) -> str:
        """A string; lone surrogates, which files and databases reject, are replaced."""
        value = self._take(name, default)
        if not isinstance(value, str) or len(value) > longest:
            self._refuse(name, f"a text of at most {longest:,} characters", value)
        return _SURROGATE.sub("\ufffd", value)

    def value(self, name: str) -> object:
        """The field's value, of any type."""
        return self._take(name, None)

    def argument(self, name: str, value: object) -> str:
        """A string to pass to a process, unchanged."""
        if not isinstance(value, str):
            self._refuse(name, "a text", value)
        return value

    def number_or_none(self, name: str, low: float, high: float) -> float | None:
        """Like ``number``, or None if the field is missing or null."""
        return None if self.is_null(name) else self.number(name, low, high)

    def whole_or_none(self, name: str, low: int, high: int) -> int | None:
        """Like ``whole``, or None if the field is missing or null."""
        return None if self.is_null(name) else self.whole(name, low, high)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            self._refuse(name, "true or false", value)
        return value

    def mapping(self, name: str, *, default: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """An object; its contents are not checked."""
        value = self._take(name, default)
        if not isinstance(value, dict):
            self._refuse(name, "an object", value)
        return value

    def items(self, name: str, most: int, *, default: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
        """A list; its contents are not checked."""
        value = self._take(name, default)
        if not isinstance(value, (list, tuple)) or len(value) > most:
            self._refuse(name, f"a list of at most {most:,}", value)
        return tuple(value)

    def is_null(self, name: str) -> bool:
        """Whether the field is null or missing; it counts as taken either way."""
        self._taken.add(name)
        return self._values.get(name) is None

    def refuse_others(self) -> None:
        """Raise ValueError for a field that was not taken."""
        for name in self._values:
            if name not in self._taken:
                raise ValueError(f"{_shown(self._where(str(name)))} is an unknown field")

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Raise ValueError because the field is not as ``expected``."""
        self._refuse(name, expected, self._values.get(name))

    def _take(self, name: str, default: object) -> Any:
        self._taken.add(name)
        if name in self._values:
            return self._values[name]
        if default is None:
            raise ValueError(f"{_shown(self._where(name))} is missing")
        return default

    def _refuse(self, name: str, expected: str, value: object) -> NoReturn:
        raise ValueError(f"{_shown(self._where(name))} is not {expected}, but {_shown(value)}")

    def _where(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name


def _shown(value: object) -> str:
    """A value for a message: shortened, and without terminal control sequences."""
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
        raise ValueError("it contains a number that is not finite")
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
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
