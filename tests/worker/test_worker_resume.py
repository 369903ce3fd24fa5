import hashlib
import json
import os
import re
import sys
from pathlib import Path

import pytest

from cloud_train.run import layout
from cloud_train.run.checkpoints import publish
from cloud_train.run.manifest import verify
from cloud_train.run.ranking import Ranking
from cloud_train.run.states import Cause, State
from tests.support import wait_until
from tests.worker.launching import QUICK, Launched

SAVES_CHECKPOINTS = """
save() {
    mkdir "$CLOUD_TRAIN_CHECKPOINTS/.step-$1.tmp"
    echo "weights of $1" > "$CLOUD_TRAIN_CHECKPOINTS/.step-$1.tmp/weights"
    mv "$CLOUD_TRAIN_CHECKPOINTS/.step-$1.tmp" "$CLOUD_TRAIN_CHECKPOINTS/step-$1"
}
"""


def checkpoint(launched: Launched, step: int) -> Path:
    folder = launched.directory / "checkpoints"
    temporary = folder / f".step-{step}.tmp"
    temporary.mkdir(parents=True)
    (temporary / "weights").write_text(f"weights of {step}")
    return publish(temporary, folder, step)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_first_attempt_starts_afresh(launched: Launched) -> None:
    launched.shell('echo "<$CLOUD_TRAIN_RESUME>"')
    assert launched.run().resumed_step is None
    assert launched.output() == b"<>\n"


def test_a_second_attempt_gets_the_newest_checkpoint(launched: Launched) -> None:
    launched.shell('cat "$CLOUD_TRAIN_RESUME/weights"')
    checkpoint(launched, 1)
    checkpoint(launched, 1200)
    assert launched.run(attempt=2).resumed_step == 1200
    assert launched.output(2) == b"weights of 1200"
    assert "resuming from step 1200" in launched.worker_log(2)


SAVES_BY_NAME = """
import os
from pathlib import Path
checkpoints = Path(os.environ["CLOUD_TRAIN_CHECKPOINTS"])
(checkpoints / ".new").mkdir()
(checkpoints / ".new" / "weights").write_text("weights")
(checkpoints / ".new").rename(checkpoints / f"step-{os.environ['CLOUD_TRAIN_ATTEMPT']}")
"""
SAVES_BY_API = """
from cloud_train.worker.api import Run
run = Run.from_environment()
with run.checkpoint(run.attempt, fingerprint={"own": 1}) as folder:
    (folder / "weights").write_text("weights")
(run.model / "weights").write_text("weights")
run.publish_model()
"""
SAVES_AS_OTHERS = """
import os
from pathlib import Path
(Path(os.environ["CLOUD_TRAIN_CHECKPOINTS"]) / "epoch=0-step=1.ckpt").write_bytes(b"PK\\5\\6" + bytes(18))
"""


@pytest.mark.parametrize("code", [SAVES_BY_NAME, SAVES_BY_API, SAVES_AS_OTHERS], ids=["by name", "by the API", "as others"])
def test_a_script_s_checkpoint_names_its_code_and_other_code_is_noted(launched: Launched, code: str) -> None:
    launched.python(code)
    launched.run()
    [manifest] = (launched.directory / "checkpoints").glob("*/manifest.json")
    recorded = json.loads(manifest.read_text())["fingerprint"]["code"]
    assert recorded["files"] == {"program.py": hashlib.sha256(code.encode()).hexdigest()}
    launched.run(attempt=2)
    assert "the code differs" not in launched.worker_log(2)
    (launched.work / "new.py").write_text("")  # which a program may have written
    (launched.work / "program.py").write_text(f"{code}# changed")
    launched.run(attempt=3)
    assert re.search(r"the code differs from that of checkpoint step-0*[12] of attempt [12]: program\.py\n", launched.worker_log(3))
    if code == SAVES_BY_API:
        model = json.loads((launched.directory / "model" / "manifest.json").read_text())["fingerprint"]["code"]
        assert set(model["files"]) == {"program.py", "new.py"}
        assert json.loads(manifest_of(launched, 3).read_text())["fingerprint"]["own"] == 1


def manifest_of(launched: Launched, attempt: int) -> Path:
    return max((launched.directory / f"checkpoints-{attempt}").glob("step-*/manifest.json"))


def test_a_store_and_a_job_file_beside_the_code_are_no_code(launched: Launched) -> None:
    launched.work = launched.store
    launched.store.mkdir(exist_ok=True)
    launched.python(SAVES_BY_NAME)
    launched.run()
    [manifest] = (launched.directory / "checkpoints").glob("*/manifest.json")
    assert list(json.loads(manifest.read_text())["fingerprint"]["code"]["files"]) == ["program.py"]


def test_the_code_in_an_image_is_what_the_run_recorded(launched: Launched) -> None:
    launched.python(SAVES_BY_NAME)
    path = launched.directory / layout.RUN
    record = json.loads(path.read_text())
    record["plan"]["image"] = "registry.example/job@sha256:00"
    record["provenance"]["code"] = {"sha256": "ab" * 32, "commit": "cd" * 20, "is_modified": True, "files": {"train.py": "ef" * 32}}
    path.write_text(json.dumps(record))
    launched.run()
    [manifest] = (launched.directory / "checkpoints").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["fingerprint"]["code"] == record["provenance"]["code"]
    record["provenance"]["code"] = {"sha256": "00" * 32, "commit": "12" * 20, "is_modified": False, "files": {"train.py": "ef" * 32}}
    path.write_text(json.dumps(record))
    launched.run(attempt=2)
    assert "the code differs" not in launched.worker_log(2), "no file of it does"
    record["provenance"]["code"] |= {"sha256": "11" * 32, "files": {}}
    path.write_text(json.dumps(record))
    launched.run(attempt=3)
    assert "of attempt 2: train.py is missing\n" in launched.worker_log(3)


def test_a_damaged_checkpoint_is_passed_over_and_the_journal_says_why(launched: Launched) -> None:
    launched.shell('cat "$CLOUD_TRAIN_RESUME/weights"')
    checkpoint(launched, 1)
    (checkpoint(launched, 2) / "weights").write_text("weights of 3")
    assert launched.run(attempt=2).resumed_step == 1
    assert launched.output(2) == b"weights of 1"
    assert "skipped checkpoint step-00000002" in launched.worker_log(2)
    assert "SHA-256 differs" in launched.worker_log(2)


def test_the_place_of_a_damaged_checkpoint_is_free_for_the_program_to_come(launched: Launched) -> None:
    launched.shell(SAVES_CHECKPOINTS + "save 00000002")
    checkpoint(launched, 1)
    (checkpoint(launched, 2) / "weights").unlink()
    launched.run(attempt=2)
    checkpoints = launched.directory / "checkpoints-2"
    assert names(checkpoints) == [".passed-over-step-00000002", "step-00000001", "step-00000002"]
    assert not (launched.directory / "checkpoints").exists()
    assert (checkpoints / "step-00000002" / "weights").read_text() == "weights of 00000002\n"
    verify(checkpoints / "step-00000002")


def test_what_an_earlier_attempt_was_still_writing_is_deleted(launched: Launched) -> None:
    launched.job("true")
    checkpoint(launched, 1)
    half = launched.directory / "checkpoints" / ".step-00000002.4711.tmp"
    half.mkdir()
    (half / "weights").write_text("half")
    launched.run(attempt=2)
    assert names(launched.directory / "checkpoints-2") == ["step-00000001"]
    assert not (launched.directory / "checkpoints").exists()


def test_checkpoints_of_a_script_are_sealed_while_it_runs(launched: Launched) -> None:
    launched.shell(SAVES_CHECKPOINTS + "save 5; read line < go")
    os.mkfifo(launched.work / "go")
    worker = launched.start()
    folder = launched.directory / "checkpoints" / "step-5"
    wait_until((folder / "manifest.json").exists, "the checkpoint is sealed")
    assert verify(folder).step == 5
    (launched.work / "go").write_text("go\n")
    assert worker.wait(30) == 0
    assert "sealed checkpoint step-5" in launched.worker_log()


def test_the_last_checkpoint_of_a_script_is_sealed_at_its_end_and_old_ones_are_deleted(launched: Launched) -> None:
    launched.shell(SAVES_CHECKPOINTS + "for step in 1 2 3 4 5; do save $step; done; exit 1", keep_checkpoints=2)
    launched.run()
    checkpoints = launched.directory / "checkpoints"
    assert names(checkpoints) == ["step-4", "step-5"]
    assert verify(checkpoints / "step-5").step == 5
    assert launched.run(attempt=2).resumed_step == 5


def test_a_folder_with_a_temporary_name_is_never_sealed(launched: Launched) -> None:
    launched.shell('mkdir "$CLOUD_TRAIN_CHECKPOINTS/.step-9.tmp"; echo half > "$CLOUD_TRAIN_CHECKPOINTS/.step-9.tmp/weights"; sleep 0.3')
    launched.run()
    assert names(launched.directory / "checkpoints" / ".step-9.tmp") == ["weights"]


def test_an_unsealed_checkpoint_of_an_earlier_attempt_is_not_trusted(launched: Launched) -> None:
    launched.shell('echo "<$CLOUD_TRAIN_RESUME>"')
    folder = launched.directory / "checkpoints" / "step-7"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("never synced")
    launched.run(attempt=2)
    assert launched.output(2) == b"<>\n"
    assert names(launched.directory / "checkpoints") == ["step-7"]
    assert names(launched.directory / "checkpoints-2") == []
    assert "manifest.json is missing" in launched.worker_log(2)


def test_a_checkpoint_that_cannot_be_sealed_is_noted_and_does_not_stop_the_run(launched: Launched) -> None:
    launched.shell('mkdir "$CLOUD_TRAIN_CHECKPOINTS/step-1"; ln -s /etc/passwd "$CLOUD_TRAIN_CHECKPOINTS/step-1/weights"')
    assert launched.run().cause is Cause.SUCCEEDED
    assert "'weights' is not a regular file" in launched.worker_log()


def test_the_model_of_a_script_is_sealed_when_it_ends_well(launched: Launched) -> None:
    launched.shell('echo weights > "$CLOUD_TRAIN_MODEL/weights"')
    launched.run()
    assert verify(launched.directory / "model").step is None


def test_a_manifest_of_an_earlier_attempt_is_replaced_if_the_model_is_another_one_by_now(launched: Launched) -> None:
    launched.shell('echo "of attempt $CLOUD_TRAIN_ATTEMPT" > "$CLOUD_TRAIN_MODEL/weights"')
    launched.run()
    launched.run(attempt=2)  # as after a worker that was lost between the seal and its end
    assert (launched.directory / "model" / "weights").read_text() == "of attempt 2\n"
    assert verify(launched.directory / "model").attempt == 2


def test_a_manifest_of_an_earlier_attempt_stays_if_the_model_is_the_same(launched: Launched) -> None:
    launched.shell('[ "$CLOUD_TRAIN_ATTEMPT" = 2 ] || echo weights > "$CLOUD_TRAIN_MODEL/weights"')
    launched.run()
    launched.run(attempt=2)
    assert verify(launched.directory / "model").attempt == 1


def test_an_attempt_that_leaves_no_model_succeeds_with_what_the_one_before_had_left(launched: Launched) -> None:
    launched.shell("true")
    for attempt in (1, 2):
        left = launched.directory / layout.unfinished_model(attempt)
        left.mkdir(parents=True)
        (left / "weights").write_text(f"of attempt {attempt}")
    launched.run(attempt=3)
    assert names(launched.directory / "model") == ["manifest.json", "weights"]
    assert (launched.directory / "model" / "weights").read_text() == "of attempt 2"
    assert not any(launched.directory.glob("model-*"))


def test_the_model_of_a_script_that_fails_is_not_sealed(launched: Launched) -> None:
    launched.shell('echo weights > "$CLOUD_TRAIN_MODEL/weights"; exit 1')
    launched.run()
    assert names(launched.directory / "model-1") == ["weights"]
    assert not (launched.directory / "model").exists()


def test_a_model_that_cannot_be_sealed_is_a_failure_that_says_so(launched: Launched) -> None:
    launched.shell('ln -s /etc/passwd "$CLOUD_TRAIN_MODEL/weights"')
    status = launched.run()
    assert status.cause is Cause.FAILED
    assert "its model cannot be completed" in status.message


def test_a_stop_while_checkpoints_are_being_read_ends_the_attempt_before_the_program_starts(launched: Launched) -> None:
    launched.job("echo", "started")
    folder = checkpoint(launched, 1)
    with (folder / "weights").open("wb") as file:
        file.truncate(20 << 30)  # takes long to read, and no space
    described = json.loads((folder / "manifest.json").read_text())
    described["files"]["weights"]["size"] = 20 << 30
    (folder / "manifest.json").write_text(json.dumps(described))
    worker = launched.start(attempt=2)
    wait_until(lambda: launched.is_in(State.STARTING, 2), "the attempt is claimed")
    first = launched.status(2).heartbeat
    wait_until(lambda: launched.status(2).heartbeat > first, "it gives a sign of life meanwhile")
    worker.terminate()
    worker.wait(30)
    assert launched.ended_with(Cause.PREEMPTED, 2)
    assert launched.status(2).message == "told to stop before the program started"
    assert launched.output(2) == b""


def test_the_program_finds_the_contract_in_its_environment_and_nothing_stale(launched: Launched) -> None:
    launched.python(
        "import json, os\nprint(json.dumps(dict(os.environ)))",
        environment={"OMP_NUM_THREADS": "2", "CLOUD_TRAIN_RUN_ID": "a lie"},
        data="/data/images",
        keep_checkpoints=7,
        ranking=Ranking("validation/loss", keep=2),
        grace_seconds=2.5,
    )
    launched.run(environment={"CLOUD_TRAIN_STALE": "1", "OMP_NUM_THREADS": "9", "SECRET": "value"})
    found = json.loads(launched.output())
    directory = launched.directory
    contract = {name: value for name, value in found.items() if name.startswith("CLOUD_TRAIN_")}
    assert contract == {
        "CLOUD_TRAIN_HOME": str(launched.home),
        "CLOUD_TRAIN_RUN_ID": directory.name,
        "CLOUD_TRAIN_ATTEMPT": "1",
        "CLOUD_TRAIN_JOB": str(directory / "run.json"),
        "CLOUD_TRAIN_JOB_SHA256": hashlib.sha256((directory / "run.json").read_bytes()).hexdigest(),
        "CLOUD_TRAIN_CHECKPOINTS": str(directory / "checkpoints"),
        "CLOUD_TRAIN_RESUME": "",
        "CLOUD_TRAIN_MODEL": str(directory / "model-1"),
        "CLOUD_TRAIN_METRICS": str(directory / "attempts/1/metrics/node-0.jsonl"),
        "CLOUD_TRAIN_DATA": "/data/images",
        "CLOUD_TRAIN_FAILURE": str(directory / "attempts/1/failure"),
        "CLOUD_TRAIN_GRACE_SECONDS": "2.5",
        "CLOUD_TRAIN_NODE_RANK": "0",
        "CLOUD_TRAIN_NODES": "1",
        "CLOUD_TRAIN_KEEP_CHECKPOINTS": "7",
        "CLOUD_TRAIN_BEST": "2:validation/loss:min",
    }
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["SECRET"] == "value"


def test_a_program_without_data_gets_a_folder_for_downloads(launched: Launched) -> None:
    launched.job(sys.executable, "-c", "import os; os.listdir(os.environ['CLOUD_TRAIN_DATA'])")
    assert launched.run(timing=QUICK).cause is Cause.SUCCEEDED
    assert (launched.home / "data").is_dir()
