"""scikit-learn's digits as tensors."""

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

from cloud_train.data.digits import CLASS_SIZES, DigitsData
from cloud_train.data.pixels import Augment, Normalize
from cloud_train.errors import CorruptError, MissingDependencyError
from cloud_train.spec.problems import FieldError
from cloud_train.training.data import digits
from cloud_train.training.data.dataset import DataSet, Pick
from cloud_train.training.data.digits import load_digits
from cloud_train.training.data.memory import TensorSamples, split


def load(training_seed: int = 0, **fields: Any) -> DataSet:
    return load_digits(DigitsData(dataset="digits", **fields), Path(), training_seed)


def inputs(loaded: DataSet, part: str) -> torch.Tensor:
    samples = getattr(loaded, part)
    assert isinstance(samples, TensorSamples)
    return samples.inputs


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits as load_theirs

    theirs = load_theirs()
    ours = load(size=8)
    order = torch.cat(split(torch.from_numpy(theirs.target), 0.2, 0, "images")).argsort()
    images = torch.cat([inputs(ours, "train"), inputs(ours, "validation")])[order]
    targets = torch.cat([ours.train.targets, ours.validation.targets])[order]
    assert torch.equal(images.squeeze(1) * 16, torch.from_numpy(theirs.images).float())
    assert torch.equal(targets, torch.from_numpy(theirs.target))


def test_the_digits_have_the_wanted_size_and_lie_between_0_and_1() -> None:
    data = load(size=28, validation=0.25)
    train = inputs(data, "train")
    assert train.shape == (1348, 1, 28, 28)
    assert inputs(data, "validation").shape == (449, 1, 28, 28)
    assert data.image_shape == (1, 28, 28)
    assert data.preparation == "drawing"
    assert (train.dtype, data.train.targets.dtype) == (torch.float32, torch.int64)
    assert 0 <= train.min() < train.max() <= 1
    assert data.classes == tuple("0123456789")


def test_the_split_of_the_digits_follows_from_the_seed_of_the_data() -> None:
    first, again, other = (inputs(load(training, size=8, seed=own), "validation") for training, own in ((3, 0), (4, 0), (3, 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_sizes_of_the_classes_are_those_of_the_file() -> None:
    loaded = load(size=8)
    targets = torch.cat([loaded.train.targets, loaded.validation.targets])
    assert tuple(torch.bincount(targets).tolist()) == CLASS_SIZES
    facts = DigitsData(dataset="digits").expected_facts()
    assert (facts.train_samples, facts.validation_samples) == (len(loaded.train), len(loaded.validation)) == (1438, 359)


def test_only_digits_to_train_on_are_augmented_and_all_are_normalized_alike() -> None:
    normalize = Normalize(mean=(0.3,), std=(0.2,))
    data = load(size=8, augment=Augment(crop=2), normalize=normalize)
    assert data.normalize == normalize
    for part, changes in (("train", True), ("validation", False)):
        samples = getattr(data, part)
        batch = next(samples.batches([Pick(torch.arange(20), 0)])).inputs
        assert torch.equal(batch, inputs(data, part)[:20]) is not changes


def test_a_split_that_leaves_no_digits_is_refused() -> None:
    with pytest.raises(FieldError, match=r"0\.0001 of 1,797 images leaves none"):
        load(validation=0.0001)


def test_without_scikit_learn_the_digits_name_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError) as caught:
        load()
    assert caught.value.hint == "install it with: pip install 'cloud-train[train]'"


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"1,2,3\n"), gzip.compress(b"0,99\n" * 65 * 1797)[:2000]],
    ids=["empty", "no gzip", "too short", "cut off"],  # the bytes hold the time, and a test's name must not
)
def test_a_damaged_file_of_digits_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    damaged = tmp_path / "digits.csv.gz"
    damaged.write_bytes(content)
    monkeypatch.setattr(digits, "_file", lambda: damaged)
    with pytest.raises(CorruptError, match=r"digits\.csv\.gz"):
        load()
