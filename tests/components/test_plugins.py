"""A data set, a network, an optimizer and a schedule of another package, from the job file to a model that answers."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import cloud_train
from cloud_train.errors import CloudTrainError, MissingDependencyError
from cloud_train.job.loading import load_job
from cloud_train.networks.cnn import CnnModel
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.spec.problems import JobFileError
from cloud_train.spec.registry import BrokenComponentError, plugin_code
from tests.components.toys import JOB, install

PACKAGE = Path(cloud_train.__file__).parent
NEXT = "update or reinstall the package, or report this to its authors"


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the toy distribution, on this process's path; its modules are forgotten afterwards."""
    folder = install(tmp_path / "site")
    monkeypatch.syspath_prepend(folder)
    for name in ("toys", "toys_torch", "toys_faulty", "toys_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def job(folder: Path, *changes: tuple[str, str]) -> Path:
    text = dedent(JOB).lstrip()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "job.yaml").write_text(text)
    return folder / "job.yaml"


def mistake(file: Path) -> tuple[str, str, str]:
    with pytest.raises(JobFileError) as caught:
        load_job(file)
    (problem,) = caught.value.problems
    return problem.message, problem.expected, problem.suggestion


@pytest.mark.slow
def test_toys_of_every_kind_train_a_job_from_its_file_to_a_prediction(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    toys = install(tmp_path / "site")
    variables = {"PYTHONPATH": str(toys), "CLOUD_TRAIN_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "cloud_train", *arguments]
        ended = subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    plan = run("submit", str(job(tmp_path)), "--dry-run", "--store", str(tmp_path / "runs"))
    assert "a stripe" in plan
    assert "thin air" in plan
    run("submit", "job.yaml", "--follow", "--store", str(tmp_path / "runs"))
    (run_id,) = (entry.name for entry in (tmp_path / "runs").iterdir() if entry.is_dir() and not entry.name.startswith("."))
    rows = [json.loads(line) for path in (tmp_path / "runs").glob("*/attempts/1/metrics/*") for line in path.read_text().splitlines()]
    losses = [row["value"] for row in rows if (row["split"], row["name"]) == ("train", "loss")]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    run("fetch-model", run_id, "--to", str(tmp_path / "model"))
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (described["model"], described["classes"]) == ({"kind": "flat"}, ["upright", "level"])
    assert _prediction(run, run_id, tmp_path)["class"] in ("upright", "level")


def _prediction(run: Any, run_id: str, folder: Path) -> dict[str, Any]:
    from PIL import Image

    Image.new("L", (8, 8), 200).save(folder / "grey.png")
    predictions: list[dict[str, Any]] = json.loads(run("predict", run_id, "grey.png", "--json"))["predictions"]
    return predictions[0]


def test_the_package_knows_nothing_of_the_toys() -> None:
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    assert not [name for name in ("toys", '"stripes"', '"flat"', '"signs"', '"halving"') for text in texts if name in text]


def test_sections_of_plugins_are_as_strict_as_those_of_the_package(toys: Path, tmp_path: Path) -> None:
    message, expected, _ = mistake(job(tmp_path, ("count: 32", "cout: 32")))
    assert (message, expected) == ("unknown key 'cout'", "one of dataset, count, sizes")


@pytest.mark.parametrize(
    ("changes", "message", "suggestion"),
    [
        (("stripes", "stripe"), "unknown dataset 'stripe'", "stripes"),
        (("kind: flat", "kind: flatt"), "unknown kind 'flatt'", "flat"),
        (("name: signs", "name: signes"), "unknown optimizer 'signes'", "signs"),
        (("schedule: halving", "schedule: halfing"), "unknown schedule 'halfing'", "halving"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one_of_a_plugin(
    toys: Path, tmp_path: Path, changes: tuple[str, str], message: str, suggestion: str
) -> None:
    said, expected, nearest = mistake(job(tmp_path, changes))
    assert (said, nearest) == (message, suggestion)
    assert suggestion in expected


def test_a_plugin_that_cannot_be_loaded_is_reported_to_the_job_that_names_it(toys: Path, tmp_path: Path) -> None:
    message, _, _ = mistake(job(tmp_path, ("dataset: stripes, count: 32", "dataset: broken-data")))
    plugin = "the dataset plugin 'broken-data' of package 'toys'"
    assert message == f"{plugin} cannot be loaded: toys_broken:Anything: ValueError: on purpose; {NEXT}"
    message, _, _ = mistake(job(tmp_path, ("dataset: stripes, count: 32", "dataset: not-a-data-set")))
    plugin = "the dataset plugin 'not-a-data-set' of package 'toys'"
    assert message == f"{plugin} is broken: toys:Flat is not a subclass of DataSection; {NEXT}"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("stripes, count: 32", "kindless", "is broken: toys_faulty:Kindless does not set sample_kind"),
        ("stripes", "undescribed", "fails in describe: KeyError: 'on purpose'"),
        ("stripes", "misdescribed", "fails in describe: TypeError: it returned dict, not DataFacts"),
        ("stripes", "unchecked", "fails in check: TypeError: 'NoneType' object is not iterable"),
        ("stripes", "homeless", "sets loader to 'toys_nowhere:load', but there is no module toys_nowhere"),
        ("stripes", "nameless", "sets loader to 'toys_torch:load_dots', but toys_torch does not define load_dots"),
        ("stripes", "formless", "sets loader to 'toys_torch', but that is not of the form module:function"),
        ("kind: flat", "kind: illiterate", "is broken: toys_faulty:Illiterate does not set reads"),
        ("kind: flat", "kind: abstract", "is broken: toys_faulty:Abstract does not implement layer_facts"),
        ("kind: flat", "kind: unlayered", "fails in layer_facts: AttributeError: 'DataFacts' object has no attribute 'no_such_number'"),
        ("kind: flat", "kind: mislayered", "fails in layer_facts: TypeError: it returned something other than LayerFacts"),
        ("name: signs", "name: makerless", "is broken: toys_faulty:Makerless does not set maker"),
        ("name: signs", "name: unruled", "fails in check: RuntimeError: on purpose"),
        ("schedule: halving", "schedule: flatline", "is broken: toys_faulty:Flatline does not implement multiplier"),
    ],
)
def test_a_fault_of_a_plugin_is_reported_as_its_own_when_the_job_is_checked(
    toys: Path, tmp_path: Path, old: str, new: str, fault: str
) -> None:
    message, _, _ = mistake(job(tmp_path, (old, new)))
    name = new.rpartition(" ")[2]
    assert f"plugin {name!r} of package 'toys'" in message
    assert f"{fault}; {NEXT}" in message


def test_a_data_set_that_the_trainers_cannot_load_is_refused(toys: Path, tmp_path: Path) -> None:
    message, _, _ = mistake(job(tmp_path, ("stripes", "unloadable")))
    assert message == "the built-in trainers cannot load 'unloadable': its plugin sets no loader"


def test_a_plugin_that_fails_while_the_plan_is_made_is_named(toys: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenComponentError, match=r"'noteless' of package 'toys' fails in notes: ZeroDivisionError: on purpose") as caught:
        make_plan(Home(tmp_path / "home"), job(tmp_path, ("kind: flat", "kind: noteless")))
    assert (caught.value.exit_code, caught.value.hint) == (3, NEXT)


def test_a_function_that_cannot_be_imported_or_fails_in_the_trainer_is_the_plugins_fault(toys: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from cloud_train.training.data.dataset import load

    spec = load_job(job(tmp_path, ("stripes", "broke"))).spec
    with pytest.raises(BrokenComponentError, match=r"'broke' of package 'toys' is broken: cannot import toys_broken:load: ValueError"):
        load(spec, tmp_path)
    spec = load_job(job(tmp_path, ("count: 32", "count: -1"))).spec
    with pytest.raises(BrokenComponentError, match=r"'stripes' of package 'toys' fails in toys_torch:load_stripes: RuntimeError"):
        load(spec, tmp_path)


def test_an_error_of_a_built_in_component_is_not_blamed_on_a_plugin() -> None:
    with pytest.raises(KeyError), plugin_code(CnnModel(kind="cnn"), "fails in check"):
        raise KeyError("ours")


def test_a_model_whose_plugin_is_missing_says_what_to_install(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from cloud_train.networks.registry import MODELS
    from cloud_train.run.manifest import write_manifest
    from cloud_train.training.description import ModelDescription, build
    from cloud_train.training.modelfile import save_model

    folder = tmp_path / "model"
    folder.mkdir()
    description = ModelDescription(MODELS.get("flat").model_validate({"kind": "flat"}), ("upright", "level"), (1, 8, 8))
    save_model(folder, build(description, seed=0), description)
    write_manifest(folder, None)
    cloud_train.load_model(folder)
    (toys / "toys-1.0.dist-info" / "entry_points.txt").unlink()
    importlib.invalidate_caches()
    with pytest.raises(MissingDependencyError) as caught:
        cloud_train.load_model(folder)
    assert caught.value.message == f"{folder / 'model.json'}: no installed package provides the model kind 'flat'"
    assert caught.value.hint == "install the package whose entry point in the group cloud_train.models is called 'flat'"


def test_plugins_neither_replace_what_is_built_in_nor_are_loaded_for_it(toys: Path, tmp_path: Path) -> None:
    from tests.test_imports import loaded_modules

    (tmp_path / "plain.yaml").write_text("name: plain\nmodel: {kind: cnn}\ndata: {dataset: digits}\n")
    assert load_job(tmp_path / "plain.yaml").spec.data.__class__.__name__ == "DigitsData"
    code = (
        f"sys.path.insert(0, {str(toys)!r}); from pathlib import Path; from cloud_train.job.loading import load_job;"
        f" load_job(Path({str(tmp_path / 'plain.yaml')!r}))"
    )
    assert loaded_modules(tmp_path, code).isdisjoint({"toys", "toys_broken"})


def test_a_job_of_plugins_reads_back_as_it_was_written(toys: Path, tmp_path: Path) -> None:
    from cloud_train.job.models import JobSpec

    spec = load_job(job(tmp_path)).spec
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_what_a_plugin_raises_is_an_error_of_ours(toys: Path) -> None:
    from cloud_train.data.registry import DATASETS

    with pytest.raises(CloudTrainError, match="unknown dataset 'stripe'; known here: digits, "):
        DATASETS.get("stripe")
    with pytest.raises(CloudTrainError, match="on purpose"):
        DATASETS.get("broken-data")
    assert DATASETS.get("stripes").__name__ == "Stripes"
