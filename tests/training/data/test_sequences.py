"""Labelled lines as tensors."""

import random
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch

from cloud_train.data.sequences import Line, SequencesData, encode, numbered, vocabulary
from cloud_train.spec.problems import FieldError
from cloud_train.training.data.dataset import Batch, DataSet, Pick
from cloud_train.training.data.memory import split
from cloud_train.training.data.sequences import RaggedSamples, load_sequences
from tests.downloads import downloaded
from tests.web_server import serving, sha256


def data(**fields: Any) -> SequencesData:
    return SequencesData(**{"dataset": "sequences", "path": "lines.tsv", **fields})


def ragged(*lines: list[int]) -> RaggedSamples:
    return RaggedSamples(torch.tensor(list(chain(*lines))), torch.tensor([len(line) for line in lines]), torch.arange(len(lines)))


def batch_of(samples: RaggedSamples, *rows: int) -> Batch:
    return next(samples.batches([Pick(torch.tensor(rows), 0)]))


def texts(loaded: DataSet, samples: RaggedSamples) -> list[list[str]]:
    """The tokens of each line, as words."""
    assert loaded.tokens is not None
    words = ("?", *loaded.tokens)
    numbers = iter(samples.tokens.tolist())
    return [[words[number] for number in islice(numbers, length)] for length in samples.lengths.tolist()]


def test_a_batch_is_as_wide_as_its_longest_line_and_padded_with_0() -> None:
    samples = ragged([5, 6, 7], [8], [9, 1, 2, 3])
    batch = batch_of(samples, 1, 0)
    assert batch.inputs.tolist() == [[8, 0, 0], [5, 6, 7]]
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [1, 3]
    assert batch.targets.tolist() == [1, 0]
    assert batch_of(samples, 2, 1).inputs.tolist() == [[9, 1, 2, 3], [8, 0, 0, 0]]
    assert batch_of(samples, 1).inputs.tolist() == [[8]]
    assert {batch.inputs.dtype, batch.targets.dtype, batch.lengths.dtype} == {torch.int64}


def test_batches_come_in_the_order_of_the_picks() -> None:
    samples = ragged([1], [2], [3])
    batches = samples.batches(Pick(torch.tensor([row]), None) for row in (2, 0, 2))
    assert [batch.inputs.item() for batch in batches] == [3, 1, 3]
    assert len(samples) == 3


def test_the_lengths_stay_with_the_cpu_when_the_samples_move() -> None:
    moved = ragged([5, 6], [7]).to(torch.device("meta"))
    assert moved.tokens.device.type == moved.targets.device.type == "meta"
    assert moved.lengths.tolist() == [2, 1]


def test_lines_become_numbers_of_their_tokens(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("pos\tGood, good film\nneg\tbad film\n")
    (tmp_path / "validation.tsv").write_text("neg\ta bad, bad film!\n")
    loaded = load_sequences(data(), tmp_path, 0)
    assert loaded.classes == ("neg", "pos")
    assert loaded.tokens == ("film", "good", ",", "bad")
    assert (loaded.unit, loaded.image_shape) == ("words", None)
    assert (loaded.max_length, loaded.bucketing) == (data().max_length, True)
    assert isinstance(loaded.train, RaggedSamples)
    assert isinstance(loaded.validation, RaggedSamples)
    assert loaded.train.tokens.tolist() == [2, 3, 2, 1, 4, 1]
    assert loaded.train.lengths.tolist() == [4, 2]
    assert loaded.train.targets.tolist() == [1, 0]
    assert texts(loaded, loaded.validation) == [["?", "bad", ",", "bad", "film", "?"]]


@pytest.mark.parametrize("unit", ["words", "characters"])
@pytest.mark.parametrize(("size", "max_length"), [(1000, 1000), (20, 7), (2, 1)])
def test_reading_many_lines_gives_what_reading_one_by_one_gives(tmp_path: Path, unit: str, size: int, max_length: int) -> None:
    draws = random.Random(1)
    words = ["".join(draws.choices("abcdé", k=draws.randint(1, 3))) + draws.choice(["", ",", "!?", "'s", "\u200b"]) for _ in range(60)]
    lines = [f"{draws.choice('xyz')}\t{' '.join(draws.choices([*words, '.'], k=draws.randint(1, 12)))}" for _ in range(5000)]
    (tmp_path / "lines.tsv").write_text("\n".join(lines), encoding="utf-8")
    settings = data(tokens=unit, vocabulary=size, max_length=max_length, seed=3)
    loaded = load_sequences(settings, tmp_path / "lines.tsv", 0)

    every, _, *_ = settings.read(tmp_path / "lines.tsv")
    rows = split(torch.tensor(["xyz".index(line.label) for line in every]), 0.1, 3, "lines")
    train, validation = ([every[row] for row in part] for part in rows)
    assert loaded.tokens == vocabulary(train, settings.tokens, size)
    numbers = numbered(loaded.tokens)
    for samples, part in ((loaded.train, train), (loaded.validation, validation)):
        assert isinstance(samples, RaggedSamples)
        expected = [encode(line.text, numbers, settings.tokens, max_length) for line in part]
        assert samples.lengths.tolist() == [len(line) for line in expected]
        assert samples.tokens.tolist() == list(chain(*expected))
        assert [loaded.classes[target] for target in samples.targets.tolist()] == [line.label for line in part]


def test_the_vocabulary_is_that_of_the_lines_to_train_on(tmp_path: Path) -> None:
    lines = [Line("ab"[number % 2], f"word{number}") for number in range(10)]
    (tmp_path / "lines.tsv").write_text("\n".join(f"{line.label}\t{line.text}" for line in lines))
    loaded = load_sequences(data(validation=0.3), tmp_path / "lines.tsv", 0)
    held_back = split(torch.arange(10) % 2, 0.3, 0, "lines")[1].tolist()
    assert set(loaded.tokens or ()) == {line.text for number, line in enumerate(lines) if number not in held_back}
    assert loaded.validation.lengths is not None
    assert loaded.validation.lengths.tolist() == [1, 1, 1]


def test_the_split_of_the_lines_follows_from_the_seed_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("\n".join(f"{'ab'[n % 2]}\tw{n}" for n in range(50)))
    first, again, other = (load_sequences(data(seed=own), tmp_path / "lines.tsv", seed) for own, seed in ((1, 1), (1, 2), (2, 1)))
    assert first.tokens == again.tokens != other.tokens


def test_a_rare_label_is_in_both_parts_and_a_single_line_is_for_training(tmp_path: Path) -> None:
    path = tmp_path / "lines.tsv"
    path.write_text("".join(f"{label}\tword{n}\n" for label, count in (("a", 30), ("b", 2), ("c", 1)) for n in range(count)))
    for seed in range(20):
        loaded = load_sequences(data(seed=seed), path, 0)
        assert torch.bincount(loaded.validation.targets, minlength=3).tolist() == [3, 1, 0]
        assert torch.bincount(loaded.train.targets, minlength=3).tolist() == [27, 1, 1]


def test_few_lines_are_enough_and_a_split_that_leaves_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lines.tsv"
    path.write_text("a\tone\nb\ttwo\na\tthree\n")
    loaded = load_sequences(data(validation=0.5), path, 0)
    assert (len(loaded.train), len(loaded.validation)) == (2, 1)
    assert "2 lines are held out" not in " ".join(loaded.remarks)
    with pytest.raises(FieldError, match=r"0\.1 of 3 lines leaves none for training or none for validation") as caught:
        load_sequences(data(), path, 0)
    assert caught.value.path == ("data", "validation")


def test_lines_are_downloaded_with_their_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    content = b"a\tone\na\ttwo\nb\tthree\n"
    with serving(**{"lines.tsv": content}) as server:
        section = data(path=None, url=f"{server.url}/lines.tsv", sha256=sha256(content), validation=0.5)
        loaded = load_sequences(section, downloaded(section, tmp_path / "cache"), 0)
    assert loaded.classes == ("a", "b")


def test_the_lines_for_a_test_are_numbered_with_the_vocabulary_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\tone two\na\ttwo\nb\ttwo one\nb\tone\n")
    (tmp_path / "test.tsv").write_text("b\ttwo three\n")
    loaded = load_sequences(data(path=".", validation=0.5), tmp_path, 0)
    assert isinstance(loaded.test, RaggedSamples)
    assert loaded.tokens is not None
    assert loaded.test.tokens.tolist() == [loaded.tokens.index("two") + 1, 0]
    assert loaded.test.targets.tolist() == [1]
