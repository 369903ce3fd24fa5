"""CIFAR-10's binary version, made here."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cloud_train.data.cifar10 import Cifar10Data
from cloud_train.data.pixels import Augment
from cloud_train.errors import CorruptError, StoreError
from cloud_train.spec.problems import FieldError
from cloud_train.training.data.cifar10 import load_cifar10
from cloud_train.training.data.dataset import DataSet
from cloud_train.training.data.memory import TensorSamples, split
from tests.downloads import downloaded
from tests.web_server import serving, sha256

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
META = "batches.meta.txt"
ORDER = (
    "data_batch_4.bin",
    "readme.html",
    "test_batch.bin",
    "data_batch_3.bin",
    META,
    "data_batch_2.bin",
    "data_batch_5.bin",
    "data_batch_1.bin",
)
"""As in the real archive, where they follow no order."""


def pixels_of(number: int, images: int = 4) -> np.ndarray:
    """The pixels of batch ``number``, drawn from its number; image n of it has class n + number."""
    return np.random.default_rng(number).integers(0, 256, (images, 3072), dtype=np.uint8)


def batch(number: int, images: int = 4, pixels: np.ndarray | None = None, labels: list[int] | None = None) -> bytes:
    """The file of batch ``number``."""
    labels = [(image + number) % 10 for image in range(images)] if labels is None else labels
    rows = pixels_of(number, images) if pixels is None else pixels
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, rows, strict=True))


def files(**changes: bytes) -> dict[str, bytes]:
    """The files of the archive; ``changes`` by name without ``.bin``."""
    made = {f"data_batch_{number}.bin": batch(number) for number in range(1, 6)}
    made["test_batch.bin"] = batch(0, images=3)
    made[META] = "".join(f"{name}\n" for name in (*NAMES, "")).encode()
    made["readme.html"] = b"<html>"
    return {**made, **{f"{name}.bin": content for name, content in changes.items()}}


def pack(path: Path, made: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("cifar-10-batches-bin")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in ORDER:
            if name in made:
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                info.size = len(made[name])
                archive.addfile(info, io.BytesIO(made[name]))
    return path


def write(folder: Path, made: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return folder


def data(**fields: Any) -> Cifar10Data:
    return Cifar10Data(**{"dataset": "cifar10", "path": "cifar", **fields})


def inputs(loaded: DataSet, part: str) -> Tensor:
    samples = getattr(loaded, part)
    assert isinstance(samples, TensorSamples)
    return samples.inputs


def refused(tmp_path: Path, match: str, **changes: bytes) -> None:
    with pytest.raises(CorruptError, match=match) as caught:
        load_cifar10(data(), pack(tmp_path / "cifar.tar.gz", files(**changes)), seed=0)
    assert caught.value.hint


def test_the_archive_holds_images_in_the_order_of_the_batches(tmp_path: Path) -> None:
    loaded = load_cifar10(data(), pack(tmp_path / "cifar.tar.gz", files()), seed=0)
    assert loaded.classes == NAMES
    assert loaded.image_shape == (3, 32, 32)
    pixels = np.concatenate([pixels_of(number) for number in range(1, 6)])
    labels = [(image + number) % 10 for number in range(1, 6) for image in range(4)]
    order = torch.cat(split(torch.tensor(labels), 0.1, 0, "images")).argsort()
    assert np.array_equal(torch.cat([inputs(loaded, "train"), inputs(loaded, "validation")])[order].reshape(20, 3072).numpy(), pixels)
    assert torch.cat([loaded.train.targets, loaded.validation.targets])[order].tolist() == labels
    assert np.array_equal(inputs(loaded, "test").reshape(3, 3072).numpy(), pixels_of(0, 3))
    assert loaded.test is not None
    assert loaded.test.targets.tolist() == [0, 1, 2]


def test_a_row_is_red_then_green_then_blue_each_row_by_row(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3072), dtype=np.uint8)
    pixels[0, 1024 + 32 * 5 + 7] = 200
    changed = batch(1, 1, pixels=pixels)
    loaded = load_cifar10(data(), pack(tmp_path / "cifar.tar.gz", files(data_batch_1=changed)), seed=0)
    assert inputs(loaded, "train")[0].nonzero().tolist() == [[1, 5, 7]]


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_the_folder_is_as_good_as_the_archive(tmp_path: Path, inside: str) -> None:
    write(tmp_path / "cifar" / inside, files())
    of_folder = load_cifar10(data(), tmp_path / "cifar", seed=0)
    of_archive = load_cifar10(data(), pack(tmp_path / "cifar.tar.gz", files()), seed=0)
    assert torch.equal(inputs(of_folder, "train"), inputs(of_archive, "train"))
    assert torch.equal(of_folder.train.targets, of_archive.train.targets)


def test_a_fraction_of_the_training_images_of_each_class_validates(tmp_path: Path) -> None:
    archive = pack(tmp_path / "cifar.tar.gz", files())
    loaded = load_cifar10(data(validation=0.25, seed=7, augment=Augment(crop=4)), archive, seed=0)
    everything = torch.from_numpy(np.concatenate([pixels_of(number) for number in range(1, 6)])).view(-1, 3, 32, 32)
    labels = torch.tensor([(image + number) % 10 for number in range(1, 6) for image in range(4)])
    train, validation = split(labels, 0.25, 7, "images")
    assert torch.equal(inputs(loaded, "validation"), everything[validation])
    assert torch.equal(inputs(loaded, "train"), everything[train])
    with pytest.raises(FieldError, match=r"0\.01 of 20 images leaves none"):
        load_cifar10(data(validation=0.01), archive, seed=0)


def test_the_archive_is_downloaded_with_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    content = pack(tmp_path / "cifar.tar.gz", files()).read_bytes()
    with serving(**{"cifar.tar.gz": content}) as server:
        section = data(path=None, url=f"{server.url}/cifar.tar.gz", sha256=sha256(content))
        loaded = load_cifar10(section, downloaded(section, tmp_path / "cache"), seed=0)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test or ())) == (14, 6, 3)


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin", META])
def test_a_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    made = files()
    del made[name]
    for source in (pack(tmp_path / "cifar.tar.gz", made), write(tmp_path / "cifar", made)):
        with pytest.raises(CorruptError, match=rf"{source} is not CIFAR-10's binary version: {name} is missing"):
            load_cifar10(data(), source, seed=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is truncated: 0 bytes are not a whole number of images"),
        (batch(2)[:-1], "is truncated: 12,291 bytes are not a whole number of images"),
        (batch(2, labels=[1, 2, 10, 3]), r"label number 2 \(from 0\) is 10, not 0 to 9"),
        (batch(2, labels=[1, 255, 2, 3]), r"label number 1 \(from 0\) is 255, not 0 to 9"),
    ],
)
def test_a_batch_that_is_not_what_it_should_be_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    refused(tmp_path, rf"cifar\.tar\.gz: data_batch_2\.bin:? {reason}", data_batch_2=content)


@pytest.mark.parametrize("names", [b"one\n" * 10, b"one\n", b"", b"\xff\n0\n1\n2\n3\n4\n5\n6\n7\n7\n"])
def test_classes_without_names_of_their_own_are_refused(tmp_path: Path, names: bytes) -> None:
    with pytest.raises(CorruptError, match=r"batches\.meta\.txt does not name 10 classes"):
        load_cifar10(data(), pack(tmp_path / "cifar.tar.gz", {**files(), META: names}), seed=0)


def test_the_python_version_is_refused_with_what_to_download(tmp_path: Path) -> None:
    pickled = {name.removesuffix(".bin").removesuffix(".txt"): b"a pickle" for name in files()}
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        for name, content in pickled.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    for source in (tmp_path / "cifar.tar.gz", write(tmp_path / "cifar" / "cifar-10-batches-py", pickled), tmp_path / "cifar"):
        with pytest.raises(CorruptError, match="is the Python version of CIFAR-10") as caught:
            load_cifar10(data(), source, seed=0)
        assert "cifar-10-binary.tar.gz" in str(caught.value.hint)


@pytest.mark.parametrize("left", [0, 5, 1000, -2000])
def test_an_archive_that_is_cut_off_is_named(tmp_path: Path, left: int) -> None:
    archive = pack(tmp_path / "cifar.tar.gz", files())
    archive.write_bytes(archive.read_bytes()[:left])
    with pytest.raises(CorruptError, match=r"cifar\.tar\.gz (is not a complete \.tar\.gz|is not CIFAR-10's)"):
        load_cifar10(data(), archive, seed=0)


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    for content in (b"<html>not found</html>" * 100, gzip.compress(b"no tar" * 1000)):
        (tmp_path / "cifar.tar.gz").write_bytes(content)
        with pytest.raises(CorruptError, match=r"cifar\.tar\.gz is not a complete \.tar\.gz"):
            load_cifar10(data(), tmp_path / "cifar.tar.gz", seed=0)
    with pytest.raises(StoreError, match=r"cannot read .*gone: no such file or directory"):
        load_cifar10(data(), tmp_path / "gone", seed=0)


def test_a_member_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "cifar.tar.gz", "wb") as file:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        info.size = (64 << 20) + 1
        file.write(info.tobuf())
    with pytest.raises(CorruptError, match=r"data_batch_1.bin is too large for a file of CIFAR-10: 67\.1 MB"):
        load_cifar10(data(), tmp_path / "cifar.tar.gz", seed=0)


def test_a_link_is_no_batch(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        for name, content in files().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == "data_batch_5.bin":
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
            archive.addfile(info, io.BytesIO(content[: info.size]))
    with pytest.raises(CorruptError, match="data_batch_5\\.bin is missing"):
        load_cifar10(data(), tmp_path / "cifar.tar.gz", seed=0)
