from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cloud_train.job.config import load_config
from cloud_train.job.document import read_document
from cloud_train.job.schema import config_schema, job_schema
from cloud_train.spec.problems import JobFileError
from tests.job import reference
from tests.job.conftest import Load

SCRIPT = "name: a\nmodel: {kind: script, command: x}\n"
CNN = "name: a\nmodel: {kind: cnn}\ndata: {dataset: digits}\n"
GOOD = [
    SCRIPT,
    CNN,
    CNN + "train: {epochs: 3, optimizer: {name: sgd, lr: 1, momentum: 0.9}, clip_norm: null}\n",
    CNN + "checkpoint: {every: 5 min, keep: 1}\n",
    SCRIPT + "limits: {duration: 2h, grace: 5}\nresources: {accelerator: 'A100:4', memory: 16 GB, cpus: 2}\n",
    SCRIPT + "env: {A: b}\nsecrets: [TOKEN]\nretry: {attempts: 30, on: [failed]}\n",
    "name: a\nmodel: {kind: script, command: [x, y]}\ndata: {dataset: files, path: .}\n",
    "name: a\nmodel: {kind: rnn, cell: lstm, layers: 64, embedding_size: 3}\ndata: {dataset: python-docs, validation: 0.1}\n",
    CNN.replace("cnn", "cnn, network: resnet18, stem: small, dropout: 0.1").replace("digits", "cifar10, augment: {crop: 4}"),
    CNN.replace("digits", "mnist, validation: 0.1, normalize: {mean: [0.1], std: [0.3]}"),
    CNN.replace("digits", f"images, url: 'https://x/y.zip', sha256: {'b' * 64}, augment: null, channels: 1"),
    CNN + "train: {schedule: cosine}\n",
    CNN + "train: {schedule: {name: step, every: 3 epochs, factor: 0.5, warmup: 5 steps}, class_weights: balanced, ema: 0.9}\n",
    CNN + "train: {early_stopping: {metric: validation/loss, patience: 1}, precision: bf16, clip_norm: 0}\n",
    CNN + "checkpoint: {best: {metric: validation/loss, goal: min, keep: 2}}\nresources: {processes: 2}\n",
]
BAD = [
    "model: {kind: cnn}\n",
    SCRIPT.replace("name: a", "name: A"),
    SCRIPT.replace("name: a", "name: 3"),
    SCRIPT + "extra: 1\n",
    SCRIPT.replace("script", "shell"),
    SCRIPT.replace("x}", "[]}"),
    CNN.replace("digits", "digits, size: 7"),
    CNN.replace("cnn", "cnn, blocks: []"),
    CNN.replace("cnn", "cnn, blocks: [{filters: 0}]"),
    CNN.replace("cnn", "cnn, blocks: [{kernel: 3}]"),
    CNN + "train: {epochs: 0}\n",
    CNN + "train: {epochs: '3'}\n",
    CNN + "train: {optimizer: {lr: 0}}\n",
    CNN + "train: {precision: bf32}\n",
    CNN + "train: {schedule: linear}\n",
    CNN + "train: {schedule: {factor: 2}}\n",
    CNN + "train: {class_weights: []}\n",
    CNN + "train: {ema: 1}\n",
    CNN + "train: {early_stopping: {metric: loss}}\n",
    CNN + "checkpoint: {best: {metric: train}}\n",
    CNN + "resources: {processes: 65}\n",
    CNN.replace("digits", "cifar10, sha256: a"),
    CNN.replace("digits", "cifar10, url: 'file:///etc/passwd'"),
    CNN.replace("digits", "mnist, sha256: {a: b}"),
    CNN.replace("digits", "digits, augment: {crop: 65}"),
    CNN.replace("digits", "digits, normalize: {mean: [0], std: [0]}"),
    CNN.replace("cnn", "cnn, network: resnet34"),
    CNN + "train: []\n",
    CNN + "checkpoint: {every: 0 steps}\n",
    CNN + "checkpoint: {every: 3}\n",
    SCRIPT + "limits: {duration: -1}\n",
    SCRIPT + "limits: {duration: 2 weeks}\n",
    SCRIPT + "limits: null\n",
    SCRIPT + "resources: {spot: 'yes'}\n",
    SCRIPT + "resources: {memory: 16}\n",
    SCRIPT + "env: {A: 1}\n",
    SCRIPT + "env: {a b: c}\n",
    SCRIPT + "secrets: [a-b]\n",
    SCRIPT + "retry: {attempts: 31}\n",
]


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema.Draft202012Validator.check_schema(job_schema())
    return jsonschema.Draft202012Validator(job_schema())


def plain(value: Any) -> Any:
    """As JSON has it: lists for tuples."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, tuple) else value


def holds(validator: Any, file: Path) -> bool:
    return bool(validator.is_valid(plain(read_document(file).data)))


@pytest.mark.parametrize("text", GOOD)
def test_schema_and_loader_agree_on_what_is_right(load: Load, validator: Any, tmp_path: Path, text: str) -> None:
    load(text)
    assert holds(validator, tmp_path / "job.yaml")


@pytest.mark.parametrize("text", BAD)
def test_schema_and_loader_agree_on_what_is_wrong(load: Load, validator: Any, tmp_path: Path, text: str) -> None:
    with pytest.raises(JobFileError):
        load(text)
    assert not holds(validator, tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("provider: local\nstore: runs\nlocal: {python: /p}\nslurm: {region: [x]}\n", True),
        ("local: {}\n", True),
        ("provider: A\n", False),
        ("local: {pyton: /p}\n", False),
        ("local: {python: 3}\n", False),
        ("aws: 3\n", False),
        ("A_b: {}\n", False),
        ("store: ''\n", False),
    ],
)
def test_schema_and_loader_agree_on_config_files(tmp_path: Path, text: str, is_right: bool) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    jsonschema.Draft202012Validator.check_schema(config_schema())
    assert holds(jsonschema.Draft202012Validator(config_schema()), file) == is_right
    if is_right:
        load_config(file)
    else:
        with pytest.raises(JobFileError):
            load_config(file)


def test_every_field_of_the_schema_is_described() -> None:
    for schema in (job_schema(), config_schema()):
        for section in [schema, *schema["$defs"].values()]:
            for name, field in section["properties"].items():
                reference = schema["$defs"].get(field.get("$ref", "").removeprefix("#/$defs/"), {})
                assert field.get("description") or reference.get("description"), name


def test_defaults_stand_in_the_schema_as_a_person_would_write_them() -> None:
    sections = job_schema()["$defs"]
    assert sections["CheckpointSpec"]["properties"]["every"]["default"] == "1 epoch"
    assert sections["Limits"]["properties"]["grace"]["default"] == "30 s"


def test_the_files_that_are_written_from_the_models_are_current() -> None:
    stale = [path.name for path, text in reference.files().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "write them anew with: python -m tests.job.reference"


def test_every_section_has_its_table_in_the_reference() -> None:
    assert reference.documented() == reference.sections()
