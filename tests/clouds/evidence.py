"""docs/clouds/evidence.md: what the adapters assume of the services, where that is known from, and what would notice if it were untrue.

The rows are the YAML files of docs/clouds/evidence, one for each subject. ``python -m tests.clouds.evidence`` writes the page from
them, and a test fails until that was done.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from ruamel.yaml import YAML

from tools.cloud_check.checks.catalogue import NAMES

ROOT = Path(__file__).parents[2]
DATA = ROOT / "docs" / "clouds" / "evidence"
PAGE = ROOT / "docs" / "clouds" / "evidence.md"
SUBJECTS = {
    "registries": "Registries",
    "accelerators": "Accelerators",
    "aws": "AWS",
    "gcp": "Google Cloud",
    "azure": "Azure",
    "everywhere": "Every cloud",
}
SOURCES = {
    "description": "official API description",
    "documentation": "documentation",
    "sdk": "source of the provider's SDK",
    "report": "public report",
    "assumption": "assumption",
}
_NAME = r"[a-z0-9]+(-[a-z0-9]+)*"


class Evidence(BaseModel):
    """One behaviour of a service on which the code depends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=f"^{_NAME}$")
    behaviour: str = Field(min_length=10)
    source: str = Field(pattern=f"^({'|'.join(SOURCES)})$")
    where: str = Field(min_length=4, description="where to read it; for an assumption, why it is believed")
    held_by: str | None = Field(default=None, pattern=r"^tests/[\w/]+\.py::\w+$", description="the test that holds it")
    check: str | None = Field(
        default=None, pattern=f"^{_NAME}$", description="the check of `make cloud-check` that tries it on a real account"
    )

    @model_validator(mode="after")
    def _is_held(self) -> "Evidence":
        if self.held_by is None and self.check is None:
            raise ValueError("neither a test nor a check holds it")
        if self.source == "assumption" and self.check is None:
            raise ValueError("an assumption needs a check on a real account")
        return self


@cache
def rows() -> dict[str, list[Evidence]]:
    """The rows of each subject, in the order of ``SUBJECTS``."""
    read = YAML(typ="safe", pure=True)
    of_file = TypeAdapter(list[Evidence])
    return {
        subject: of_file.validate_python(read.load(file.read_text(encoding="utf-8")))
        for subject in SUBJECTS
        if (file := DATA / f"{subject}.yaml").exists()
    }


def mistakes() -> Iterator[str]:
    """What the data files claim that is untrue."""
    every = [row for each in rows().values() for row in each]
    yield from (f"{name}: {count} rows have this id" for name, count in Counter(row.id for row in every).items() if count > 1)
    for row in every:
        if row.held_by is not None:
            file, _, function = row.held_by.partition("::")
            if not (ROOT / file).exists():
                yield f"{row.id}: no such file: {file}"
            elif not re.search(rf"^(async )?def {re.escape(function)}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE):
                yield f"{row.id}: {file} has no test {function}"
    named = {row.check for row in every if row.check is not None}
    yield from (f"no check of cloud-check is called {name}" for name in sorted(named - set(NAMES)))
    yield from (f"the check {name} of cloud-check belongs to no row" for name in NAMES if name not in named)
    yield from (f"{file.name}: not a subject" for file in DATA.glob("*.yaml") if file.stem not in SUBJECTS)


def page() -> str:
    """The page as it should be."""
    every = [row for each in rows().values() for row in each]
    counted = Counter(row.source for row in every)
    known = ", ".join(f"{SOURCES[source]} {counted[source]}" for source in SOURCES if counted[source])
    lines = [
        "# What is known of the services",
        "",
        "The providers depend on how the clouds' services behave. Each row names one such behaviour, the source that it is known from,",
        "and the test that fails if the code ignores it. What only a real account can show names a check of",
        "[`make cloud-check`](cloud-check.md), which a user with an account can run; none of it was tried yet.",
        "Rows marked *assumption* are the least certain.",
        "",
        f"{len(every)} rows by source: {known}.",
    ]
    for subject, each in rows().items():
        lines += ["", f"## {SUBJECTS[subject]}", "", "| behaviour | source | held by |", "|---|---|---|"]
        lines += [f"| {_cell(row.behaviour)} | {_source(row)} | {_held(row)} |" for row in each]
    return "\n".join(lines) + "\n"


def _source(row: Evidence) -> str:
    kind = f"*{SOURCES[row.source]}*" if row.source == "assumption" else SOURCES[row.source]
    return f"{kind}: {_cell(row.where)}"


def _held(row: Evidence) -> str:
    test = f"`{row.held_by.removeprefix('tests/')}`" if row.held_by else ""
    check = f"[cloud-check](cloud-check.md): {row.check}" if row.check else ""
    return "<br>".join(each for each in (test, check) if each)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
