"""Checkpoints under the names of other frameworks, with real workers."""

import json
import zipfile
from pathlib import Path

import pytest

from cloud_train.run.manifest import verify
from cloud_train.run.states import Cause, State
from cloud_train.worker.attempts.foreign import is_named_like_one, number_in
from tests.support import wait_until
from tests.worker.launching import Launched

SAVES = """
import os, time, zipfile
from pathlib import Path

checkpoints = Path(os.environ["CLOUD_TRAIN_CHECKPOINTS"])

def save(name, text):
    path = checkpoints / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:  # the form of torch.save
        archive.writestr("data", text)

def load(name):
    path = checkpoints / name
    return zipfile.ZipFile(path).read("data").decode() if path.exists() else "nothing"

def log(step):
    with open(os.environ["CLOUD_TRAIN_METRICS"], "a") as file:
        file.write('{"step": %d, "loss": 0.5}\\n' % step)
"""


def sealed(launched: Launched, attempt: int = 1) -> list[str]:
    folder = launched.directory / ("checkpoints" if attempt == 1 else f"checkpoints-{attempt}")
    return sorted(path.name for path in folder.glob("step-*"))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("epoch=3-step=30.ckpt", 30),
        ("epoch=3.ckpt", 3),
        ("epoch=3-val_loss=0.25.ckpt", 3),
        ("last.ckpt", None),
        ("last-v1.ckpt", None),
        ("checkpoint.pth.tar", None),
        ("last.pt", None),
        ("epoch_12.pth", 12),
        ("model_epoch_3.pt", 3),
        ("ckpt_100.pt", 100),
        ("resnet18.pt", None),
        ("model_rank_0.pt", None),
        ("weights.03-0.25.keras", 3),
        ("model.weights.h5", None),
        ("model_7.weights.h5", 7),
    ],
)
def test_the_usual_names_are_recognised_with_their_step_or_epoch(name: str, number: int | None) -> None:
    assert is_named_like_one(name)
    assert number_in(name) == number


@pytest.mark.parametrize("name", ["last.pt.tmp", ".last.pt", "last.tmp.pt", "tmp_last.pt", "notes.txt", "model.pt.part", "model.part.ckpt"])
def test_names_used_while_writing_are_not(name: str) -> None:
    assert not is_named_like_one(name)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=3-step=30.ckpt", 30),
        ("lightning_logs/version_0/checkpoints/epoch=3-step=30.ckpt", 30),
        ("epoch_12.pth", 12),
        ("model_epoch_3.pt", 3),
        ("ckpt_100.pt", 100),
        ("model-5.keras", 5),
        ("last.pt", 77),
        ("last.ckpt", 77),
        ("checkpoint.pth.tar", 77),
    ],
)
def test_a_checkpoint_of_another_framework_is_sealed_and_resumed_from_under_its_own_name(launched: Launched, name: str, step: int) -> None:
    launched.python(
        SAVES
        + f"name = {name!r}\nprint(load(name), os.path.basename(os.environ['CLOUD_TRAIN_RESUME']))\nlog(77)\nsave(name, 'weights')\nexit(1)"
    )
    launched.run()
    assert sealed(launched) == [f"step-{step:08d}"]
    folder = launched.directory / "checkpoints" / f"step-{step:08d}"
    assert list(verify(folder).files) == [name]
    assert (launched.directory / "checkpoints" / name).exists(), "the program's own file stays"
    assert "not kept as checkpoints" not in launched.worker_log()
    assert launched.run(attempt=2).resumed_step == step
    assert launched.output(2) == f"weights step-{step:08d}\n".encode()


def test_folders_of_the_hugging_face_trainer_are_sealed_once_they_have_their_state(launched: Launched) -> None:
    launched.python(
        SAVES
        + """
print((checkpoints / "checkpoint-40" / "trainer_state.json").exists())
save("checkpoint-40/optimizer.pt", "o")
(checkpoints / "checkpoint-40" / "trainer_state.json").write_text("{}")
save("checkpoint-50/optimizer.pt", "o")
exit(1)
"""
    )
    launched.run()
    assert "step-00000040" in sealed(launched)
    assert set(verify(launched.directory / "checkpoints" / "step-00000040").files) == {
        "checkpoint-40/optimizer.pt",
        "checkpoint-40/trainer_state.json",
    }
    launched.run(attempt=2)
    assert launched.output(2) == b"True\n"


def test_the_files_of_a_tensorflow_checkpoint_belong_together(launched: Launched) -> None:
    launched.shell(
        "cd $CLOUD_TRAIN_CHECKPOINTS; for name in ckpt-7.index ckpt-7.data-00000-of-00001 checkpoint; do echo $name > $name; done"
    )
    launched.run()
    assert set(verify(launched.directory / "checkpoints" / "step-00000007").files) == {
        "ckpt-7.index",
        "ckpt-7.data-00000-of-00001",
        "checkpoint",
    }


def test_a_file_that_is_written_over_is_sealed_while_the_program_runs_and_each_time_it_rests(launched: Launched) -> None:
    launched.python(
        SAVES
        + """
def wait(name):
    while not (Path(name)).exists():
        time.sleep(0.01)

print(load("last.pt"))
log(10); save("last.pt", "ten"); wait("go")
log(20); save("last.pt", "twenty"); wait("never")
"""
    )
    worker = launched.start()
    folder = launched.directory / "checkpoints"
    wait_until((folder / "step-00000010" / "manifest.json").exists, "the first is sealed")
    (launched.work / "go").touch()
    wait_until((folder / "step-00000020" / "manifest.json").exists, "the second is sealed")
    with zipfile.ZipFile(folder / "step-00000010" / "last.pt") as archive:
        assert archive.read("data") == b"ten"
    verify(folder / "step-00000010")
    worker.kill()
    worker.wait()
    (launched.work / "never").touch()
    launched.run(attempt=2)
    assert launched.output(2).startswith(b"twenty\n")


def test_without_metrics_files_without_a_number_are_counted(launched: Launched) -> None:
    launched.python(SAVES + "save('last.pt', str(len(load('last.pt'))))\nexit(1)")
    assert launched.run().cause is Cause.FAILED
    launched.run(attempt=2)
    assert sealed(launched, 2) == ["step-00000001", "step-00000002"]


def test_a_torn_file_is_never_sealed(launched: Launched) -> None:
    launched.python(SAVES + "save('last.pt', 'x' * 1000)\npath = checkpoints / 'last.pt'\npath.write_bytes(path.read_bytes()[:500])")
    launched.run()
    assert sealed(launched) == []
    assert "last.pt is not complete" in launched.worker_log()


def test_of_a_killed_program_only_files_count_that_are_seen_to_be_complete(launched: Launched) -> None:
    launched.python(SAVES + "save('epoch_1.pt', 'whole')\n(checkpoints / 'epoch_2.pt').write_text('who knows')\nos.kill(os.getpid(), 9)")
    launched.run()
    assert sealed(launched) == ["step-00000001"]


def test_only_the_newest_are_kept_and_the_programs_own_files_stay(launched: Launched) -> None:
    launched.python(SAVES + "for epoch in range(1, 6): save(f'epoch_{epoch}.pt', 'w')", keep_checkpoints=2)
    launched.run()
    assert sealed(launched) == ["step-00000004", "step-00000005"]
    assert len(list((launched.directory / "checkpoints").glob("*.pt"))) == 5


def test_a_program_that_makes_its_checkpoints_itself_decides_what_is_one(launched: Launched) -> None:
    launched.shell("cd $CLOUD_TRAIN_CHECKPOINTS; echo 1 > best_9.pt; mkdir .half; echo 1 > .half/w; mv .half step-1")
    launched.run()
    assert sealed(launched) == ["step-1"]
    assert "not kept as checkpoints, because of a name: 'best_9.pt'" in launched.worker_log()


def test_a_link_is_not_followed(launched: Launched, tmp_path: Path) -> None:
    (tmp_path / "secret.pt").write_text("secret")
    launched.shell(f"ln -s {tmp_path}/secret.pt $CLOUD_TRAIN_CHECKPOINTS/last.pt; ln -s {tmp_path} $CLOUD_TRAIN_CHECKPOINTS/checkpoint-4")
    assert launched.run().state is State.SUCCEEDED
    assert sealed(launched) == []


def test_what_an_epoch_names_after_a_higher_step_is_still_the_newest(launched: Launched) -> None:
    launched.python(SAVES + "log(500)\nprint(load('epoch_3.pt'))\nsave('best.pt', 'b')\nexit(1)")
    launched.run()
    launched.python(SAVES + "print(load('best.pt'))\nsave('epoch_3.pt', 'three')\nexit(1)")
    launched.run(attempt=2)
    assert sealed(launched, 2) == ["step-00000500", "step-00000501"]
    manifest = json.loads((launched.directory / "checkpoints-2" / "step-00000501" / "manifest.json").read_bytes())
    assert set(manifest["files"]) == {"best.pt", "epoch_3.pt"}
