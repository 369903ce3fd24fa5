"""The base class of all sections of the job file, and the types of plain fields."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


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

PATTERNS = {
    NAME_PATTERN: "at most 40 characters of a-z, 0-9 and '-', not starting or ending with '-'",
    VARIABLE_PATTERN: "a variable name: letters, digits and '_', not starting with a digit",
    SHA256_PATTERN: "64 characters of 0-9 and a-f, as printed by sha256sum",
    URL_PATTERN: "a URL that begins with 'https://' or 'http://', without spaces",
    METRIC_PATTERN: "a metric with its split, such as 'validation/loss'",
}
"""Pattern → what it expects, in words for messages."""
