"""Other users of the machine: what the home holds is the owner's alone, and run directories are made as the umask says."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_train import locks, private
from cloud_train.cli.errors import _write_traceback
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.results import fetch_model
from cloud_train.run.ledger import Ledger
from cloud_train.storage.local import LocalStore
from cloud_train.storage.transfer.engine import Identity, Known
from cloud_train.storage.transfer.remembered import Memory
from tests.attack.run_directories import BAD, manifest_of, run_directory, write

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def submitted(folder: Path, umask: int) -> Path:
    """A script job that was submitted by the command with this umask, and has ended; returns its run directory."""
    folder.mkdir(exist_ok=True)
    (folder / "job.yaml").write_text("name: test\nmodel:\n  kind: script\n  command: 'true'\nstore: runs\n")
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home"), "HOME": str(folder)}
    command = [sys.executable, "-m", "cloud_train", "submit", str(folder / "job.yaml"), "--follow"]
    ended = subprocess.run(command, env=environment, cwd=folder, umask=umask, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    (run,) = (folder / "runs").iterdir()
    return run


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_the_home_and_all_that_is_in_it_is_the_owners_alone_whatever_the_umask_says(tmp_path: Path, umask: int) -> None:
    submitted(tmp_path / "a", umask)
    home = tmp_path / "a" / "home"
    assert mode(home) == 0o700
    assert mode(home / "ledger.sqlite3") == 0o600
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".lock" for path in files)
    assert [path for path in files if mode(path) & OTHERS] == []


def test_a_home_that_others_could_look_into_is_closed_without_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    submitted(folder, 0o022)
    for path, open_mode in ((folder / "home", 0o755), (folder / "home" / "ledger.sqlite3", 0o644)):
        path.chmod(open_mode)
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(folder / "home"), "HOME": str(folder)}
    listed = subprocess.run([sys.executable, "-m", "cloud_train", "list"], env=environment, capture_output=True, check=False)
    assert (listed.returncode, listed.stderr) == (0, b"")
    assert (mode(folder / "home"), mode(folder / "home" / "ledger.sqlite3")) == (0o700, 0o600)


def test_the_files_beside_the_ledger_are_private_while_it_is_open(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Ledger(tmp_path / "home" / "ledger.sqlite3") as ledger:
            ledger.add("r", name="n", provider="local", store="s", job_file=None, created=1.0, settings={}, record_sha256="")
            beside = sorted(path.name for path in (tmp_path / "home").iterdir())
            assert beside == ["ledger.sqlite3", "ledger.sqlite3-shm", "ledger.sqlite3-wal"]
            assert {mode(tmp_path / "home" / name) for name in beside} == {0o600}
    finally:
        os.umask(before)


def test_locks_tracebacks_and_notes_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    before = os.umask(0)
    try:
        descriptor = locks.take(tmp_path / "home" / "local" / "run.1.lock")
        assert descriptor is not None
        os.close(descriptor)
        _write_traceback(ValueError("s3cret"))
        memory = Memory.in_state(tmp_path / "home" / "transfers", "s3://bucket", "prefix/", tmp_path)
        memory.learn([Known("key", "00", "version", Identity(1, 1, 1, 1), 1)])
        memory.write()
    finally:
        os.umask(before)
    places = list((tmp_path / "home").rglob("*"))
    assert len(places) == 6
    assert [path for path in (tmp_path / "home", *places) if mode(path) & OTHERS] == []


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_a_run_directory_is_made_as_the_umask_says(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    run = submitted(tmp_path / "a", umask)
    kept = [path for path in (run, *run.rglob("*")) if not path.name.startswith(".cloud-train-")]
    assert len(kept) > 8
    assert {mode(path) for path in kept if path.is_file()} == {file}
    assert {mode(path) for path in kept if path.is_dir()} == {folder}


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755)])
def test_objects_and_models_are_written_as_the_umask_says(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    run = run_directory(tmp_path / "store", BAD)
    write(run / "model" / "model.bin", b"weights")
    manifest_of(run / "model", None, **{"model.bin": b"weights"})
    home = Home(tmp_path / "home")
    adopt(home, str(run))
    before = os.umask(umask)
    try:
        fetch_model(home, BAD, tmp_path / "fetched")
        store = LocalStore(tmp_path / "new")
        store.put("a/put", b"")
        store.create("a/created", b"")
        parts = store.multipart()
        parts.finish("a/parts", parts.begin("a/parts", 0, ""), {})
    finally:
        os.umask(before)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*"), tmp_path / "fetched", *(tmp_path / "fetched").rglob("*")]
    assert {mode(path) for path in made if path.is_file()} == {file}
    assert {mode(path) for path in made if path.is_dir()} == {folder}


def test_a_folder_that_is_shared_on_purpose_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shared in (("tmp", 0o1777), ("team", 0o2770)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(shared)
        private.make_folder(tmp_path / name)
        assert mode(tmp_path / name) == shared
    (tmp_path / "me").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "me").chmod(0o755)
    private.make_folder(tmp_path / "me")
    assert mode(tmp_path / "me") == 0o755


def test_a_private_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "note").symlink_to(tmp_path / "victim")
    private.write_text(tmp_path / "note", "token")
    assert (tmp_path / "victim").read_text() == "kept"
    assert ((tmp_path / "note").read_text(), mode(tmp_path / "note")) == ("token", 0o600)


def test_a_private_file_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    private.write_text(tmp_path / "note", "token")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            private.write_text(tmp_path / "note", "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    assert (tmp_path / "note").read_text() == "token"
