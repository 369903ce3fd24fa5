"""How a plan is shown."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.cli.output.plan import plan_text
from cloud_train.cli.output.terminal import Painter
from cloud_train.client import Client
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan, request_of
from tests.web_server import sha256

Shown = Callable[..., list[str]]
HASH = "a" * 64
CNN = "model: {kind: cnn}\ndata: {dataset: digits}\n"


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """The lines of a dry run of a job file with this content, without indentation and with single spaces."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def shown(text: str, *overrides: str) -> list[str]:
        (tmp_path / "job.yaml").write_text(f"name: a\nstore: runs\n{text}")
        home = Home(tmp_path / "home")
        plan = make_plan(home, tmp_path / "job.yaml", overrides, dry_run=True)
        lines = plan_text(plan, *request_of(home, plan), Painter(enabled=False)).split("\n")
        # Only a user's path or URL may be longer.
        assert not [line for line in lines if len(line) > 100 and str(tmp_path) not in line and "://" not in line]
        return [" ".join(line.split()) for line in lines]

    return shown


def test_an_image_data_set_shows_its_shape_classes_samples_and_steps(shown: Shown) -> None:
    lines = shown(CNN)
    start = lines.index("DATA AND TRAINING")
    assert lines[start + 1 : start + 7] == [
        "data set digits",
        "source scikit-learn's handwritten digits",
        "sample image of 28×28×1",
        "classes 10",
        "samples 1,438 for training, 359 for validation",
        "steps 23 per epoch, 115 in total",
    ]


def test_a_text_shows_its_characters(shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("abcdefgh" * 500)
    lines = shown("model: {kind: rnn}\ndata: {dataset: text, path: my.txt}\n")
    assert {"source my.txt, 4,000 characters", "sample 128 characters", "vocabulary 8 characters"} <= set(lines)


def test_labelled_lines_show_their_vocabulary_and_their_classes(shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "my.tsv").write_text("good\tone two\nbad\tthree\n" * 10)
    lines = shown("model: {kind: rnn}\ndata: {dataset: sequences, path: my.tsv, max_length: 1000}\n")
    wanted = {"sample a line of at most 1,000 words", "vocabulary at most 4 words, including one for all others", "classes 2"}
    assert wanted <= set(lines)


def test_what_is_not_known_before_the_data_is_there_says_so(shown: Shown) -> None:
    lines = shown(f"model: {{kind: rnn}}\ndata: {{dataset: text, url: 'https://x/a.txt', sha256: {HASH}}}\n")
    assert "source https://x/a.txt" in lines
    assert {"samples unknown until the data is available", "steps unknown until the data is available"} <= set(lines)
    assert "MODEL" not in lines
    assert any(line.startswith("the data is downloaded into the cache when the run starts") for line in lines)


def test_steps_that_the_job_names_are_known_without_the_data(shown: Shown) -> None:
    lines = shown("model: {kind: rnn}\ndata: {dataset: text, path: none}\ntrain: {steps: 9}\n")
    assert "steps 9 in total" in lines


def test_several_processes_and_another_precision_are_shown(shown: Shown) -> None:
    lines = shown(CNN + "train: {precision: bf16}\nresources: {processes: 4}\n")
    assert {"processes 4, sharing each step's batch of 64", "precision bf16, with weights in fp32"} <= set(lines)
    assert not [line for line in shown(CNN) if line.startswith(("processes", "precision bf16"))]


def test_early_stopping_makes_the_steps_an_upper_bound_and_delivers_the_best_model(shown: Shown) -> None:
    plan = shown(CNN + "train: {early_stopping: {metric: validation/loss}}\n")
    assert "steps 23 per epoch, at most 115 in total" in plan
    assert "model the best one, by validation/loss" in plan
    assert "model the best one, by validation/accuracy" in shown(CNN + "train: {deliver: best}\n")
    assert "the best one" not in shown(CNN)


def test_the_weights_to_start_from_are_shown_with_their_checksum(shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(bytes(8) + b"{}")
    line = f"starts from {tmp_path}/w.safetensors, SHA-256 {sha256(bytes(8) + b'{}')[:12]}…, copied into the run directory"
    assert line in shown(CNN + "train: {start_from: w.safetensors}\n")
    web = f"https://example.com/w.pth#sha256={HASH}"
    line = f"starts from https://example.com/w.pth, SHA-256 {HASH[:12]}…, downloaded when the run starts"
    assert line in shown(CNN + f"train: {{start_from: '{web}'}}\n")


def keys(lines: list[str]) -> set[str]:
    return {line.split()[0] for line in lines[1 : lines.index("")]}


def test_defaults_that_are_off_or_ignored_are_left_out(shown: Shown) -> None:
    blocks, residual = keys(shown(CNN)), keys(shown(CNN.replace("cnn", "cnn, network: resnet18")))
    assert {"model.blocks.0.filters", "model.blocks.0.padding", "model.head", "train.seed", "checkpoint.best.keep"} <= blocks
    assert not blocks & {"model.stem", "model.dropout", "model.blocks.0.norm", "train.compile", "train.ema", "train.label_smoothing"}
    assert "model.stem" in residual
    assert not {key for key in residual if key.startswith(("model.blocks", "model.head"))}


def test_values_from_the_job_are_shown_even_if_they_are_off(shown: Shown) -> None:
    found = keys(shown(CNN + "train: {compile: false, label_smoothing: 0.0, schedule: {name: cosine, warmup: 1 epoch}}\n"))
    assert {"train.compile", "train.label_smoothing", "train.schedule.name", "train.schedule.warmup"} <= found
    assert not found & {"train.schedule.every", "train.schedule.factor", "train.schedule.peak_at"}


def test_a_checksum_is_shortened_and_omitted_for_an_unused_download(shown: Shown) -> None:
    assert "data.sha256 c4a38c50a1bc… default" in shown("model: {kind: cnn}\ndata: {dataset: cifar10}\n")
    assert not keys(shown("model: {kind: cnn}\ndata: {dataset: cifar10, path: .}\n")) & {"data.sha256", "data.url"}


def test_a_long_note_is_wrapped(shown: Shown) -> None:
    lines = shown(f"model: {{kind: rnn}}\ndata: {{dataset: text, url: 'https://x/a.txt', sha256: {HASH}}}\n")
    notes = lines[lines.index("NOTES") + 1 : lines.index("", lines.index("NOTES"))]
    assert len(notes) == 2
    assert " ".join(notes).endswith(
        "unless it is cached: https://x/a.txt; layers, classes, samples and the length of an epoch are unknown until then"
    )


def test_the_request_to_the_provider_and_its_refusals_are_shown(shown: Shown) -> None:
    lines = shown("model: {kind: script, command: x}\nprovider: docker\nresources: {memory: 1MB}\n")
    assert '"CapDrop": [' in lines
    start = lines.index("WOULD BE REFUSED")
    assert "resources.memory: 1000000 bytes is too little" in lines[start + 1]
    assert "WOULD BE REFUSED" not in shown(CNN)


def test_the_first_line_is_the_machine_that_is_larger_than_what_was_asked_for(tmp_path: Path) -> None:
    job = "name: a\nstore: s3://bucket/runs\nmodel: {kind: script, command: ['true']}\nprovider: aws\nresources: {accelerator: 'A100:1'}\n"
    (tmp_path / "job.yaml").write_text(job)
    home = Home(tmp_path / "home")
    plan = make_plan(home, tmp_path / "job.yaml", dry_run=True)
    assert plan_text(plan, {}, [], Painter(enabled=False)).startswith("ml.p4d.24xlarge: 8 × A100; you asked for 1\n\nJOB\n")
    assert plan.to_dict()["remarks"] == list(plan.remarks)
    assert "remarks" not in plan.facts(), "run.json stays as it is"


def test_the_page_of_the_job_in_the_providers_console_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "job.yaml").write_text("name: a\nstore: s3://bucket/runs\nmodel: {kind: script, command: ['true']}\nprovider: aws\n")
    (tmp_path / "aws.yaml").write_text("provider: aws\naws: {region: eu-west-1}\n")
    client = Client(tmp_path / "home")
    plan = client.plan(tmp_path / "job.yaml", config=str(tmp_path / "aws.yaml"))
    request, _ = client.request(plan)
    url = client.console_url(plan, request)
    assert url == f"https://eu-west-1.console.aws.amazon.com/sagemaker/home?region=eu-west-1#/jobs/{plan.run_id}-1"
    shown = plan_text(plan, request, [], Painter(enabled=False), url)
    assert [line.split() for line in shown.splitlines() if line.strip().startswith("console")] == [["console", url]]


_QUIET = "threads GOMP_SPINCOUNT=2500: waiting threads soon leave their cores to other programs"
_SCRIPT = 'model: {kind: script, command: ["true"]}\n'


@pytest.mark.parametrize(
    ("job", "given", "line"),
    [
        ("provider: local", {}, _QUIET),
        ("provider: docker", {}, _QUIET),
        ("provider: local", {"OMP_WAIT_POLICY": "PASSIVE"}, "threads OMP_WAIT_POLICY=PASSIVE"),
        ("provider: docker", {"OMP_WAIT_POLICY": "PASSIVE"}, _QUIET),
        ("provider: docker\nenv: {GOMP_SPINCOUNT: '7'}", {}, "threads GOMP_SPINCOUNT=7"),
    ],
)
def test_the_plan_says_how_threads_wait(shown: Shown, monkeypatch: pytest.MonkeyPatch, job: str, given: dict[str, str], line: str) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    lines = shown(f"{_SCRIPT}{job}\n")
    assert [each for each in lines if each.startswith("threads ")] == [line]


def test_threads_are_in_the_plan_s_json_but_not_in_run_json_and_not_of_a_rented_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "job.yaml").write_text(f"name: a\nstore: runs\n{_SCRIPT}")
    plan = make_plan(Home(tmp_path / "home"), tmp_path / "job.yaml", dry_run=True)
    assert plan.to_dict()["threads"] == {"GOMP_SPINCOUNT": "2500"}
    assert "threads" not in plan.facts()
    rented = make_plan(Home(tmp_path / "home"), tmp_path / "job.yaml", provider="aws", store="s3://bucket/runs", dry_run=True)
    assert rented.to_dict()["threads"] == {}
