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


def test_a_split_is_a_part_of_a_permutation_that_follows_from_the_seed() -> None:
    train, validation = split(10, 0.3, 4, "images")
    order = permutation(10, 4, "split")
    assert torch.equal(torch.cat([validation, train]), order)
    assert len(validation) == 3


@pytest.mark.parametrize(("samples", "fraction"), [(10, 0.01), (10, 0.99), (1, 0.5), (0, 0.5)])
def test_a_split_that_leaves_nothing_is_refused(samples: int, fraction: float) -> None:
    with pytest.raises(FieldError, match=f"{fraction} of {samples} images leaves none for training or none for validation") as caught:
        split(samples, fraction, 0, "images")
    assert caught.value.path == ("data", "validation")


def test_a_data_set_of_one_image_a_class_is_split_as_any_other() -> None:
    images = Images(torch.zeros(2, 1, 8, 8), torch.arange(2))
    loaded = image_data_set(DigitsData(dataset="digits", size=8, validation=0.5), images, None, ("a", "b"), seed=0)
    assert (len(loaded.train), len(loaded.validation)) == (1, 1)
    assert sorted([*loaded.train.targets.tolist(), *loaded.validation.targets.tolist()]) == [0, 1]
