"""Samples in memory."""

import pytest
import torch

from cloud_train.data.digits import DigitsData
from cloud_train.data.pixels import Augment
from cloud_train.spec.problems import FieldError
from cloud_train.training.data.dataset import Batch, Pick
from cloud_train.training.data.memory import Augmentation, Images, TensorSamples, image_data_set, split
from cloud_train.training.randomness import permutation


def batch_of(samples: TensorSamples, rows: list[int], epoch: int | None = None) -> Batch:
    return next(samples.batches([Pick(torch.tensor(rows), epoch)]))


def test_a_batch_holds_the_rows_that_were_picked() -> None:
    samples = TensorSamples(torch.arange(6).view(3, 2), torch.tensor([7, 8, 9]))
    batch = batch_of(samples, [2, 0])
    assert batch.inputs.tolist() == [[4, 5], [0, 1]]
    assert batch.targets.tolist() == [9, 7]
    assert batch.lengths is None
    assert len(samples) == 3


def test_bytes_become_numbers_from_0_to_1_and_stay_bytes_in_memory() -> None:
    samples = TensorSamples(torch.tensor([[[[0, 51]]], [[[128, 255]]]], dtype=torch.uint8), torch.tensor([0, 1]))
    batch = batch_of(samples, [0, 1])
    assert batch.inputs.dtype == torch.float32
    assert torch.equal(batch.inputs.flatten(), torch.tensor([0, 51, 128, 255]) / 255)
    assert samples.inputs.dtype == torch.uint8


def test_numbers_are_left_as_they_are() -> None:
    inputs = torch.tensor([[[[0.25]]]])
    assert torch.equal(batch_of(TensorSamples(inputs, torch.tensor([0])), [0]).inputs, inputs)


def test_a_batch_is_no_view_of_the_samples() -> None:
    samples = TensorSamples(torch.zeros(2, 1), torch.tensor([0, 1]))
    batch_of(samples, [0, 1]).inputs.fill_(9)
    assert samples.inputs.sum() == 0


def test_only_what_is_picked_for_an_epoch_is_augmented() -> None:
    images = torch.arange(48, dtype=torch.uint8).view(4, 1, 3, 4)
    samples = TensorSamples(images, torch.arange(4), Augmentation(Augment(crop=2), 4, seed=0))
    assert torch.equal(batch_of(samples, [0, 1, 2, 3]).inputs * 255, images.float())
    assert not torch.equal(batch_of(samples, [0, 1, 2, 3], epoch=0).inputs * 255, images.float())


def test_samples_that_move_are_augmented_alike() -> None:
    samples = TensorSamples(torch.rand(4, 1, 3, 4), torch.arange(4), Augmentation(Augment(flip=True, crop=1), 4, seed=0))
    moved = samples.to(torch.device("cpu"))
    assert torch.equal(batch_of(samples, [1, 3], 5).inputs, batch_of(moved, [1, 3], 5).inputs)
    assert samples.to(torch.device("meta")).inputs.device.type == "meta"


def test_each_class_is_split_by_its_order_in_a_permutation_that_follows_from_the_seed() -> None:
    targets = torch.tensor([0, 1, 2, 1, 0, 1, 1, 0, 2, 1, 1, 1])
    train, validation = split(targets, 0.4, 4, "images")
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(12)), "each sample is in one part"
    assert all(torch.equal(rows, rows.sort().values) for rows in (train, validation))
    order = permutation(12, 4, "split").tolist()
    for number, share in enumerate((1, 3, 1)):  # of 3, 7 and 2
        assert set(validation.tolist()) & {row for row in range(12) if targets[row] == number} == set(
            [row for row in order if targets[row] == number][:share]
        )


def test_a_split_has_every_class_in_both_parts_whatever_the_seed() -> None:
    targets = torch.tensor([0] * 500 + [1] * 2 + [2] * 15 + [3])
    splits = [split(targets, 0.1, seed, "images") for seed in range(60)]
    assert {tuple(torch.bincount(targets[validation], minlength=4).tolist()) for _, validation in splits} == {(50, 1, 2, 0)}
    assert len({tuple(validation.tolist()) for _, validation in splits}) == 60


@pytest.mark.parametrize(("samples", "fraction"), [(10, 0.01), (10, 0.99), (1, 0.5), (0, 0.5)])
def test_a_split_that_leaves_nothing_is_refused(samples: int, fraction: float) -> None:
    with pytest.raises(FieldError, match=f"{fraction} of {samples} images leaves none for training or none for validation") as caught:
        split(torch.zeros(samples, dtype=torch.int64), fraction, 0, "images")
    assert caught.value.path == ("data", "validation")


def test_the_seed_of_the_data_chooses_the_split_and_that_of_the_training_does_not() -> None:
    images = Images(torch.rand(40, 1, 8, 8), torch.arange(40) % 2)

    def validation(data_seed: int, seed: int) -> torch.Tensor:
        section = DigitsData(dataset="digits", size=8, seed=data_seed)
        samples = image_data_set(section, images, None, ("a", "b"), seed).validation
        assert isinstance(samples, TensorSamples)
        return samples.inputs

    assert torch.equal(validation(0, 0), validation(0, 1))
    assert not torch.equal(validation(0, 0), validation(1, 0))


def test_images_for_a_test_are_kept_apart_and_a_split_that_is_not_the_fraction_is_remarked_on() -> None:
    images, test = (Images(torch.rand(count, 1, 8, 8), torch.arange(count) % 5) for count in (10, 5))
    loaded = image_data_set(DigitsData(dataset="digits", size=8, validation=0.2), images, test, tuple("abcde"), seed=0)
    assert isinstance(loaded.test, TensorSamples)
    assert torch.equal(loaded.test.inputs, test.pixels)
    assert loaded.validation.targets.sort().values.tolist() == [0, 1, 2, 3, 4]
    assert loaded.remarks == ("5 of 10 images are held out for validation, not 2 (data.validation: 0.2): every class has at least one",)
