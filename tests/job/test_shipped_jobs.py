import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from cloud_train.cli.main import main
from cloud_train.job.config import load_config
from cloud_train.job.document import read_document
from cloud_train.job.loading import load_job
from cloud_train.job.schema import job_schema
from cloud_train.job.settings import AwsSettings, AzureSettings, CloudSettings, GcpSettings
from tests.job.test_job_schema import plain
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))


@pytest.fixture(scope="module")
def fresh_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The jobs as they are shipped, without anything that somebody may have put beside them."""

    def data_beside_the_jobs(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) == ROOT / "jobs" and name.endswith((".tsv", ".txt"))]

    return Path(shutil.copytree(ROOT / "jobs", tmp_path_factory.mktemp("clone") / "jobs", ignore=data_beside_the_jobs))


@pytest.mark.parametrize("job", JOBS, ids=[job.stem for job in JOBS])
def test_every_shipped_job_loads_and_fits_the_schema(job: Path) -> None:
    assert load_job(job, absent_data_is_fine=True).spec.name == job.stem
    jsonschema.validate(plain(read_document(job).data), job_schema())


@pytest.mark.parametrize("job", JOBS, ids=[job.stem for job in JOBS])
def test_every_shipped_job_is_dry_runnable_on_a_fresh_clone(
    job: Path, fresh_clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(fresh_clone / "home"))
    assert main(["submit", str(fresh_clone / job.name), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert f"name {' ' * 3}" in shown.out
    assert job.stem in shown.out
    assert not shown.err
    assert not (fresh_clone / "home").exists()


def test_there_is_a_job_of_every_kind_and_of_every_data_set() -> None:
    specs = [load_job(job, absent_data_is_fine=True).spec for job in JOBS]
    assert {spec.model.kind for spec in specs} == {"cnn", "rnn", "script"}
    assert {spec.data.dataset for spec in specs if spec.data} == {
        *("digits", "mnist", "cifar10", "images", "python-docs", "text", "sequences", "series")
    }


def test_the_residual_nets_are_those_of_the_papers() -> None:
    # 11.17 million parameters for CIFAR-10's ResNet-18 with its small stem, 25.56 million for ImageNet's ResNet-50.
    layers = {
        name: load_job(ROOT / "jobs" / f"{name}.yaml", absent_data_is_fine=True).layers for name in ("cifar10-cnn", "imagenet-resnet50")
    }
    assert {name: sum(layer.parameters for layer in inside) for name, inside in layers.items()} == {
        "cifar10-cnn": 11_173_962,
        "imagenet-resnet50": 25_557_032,
    }


def test_the_review_that_a_comment_shows_is_in_the_format_that_the_job_reads(tmp_path: Path) -> None:
    text = (ROOT / "jobs" / "sentiment-rnn.yaml").read_text(encoding="utf-8")
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    (tmp_path / "reviews.tsv").write_text("\n".join(lines * 10) + "\n", encoding="utf-8")
    data = load_job(tmp_path / "job.yaml").data
    assert data
    assert (data.classes, data.train_samples, data.validation_samples) == (2, 18, 2)


def test_the_shipped_cnn_is_the_classic_net() -> None:
    assert sum(layer.parameters for layer in load_job(ROOT / "jobs" / "digits-cnn.yaml").layers) == 34_826


def test_every_shipped_config_loads() -> None:
    for file in (ROOT / "configs").glob("*.yaml"):
        load_config(file)
    assert load_config(ROOT / "configs" / "local.yaml").provider == "local"


@pytest.mark.parametrize(("name", "settings"), [("aws", AwsSettings), ("gcp", GcpSettings), ("azure", AzureSettings)])
def test_the_config_of_a_cloud_has_every_setting_there_is_and_what_is_commented_out_is_valid_too(
    name: str, settings: type[CloudSettings], tmp_path: Path
) -> None:
    text = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    (tmp_path / "all.yaml").write_text(re.sub(r"^  # (?=[a-z_]+: )", "  ", text, flags=re.MULTILINE), encoding="utf-8")
    load_config(tmp_path / "all.yaml")
    section = plain(read_document(tmp_path / "all.yaml").data)[name]
    assert section.keys() == settings.model_fields.keys()
    settings.model_validate_json(json.dumps(section))


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
