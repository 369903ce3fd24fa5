"""Text as tensors."""

from pathlib import Path

import pytest
import torch

from cloud_train.data.python_docs import PythonDocsData
from cloud_train.data.text import TextData
from cloud_train.spec.problems import FieldError
from cloud_train.training.data.dataset import DataSet, Pick
from cloud_train.training.data.memory import TensorSamples
from cloud_train.training.data.text import encode, load_text
from tests.downloads import downloaded
from tests.web_server import serving, sha256


def decode(data: DataSet, characters: torch.Tensor) -> str:
    return "".join(data.classes[number] for number in characters.flatten().tolist())


def inputs(data: DataSet, part: str) -> torch.Tensor:
    samples = getattr(data, part)
    assert isinstance(samples, TensorSamples)
    return samples.inputs


def test_each_target_of_a_text_is_the_character_after_its_input(tmp_path: Path) -> None:
    text = "abcdefghij" * 10
    (tmp_path / "text.txt").write_text(text)
    data = load_text(TextData(dataset="text", path="text.txt", sequence_length=7, validation=0.2), tmp_path / "text.txt", 0)
    assert decode(data, inputs(data, "train")) == text[:77]  # the 80 characters to train on are 11 sequences and a rest
    assert decode(data, data.train.targets) == text[1:78]
    assert decode(data, inputs(data, "validation")) == text[80:99]
    assert (data.image_shape, data.tokens) == (None, None)
    batch = next(data.train.batches([Pick(torch.tensor([1]), 0)]))
    assert (decode(data, batch.inputs), decode(data, batch.targets)) == (text[7:14], text[8:15])
    assert (batch.inputs.dtype, batch.targets.dtype) == (torch.int64, torch.int64)


def test_a_text_lies_in_memory_once(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcdefghij" * 10)
    train = load_text(TextData(dataset="text", path="text.txt", sequence_length=7), tmp_path / "text.txt", 0).train
    assert isinstance(train, TensorSamples)
    assert train.inputs.untyped_storage().data_ptr() == train.targets.untyped_storage().data_ptr()


def test_python_docs_is_about_700000_characters_of_english() -> None:
    data = load_text(PythonDocsData(dataset="python-docs"), Path(), 0)
    train = inputs(data, "train")
    assert train.shape[1] == 128
    assert 400_000 < train.numel() < 2_000_000
    assert " the " in decode(data, inputs(data, "validation")[:20])


def test_a_text_is_downloaded_with_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    content = b"abcdefghij" * 10
    with serving(**{"text.txt": content}) as server:
        url = f"{server.url}/text.txt"
        section = TextData(dataset="text", url=url, sha256=sha256(content), sequence_length=7, validation=0.2)
        data = load_text(section, downloaded(section, tmp_path), 0)
    assert decode(data, inputs(data, "train")).startswith("abcdefghij")


def test_a_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc")
    with pytest.raises(FieldError, match="one sequence takes 8"):
        load_text(TextData(dataset="text", path="text.txt", sequence_length=7), tmp_path / "text.txt", 0)


def test_characters_beyond_the_16_bit_ones_are_encoded() -> None:
    assert encode("z😀é", "zé😀").tolist() == [0, 2, 1]
