"""The base class of all sections of a job file, and the types of their fields: plain ones, and shorthands.

A shorthand is a type that parses its string and declares its own JSON Schema: ``2h`` and ``30 s`` are durations, ``16GB`` is a size,
``1 epoch`` is a cadence, ``L4:1`` an accelerator. A parsed value prints in the form that a person would write.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class Section(BaseModel):
    """A mapping in the job file: immutable, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, strict=True, allow_inf_nan=False)


NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
URL_PATTERN = r"^https?://[^\s/]+(?:/\S*)?$"
METRIC_PATTERN = r"^(train|validation)/[A-Za-z0-9_]+$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
VariableName = Annotated[str, StringConstraints(pattern=VARIABLE_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
Url = Annotated[str, StringConstraints(pattern=URL_PATTERN)]
MetricName = Annotated[str, StringConstraints(pattern=METRIC_PATTERN)]
PathText = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

PATTERNS = {
    NAME_PATTERN: "at most 40 characters of a-z, 0-9 and '-', not starting or ending with '-'",
    VARIABLE_PATTERN: "a variable name: letters, digits and '_', not starting with a digit",
    SHA256_PATTERN: "64 characters of 0-9 and a-f, as printed by sha256sum",
    URL_PATTERN: "a URL that begins with 'https://' or 'http://', without spaces",
    METRIC_PATTERN: "a metric with its split, such as 'validation/loss'",
}
"""Pattern → what it expects, in words for messages."""

_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_NUMBER = r"([0-9]{1,19}(?:\.[0-9]{1,9})?)"
_NOT_ZERO = r"(?=[0. ]*[1-9])"
_LONGEST_SECONDS = 3650 * 86400
_MOST_BYTES = 10**18


class Shorthand:
    """Base class of the shorthands: parses a string, prints it, and describes both to pydantic and JSON Schema."""

    pattern: ClassVar[str]
    expected: ClassVar[str]
    examples: ClassVar[tuple[str, ...]]
    accepts_number: ClassVar[bool] = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the shorthand ``text``; raises ValueError if it does not match ``pattern``."""
        match = re.fullmatch(cls.pattern, text.strip())
        if match is None:
            raise ValueError(f"expected {cls.expected}")
        return cls.from_match(match)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """Build the value from a match of ``pattern``."""
        raise NotImplementedError

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, str) or (is_number and cls.accepts_number):
            try:
                return cls.parse(str(value))
            except ValueError as error:
                raise PydanticCustomError("shorthand", "{reason}", {"reason": str(error)}) from error
        raise PydanticCustomError("shorthand", "{reason}", {"reason": f"expected {cls.expected}"})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._validate, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        text = {"type": "string", "pattern": rf"^\s*(?:{cls.pattern})\s*$", "examples": list(cls.examples)}
        return {"anyOf": [text, {"type": "number", "minimum": 0, "maximum": _LONGEST_SECONDS}]} if cls.accepts_number else text


@dataclass(frozen=True)
class Duration(Shorthand):
    """A length of time: ``30 s``, ``5 min``, ``2h``, ``1.5 d``; a number without a unit is in seconds."""

    seconds: float

    pattern = _NUMBER + r"\s*(s|sec|min|m|h|d)?"
    expected = "a duration such as '90 s', '5 min' or '2h'"
    examples = ("90 s", "5 min", "2h")
    accepts_number = True

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """Build the value from a match of ``pattern``."""
        return cls(_seconds(match[1], match[2] or "s", cls.expected))

    def __str__(self) -> str:
        for unit in ("d", "h", "min"):
            if self.seconds >= _SECONDS[unit] and self.seconds % _SECONDS[unit] == 0:
                return f"{_plain(self.seconds / _SECONDS[unit])} {unit}"
        return f"{_plain(self.seconds)} s"


@dataclass(frozen=True)
class ByteSize(Shorthand):
    """An amount of memory or disk: ``16GB`` (10⁹ bytes), ``512 MiB`` (2²⁰ bytes)."""

    bytes: int

    pattern = _NOT_ZERO + _NUMBER + r"\s*(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)"
    expected = "a size such as '512MB', '16GB' or '8GiB'"
    examples = ("512MB", "16GB", "8GiB")

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """Build the value from a match of ``pattern``."""
        whole, _, fraction = match[1].partition(".")
        size = int(whole + fraction) * _BYTES[match[2]] // 10 ** len(fraction)
        if not 0 < size <= _MOST_BYTES:
            raise ValueError(f"expected {cls.expected}, from 1B to 1000000TB")
        return cls(size)

    def __str__(self) -> str:
        for unit in ("TB", "TiB", "GB", "GiB", "MB", "MiB", "KB", "KiB"):
            if self.bytes >= _BYTES[unit] and self.bytes % _BYTES[unit] == 0:
                return f"{self.bytes // _BYTES[unit]}{unit}"
        return f"{self.bytes}B"


@dataclass(frozen=True)
class Cadence(Shorthand):
    """How often something happens while training: ``1 epoch``, ``200 steps`` or ``5 min``."""

    count: float
    unit: Literal["epoch", "step", "second"]

    pattern = _NOT_ZERO + r"(?:([0-9]{1,9})\s*(epochs?|steps?)|" + _NUMBER + r"\s*(s|sec|min|m|h|d))"
    expected = "how often, such as '1 epoch', '200 steps' or '5 min'"
    examples: ClassVar[tuple[str, ...]] = ("1 epoch", "200 steps", "5 min")

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """Build the value from a match of ``pattern``."""
        if match[1]:
            return cls(int(match[1]), "epoch" if match[2].startswith("epoch") else "step")
        return cls(_seconds(match[3], match[4], cls.expected), "second")

    def __str__(self) -> str:
        if self.unit == "second":
            return str(Duration(self.count))
        return f"{_plain(self.count)} {self.unit}{'' if self.count == 1 else 's'}"


@dataclass(frozen=True)
class Interval(Cadence):
    """How often something happens on which the result depends: ``1 epoch`` or ``200 steps``.

    A length in seconds is read too, for the section to say what is wrong with it: ``check`` rejects it.
    """

    examples = ("1 epoch", "200 steps")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": rf"^\s*(?:{_NOT_ZERO}[0-9]{{1,9}}\s*(?:epochs?|steps?))\s*$", "examples": list(cls.examples)}

    def in_steps(self, steps_per_epoch: int) -> int:
        """The interval in optimizer steps."""
        return int(self.count) * (steps_per_epoch if self.unit == "epoch" else 1)


@dataclass(frozen=True)
class Accelerator(Shorthand):
    """A kind of accelerator and how many per node: ``L4`` or ``A100:4``."""

    kind: str
    count: int

    pattern = r"([A-Za-z][A-Za-z0-9_-]*)(?::([1-9][0-9]?))?"
    expected = "an accelerator and how many, such as 'L4' or 'A100:4'"
    examples = ("L4", "T4:1", "A100:4")

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """Build the value from a match of ``pattern``."""
        return cls(match[1], int(match[2] or 1))

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}"


def _seconds(number: str, unit: str, expected: str) -> float:
    seconds = round(float(number) * _SECONDS[unit], 6)
    if seconds > _LONGEST_SECONDS:
        raise ValueError(f"expected {expected}, at most 3650 d")
    return seconds


def _plain(number: float) -> str:
    """A number without an exponent, down to microseconds: what is printed can be parsed again."""
    return f"{number:.6f}".rstrip("0").rstrip(".")
