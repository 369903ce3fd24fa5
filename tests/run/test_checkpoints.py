import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.checkpoints import best, newest_valid, prune, publish
from cloud_train.run.manifest import LARGEST, read_manifest, verify, write_manifest
from tests.support import wait_until
from tests.worker.small_disk import fill, small_disk


def save(checkpoints: Path, step: int, content: bytes = b"weights", **metrics: float) -> Path:
    temporary = checkpoints / f".step-{step}.tmp"
    (temporary / "deeper").mkdir(parents=True)
    (temporary / "model.bin").write_bytes(content)
    (temporary / "deeper" / "state.bin").write_bytes(content * 2)
    return publish(temporary, checkpoints, step, {name.replace("_", "/"): value for name, value in metrics.items()}, {"device": "cpu"})


def steps(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.iterdir())


def nothing_to_note(line: str) -> None:
    raise AssertionError(line)


def test_a_published_checkpoint_is_found_and_every_byte_of_it_is_in_its_manifest(tmp_path: Path) -> None:
    folder = save(tmp_path, 1200, validation_accuracy=0.98)
    assert folder == tmp_path / "step-00001200" == newest_valid(tmp_path, nothing_to_note)
    manifest = verify(folder)
    assert manifest.step == 1200
    assert manifest.metrics == {"validation/accuracy": 0.98}
    assert manifest.fingerprint == {"device": "cpu"}
    assert {name: entry.size for name, entry in manifest.files.items()} == {"model.bin": 7, "deeper/state.bin": 14}
    assert steps(tmp_path) == ["step-00001200"]


def test_a_folder_that_does_not_exist_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "none", nothing_to_note) is None
    assert best(tmp_path / "none") is None
    assert prune(tmp_path / "none", keep=1) == []


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.bin").read_bytes())
    data[3] ^= 1
    (folder / "model.bin").write_bytes(data)


def lose_a_file(folder: Path) -> None:
    (folder / "deeper" / "state.bin").unlink()


def cut_the_manifest(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def grow_the_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", LARGEST + 1)


def rename_the_folder(folder: Path) -> None:
    folder.rename(folder.with_name("step-00000003"))


def replace_a_file_by_a_link(folder: Path) -> None:
    shutil.move(folder / "model.bin", folder.parent / "elsewhere")
    (folder / "model.bin").symlink_to(folder.parent / "elsewhere")


def replace_a_folder_by_a_link(folder: Path) -> None:
    shutil.move(folder / "deeper", folder.parent / "elsewhere")
    (folder / "deeper").symlink_to(folder.parent / "elsewhere")


def replace_a_file_by_a_pipe(folder: Path) -> None:
    (folder / "model.bin").unlink()
    os.mkfifo(folder / "model.bin")


def replace_the_manifest_by_a_folder(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "SHA-256 differs"),
        (lose_a_file, "deeper/state.bin is missing"),
        (cut_the_manifest, "manifest.json is not a manifest"),
        (lose_the_manifest, "manifest.json is missing"),
        (grow_the_manifest, "bytes; the limit is"),
        (rename_the_folder, "is for step 2"),
        (replace_a_file_by_a_link, "model.bin is a link"),
        (replace_a_folder_by_a_link, "deeper is a link"),
        (replace_a_file_by_a_pipe, "model.bin is a named pipe"),
        (replace_the_manifest_by_a_folder, "manifest.json is a folder"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_the_note_says_why(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    damage(bad)
    notes: list[str] = []
    assert newest_valid(tmp_path, notes.append) == good
    assert len(notes) == 1
    assert notes[0].startswith("skipped checkpoint step-0000000")
    assert reason in notes[0]


def test_a_link_in_place_of_a_checkpoint_folder_is_no_checkpoint(tmp_path: Path) -> None:
    real = save(tmp_path / "elsewhere", 5)
    (tmp_path / "step-00000005").symlink_to(real)
    assert newest_valid(tmp_path, nothing_to_note) is None


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret", "a/../b", "a//b", "", ".", "a\\b", "a\0b", "manifest.json", "a\nb"])
def test_a_manifest_that_names_something_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    entry = {"size": 0, "sha256": "0" * 64}
    content = {"format": 1, "step": 1, "metrics": {}, "fingerprint": {}, "files": {name: entry}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CorruptError, match=r"is not a valid file name|not a manifest"):
        read_manifest(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
manifests = st.fixed_dictionaries(
    {},
    optional={
        "format": st.just(1) | json_values,
        "step": st.integers() | json_values,
        "metrics": st.dictionaries(st.text(), st.floats()) | json_values,
        "fingerprint": json_values,
        "files": st.dictionaries(st.text(), st.fixed_dictionaries({"size": json_values, "sha256": st.just("a" * 64) | json_values}))
        | json_values,
    },
)


@pytest.mark.slow
@given(st.binary(max_size=300) | manifests.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 100_000))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_manifest_or_a_located_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "manifest.json").write_bytes(data)
        refused: str | None = None
        try:
            read_manifest(Path(name))
        except CorruptError as error:
            refused = error.message
        assert refused is None or name in refused


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_flipped_bit_of_a_saved_file_goes_unseen(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = save(Path(name), 7, content=bytes(range(50)))
        victim = folder / data.draw(st.sampled_from(["model.bin", "deeper/state.bin", "manifest.json"]))
        content = bytearray(victim.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        before = verify(folder)
        victim.write_bytes(content)
        try:
            after = verify(folder)
        except CorruptError:
            return
        assert victim.name == "manifest.json"  # then what the manifest says beside the files has changed: a metric, say
        assert after.files == before.files


def test_a_step_that_is_saved_again_replaces_what_was_there(tmp_path: Path) -> None:
    flip_a_byte(save(tmp_path, 1))
    save(tmp_path, 1, content=b"second", validation_loss=0.5)
    assert steps(tmp_path) == ["step-00000001"]
    assert verify(tmp_path / "step-00000001").metrics == {"validation/loss": 0.5}
    assert (tmp_path / "step-00000001" / "model.bin").read_bytes() == b"second"


def test_metrics_that_are_not_finite_are_left_out_of_the_manifest(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, validation_loss=float("nan"), validation_accuracy=0.5)
    assert verify(folder).metrics == {"validation/accuracy": 0.5}


@pytest.mark.parametrize("step", [-1, 10**17])
def test_a_step_that_no_folder_name_can_hold_is_refused(tmp_path: Path, step: int) -> None:
    with pytest.raises(ValueError, match="a step is a number"):
        save(tmp_path, step)


def test_a_folder_with_a_link_in_it_is_not_sealed(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="'latest' is not a regular file"):
        write_manifest(tmp_path, step=1)
    assert not (tmp_path / "manifest.json").exists()


def test_an_empty_folder_is_not_sealed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no files"):
        write_manifest(tmp_path, step=1)


def test_a_file_that_is_still_being_written_is_not_sealed(tmp_path: Path) -> None:
    done = threading.Event()

    def keep_writing() -> None:
        with (tmp_path / "weights.bin").open("ab", buffering=0) as file:
            file.truncate(8 << 20)
            while not done.is_set():
                file.write(b"more")

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        wait_until(lambda: (tmp_path / "weights.bin").exists() and (tmp_path / "weights.bin").stat().st_size > 8 << 20, "it grows")
        with pytest.raises(StoreError, match=r"'weights\.bin' is still being written"):
            write_manifest(tmp_path, step=1)
    finally:
        done.set()
        writer.join()
    assert write_manifest(tmp_path, step=1).files


CRASHING_PUBLISHER = """
import os, shutil, signal, sys
from pathlib import Path
from cloud_train.errors import CorruptError
from cloud_train.run.checkpoints import newest_valid, prune, publish
from cloud_train.run.manifest import verify

root = Path(sys.argv[1])
DISK = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir"}

def fill(checkpoints, step, content):
    temporary = checkpoints / f".step-{step}.tmp"
    temporary.mkdir()
    for name in "abc":
        (temporary / name).write_bytes(content)
    return temporary

def crash_before_touching_the_disk_for_the(number):
    left = number
    def hook(event, arguments):
        nonlocal left
        if event in DISK:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

start = root / "start"
start.mkdir()
for step in (1, 2, 3):
    publish(fill(start, step, b"old"), start, step)
number = 0
while True:
    checkpoints = root / str(number)
    shutil.copytree(start, checkpoints)
    again, new = fill(checkpoints, 3, b"newer"), fill(checkpoints, 4, b"newest")
    child = os.fork()
    if child == 0:
        crash_before_touching_the_disk_for_the(number)
        publish(again, checkpoints, 3)
        publish(new, checkpoints, 4)
        prune(checkpoints, keep=1, trusted=checkpoints / "step-00000004")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    for folder in checkpoints.glob("step-*"):
        verify(folder)
    newest = newest_valid(checkpoints, print)
    assert newest is not None and verify(newest).step >= 3, newest
    shutil.rmtree(checkpoints)
    number += 1
    if status == 0:
        break
print(number, "crashes")
"""


@pytest.mark.slow
def test_a_kill_before_any_single_touch_of_the_disk_leaves_only_valid_checkpoints(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRASHING_PUBLISHER, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    crashes, word = done.stdout.split()
    assert word == "crashes"
    assert int(crashes) > 50


ENDLESS_PUBLISHER = """
import sys
from pathlib import Path
from cloud_train.run.checkpoints import newest_valid, prune, publish
from cloud_train.run.layout import step_of

checkpoints = Path(sys.argv[1])
newest = newest_valid(checkpoints, print)
step = step_of(newest.name) if newest else 0
while True:
    temporary = checkpoints / f".step-{step}.tmp"
    temporary.mkdir(exist_ok=True)
    for number in range(3):
        (temporary / f"part-{number}").write_bytes(bytes(step % 256 for _ in range(100_000)))
    prune(checkpoints, 2, trusted=publish(temporary, checkpoints, step))
    step += 1
"""


def test_a_publisher_killed_at_any_moment_loses_nothing_that_it_had_published(tmp_path: Path) -> None:
    moments = random.Random(20261123)
    newest = -1
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", ENDLESS_PUBLISHER, str(tmp_path)])
        try:
            wait_until((tmp_path / f"step-{newest + 1:08d}").exists, "the next checkpoint is there")
            time.sleep(moments.uniform(0, 0.06))  # not a wait: it is the moment of the kill
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for folder in tmp_path.glob("step-*"):
            verify(folder)
        found = newest_valid(tmp_path, nothing_to_note)
        assert found is not None
        step = verify(found).step
        assert step is not None
        assert step > newest
        newest = step


def test_a_full_disk_leaves_no_new_checkpoint_and_the_old_one_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        old = save(disk, 1)
        temporary = disk / ".step-2.tmp"
        temporary.mkdir()
        (temporary / "model.bin").write_bytes(bytes(1000))
        ballast = fill(disk)
        with pytest.raises(StoreError, match="no space left on device") as caught:
            publish(temporary, disk, 2)
        assert caught.value.hint
        assert newest_valid(disk, nothing_to_note) == old
        assert steps(disk) == [".step-2.tmp", "ballast", "step-00000001"]
        assert steps(temporary) == ["model.bin"]
        ballast.unlink()
        assert newest_valid(disk, nothing_to_note) == old
        assert publish(temporary, disk, 2) == newest_valid(disk, nothing_to_note)


LIMITED_PUBLISHER = """
import resource, sys
from pathlib import Path
from cloud_train.errors import StoreError
from cloud_train.run.checkpoints import publish

checkpoints = Path(sys.argv[1])
temporary = checkpoints / ".step-2.tmp"
temporary.mkdir()
(temporary / "model.bin").write_bytes(bytes(100))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    publish(temporary, checkpoints, 2)
except StoreError as error:
    print(error.message)
"""


def test_a_manifest_that_cannot_be_written_whole_leaves_no_checkpoint(tmp_path: Path) -> None:
    old = save(tmp_path, 1)
    done = subprocess.run([sys.executable, "-c", LIMITED_PUBLISHER, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot seal" in done.stdout
    assert "file too large" in done.stdout
    assert newest_valid(tmp_path, nothing_to_note) == old
    assert steps(tmp_path / ".step-2.tmp") == ["model.bin"]


def test_pruning_keeps_the_newest_and_the_best_and_does_not_count_incomplete_ones(tmp_path: Path) -> None:
    for step, accuracy in enumerate([0.5, 0.9, 0.7, 0.6, 0.8], start=1):
        save(tmp_path, step, validation_accuracy=accuracy)
    (tmp_path / "step-00000006").mkdir()
    lose_a_file(tmp_path / "step-00000005")
    deleted = prune(tmp_path, keep=2)
    assert sorted(path.name for path in deleted) == ["step-00000001"]
    assert steps(tmp_path) == [f"step-0000000{step}" for step in (2, 3, 4, 5, 6)]


@given(damaged=st.lists(st.booleans(), min_size=1, max_size=6), keep=st.integers(0, 4), best_step=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_pruning_never_deletes_the_last_valid_checkpoint(damaged: list[bool], keep: int, best_step: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        checkpoints = Path(name)
        for step, is_damaged in enumerate(damaged, start=1):
            folder = save(checkpoints, step, validation_loss=0.0 if step == best_step else 1.0)
            if is_damaged:
                flip_a_byte(folder)
        before = newest_valid(checkpoints, lambda _: None)
        prune(checkpoints, keep)
        after = newest_valid(checkpoints, lambda _: None)
        assert (before is None) == (after is None)


def test_the_best_checkpoint_has_the_highest_accuracy_or_else_the_lowest_loss_or_else_is_the_newest(tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    assert best(tmp_path) == newest
    low = save(tmp_path, 3, validation_loss=0.2)
    save(tmp_path, 4, validation_loss=0.3)
    assert best(tmp_path) == low
    right = save(tmp_path, 5, validation_accuracy=0.9, validation_loss=0.9)
    save(tmp_path, 6, validation_accuracy=0.8, validation_loss=0.1)
    assert best(tmp_path) == right
    newer = save(tmp_path, 7, validation_accuracy=0.9, validation_loss=0.9)
    assert best(tmp_path) == newer


def test_a_kill_in_the_middle_of_replacing_a_checkpoint_leaves_the_old_one_under_its_second_name(tmp_path: Path) -> None:
    save(tmp_path, 5).rename(tmp_path / "step-000000000000000005")
    assert newest_valid(tmp_path, nothing_to_note) == tmp_path / "step-000000000000000005"
    assert save(tmp_path, 5, content=b"new") == newest_valid(tmp_path, nothing_to_note)
    assert steps(tmp_path) == ["step-00000005"]
