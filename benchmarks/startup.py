"""Start-up: ``cloud-train --help`` and ``submit --dry-run`` compared with a bare Typer hello-world with the same library versions.

The hello-world is a command like those that pip installs (a tiny script that imports a compiled module), with two verbs.
Bounds: help at most 1.1 × the hello-world's; the dry run at most 2 × the hello-world plus the import of pydantic.
"""

import stat
import sys
import tempfile
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, ROOT, Case, interleave, report, table, verdict

_HELLO = '''"""Greets."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.command()
def hello(name: Annotated[str, typer.Argument(help="Whom to greet.")] = "world") -> None:
    """Say hello."""
    print(f"hello {name}")


@app.command()
def goodbye(name: Annotated[str, typer.Argument(help="Whom to greet.")] = "world", loud: bool = False) -> None:
    """Say goodbye."""
    print(f"goodbye {name}{'!' if loud else ''}")
'''
_SCRIPT = """#!{python}
import sys
sys.path.insert(0, {folder!r})
from hello_world import app
if __name__ == "__main__":
    sys.exit(app())
"""
_PYDANTIC = "import pydantic; pydantic.BaseModel"


def main(repeats: int = 21) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hello = hello_world(folder)
        environment = {"CLOUD_TRAIN_HOME": str(folder / "home")}
        job = str(ROOT / "jobs" / "digits-cnn.yaml")
        series = interleave(
            [
                Case("`python -c pass`", [sys.executable, "-c", "pass"]),
                Case("import pydantic", [sys.executable, "-c", _PYDANTIC]),
                Case("hello-world `--help`", [hello, "--help"]),
                Case("hello-world, run", [hello, "hello"]),
                Case("`cloud-train --help`", [CLOUD_TRAIN, "--help"], environment),
                Case("`cloud-train --version`", [CLOUD_TRAIN, "--version"], environment),
                Case("`cloud-train submit --help`", [CLOUD_TRAIN, "submit", "--help"], environment),
                Case("`cloud-train submit --dry-run`", [CLOUD_TRAIN, "submit", job, "--dry-run"], environment),
            ],
            repeats,
        )
    greeting = series["hello-world `--help`"].median
    pydantic = series["import pydantic"].median - series["`python -c pass`"].median
    report(
        "Start-up",
        table(series, "hello-world `--help`"),
        verdict("`--help` as a multiple of the hello-world's", series["`cloud-train --help`"].median / greeting, 1.1)
        + "\n"
        + verdict(
            "dry run against 2 × hello-world + pydantic",
            series["`cloud-train submit --dry-run`"].median * 1000,
            (2 * greeting + pydantic) * 1000,
            " ms",
        ),
    )


def hello_world(folder: Path) -> str:
    """Create a bare Typer program with two verbs in ``folder``, as pip installs one; returns its path."""
    (folder / "hello_world.py").write_text(_HELLO)
    script = folder / "hello"
    script.write_text(_SCRIPT.format(python=sys.executable, folder=str(folder)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


if __name__ == "__main__":
    main()
