"""Files of MNIST's format, made here: read whole, or refused with a reason."""

import gzip
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cloud_train.data.mnist import MnistData
from cloud_train.data.pixels import Augment, Normalize
from cloud_train.errors import CorruptError
from cloud_train.spec.problems import FieldError
from cloud_train.training.data.memory import TensorSamples, split
from cloud_train.training.data.mnist import load_mnist
from tests.downloads import downloaded
from tests.web_server import serving, sha256

NAMES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES


def idx(values: Tensor) -> bytes:
    """A file of the type IDX."""
    return struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape) + values.to(torch.uint8).numpy().tobytes()


def files(train: int = 20, test: int = 7, side: int = 5) -> dict[str, bytes]:
    """The four files; image n is random, and of class n modulo 10."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for part, count in (("train", train), ("t10k", test)):
        made[f"{part}-images-idx3-ubyte"] = idx(torch.randint(256, (count, side, side + 1), generator=generator))
        made[f"{part}-labels-idx1-ubyte"] = idx(torch.arange(count) % 10)
    return made


def write(folder: Path, made: dict[str, bytes], packed: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in made.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def data(**fields: Any) -> MnistData:
    return MnistData(**{"dataset": "mnist", "path": "mnist", **fields})


def refused(folder: Path, match: str, **fields: Any) -> None:
    with pytest.raises(CorruptError, match=match) as caught:
        load_mnist(data(**fields), folder, seed=0)
    assert caught.value.hint


@pytest.mark.parametrize("packed", [True, False])
def test_images_and_labels_are_those_of_the_files(tmp_path: Path, packed: bool) -> None:
    made = files()
    loaded = load_mnist(data(normalize=Normalize(mean=(0.1,), std=(0.3,))), write(tmp_path / "mnist", made, packed), seed=0)
    assert isinstance(loaded.train, TensorSamples)
    assert isinstance(loaded.validation, TensorSamples)
    assert isinstance(loaded.test, TensorSamples)
    assert (loaded.train.inputs.shape, loaded.train.inputs.dtype) == ((10, 1, 5, 6), torch.uint8)
    order = torch.cat(split(torch.arange(20) % 10, 0.1, 0, "images")).argsort()
    parts = (loaded.train, loaded.validation)
    images, labels = (torch.cat([getattr(part, name) for part in parts])[order] for name in ("inputs", "targets"))
    assert images.numpy().tobytes() == made[TRAIN_IMAGES][16:]
    assert labels.tolist() == [number % 10 for number in range(20)]
    assert loaded.test.inputs.numpy().tobytes() == made[TEST_IMAGES][16:]
    assert (loaded.test.targets.tolist(), loaded.test.targets.dtype) == (list(range(7)), torch.int64)
    assert loaded.classes == tuple("0123456789")
    assert loaded.image_shape == (1, 5, 6)
    assert loaded.normalize == Normalize(mean=(0.1,), std=(0.3,))


def test_a_fraction_of_the_training_images_of_each_digit_validates(tmp_path: Path) -> None:
    folder = write(tmp_path / "mnist", files(train=40))
    loaded = load_mnist(data(validation=0.25, seed=5), folder, seed=0)
    assert torch.bincount(loaded.validation.targets).tolist() == [1] * 10
    assert torch.bincount(loaded.train.targets).tolist() == [3] * 10
    train, validation = split(torch.arange(40) % 10, 0.25, 5, "images")
    assert (loaded.train.targets.tolist(), loaded.validation.targets.tolist()) == ((train % 10).tolist(), (validation % 10).tolist())
    with pytest.raises(FieldError, match=r"0\.001 of 40 images leaves none"):
        load_mnist(data(validation=0.001), folder, seed=0)


def test_only_training_images_are_augmented(tmp_path: Path) -> None:
    loaded = load_mnist(data(augment=Augment(flip=True)), write(tmp_path / "mnist", files()), seed=0)
    rows = torch.arange(7)
    first, second = (next(loaded.train.batches([(rows, epoch)])).inputs for epoch in (0, None))  # type: ignore[list-item]  # a tuple will do
    assert not torch.equal(first, second)
    first, second = (next(loaded.validation.batches([(rows, epoch)])).inputs for epoch in (0, None))  # type: ignore[list-item]  # as above
    assert torch.equal(first, second)


def test_the_files_are_downloaded_from_one_folder_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    packed = {f"{name}.gz": gzip.compress(content) for name, content in files().items()}
    sums = {name: sha256(content) for name, content in packed.items()}
    with serving(**{f"sub/{name}": content for name, content in packed.items()}) as server:
        for address in (f"{server.url}/sub", f"{server.url}/sub/?key=1"):
            section = data(path=None, url=address, sha256=sums)
            loaded = load_mnist(section, downloaded(section, tmp_path / address.rpartition("/")[2]), seed=0)
            assert (len(loaded.train), len(loaded.validation), len(loaded.test or ())) == (10, 10, 7)
        paths = list(dict.fromkeys(request["path"] for request in server.requests))
        assert paths == [f"/sub/{name}.gz{query}" for query in ("", "?key=1") for name in NAMES]


def test_a_checksum_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=f"{TRAIN_IMAGES}.gz is missing") as caught:
        load_mnist(data(path=None, sha256={}), tmp_path, seed=0)
    assert caught.value.path == ("data", "sha256")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    made = files()
    del made[TEST_LABELS]
    with pytest.raises(FieldError, match=f"contains neither {TEST_LABELS}.gz nor {TEST_LABELS}"):
        load_mnist(data(), write(tmp_path / "mnist", made), seed=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\x00\x00\x08", "begins with 00 00 08, not with 00 00 08 03 and 3 sizes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x14" + bytes(20), "begins with 00 00 08 01, not with 00 00 08 03"),
        (b"\x00\x00\x0d\x03" + bytes(12), "begins with 00 00 0d 03"),
        (b"\x00\x00\x08\x03\x00\x00\x00\x14\x00\x00", "and 3 sizes"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 5, 6), "is empty: its sizes are 0 × 5 × 6"),
        (idx(torch.zeros(20, 5, 6))[:-1], "truncated"),
        (idx(torch.zeros(20, 5, 6)) + b"x", "contains data after the 600 bytes that its header announces"),
        (idx(torch.zeros(19, 5, 6)), "has 19 images, but .* 20 labels"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "more than it can contain"),
        (b"<html>not found</html>", "begins with 3c 68 74 6d, not with"),
    ],
    ids=["empty", "short magic", "labels", "another type", "short sizes", "nothing", "cut", "longer", "fewer", "huge", "html"],
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path: Path, content: bytes, reason: str, packed: bool) -> None:
    folder = write(tmp_path / "mnist", {**files(), TRAIN_IMAGES: content}, packed)
    refused(folder, rf"{TRAIN_IMAGES}.*{reason}")


def test_a_file_of_zero_bytes_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "mnist", files())
    (folder / f"{TRAIN_LABELS}.gz").write_bytes(b"")
    refused(folder, rf"{TRAIN_LABELS}\.gz is empty")


@pytest.mark.parametrize("left", [3, 12, 40, -20, -4])
def test_a_gzip_file_that_is_cut_off_is_named(tmp_path: Path, left: int) -> None:
    folder = write(tmp_path / "mnist", files())
    path = folder / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:left])
    refused(folder, rf"{TRAIN_IMAGES}\.gz is not a complete gzip file")


def test_a_flipped_bit_in_a_gzip_file_is_noticed(tmp_path: Path) -> None:
    folder = write(tmp_path / "mnist", files())
    path = folder / f"{TRAIN_IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(folder, rf"{TRAIN_IMAGES}\.gz is not a complete gzip file")


def test_what_is_unpacked_is_bounded_by_what_the_head_announces(tmp_path: Path) -> None:
    folder = write(tmp_path / "mnist", {**files(), TRAIN_IMAGES: idx(torch.zeros(20, 5, 6)) + bytes(50_000_000)})
    refused(folder, "contains data after the 600 bytes that its header announces")


def test_a_label_that_is_out_of_range_is_named_with_its_number(tmp_path: Path) -> None:
    labels = torch.arange(20) % 10
    labels[13] = 26
    folder = write(tmp_path / "mnist", {**files(), TRAIN_LABELS: idx(labels)})
    refused(folder, rf"{TRAIN_LABELS}\.gz: label number 13 \(from 0\) is 26, not 0 to 9")


def test_test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "mnist", {**files(), TEST_IMAGES: files(side=4)[TEST_IMAGES]})
    refused(folder, "the training images have 5×6 pixels, but the test images have 4×5")


def test_a_folder_in_place_of_a_file_is_no_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "mnist", files())
    (folder / f"{TRAIN_IMAGES}.gz").unlink()
    (folder / f"{TRAIN_IMAGES}.gz").mkdir()
    with pytest.raises(FieldError, match="contains neither"):
        load_mnist(data(), folder, seed=0)
    with pytest.raises(FieldError, match="contains neither"):
        load_mnist(data(), tmp_path / "gone", seed=0)


def test_few_images_are_enough_and_one_of_each_digit_is_not(tmp_path: Path) -> None:
    loaded = load_mnist(data(), write(tmp_path / "mnist", files(train=12, test=1)), seed=0)
    assert (len(loaded.train), loaded.validation.targets.sort().values.tolist(), len(loaded.test or ())) == (10, [0, 1], 1)
    with pytest.raises(FieldError, match="every class has a single sample"):
        load_mnist(data(), write(tmp_path / "mnist", files(train=10)), seed=0)
