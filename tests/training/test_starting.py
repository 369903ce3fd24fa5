"""A training that begins with weights: what fits is loaded and named, the rest stays random, and a resume ends with the same bits."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from cloud_train.data.pixels import Normalize
from cloud_train.errors import CorruptError, JobError
from cloud_train.networks.cnn import RESIDUAL_NETS, RESIDUAL_WIDTHS, CnnModel
from cloud_train.networks.rnn import RnnModel
from cloud_train.run.manifest import read_manifest
from cloud_train.run.starting_point import DESCRIPTION, WEIGHTS, StartFile, StartingPoint
from cloud_train.training.data.dataset import load
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.distributed import ALONE
from cloud_train.training.learner import Learner
from cloud_train.training.modelfile import save_model
from cloud_train.training.starting import Fit, Start, load_start, read_start
from cloud_train.worker import contract
from tests.training.trainer import TestRun, make_job, make_run, train_here

TINY = CnnModel.model_validate({"kind": "cnn", "blocks": ({"filters": 4, "norm": "batch"},)})
LETTERS = tuple("abcdefgh")
WORDS = ("<unknown>", "bad", "fine", "good")


def cnn(classes: tuple[str, ...] = LETTERS, model: CnnModel = TINY, channels: int = 1, side: int = 8, **more: Any) -> ModelDescription:
    return ModelDescription(model, classes, (channels, side, side), **more)


def rnn(classes: tuple[str, ...] = LETTERS, tokens: tuple[str, ...] | None = None, **fields: Any) -> ModelDescription:
    return ModelDescription(RnnModel.model_validate({"kind": "rnn", "hidden_size": 16, **fields}), classes, tokens=tokens)


def start_of(description: ModelDescription, *, with_description: bool = True) -> Start:
    weights = build(description, seed=1).state_dict()
    return Start("before", "0" * 64, weights, description if with_description else None)


def fit(own: ModelDescription, start: Start) -> tuple[nn.Module, Fit]:
    network = build(own, seed=2)
    return network, load_start(network, own, start)


def fresh_names(found: Fit) -> set[str]:
    return {text.split(" ")[0] for text in found.fresh}


def test_all_weights_and_buffers_of_the_same_network_are_loaded() -> None:
    start = start_of(cnn())
    assert start.weights is not None
    start.weights["blocks.0.norm.running_mean"].fill_(0.25)
    network, found = fit(cnn(), start)
    assert all(torch.equal(tensor, start.weights[name]) for name, tensor in network.state_dict().items())
    assert list(found.lines()) == [f"starts from before: {len(start.weights)} of {len(start.weights)} tensors"]


@pytest.mark.parametrize("with_description", [True, False])
def test_a_head_for_another_number_of_classes_begins_with_random_weights_and_is_named(with_description: bool) -> None:
    start = start_of(cnn(), with_description=with_description)
    assert start.weights is not None
    before = build(cnn(LETTERS[:5]), seed=2).state_dict()
    network, found = fit(cnn(LETTERS[:5]), start)
    after = network.state_dict()
    assert torch.equal(after["blocks.0.conv.weight"], start.weights["blocks.0.conv.weight"])
    assert torch.equal(after["classifier.weight"], before["classifier.weight"])
    (line,) = found.lines()
    assert line == (
        "starts from before: 6 of 8 tensors; initialized with random values: classifier.weight (8×36 → 5×36), classifier.bias (8 → 5)"
    )


def test_the_head_of_the_same_classes_in_another_order_is_not_used_and_a_warning_says_so() -> None:
    _, found = fit(cnn(LETTERS[::-1]), start_of(cnn()))
    assert fresh_names(found) == {"classifier.weight", "classifier.bias"}
    (remark,) = found.remarks
    assert remark.startswith("warning: the weights were trained for the same classes in another order")


def test_the_head_of_other_classes_of_the_same_number_is_not_used() -> None:
    _, found = fit(cnn(tuple("12345678")), start_of(cnn()))
    assert fresh_names(found) == {"classifier.weight", "classifier.bias"}
    assert "trained for other classes" in found.remarks[0]


def test_another_scaling_of_the_pixels_is_a_warning() -> None:
    scaled = cnn(normalize=Normalize(mean=(0.5,), std=(0.25,)))
    _, found = fit(cnn(), start_of(scaled))
    assert found.remarks == ("warning: the weights were trained with normalize mean [0.5] and std [0.25]; now switched off",)


VOCABULARIES = {
    "one-hot characters": (rnn(tuple("abcdefgz")), rnn(), {"rnn.0.weight_ih_l0", "decoder.weight", "decoder.bias"}),
    "embedded characters": (
        rnn(tuple("abcdefgz"), embedding_size=8),
        rnn(embedding_size=8),
        {"embedding.weight", "decoder.weight", "decoder.bias"},
    ),
    "words": (
        rnn(("no", "yes"), ("bad", "fine", "good"), embedding_size=8),
        rnn(("no", "yes"), ("fine", "bad", "good"), embedding_size=8),
        {"embedding.weight"},
    ),
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_what_depends_on_another_vocabulary_is_not_used(case: str) -> None:
    before, now, fresh = VOCABULARIES[case]
    _, found = fit(now, start_of(before))
    assert fresh_names(found) == fresh


def test_weights_of_another_network_are_an_error_that_names_the_layers() -> None:
    other = CnnModel.model_validate({"kind": "cnn", "blocks": ({"filters": 8, "norm": "batch"},)})
    network = build(cnn(), seed=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(
        JobError, match=r"weights of before are those of another network: 0 of 44 parameters fit.*blocks\.0\.conv\.weight \(8×"
    ):
        load_start(network, cnn(), start_of(cnn(model=other)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_large_head_does_not_count() -> None:
    wide = cnn(tuple(str(number) for number in range(200)))
    _, found = fit(wide, start_of(cnn()))
    assert fresh_names(found) == {"classifier.weight", "classifier.bias"}


def test_weights_that_are_not_finite_are_refused() -> None:
    start = start_of(cnn())
    assert start.weights is not None
    start.weights["blocks.0.conv.weight"][0] = float("nan")
    with pytest.raises(CorruptError, match=r"before has values in blocks\.0\.conv\.weight that are not finite"):
        fit(cnn(), start)


def test_the_average_of_the_weights_begins_with_them_too(tmp_path: Path) -> None:
    job = make_job({"kind": "cnn", "blocks": [{"filters": 4}]}, train={"epochs": 1, "ema": 0.9})
    data = load(job, tmp_path)
    description = ModelDescription.of(job, data)
    start = Start("before", "0" * 64, build(description, seed=7).state_dict(), description)
    learner = Learner(job, data, description, ALONE, start=start)
    assert learner.average is not None
    assert start.weights is not None
    assert torch.equal(learner.average.network.state_dict()["classifier.weight"], start.weights["classifier.weight"])


# Files


def found_at(folder: Path, monkeypatch: pytest.MonkeyPatch, *, described: bool = False) -> StartingPoint:
    monkeypatch.setenv(contract.START_FROM, str(folder / WEIGHTS))
    entry = StartFile("/somewhere", "0" * 64, 1)
    return StartingPoint("resnet.pth", {WEIGHTS: entry, **({DESCRIPTION: entry} if described else {})})


def test_a_model_is_read_with_its_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, build(cnn(), seed=1), cnn())
    (tmp_path / "model.safetensors").rename(tmp_path / WEIGHTS)
    start = read_start(found_at(tmp_path, monkeypatch, described=True))
    assert start is not None
    assert start.description == cnn()
    assert start.weights is not None
    assert "classifier.bias" in start.weights


STATE = {"fc.weight": torch.ones(2, 3)}
SAVED: dict[str, Any] = {
    "plain": STATE,
    "among other things": {"epoch": 3, "state_dict": STATE, "optimizer": {}},
    "of several processes": {f"module.{name}": tensor for name, tensor in STATE.items()},
    "compiled": {"model": {f"_orig_mod.{name}": tensor for name, tensor in STATE.items()}},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", SAVED)
def test_a_state_dict_of_torch_is_read(form: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(SAVED[form], tmp_path / WEIGHTS, _use_new_zipfile_serialization=zipped)
    start = read_start(found_at(tmp_path, monkeypatch))
    assert start is not None
    assert start.weights is not None
    assert list(start.weights) == ["fc.weight"]


def test_safetensors_are_read_without_a_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(STATE, tmp_path / WEIGHTS)
    start = read_start(found_at(tmp_path, monkeypatch))
    assert start is not None
    assert start.description is None
    assert start.weights is not None


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["torch", "pickle", "whole model"])
def test_nothing_in_a_file_is_executed(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "executed"
    if form == "pickle":
        (tmp_path / WEIGHTS).write_bytes(pickle.dumps({"fc.weight": Attack(mark)}))
    else:
        torch.save(nn.Linear(2, 2) if form == "whole model" else {"fc.weight": Attack(mark)}, tmp_path / WEIGHTS)
    with pytest.raises(CorruptError, match=r"resnet\.pth is not a file of tensors alone"):
        read_start(found_at(tmp_path, monkeypatch))
    assert not mark.exists()


def test_a_file_without_tensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save([torch.ones(1)], tmp_path / WEIGHTS)
    with pytest.raises(CorruptError, match="has no tensors by name"):
        read_start(found_at(tmp_path, monkeypatch))


def test_an_attempt_that_continues_from_a_checkpoint_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = found_at(tmp_path, monkeypatch)
    monkeypatch.delenv(contract.START_FROM)
    assert read_start(found) == Start("resnet.pth", "0" * 64)
    assert read_start(None) is None


# torchvision


def torchvision_keys(network: str, *, counters: bool = True) -> dict[str, tuple[int, ...]]:
    """The names and shapes of torchvision's weights for 1,000 classes, by the rules of its models/resnet.py."""
    net = RESIDUAL_NETS[network]
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        if counters:
            shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    inputs = 64
    for stage, (width, blocks) in enumerate(zip(RESIDUAL_WIDTHS, net.blocks, strict=True), 1):
        outputs = width * net.expansion
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            kernels = (
                [(width, inputs, 3), (width, width, 3)]
                if net.expansion == 1
                else [(width, inputs, 1), (width, width, 3), (outputs, width, 1)]
            )
            for number, (outer, inner, side) in enumerate(kernels, 1):
                shapes[f"{name}.conv{number}.weight"] = (outer, inner, side, side)
                norm(f"{name}.bn{number}", outer)
            if block == 0 and (stage > 1 or net.expansion > 1):
                shapes[f"{name}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    return {**shapes, "fc.weight": (1000, inputs), "fc.bias": (1000,)}


def torchvision_weights(network: str, *, counters: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if len(shape) == 1:
            return torch.rand(shape, generator=generator) + 0.5
        weights: Tensor = torch.randn(shape, generator=generator) / (shape[1] * shape[-1] ** (len(shape) - 2)) ** 0.5
        return weights

    return {name: drawn(name, shape) for name, shape in torchvision_keys(network, counters=counters).items()}


def torchvision_scores(weights: Mapping[str, Tensor], network: str, images: Tensor) -> Tensor:
    """What torchvision's network computes with these weights, by its models/resnet.py."""
    net = RESIDUAL_NETS[network]

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, weight, bias)

    x = functional.relu(norm("bn1", functional.conv2d(images, weights["conv1.weight"], stride=2, padding=3)))
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate(net.blocks, 1):
        for name in (f"layer{stage}.{block}" for block in range(blocks)):
            stride = 2 if stage > 1 and name.endswith(".0") else 1
            y, last, strided = x, 2 if net.expansion == 1 else 3, 1 if net.expansion == 1 else 2
            for number in range(1, last + 1):
                kernel = weights[f"{name}.conv{number}.weight"]
                y = functional.conv2d(y, kernel, stride=stride if number == strided else 1, padding=kernel.shape[-1] // 2)
                y = norm(f"{name}.bn{number}", y)
                y = functional.relu(y) if number < last else y
            if f"{name}.downsample.0.weight" in weights:
                x = norm(f"{name}.downsample.1", functional.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=stride))
            x = functional.relu(x + y)
    scores: Tensor = functional.linear(x.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])
    return scores


def residual(network: str, classes: int = 1000, **fields: Any) -> ModelDescription:
    model = CnnModel.model_validate({"kind": "cnn", "network": network, **fields})
    return cnn(tuple(map(str, range(classes))), model, 3, 64)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "tensors"), [("resnet18", 122), ("resnet50", 320)])
def test_our_residual_nets_are_torchvisions_by_other_names(network: str, tensors: int) -> None:
    weights = torchvision_weights(network)
    assert len(weights) == tensors
    loaded, found = fit(residual(network), Start("resnet", "0" * 64, weights))
    assert (found.loaded, found.fresh, found.unused) == (tensors, (), ())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images), torchvision_scores(weights, network, images), rtol=1e-3, atol=1e-3)


def test_older_files_of_torchvision_have_no_counters() -> None:
    _, found = fit(residual("resnet18"), Start("resnet", "0" * 64, torchvision_weights("resnet18", counters=False)))
    assert (found.loaded, found.fresh) == (102, ())


def test_torchvisions_weights_begin_a_training_with_other_classes_and_another_stem() -> None:
    start = Start("resnet", "0" * 64, torchvision_weights("resnet18"))
    _, found = fit(residual("resnet18", 5, stem="small"), start)
    assert fresh_names(found) == {"stem.conv.weight", "classifier.weight", "classifier.bias"}


@pytest.mark.slow
def test_the_weights_of_resnet18_do_not_fit_resnet50() -> None:
    with pytest.raises(JobError, match="those of another network"):
        fit(residual("resnet50"), Start("resnet", "0" * 64, torchvision_weights("resnet18")))


# Whole trainings


JOB = make_job(
    {"kind": "cnn", "blocks": [{"filters": 4, "norm": "batch", "dropout": 0.2}]}, train={"epochs": 2, "batch_size": 300, "ema": 0.9}
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Start:
    job = JOB.model_copy(update={"train": JOB.train.model_copy(update={"seed": 5})})
    data = load(job, tmp_path_factory.mktemp("data"))
    description = ModelDescription.of(job, data)
    return Start("before", "a" * 64, build(description, seed=9).state_dict(), description)


def test_a_run_that_began_with_weights_and_was_killed_ends_with_the_same_bits(tmp_path: Path, weights: Start) -> None:
    through = make_run(tmp_path / "through")
    train_here(JOB, through, start=weights)
    with pytest.raises(SystemExit):
        train_here(JOB, make_run(tmp_path / "stopped", stop_after=3), start=weights)
    resumed = make_run(tmp_path / "stopped", resume=True)
    assert resumed.resume_from is not None
    train_here(JOB, resumed, start=replace(weights, weights=None))
    assert model_bytes(resumed) == model_bytes(through)
    random = make_run(tmp_path / "random")
    train_here(JOB, random)
    assert model_bytes(random) != model_bytes(through)


def test_the_log_begins_with_what_was_loaded_and_the_models_manifest_records_it(
    tmp_path: Path, weights: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    train_here(JOB, run, start=weights)
    assert capsys.readouterr().out.startswith("starts from before: 8 of 8 tensors\n")
    assert read_manifest(run.model).fingerprint == {"start_from": {"source": "before", "sha256": "a" * 64}}


def model_bytes(run: TestRun) -> bytes:
    return (run.model / "model.safetensors").read_bytes()
