"""What is written from the models: the two schemas, and the field tables of docs/job-file.md.

``python -m tests.job.reference`` brings the files up to date; a test fails until that was done.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from cloud_train.job.schema import config_schema, job_schema

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "job-file.md"
_TABLE = re.compile(r"(<!-- fields of (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def files() -> dict[Path, str]:
    """The files that are written from the models, with what they should hold."""
    return {
        ROOT / "docs" / "job.schema.json": _json(_schemas()[0]),
        ROOT / "docs" / "config.schema.json": _json(_schemas()[1]),
        DOCUMENT: _TABLE.sub(lambda match: f"{match[1]}{fields(match[2])}{match[3]}", DOCUMENT.read_text(encoding="utf-8")),
    }


def fields(section: str) -> str:
    """The table of the fields of ``section``, a definition of the schema such as ``CnnModel``, or ``JobSpec`` for the file as a whole."""
    job, config = _schemas()
    schema = config if section == "ConfigFile" else job
    described = schema if section in ("JobSpec", "ConfigFile") else {**job["$defs"], **config["$defs"]}[section]
    required = described.get("required", [])
    lines = ["| key | takes | default | |", "|---|---|---|---|"]
    for name, field in described["properties"].items():
        default = "**required**" if name in required else _default(field)
        lines.append(
            f"| `{name}` | {' or '.join(dict.fromkeys(_takes(field)))} | {default} | {_description(field, schema)} |".replace("  ", " ")
        )
    return "\n".join(lines) + "\n"


def sections() -> set[str]:
    """Every section that needs a table."""
    job, config = _schemas()
    return {"JobSpec", "ConfigFile", *job["$defs"], *config["$defs"]}


def documented() -> set[str]:
    """Every section that has one."""
    return {match[2] for match in _TABLE.finditer(DOCUMENT.read_text(encoding="utf-8"))}


@cache
def _schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """That of job files and that of config files."""
    return job_schema(), config_schema()


def _takes(field: dict[str, Any]) -> Iterator[str]:
    for option in field.get("anyOf", []):
        yield from _takes(option)
    if "enum" in field or "const" in field:
        yield ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    elif "examples" in field:
        yield "such as " + ", ".join(f"`{example}`" for example in field["examples"])
    elif "$ref" in field or "oneOf" in field:
        yield "a section"
    elif field.get("type") == "array":
        yield "a list"
    elif field.get("type") == "object":
        yield "keys and values"
    elif field.get("type") == "string":
        yield "text"
    elif field.get("type") == "boolean":
        yield "`true`, `false`"
    elif field.get("type") in ("integer", "number"):
        yield _number(field)


def _number(field: dict[str, Any]) -> str:
    kind = "a whole number" if field["type"] == "integer" else "a number"
    words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}
    bounds = [f"{words[key]} {field[key]:,}" for key in words if key in field and abs(field[key]) < 10**9]
    return ", ".join([kind, *bounds])


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None or value == {} or "$ref" in field:
        return ""
    return f"`{', '.join(value) if isinstance(value, list) else value if isinstance(value, str) else json.dumps(value)}`".replace("``", "")


def _description(field: dict[str, Any], schema: dict[str, Any]) -> str:
    reference = field.get("$ref", "").removeprefix("#/$defs/")
    text: str = field.get("description") or schema["$defs"].get(reference, {}).get("description", "")
    return text.replace("|", "\\|")


def _json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
