from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.errors import MissingDependencyError
from cloud_train.orchestrator import readiness
from cloud_train.orchestrator.connections import provider_at
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan, plan_elsewhere
from cloud_train.orchestrator.submitting import submit
from cloud_train.run.plan import Plan
from cloud_train.run.ranking import Ranking
from cloud_train.run.record import RunRecord
from cloud_train.spec.problems import JobFileError

Planned = Callable[..., Plan]
HASH = "a" * 64
CNN = "model: {kind: cnn}\ndata: {dataset: digits}\n"
RNN = "model: {kind: rnn}\ndata: {dataset: text, path: my.txt, sequence_length: 10, validation: 0.5}\n"


@pytest.fixture
def planned(home: Home, tmp_path: Path) -> Planned:
    """Plans a job file with this content, beside a text that gives 199 training sequences of 10 characters."""
    (tmp_path / "my.txt").write_text("abcdefgh" * 500)

    def planned(text: str, *overrides: str, dry_run: bool = False) -> Plan:
        (tmp_path / "job.yaml").write_text(f"name: a\nstore: runs\n{text}")
        return make_plan(home, tmp_path / "job.yaml", overrides, dry_run=dry_run)

    return planned


def test_the_program_gets_the_absolute_path_of_every_data_set_that_has_one(planned: Planned, tmp_path: Path) -> None:
    for name in ("a/x.png", "a/z.png", "b/y.png", "b/z.png"):
        (tmp_path / "photographs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photographs" / name).touch()
    data = {
        "{dataset: images, path: photographs, validation: 0.5}": "photographs",
        "{dataset: mnist, path: photographs}": "photographs",
        "{dataset: cifar10, path: photographs/a}": "photographs/a",
    }
    for section, place in data.items():
        assert planned(f"model: {{kind: cnn, network: resnet18}}\ndata: {section}\n").program.data == str(tmp_path / place)
    assert planned(RNN).program.data == str(tmp_path / "my.txt")
    assert planned("model: {kind: script, command: x}\ndata: {dataset: files, path: .}\n").program.data == str(tmp_path)


@pytest.mark.parametrize("text", [CNN, CNN.replace("digits", "mnist"), "model: {kind: script, command: x}\n"])
def test_without_a_path_the_program_gets_none_until_the_worker_provides_the_cache(planned: Planned, text: str) -> None:
    assert planned(text).program.data is None


def test_the_program_knows_which_checkpoints_are_the_best(planned: Planned) -> None:
    assert planned(CNN).program.ranking == Ranking()
    best = planned(CNN + "checkpoint: {keep: 5, best: {metric: validation/loss, goal: min, keep: 2}}\n").program
    assert (best.keep_checkpoints, best.ranking) == (5, Ranking("validation/loss", "min", 2))


@pytest.mark.parametrize(
    ("train", "steps"),
    [
        ("{epochs: 3, batch_size: 50}", (4, 12)),
        ("{epochs: 3, batch_size: 50, carry_state: true}", (3, 9)),  # an incomplete batch is left out
        ("{steps: 7, batch_size: 50}", (4, 7)),
        ("{epochs: 3, batch_size: 50, fast_dev_run: true}", (4, 2)),
        ("{steps: 1, batch_size: 50, fast_dev_run: true}", (4, 1)),
    ],
)
def test_the_steps_of_a_job_are_computed(planned: Planned, train: str, steps: tuple[int, int]) -> None:
    plan = planned(RNN + f"train: {train}\n")
    assert (plan.steps_per_epoch, plan.total_steps) == steps


def test_the_steps_of_a_script_are_unknown(planned: Planned) -> None:
    plan = planned("model: {kind: script, command: x}\ntrain: {steps: 3}\n")
    assert (plan.steps_per_epoch, plan.total_steps) == (None, None)


def test_facts_about_data_are_unknown_before_its_download(planned: Planned) -> None:
    text = f"model: {{kind: rnn}}\ndata: {{dataset: text, url: 'https://x/a.txt', sha256: {HASH}}}\n"
    plan = planned(text)
    assert (plan.data, plan.layers, plan.steps_per_epoch, plan.total_steps) == (None, (), None, None)
    assert plan.notes == (
        "the data is downloaded into the cache when the run starts, unless it is cached: https://x/a.txt; "
        "layers, classes, samples and the length of an epoch are unknown until then",
    )
    assert planned(text, "train.steps=9").total_steps == 9


def test_known_classes_are_enough_to_plan_the_layers(planned: Planned) -> None:
    plan = planned(f"model: {{kind: cnn}}\ndata: {{dataset: images, classes: 3, url: 'https://x/a.zip', sha256: {HASH}}}\n")
    assert plan.layers[-1].output_shape == (3,)
    assert plan.total_steps is None
    assert plan.notes[0].endswith("a.zip; samples and the length of an epoch are unknown until then")


def test_a_download_of_known_size_is_only_mentioned(planned: Planned) -> None:
    plan = planned(CNN.replace("digits", "mnist, url: 'https://x/'"))
    assert plan.notes == ("the data is downloaded into the cache when the run starts, unless it is cached: https://x/",)
    assert plan.total_steps == 5 * 844  # of the 60,000 images, 54,000 are for training


@pytest.mark.parametrize(
    ("data", "most"),
    [("{dataset: text, url: 'https://h/a', sha256: %s}", 1 << 30), ("{dataset: sequences, url: 'https://h/a', sha256: %s}", 1 << 30)],
)
def test_the_plan_holds_the_limit_of_a_download(planned: Planned, data: str, most: int) -> None:
    plan = planned(f"model: {{kind: rnn}}\ndata: {data % ('a' * 64)}\n")
    assert plan.facts()["most_download_bytes"] == most
    record = RunRecord(plan.run_id, 0.0, plan.job.model_dump(mode="json"), plan.program, plan.facts(), {"job_file": "job.yaml"})
    again = Plan.of_attempt(RunRecord.from_json(record.to_json(), "run.json"), 1, "0" * 64)
    assert again.most_download_bytes == most


@pytest.mark.parametrize("data", ["{dataset: cifar10}", "{dataset: digits}"])
def test_without_a_limit_of_its_own_a_plan_holds_none(planned: Planned, data: str) -> None:
    plan = planned(f"model: {{kind: cnn}}\ndata: {data}\n")
    assert "most_download_bytes" not in plan.facts()


def test_a_dry_run_works_without_the_data_and_notes_that_submit_will_not(planned: Planned, tmp_path: Path) -> None:
    text = "model: {kind: cnn}\ndata:\n  dataset: images\n  path: none\n  classes: 3\n"
    with pytest.raises(JobFileError) as caught:
        planned(text)
    assert caught.value.exit_code == 3
    plan = planned(text, dry_run=True)
    assert plan.layers[-1].output_shape == (3,)
    assert plan.program.data == str(tmp_path / "none")
    assert plan.notes == (
        f"{tmp_path}/job.yaml:6:9: no such file or folder: {tmp_path}/none; `submit` refuses this job until the data exists; "
        "samples and the length of an epoch are unknown until then",
    )
    script = planned("model: {kind: script, command: x}\ndata: {dataset: files, path: none}\n", dry_run=True)
    assert script.notes[0].endswith("`submit` refuses this job until the data exists")


def test_a_plan_with_unknown_samples_can_be_read_back_from_the_run(planned: Planned) -> None:
    plan = planned(f"model: {{kind: cnn}}\ndata: {{dataset: images, classes: 3, url: 'https://x/a.zip', sha256: {HASH}}}\n")
    record = RunRecord(plan.run_id, 0.0, plan.job.model_dump(mode="json"), plan.program, plan.facts(), {})
    again = Plan.of_attempt(RunRecord.from_json(record.to_json(), "run.json"), 1, "0" * 64)
    assert again == plan


@pytest.mark.parametrize(
    ("text", "module", "named", "hint"),
    [
        (CNN, "sklearn", "scikit-learn", "pip install 'cloud-train[train]'"),
        (CNN, "tensorboardX", "tensorboardX", "or set train.tensorboard=false"),
        (f"model: {{kind: cnn}}\ndata: {{dataset: images, url: 'https://x/a.zip', sha256: {HASH}}}\n", "PIL", "pillow", "pip install"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_written(
    home: Home,
    planned: Planned,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    text: str,
    module: str,
    named: str,
    hint: str,
) -> None:
    monkeypatch.setattr(readiness, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(MissingDependencyError, match=f"needs {named}, which") as raised:
        submit(home, planned(text))
    assert hint in (raised.value.hint or "")
    assert not (tmp_path / "runs").exists()


def test_only_packages_that_the_job_needs_are_required(home: Home, planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(readiness, "find_spec", asked.append)
    with pytest.raises(MissingDependencyError):
        submit(home, planned(RNN + "train: {tensorboard: false}\n"))
    assert asked == ["torch", "numpy", "safetensors"]


def test_a_cluster_decides_on_spot_machines_itself(home: Home, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"name: a\nstore: az://me/runs\n{CNN}resources: {{spot: true}}\n")
    for settings, told in (("{compute: gpu-cluster}", True), ("{}", False)):
        (tmp_path / "azure.yaml").write_text(f"provider: azure\nazure: {settings}\n")
        notes = make_plan(home, tmp_path / "job.yaml", config=str(tmp_path / "azure.yaml"), dry_run=True).notes
        assert any(note.startswith("resources.spot: the cluster gpu-cluster (azure.compute)") for note in notes) == told


def test_a_large_vocabulary_has_an_embedding_and_without_one_gets_a_note(planned: Planned, tmp_path: Path) -> None:
    lines = "".join(f"{'good' if number % 2 else 'bad'}\tword{number} again\n" for number in range(5000))
    (tmp_path / "train.tsv").write_text(lines)
    job = "model: {kind: rnn}\ndata: {dataset: sequences, path: train.tsv, tokens: words, validation: 0.1}\n"
    (note,) = [note for note in planned(job, "model.embedding_size=0").notes if "embedding_size" in note]
    assert "GB" in note
    for usual in (planned(job), planned(job, "model.cell=linear"), planned(job, "model.embedding_size=8")):
        assert not [note for note in usual.notes if "embedding_size" in note]
    assert planned(job).layers[0].output_shape == ("T", 64)
    assert planned(job, "model.cell=linear").layers[0].kind == "Linear"


def test_data_in_a_store_is_planned_without_reading_it(planned: Planned) -> None:
    section = "{dataset: images, path: 's3://bucket/photos', size: 32, classes: 2}"
    plan = planned(f"model: {{kind: cnn}}\ndata: {section}\n")
    assert plan.program.data == "s3://bucket/photos"
    assert plan.total_steps is None
    assert any("fetched from s3://bucket/photos" in note for note in plan.notes)


def test_data_at_a_url_without_a_store_is_a_mistake_in_the_file(planned: Planned) -> None:
    with pytest.raises(JobFileError, match="is not a store URL"):
        planned("model: {kind: cnn}\ndata: {dataset: images, path: 'http://host/photos', size: 32}\n")


AWS = "provider: aws\nstore: s3://b/r\n"


@pytest.mark.parametrize(
    ("files", "overrides", "machine"),
    [
        (("a", None), (), "a"),
        ((None, "b"), (), "b"),
        (("a", "b"), (), "b"),  # the config file overrides the job file
        (("a", "b"), ("resources.machine=c",), "c"),  # and the command line both
        (("a", "b"), ("aws.machine=d",), "d"),
        ((None, None), ("resources.machine=c", "aws.machine=d"), "d"),
        ((None, "b"), ("resources.machine=c", "aws.machine=b"), "c"),
    ],
)
def test_a_machine_is_named_by_the_job_the_config_or_the_command_line(
    home: Home, tmp_path: Path, files: tuple[str | None, str | None], overrides: tuple[str, ...], machine: str
) -> None:
    job, config = files
    (tmp_path / "job.yaml").write_text(f"name: a\n{CNN}" + (f"resources: {{machine: {job}}}\n" if job else ""))
    (tmp_path / "c.yaml").write_text(AWS + (f"aws: {{machine: {config}}}\n" if config else ""))
    plan = make_plan(home, tmp_path / "job.yaml", overrides, config=str(tmp_path / "c.yaml"))
    assert plan.provider_settings["machine"] == machine
    unused = {name for name in (job, "c" if "resources.machine=c" in overrides else None) if name} - {machine}
    said = [note for note in plan.notes if note.startswith("resources.machine")]
    assert bool(said) == bool(unused and machine in ("b", "d")), said


def test_a_machine_means_nothing_where_there_are_no_machine_types_and_the_plan_says_so(planned: Planned) -> None:
    plan = planned(CNN + "resources: {machine: ml.g5.xlarge}\n")
    assert "machine" not in plan.provider_settings
    assert "resources.machine: 'local' has no machine types, so ml.g5.xlarge is not used" in plan.notes


def test_a_run_that_moves_to_another_cloud_leaves_its_machine_behind(home: Home, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"name: a\n{CNN}resources: {{machine: ml.g5.xlarge}}\n")
    (tmp_path / "c.yaml").write_text(AWS)
    before = make_plan(home, tmp_path / "job.yaml", config=str(tmp_path / "c.yaml"))
    gcp = plan_elsewhere(before, provider_at(home, "gcp"), {}, store="gs://b/r")
    assert "machine" not in gcp.provider_settings
    assert any("ml.g5.xlarge is another provider's machine" in note for note in gcp.notes)
    assert plan_elsewhere(before, provider_at(home, "aws"), {}, store="s3://c/r").provider_settings["machine"] == "ml.g5.xlarge"


def test_a_trainer_has_one_process_for_each_accelerator_unless_the_job_says_otherwise(home: Home, tmp_path: Path) -> None:
    (tmp_path / "aws.yaml").write_text("provider: aws\nstore: s3://bucket/runs\naws: {region: eu-west-1}\n")
    job = "name: x\nmodel: {kind: cnn}\ndata: {dataset: digits}\nresources: {accelerator: 'A10G:4'%s}\n"
    (tmp_path / "job.yaml").write_text(job % "")

    def plan(*overrides: str) -> Plan:
        return make_plan(home, tmp_path / "job.yaml", overrides, config=str(tmp_path / "aws.yaml"), dry_run=True)

    planned = plan()
    assert (planned.job.resources.processes, planned.origins["resources.processes"]) == (4, "one per accelerator")
    assert planned.remarks == ()
    assert plan("resources.processes=2").job.resources.processes == 2
    assert plan("resources.processes=2").remarks[0].startswith("ml.g5.12xlarge: 4 × A10G; resources.processes is 2, so 2 will be idle")
    assert plan("train.batch_size=2").job.resources.processes == 1, "four processes cannot share a batch of 2"
    local = make_plan(home, tmp_path / "job.yaml", provider="local", dry_run=True)
    assert local.job.resources.processes == 1
    assert "resources.processes: 1 of the 4 × A10G will be used, one by each process; set it to 4 to use all" in local.notes


def test_what_supplies_no_accelerators_says_that_the_run_will_look_for_them_and_how_to_do_without(planned: Planned) -> None:
    job = CNN + "resources: {accelerator: L4}\n"
    assert planned(job).notes == (
        "resources.accelerator: 'local' supplies no accelerators, and the run ends at once if the machine has fewer than L4:1;"
        " to run without, add --set resources.accelerator=null",
    )
    without = planned(job, "resources.accelerator=null")
    assert (without.job.resources.accelerator, without.notes) == (None, ())
