"""The data sets as tensors."""

import gzip
from pathlib import Path

import pytest
import torch

from cloud_train.errors import CorruptError, MissingDependencyError
from cloud_train.job.models import DigitsData, PythonDocsData, TextData
from cloud_train.training.data import DataSet, digits
from cloud_train.training.data.digits import load_digits
from cloud_train.training.data.text import encode, load_text
from cloud_train.training.randomness import derived_seed, permutation


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits as load_theirs

    theirs = load_theirs()
    ours = load_digits(DigitsData(dataset="digits", size=8), seed=0)
    order = permutation(1797, 0, "split")
    images = torch.cat([ours.validation.inputs, ours.train.inputs])[order.argsort()]
    targets = torch.cat([ours.validation.targets, ours.train.targets])[order.argsort()]
    assert torch.equal(images.squeeze(1) * 16, torch.from_numpy(theirs.images).float())
    assert torch.equal(targets, torch.from_numpy(theirs.target))


def test_the_digits_have_the_wanted_size_and_lie_between_0_and_1() -> None:
    data = load_digits(DigitsData(dataset="digits", size=28, validation=0.25), seed=0)
    assert data.train.inputs.shape == (1348, 1, 28, 28)
    assert data.validation.inputs.shape == (449, 1, 28, 28)
    assert data.image_shape == (1, 28, 28)
    assert (data.train.inputs.dtype, data.train.targets.dtype) == (torch.float32, torch.int64)
    assert 0 <= data.train.inputs.min() < data.train.inputs.max() <= 1
    assert data.classes == tuple("0123456789")


def test_the_split_of_the_digits_follows_from_the_seed() -> None:
    first, again, other = (load_digits(DigitsData(dataset="digits", size=8), seed) for seed in (3, 3, 4))
    assert torch.equal(first.validation.targets, again.validation.targets)
    assert not torch.equal(first.validation.targets, other.validation.targets)


def test_without_scikit_learn_the_digits_name_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError) as caught:
        load_digits(DigitsData(dataset="digits"), seed=0)
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
        load_digits(DigitsData(dataset="digits"), seed=0)


def test_each_target_of_a_text_is_the_character_after_its_input(tmp_path: Path) -> None:
    text = "abcdefghij" * 10
    (tmp_path / "text.txt").write_text(text)
    data = load_text(TextData(dataset="text", path="text.txt", sequence_length=7, validation=0.2), tmp_path)
    assert decode(data, data.train.inputs) == text[:77]  # the 80 characters to train on are 11 sequences and a rest
    assert decode(data, data.train.targets) == text[1:78]
    assert decode(data, data.validation.inputs) == text[80:94]
    assert data.image_shape is None


def test_python_docs_is_about_700000_characters_of_english() -> None:
    data = load_text(PythonDocsData(dataset="python-docs"), Path())
    assert data.train.inputs.shape[1] == 128
    assert 400_000 < data.train.inputs.numel() < 2_000_000
    assert " the " in decode(data, data.validation.inputs[:20])


def test_characters_beyond_the_16_bit_ones_are_encoded() -> None:
    assert encode("z😀é", "zé😀").tolist() == [0, 2, 1]


def test_a_derived_seed_depends_on_every_part_of_its_name() -> None:
    seeds = {derived_seed(seed, name, number) for seed in (0, 1) for name in ("order", "split") for number in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "order", 0) == 3955691223199900983  # held: another value would change every resumed run


def decode(data: DataSet, characters: torch.Tensor) -> str:
    return "".join(data.classes[number] for number in characters.flatten().tolist())
