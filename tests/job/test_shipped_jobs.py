import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from cloud_train.job.config import load_config
from cloud_train.job.document import read_document
from cloud_train.job.loading import load_job
from cloud_train.job.schema import job_schema
from tests.job.test_job_schema import plain
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("job", JOBS, ids=[job.stem for job in JOBS])
def test_every_shipped_job_loads_and_fits_the_schema(job: Path) -> None:
    assert load_job(job).spec.name == job.stem
    jsonschema.validate(plain(read_document(job).data), job_schema())


def test_there_is_a_job_of_every_kind() -> None:
    assert {load_job(job).spec.model.kind for job in JOBS} == {"cnn", "rnn", "script"}


def test_the_shipped_cnn_is_the_classic_net() -> None:
    assert sum(layer.parameters for layer in load_job(ROOT / "jobs" / "digits-cnn.yaml").layers) == 34_826


def test_every_shipped_config_loads() -> None:
    for file in (ROOT / "configs").glob("*.yaml"):
        load_config(file)
    assert load_config(ROOT / "configs" / "local.yaml").provider == "local"


def start(folder: Path, steps: int, resume: str = "") -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "STEPS": str(steps),
        "CLOUD_TRAIN_CHECKPOINTS": str(folder / "checkpoints"),
        "CLOUD_TRAIN_MODEL": str(folder / "model"),
        "CLOUD_TRAIN_METRICS": str(folder / "metrics.jsonl"),
        "CLOUD_TRAIN_RESUME": resume,
    }
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "jobs" / "script" / "train.py")]
    return subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL)


def test_the_shipped_script_finds_the_line_and_writes_what_the_contract_says(tmp_path: Path) -> None:
    assert start(tmp_path, 500).wait(60) == 0
    line = json.loads((tmp_path / "model" / "line.json").read_text())
    assert line["slope"] == pytest.approx(3, abs=0.05)
    assert line["intercept"] == pytest.approx(1, abs=0.05)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-500"]
    assert [json.loads(text)["step"] for text in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [100, 200, 300, 400, 500]


def test_the_shipped_script_stopped_and_resumed_ends_with_the_same_line(tmp_path: Path) -> None:
    stopped = start(tmp_path / "stopped", 10**9)
    try:
        wait_until((tmp_path / "stopped" / "checkpoints" / "step-500").exists, "the first checkpoint is there")
        stopped.send_signal(signal.SIGTERM)
        assert stopped.wait(60) == 143
    finally:
        stopped.kill()
        stopped.wait()
    checkpoints = tmp_path / "stopped" / "checkpoints"
    last = max(int(path.name.removeprefix("step-")) for path in checkpoints.iterdir())
    assert start(tmp_path / "stopped", last + 100, str(checkpoints / f"step-{last}")).wait(60) == 0
    assert start(tmp_path / "whole", last + 100).wait(60) == 0
    models = [(tmp_path / name / "model" / "line.json").read_bytes() for name in ("stopped", "whole")]
    assert models[0] == models[1]
