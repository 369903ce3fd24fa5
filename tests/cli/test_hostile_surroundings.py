"""Every verb in surroundings that are broken: no home, no locks, no temporary folder, a folder that was deleted, names that are not UTF-8,
closed outputs, a full disk.

Whatever happens, a user gets words and a documented exit code: no traceback, and no bug of cloud-train.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train import exit_status
from cloud_train.cli.main import VERBS
from tests.cli.command import CommandLine

DOCUMENTED = {0, *range(2, 10), *range(10, 18), exit_status.NO_ACCELERATOR, exit_status.OUTPUT_CLOSED}
"""Those of docs/exit-codes.md, but for a bug (1) and Ctrl-C."""

_NO_LOCKS = "#include <errno.h>\nint flock(int descriptor, int kind) { errno = ENOLCK; return -1; }\n"
"""A file system without locks, such as NFS without its lock daemon."""
_NAMELESS = """\
import os, pwd
def unknown(*_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = pwd.getpwnam = unknown
"""

ARGUMENTS: dict[str, list[list[str]]] = {
    "submit": [["submit", "job.yaml", "--follow"], ["submit", "job.yaml", "--dry-run", "--json"]],
    "list": [["list"], ["list", "--json"]],
    "status": [["status"], ["status", "job"]],
    "logs": [["logs"]],
    "metrics": [["metrics", "--json"]],
    "cancel": [["cancel", "job"]],
    "resume": [["resume", "job"]],
    "adopt": [["adopt", "runs/job-261201-000000-aaaa"]],
    "fetch-model": [["fetch-model", "job"]],
    "sync": [["sync", "job"]],
    "evaluate": [["evaluate", "job", "photos"]],
    "predict": [["predict", "job", "photos/cat/1.jpg"]],
    "package": [["package", "job.yaml"]],
    "upload": [["upload", "photos", "elsewhere"]],
    "pack": [["pack", "photos", "packed"]],
    "validate": [["validate", "job.yaml"]],
    "trust": [["trust", "job.yaml"]],
    "schema": [["schema"]],
    "init": [["init", "new.yaml"]],
    "doctor": [["doctor"]],
}

Spoil = Callable[[CommandLine], dict[str, str]]
"""Breaks something; returns the environment variables to set."""


def _without_locks(line: CommandLine) -> dict[str, str]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler")
    source, library = line.folder.parent / "nolocks.c", line.folder.parent / "nolocks.so"
    source.write_text(_NO_LOCKS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


def _without_a_name(line: CommandLine) -> dict[str, str]:
    (line.folder.parent / "nameless").mkdir()
    (line.folder.parent / "nameless/sitecustomize.py").write_text(_NAMELESS)
    return {"PYTHONPATH": str(line.folder.parent / "nameless"), "HOME": "", "CLOUD_TRAIN_HOME": ""}


def _home_of_a_file(line: CommandLine) -> dict[str, str]:
    (line.folder.parent / "file").write_text("")
    return {"CLOUD_TRAIN_HOME": str(line.folder.parent / "file")}


def _damaged_home(line: CommandLine) -> dict[str, str]:
    line.home.mkdir()
    for name in ("ledger.sqlite3", "submitting", "local", "transfers", "configs"):
        (line.home / name).write_bytes(b"\xff\x00not what it should be" * 100)
    return {}


def _name_that_is_not_utf8(line: CommandLine) -> dict[str, str]:
    folder = os.fsencode(line.folder.parent) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102 -- bytes
    return {"CLOUD_TRAIN_HOME": os.fsdecode(folder), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


SURROUNDINGS: dict[str, Spoil] = {
    "no locks": _without_locks,
    "a user without a name or a home": _without_a_name,
    "an unknown home": lambda _: {"CLOUD_TRAIN_HOME": "~nobody-has-this-name/x"},
    "/proc as home": lambda _: {"CLOUD_TRAIN_HOME": "/proc"},
    "a device as home": lambda _: {"CLOUD_TRAIN_HOME": "/dev/full"},
    "a file as home": _home_of_a_file,
    "a damaged home": _damaged_home,
    "a name too long as home": lambda _: {"CLOUD_TRAIN_HOME": "/tmp/" + "x" * 300},
    "a home that is not UTF-8": _name_that_is_not_utf8,
    "no temporary folder": lambda _: {"TMPDIR": "/nowhere"},
    "no PATH": lambda _: {"PATH": ""},
    "a language that is not installed": lambda _: {"LC_ALL": "xx_XX.UTF-8", "LANG": "xx_XX"},
}
IN_SHELL: dict[str, str] = {
    "a closed standard output": 'exec "$@" >&-',
    "a standard output for reading": 'exec "$@" 1</dev/null',
    "a closed standard error": 'exec "$@" 2>&-',
    "a full standard output": 'exec "$@" >/dev/full',
}
"""Broken by a shell, whose arguments are the command."""
UNWRITABLE = ("a closed standard output", "a standard output for reading")

_HOME = 'mkdir -p "$CLOUD_TRAIN_HOME" && mount -t tmpfs -o size=64k tmpfs "$CLOUD_TRAIN_HOME"'
_DEVICES = """\
new=$(mktemp -d) && mount -t tmpfs tmpfs "$new" && ln -s /proc/self/fd "$new/fd"
for name in null zero full random urandom tty; do touch "$new/$name" && mount --bind "/dev/$name" "$new/$name"; done
mount --move "$new" /dev && rmdir "$new"
"""
IN_NAMESPACE: dict[str, str] = {
    "a home on a full disk": f'{_HOME} && {{ head -c 1M /dev/zero > "$CLOUD_TRAIN_HOME/rest" 2>/dev/null; exec "$@"; }}',
    "a home that is read-only": f'{_HOME} && mount -o remount,ro "$CLOUD_TRAIN_HOME" && exec "$@"',
    "no /dev/shm": f'{_DEVICES}[ ! -e /dev/shm ] && exec "$@"',
}
"""The same in a namespace of its own, in which it may mount."""
QUICK = {
    ("submit", "a home on a full disk"),
    ("list", "a closed standard output"),
    ("submit", "no locks"),
    ("list", "an unknown home"),
    ("doctor", "no locks"),
    ("status", "/proc as home"),
}
"""The pairs of `make check`; all are tried by `make test`."""


def _wrapped(surroundings: str) -> list[str]:
    """What to put before a command, so that it runs in these surroundings."""
    if surroundings in IN_SHELL:
        return ["sh", "-c", IN_SHELL[surroundings], "sh"]
    if surroundings not in IN_NAMESPACE:
        return []
    if sys.platform != "linux" or shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("this user may not make a namespace")
    return ["unshare", "-m", "sh", "-c", IN_NAMESPACE[surroundings], "sh"]


def _prepare(line: CommandLine) -> None:
    line.job("true", "job")
    for name in ("cat", "dog"):
        (line.folder / "photos" / name).mkdir(parents=True)
        (line.folder / "photos" / name / "1.jpg").write_bytes(b"not an image")


def _check(line: CommandLine, arguments: list[str], environment: dict[str, str], surroundings: str) -> None:
    ended = subprocess.run(
        [*_wrapped(surroundings), sys.executable, "-m", "cloud_train", *arguments],
        cwd=line.folder,
        env={**line.environment, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = (ended.stdout + ended.stderr).decode(errors="replace")
    assert ended.returncode in DOCUMENTED, (arguments, ended.returncode, said)
    assert "Traceback" not in said, (arguments, said)
    assert "bug in cloud-train" not in said, (arguments, said)
    assert "[Errno" not in said, (arguments, said)
    assert ended.returncode == 0 or said.strip() or surroundings == "a closed standard error", arguments
    assert ended.returncode == exit_status.STORE or surroundings not in UNWRITABLE, (arguments, ended.returncode)


def test_the_matrix_has_every_verb() -> None:
    assert set(ARGUMENTS) == set(VERBS)


@pytest.mark.parametrize(
    ("verb", "surroundings"),
    [
        pytest.param(verb, surroundings, marks=() if (verb, surroundings) in QUICK else pytest.mark.slow)
        for verb in ARGUMENTS
        for surroundings in (*SURROUNDINGS, *IN_SHELL, *IN_NAMESPACE)
    ],
)
def test_every_verb_ends_with_words_in_broken_surroundings(cloud_train: CommandLine, verb: str, surroundings: str) -> None:
    _prepare(cloud_train)
    environment = SURROUNDINGS[surroundings](cloud_train) if surroundings in SURROUNDINGS else {}
    for arguments in ARGUMENTS[verb]:
        _check(cloud_train, arguments, environment, surroundings)


@pytest.mark.slow
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_ends_with_words_in_a_folder_that_was_deleted(cloud_train: CommandLine, verb: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd {gone}; rmdir {gone}; exec "$@"'
    for arguments in ARGUMENTS[verb]:
        command = ["sh", "-c", script, "sh", sys.executable, "-P", "-m", "cloud_train", *arguments]
        gone.mkdir(exist_ok=True)
        ended = subprocess.run(
            command, cwd=tmp_path, env=cloud_train.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        said = (ended.stdout + ended.stderr).decode(errors="replace")
        assert ended.returncode in DOCUMENTED, (arguments, ended.returncode, said)
        assert "Traceback" not in said, (arguments, said)
        assert "bug in cloud-train" not in said, (arguments, said)


def test_without_locks_the_message_says_where_and_what_to_do(cloud_train: CommandLine) -> None:
    environment = _without_locks(cloud_train)
    ended = cloud_train("submit", cloud_train.job("true"), **environment)
    assert ended.status == exit_status.STORE
    assert f"cannot lock {cloud_train.home}/submitting/" in ended.err
    assert "use a folder on a local disk (CLOUD_TRAIN_HOME for locks and the ledger" in ended.err
    said = cloud_train("doctor", "--store", str(cloud_train.folder / "runs"), **environment).text
    home, store = (said.partition(f"✘ {what}")[2].partition("✔")[0] for what in ("home", "store"))
    assert "cannot lock" in home
    assert "→ set CLOUD_TRAIN_HOME to a folder on a local disk" in home
    assert "cannot lock" in store
    assert "→ name a folder on a local disk with --store FOLDER" in store


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("s3:/bucket/runs", "two slashes, as in s3://bucket/runs"),
        ("S3:/bucket", "two slashes, as in s3://bucket"),
        ("${HOME}/runs", "${HOME} is not replaced by the variable's value"),
        ("$HOME/runs", "$HOME is not replaced by the variable's value"),
        ("runs/${HOME}/x", "${HOME} is not replaced by the variable's value"),
        ("/data/$USER/runs", "$USER is not replaced by the variable's value"),
        ("S3://bucket/runs", "s3://bucket/runs"),
        ("HTTPS://example.org/runs", "https://example.org/runs"),
        ("~nobody-has-this-name/runs", "unknown home folder '~nobody-has-this-name'"),
    ],
)
def test_a_path_that_was_not_meant_so_is_a_mistake(cloud_train: CommandLine, store: str, words: str) -> None:
    ended = cloud_train("submit", cloud_train.job("true"), "--store", store)
    assert ended.status in (exit_status.USAGE, exit_status.JOB)
    assert words in ended.err
    assert sorted(path.name for path in cloud_train.folder.iterdir()) == ["script.yaml"]
    (cloud_train.folder / "data.yaml").write_text(
        f"name: x\nmodel: {{kind: cnn}}\ndata: {{dataset: images, path: '{store}'}}\nstore: runs\n"
    )
    ended = cloud_train("validate", "data.yaml")
    assert ended.status == exit_status.JOB
    assert words in ended.text + ended.err
