"""The data set ``images``: what is trained and validated on, and its batches, whoever decodes them."""

import pickle
import zipfile
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cloud_train.data.images import ImagesData
from cloud_train.data.pixels import Normalize, PhotoAugment, photo_augment
from cloud_train.spec.problems import FieldError
from cloud_train.training.data.dataset import DataSet, Pick
from cloud_train.training.data.decoding import UnreadableImageError, random_part
from cloud_train.training.data.images import FolderSamples, default_processes, load_images
from tests.downloads import downloaded
from tests.training.images.pictures import SIDE, png_header, write_folder
from tests.web_server import serving, sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of two classes, with 12 images to train and 4 to validate."""
    write_folder(tmp_path / "train", {"cat": 7, "dog": 5})
    write_folder(tmp_path / "val", {"dog": 3, "cat": 1})
    return tmp_path


def settings(workers: int = 0, **fields: object) -> ImagesData:
    return ImagesData.model_validate({"dataset": "images", "path": "here", "size": SIDE, "workers": workers, "augment": None, **fields})


def samples(folder: Path, workers: int = 0, **fields: object) -> FolderSamples:
    return part(load_images(settings(workers, **fields), folder, seed=0), "train")


def part(data: DataSet, name: str) -> FolderSamples:
    found = getattr(data, name)
    assert isinstance(found, FolderSamples)
    return found


def paths(found: FolderSamples) -> list[str]:
    return [found.path(row) for row in range(len(found))]


def picked(*rows: int, epoch: int | None = 0) -> Pick:
    return Pick(torch.tensor(rows), epoch)


def read(found: FolderSamples, *picks: Pick) -> list[tuple[Tensor, Tensor]]:
    with closing(found.batches(iter(picks))) as batches:
        return [(batch.inputs, batch.targets) for batch in batches]


def equal(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(one, other) for pair in zip(some, others, strict=True) for one, other in zip(*pair, strict=True)
    )


# What the samples are


@pytest.mark.parametrize(
    ("given", "flip", "crop"), [({}, False, 0.7), ({"augment": "strong"}, True, 0.08), ({"augment": {"flip": False}}, False, 0.08)]
)
def test_an_augmentation_has_a_name_or_settings(given: dict[str, Any], flip: bool, crop: float) -> None:
    section = ImagesData.model_validate({"dataset": "images", "path": "here", **given})
    assert section.augmentation == PhotoAugment(flip=flip, crop=crop)


def test_the_gentle_augmentation_leaves_out_little_and_mirrors_nothing(folder: Path) -> None:
    gentle, same = samples(folder, augment="gentle"), samples(folder, augment={"flip": False, "crop": 0.7})
    [(inputs, _)], [(others, _)] = read(gentle, picked(0, 1)), read(same, picked(0, 1))
    assert torch.equal(inputs, others)
    views = [random_part(SIDE, photo_augment("gentle"), seed)(640, 480) for seed in range(100)]
    assert not any(view.is_mirrored for view in views)
    assert min((view.right - view.left) * (view.bottom - view.top) for view in views) > 0.69 * 640 * 480


def test_the_layout_of_imagenet_says_what_is_for_validation(folder: Path) -> None:
    data = load_images(settings(), folder, seed=0)
    assert data.classes == ("cat", "dog")
    assert data.train.targets.tolist() == [0] * 7 + [1] * 5
    assert data.validation.targets.tolist() == [0] + [1] * 3
    assert paths(part(data, "validation")) == [
        str(folder / "val" / name) for name in ("cat/000.png", "dog/000.png", "dog/001.png", "dog/002.png")
    ]


def test_without_a_folder_for_validation_a_part_is_held_back(folder: Path) -> None:
    data = load_images(settings(validation=0.25), folder / "train", seed=0)
    train, validation = paths(part(data, "train")), paths(part(data, "validation"))
    assert len(validation) == 3
    assert sorted(train + validation) == paths(samples(folder))
    assert [data.classes[target] for target in data.train.targets] == [Path(path).parent.name for path in train]


def test_the_split_follows_from_the_seed_of_the_data(folder: Path) -> None:
    sections = [(settings(validation=0.5, seed=own), seed) for own, seed in ((0, 0), (0, 1), (1, 0))]
    held_back = [paths(part(load_images(section, folder / "train", seed), "validation")) for section, seed in sections]
    assert held_back[0] == held_back[1] != held_back[2]


def test_a_rare_class_is_in_both_parts_whatever_the_seed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"common": 28, "rare": 2, "single": 1})
    for seed in range(20):
        data = load_images(settings(validation=0.1, seed=seed), folder, seed=0)
        for samples, counts in ((data.train, [25, 1, 1]), (data.validation, [3, 1, 0])):
            assert torch.bincount(samples.targets, minlength=3).tolist() == counts


def test_a_number_means_the_same_image_wherever_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in ("dog", "cat"):
        (other / name).mkdir(parents=True)
        for path in sorted((folder / "train" / name).iterdir(), reverse=True):
            (other / name / path.name).write_bytes(path.read_bytes())
    assert [path.removeprefix(str(other)) for path in paths(samples(other, validation=0.25))] == [
        path.removeprefix(str(folder / "train")) for path in paths(samples(folder / "train", validation=0.25))
    ]


def test_names_may_be_of_any_letters(tmp_path: Path) -> None:
    data = load_images(settings(validation=0.5), write_folder(tmp_path, {"Äpfel": 2, "梨": 2}), seed=0)
    assert data.classes == ("Äpfel", "梨")
    assert all(Path(path).is_file() for path in paths(part(data, "train")) + paths(part(data, "validation")))


def test_a_folder_that_is_not_as_it_should_be_is_a_mistake_of_the_job(folder: Path) -> None:
    (folder / "train" / "bird").mkdir()
    with pytest.raises(FieldError, match=r"1 of 3 classes have no images: .*bird") as caught:
        load_images(settings(), folder, seed=0)
    assert caught.value.path == ("data", "path")


def test_an_archive_is_fetched_and_unpacked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for path in (folder / "train").rglob("*.png"):
            opened.write(path, Path("pets") / path.relative_to(folder / "train"))
    content = archive.getvalue()
    with serving(**{"pets.zip": content}) as server:
        data = settings(path=None, url=f"{server.url}/pets.zip", sha256=sha256(content), validation=0.25)
        found = load_images(data, downloaded(data, tmp_path / "cache"), seed=0)
    assert (found.classes, len(found.train), len(found.validation)) == (("cat", "dog"), 9, 3)
    assert equal(read(part(found, "train"), picked(0)), read(samples(folder / "train", validation=0.25), picked(0)))


def test_data_from_nowhere_is_a_mistake_of_the_job(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="the source is missing"):
        load_images(settings(path=None), tmp_path, seed=0)


# What a batch holds


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_holds_the_pixels_from_0_to_1(folder: Path, channels: int) -> None:
    normalize = Normalize(mean=(0.5,), std=(0.5,))
    data = load_images(settings(channels=channels, normalize=normalize), folder, seed=0)
    assert (data.image_shape, data.normalize) == ((channels, SIDE, SIDE), normalize)
    assert data.preparation == "photograph"
    found = part(data, "train")
    [(inputs, targets)] = read(found, picked(8, 0))
    assert (inputs.shape, inputs.dtype, targets.tolist()) == ((2, channels, SIDE, SIDE), torch.float32, [1, 0])
    for row, image_CHW in zip((8, 0), inputs, strict=True):
        with Image.open(found.path(row)) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(SIDE, SIDE, channels)
        assert torch.equal(image_CHW.permute(1, 2, 0), torch.from_numpy(pixels.copy()).float() / 255)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_processes_changes_nothing_wherever_one_begins(folder: Path, workers: int) -> None:
    picks = [picked(*rows, epoch=epoch) for epoch in (0, 1) for rows in ((3, 1, 4), (0, 11, 5), (9, 2, 6), (8,))]
    alone = samples(folder, augment=PhotoAugment())
    shared = samples(folder, workers, augment=PhotoAugment())
    expected = read(alone, *picks)
    assert equal(read(shared, *picks), expected)
    assert equal(read(shared, *picks[3:]), expected[3:])


def test_augmentation_follows_from_the_epoch_and_the_number_alone(folder: Path) -> None:
    found = samples(folder, augment=PhotoAugment())
    [(first, _), (again, _), (later, _), (unchanged, _)] = read(
        found, picked(0, 1, 2, epoch=4), picked(2, 1, epoch=4), picked(0, 1, 2, epoch=5), picked(0, 1, 2, epoch=None)
    )
    assert torch.equal(first[[2, 1]], again)
    assert not any(torch.equal(one, other) for one, other in zip(first, later, strict=True))
    assert equal([(unchanged, torch.zeros(0))], [(read(samples(folder), picked(0, 1, 2))[0][0], torch.zeros(0))])


def test_equal_images_are_augmented_each_in_its_own_way(folder: Path) -> None:
    (folder / "train" / "cat" / "001.png").write_bytes((folder / "train" / "cat" / "000.png").read_bytes())
    [(inputs, _)] = read(samples(folder, augment=PhotoAugment()), picked(0, 1))
    assert not torch.equal(inputs[0], inputs[1])


def test_another_seed_augments_otherwise(folder: Path) -> None:
    ones, others = (part(load_images(settings(augment=PhotoAugment()), folder, seed), "train") for seed in (0, 1))
    assert not equal(read(ones, picked(0, 1, 2)), read(others, picked(0, 1, 2)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_stays_as_it_is_for_as_long_as_anybody_holds_a_part_of_it(folder: Path, workers: int) -> None:
    found = samples(folder, workers)
    picks = [picked(row, row + 1) for row in range(11)]
    with closing(found.batches(iter(picks))) as batches:
        held = [batch.inputs[1] for batch in batches]
    assert all(torch.equal(one, read(samples(folder), pick)[0][0][1]) for one, pick in zip(held, picks, strict=True))


def test_memory_is_used_again_once_nobody_holds_the_batch(folder: Path) -> None:
    with closing(samples(folder).batches(picked(row) for row in range(12))) as batches:
        addresses = {batch.inputs.data_ptr() for batch in batches}
    assert len(addresses) <= 2


@pytest.mark.parametrize("workers", [0, 1])
def test_of_endless_picks_a_few_are_taken_at_a_time(folder: Path, workers: int) -> None:
    taken = 0

    def endless() -> Iterator[Pick]:
        nonlocal taken
        while True:
            taken += 1
            yield picked(taken % 12)

    with closing(samples(folder, workers).batches(endless())) as batches:
        assert [len(batch) for batch in islice(batches, 5)] == [1] * 5
    assert taken <= 5 + 2 * workers


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_left_alone(folder: Path, workers: int) -> None:
    found = samples(folder, workers, augment=PhotoAugment())
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # numpy declares two forms of it
    read(found, picked(0, 1), picked(2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]  # as above


# Images that cannot be read


def broken_folder(folder: Path) -> Path:
    """The second and the third image, 1 and 2, cannot be read."""
    (folder / "train" / "cat" / "001.png").write_bytes(b"")
    (folder / "train" / "cat" / "002.png").write_bytes(png_header(10_000, 10_000))
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_ends_the_run_in_its_turn(folder: Path, workers: int) -> None:
    seen: list[int] = []
    with (
        pytest.raises(UnreadableImageError) as caught,
        closing(samples(broken_folder(folder), workers).batches([picked(0), picked(3, 1, 2)])) as batches,
    ):
        seen.extend(len(batch) for batch in batches)
    assert seen == [1]
    assert caught.value.message == f"{folder / 'train' / 'cat' / '001.png'}: the file is empty"
    assert caught.value.hint == "replace or delete the file, or set data.broken to skip"


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_left_out_if_the_job_says_so(folder: Path, workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = samples(broken_folder(folder), workers, broken="skip", max_broken=0.5)
    batches = read(found, picked(0, 1, 8), picked(2, 1), picked(2, 3, epoch=1))
    whole = samples(folder)
    assert equal(batches[:1], read(whole, picked(0, 8)))
    assert [targets.tolist() for _, targets in batches] == [[0, 1], [], [0]]
    assert batches[1][0].shape == (0, 3, SIDE, SIDE)
    assert capsys.readouterr().err.splitlines() == [
        f"skipped: {folder / 'train' / 'cat' / '001.png'}: the file is empty",
        f"skipped: {folder / 'train' / 'cat' / '002.png'}: too large: 10,000×10,000 pixels exceeds the limit of 64 million pixels",
    ]
    assert found.skipped() == f"2 of {len(found)} images were skipped because they cannot be read: 2 of 'cat'"
    assert whole.skipped() == ""


def test_more_broken_images_of_a_class_than_the_job_allows_end_the_run(folder: Path) -> None:
    found = samples(broken_folder(folder), broken="skip", max_broken=0.1)
    with pytest.raises(
        UnreadableImageError, match=r"002\.png: .*; with it, 2 of the \d+ images of the class 'cat' cannot be read"
    ) as caught:
        read(found, picked(0, 1, 2))
    assert caught.value.hint == "replace or delete these files, or set data.max_broken to a larger fraction"


def test_a_class_without_any_readable_image_ends_the_run_whatever_the_job_allows(folder: Path) -> None:
    for file in (folder / "train/cat").iterdir():
        file.write_bytes(b"")
    found = samples(folder, broken="skip", max_broken=1.0)
    with pytest.raises(UnreadableImageError, match="images of the class 'cat' cannot be read"):
        read(found, picked(*range(len(found))))


def test_a_link_that_leads_nowhere_is_a_broken_image(folder: Path) -> None:
    (folder / "train/cat/000.png").unlink()
    (folder / "train/cat/000.png").symlink_to("gone.png")
    with pytest.raises(UnreadableImageError, match=r"000\.png: No such file"):
        read(samples(folder), picked(0))


# Where it is done


def test_there_is_a_process_for_each_core_but_one_shared_among_the_training_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, training_processes, processes in ((8, "", 7), (8, "2", 3), (1, "", 1), (2, "4", 1)):
        monkeypatch.setattr("cloud_train.training.data.images.usable_cpus", lambda cores=cores: cores)
        assert default_processes({"LOCAL_WORLD_SIZE": training_processes} if training_processes else {}) == processes


def test_samples_can_be_handed_to_a_process_that_is_started_anew(folder: Path) -> None:
    found = samples(broken_folder(folder), broken="skip", augment=PhotoAugment())
    assert equal(read(pickle.loads(pickle.dumps(found)), picked(0, 1, 5)), read(found, picked(0, 1, 5)))


def test_batches_come_to_the_device_that_was_chosen(folder: Path) -> None:
    found = samples(folder).to(torch.device("meta"))
    [(inputs, targets)] = read(found, picked(0, 8))
    assert (inputs.device.type, targets.device.type, inputs.dtype, inputs.shape) == ("meta", "meta", torch.float32, (2, 3, SIDE, SIDE))
