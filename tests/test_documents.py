"""The documents are held to the code: links resolve, commands parse, the tables are complete."""

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cloud_train import errors, exit_status, providers, storage
from cloud_train.cli.main import app
from cloud_train.errors import CloudTrainError
from cloud_train.exit_status import INTERRUPTED, OUTPUT_CLOSED
from cloud_train.job.loading import load_job
from cloud_train.providers import base as providers_base
from cloud_train.run.states import Cause
from cloud_train.storage import base as storage_base

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`(cloud-train [^`]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_relative_link_resolves(document: Path) -> None:
    dead = [link for link in _LINK.findall(_without_code(document.read_text())) if not _resolves(document, link)]
    assert not dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_command_line_in_the_documents_is_one_that_the_program_understands(document: Path) -> None:
    for line in commands_in(document.read_text()):
        parse(line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_job_in_the_documents_is_valid(document: Path, tmp_path: Path) -> None:
    for number, job in enumerate(jobs_in(document.read_text())):
        file = tmp_path / f"{number}.yaml"
        file.write_text(job)
        for folder in re.findall(r"\b(?:directory|path): ([\w./-]+)", job):
            if (shipped := ROOT / "jobs" / folder).is_file():
                (tmp_path / folder).write_bytes(shipped.read_bytes())
                continue
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "train.py").touch()
        (tmp_path / "train.py").touch()  # what the scripts of the documents are called
        load_job(file)


@pytest.mark.parametrize(("document", "jobs"), [("README.md", 1), ("docs/guide.md", 2)])
def test_jobs_are_found_in_documents(document: str, jobs: int) -> None:
    assert len(list(jobs_in((ROOT / document).read_text()))) == jobs


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_page_of_the_site_is_linked_from_the_page_above_it() -> None:
    for index in ("index", "how-to", "reference", "explanation"):
        text = (ROOT / "docs" / f"{index}.md").read_text()
        (below,) = re.findall(r"^```{toctree}\n:hidden:\n\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert below.split()
        assert [page for page in below.split() if f"({page}.md)" not in text] == []


@pytest.mark.parametrize("line", ["cloud-train submit", "cloud-train list --no-such-option", "cloud-train launch job.yaml"])
def test_a_command_line_that_is_wrong_would_be_found(line: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(line)):
        parse(line)


def test_commands_are_found_wherever_documents_put_them() -> None:
    text = (
        "`cloud-train list` and\n```sh\nRUN=$(cloud-train submit a.yaml)\n$ cloud-train logs \\\n    --tail 5 | head  # the end\n```\n"
        "```yaml\nname: cloud-train x\n```\n"
    )
    assert sorted(commands_in(text)) == ["cloud-train list", "cloud-train logs --tail 5", "cloud-train submit a.yaml"]


def test_the_guide_names_every_verb() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text()
    verbs = group().commands
    assert verbs
    assert not [verb for verb in verbs if f"`cloud-train {verb}" not in guide]


def test_the_documented_exit_codes_are_those_of_the_code() -> None:
    first, second = (ROOT / "docs" / "exit-codes.md").read_text().split("## How a run ended")
    documented = {int(code): name for code, name in re.findall(r"^\| (\d+) \| (?:`([a-z-]+)` )?\|", first, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CloudTrainError)]
    assert documented == {0: "", INTERRUPTED: "", OUTPUT_CLOSED: "", **{kind.exit_code: kind.code for kind in kinds}}
    rows = re.findall(r"^\| (\d+) \| `([a-z-]+)` \| (\w+) \| (.+) \|$", second, re.MULTILINE)
    assert rows == [(str(cause.exit_code), cause.value, cause.state.value, cause.text) for cause in Cause]


def test_every_exit_status_is_one_of_the_table() -> None:
    table = {name: value for name, value in vars(exit_status).items() if name.isupper()}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CloudTrainError)]
    used = {kind.exit_code for kind in kinds} | {cause.exit_code for cause in Cause}
    processes = {exit_status.INTERRUPTED, exit_status.KILLED, exit_status.OUTPUT_CLOSED, exit_status.TERMINATED}
    assert set(table.values()) == used | processes | {exit_status.WORKSPACE, exit_status.STORE_ON_VERTEX}
    doubled = [name for name, value in table.items() if list(table.values()).count(value) > 1]
    assert doubled == ["JOB", "TAKEN"], "a worker reads no job file"


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    parents: list[str] = []
    drawn = set()
    for lines, name in re.findall(r"^    ([│├└─ ]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE):
        depth = len(lines) // 4
        parents[depth:] = [name]
        drawn.add((parents[depth - 1] if depth else "Exception", name))
    assert drawn == _errors_of_commands()


def test_no_two_ways_to_end_share_an_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CloudTrainError)]
    codes = [*(kind.exit_code for kind in kinds), *(cause.exit_code for cause in Cause), INTERRUPTED, OUTPUT_CLOSED]
    assert len(set(codes)) == len(codes)


def test_the_more_exact_error_codes_are_documented() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text()
    exact = [kind for room in (storage_base, providers_base) for kind in vars(room).values() if _is_exact(kind, room.__name__)]
    assert {providers.__name__, storage.__name__} <= {kind.__module__.rpartition(".")[0] for kind in exact}
    assert not [kind.code for kind in exact if f"`{kind.code}`" not in text]


def test_the_provider_document_names_every_method_of_the_protocol() -> None:
    text = (ROOT / "docs" / "providers.md").read_text()
    methods = [name for name, value in vars(providers_base.Provider).items() if callable(value) and not name.startswith("_")]
    assert len(methods) >= 7
    assert not [method for method in methods if f"| `{method}(" not in text]


def commands_in(text: str) -> Iterator[str]:
    """Every ``cloud-train …`` command line of a document: from shell blocks, and from code within a sentence."""
    blocks = [body for language, body in _FENCE.findall(text) if language in {"", "sh", "bash", "console", "text"}]
    for line in re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines():
        match = re.match(r"\s*(?:\$ )?(?:\w+=\$\()?(cloud-train .*)", line)
        if match and "│" not in line:
            yield _one_command(re.split(r"\s{2,}", match[1])[0])  # what stands in a column beside a command explains it
    for command in _INLINE.findall(_without_fences(text)):
        if "…" not in command:
            yield _one_command(command)


def jobs_in(text: str) -> Iterator[str]:
    """Every complete job file that a document shows."""
    return (
        body
        for language, body in _FENCE.findall(text)
        if language == "yaml" and {"name:", "model:"} <= set(re.findall(r"^\w+:", body, re.M))
    )


def parse(line: str) -> None:
    """Parse a command line as the program would, without running anything; raises AssertionError naming a line that it refuses."""
    arguments = shlex.split(line)[1:]
    if arguments and arguments[0].startswith("-"):
        known = {"-h", "--help"} | {option for parameter in group().params for option in parameter.opts}
        assert arguments[0] in known, f"{line}: there is no option {arguments[0]}"
        return
    verb = group().commands.get(arguments[0]) if arguments else None
    assert verb is not None, f"{line}: there is no such verb"
    try:
        verb.make_context(arguments[0], arguments[1:])
    except Exception as error:  # the parser is Typer's own, and so are its exceptions: each one means that the line was refused
        if type(error).__name__ != "Exit":  # --help, which ends the program
            raise AssertionError(f"{line}: {error}") from error


def group() -> Any:
    """The program's verbs, as Typer's own parser has them."""
    return get_command(app)


def _one_command(line: str) -> str:
    line = line.rstrip()
    if line.count(")") > line.count("("):  # of RUN=$(cloud-train …)
        line = line.removesuffix(")")
    words = shlex.split(line, comments=True)
    return shlex.join(itertools.takewhile(lambda word: word not in {"|", ">", "&&", ";", "<"}, words))


def _errors_of_commands() -> set[tuple[str, str]]:
    """Each public error that may end a command, with its first base; those inside a worker or a trainer end an attempt instead."""
    classes = {}
    for path in (ROOT / "cloud_train").rglob("*.py"):
        if path.relative_to(ROOT / "cloud_train").parts[0] in {"worker", "training"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and not node.name.startswith("_") and node.bases:
                classes[node.name] = ast.unparse(node.bases[0])
    found = {("Exception", "CloudTrainError")}
    while more := {(base, name) for name, base in classes.items() if base in {known for _, known in found}} - found:
        found |= more
    return found


def _without_fences(text: str) -> str:
    return _FENCE.sub("", text)


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", _without_fences(text))


def _resolves(document: Path, link: str) -> bool:
    if "://" in link or link.startswith("mailto:"):
        return True
    path, _, anchor = link.partition("#")
    target = (document.parent / path) if path else document
    return target.exists() and (not anchor or anchor in {_slug(heading) for heading in _HEADING.findall(target.read_text())})


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _is_exact(kind: object, module: str) -> bool:
    return isinstance(kind, type) and issubclass(kind, CloudTrainError) and kind.__module__ == module
