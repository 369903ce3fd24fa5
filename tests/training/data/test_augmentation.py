"""Flips and crops of images in memory."""

import pytest
import torch
from torch import Tensor

from cloud_train.data.pixels import Augment
from cloud_train.training.data.memory import Augmentation
from cloud_train.training.randomness import derived_seed

SAMPLES = 50


def images(dtype: torch.dtype = torch.uint8) -> Tensor:
    """Images that are not square, with no black pixel, all different."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (SAMPLES, 3, 5, 7), generator=generator).to(dtype)


def augmented(settings: Augment, rows: list[int], epoch: int = 2, seed: int = 1) -> Tensor:
    return Augmentation(settings, SAMPLES, seed)(images()[rows], torch.tensor(rows), epoch)


def by_hand(image: Tensor, flip: bool, down: int, right: int) -> Tensor:
    """The image, mirrored, seen through a window that lies ``down`` and ``right`` of it; pixel by pixel."""
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                source_row, source_column = row + down, column + right
                if 0 <= source_row < height and 0 <= source_column < width:
                    mirrored = width - 1 - source_column if flip else source_column
                    result[channel, row, column] = image[channel, source_row, mirrored]
    return result


@pytest.mark.parametrize("settings", [Augment(flip=True), Augment(crop=2), Augment(flip=True, crop=3), Augment(crop=9)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_image_is_mirrored_or_moved_by_a_few_pixels(settings: Augment, dtype: torch.dtype) -> None:
    rows = torch.arange(SAMPLES)
    before = images(dtype)
    after = Augmentation(settings, SAMPLES, 1)(before, rows, 2)
    assert (after.shape, after.dtype, after.is_contiguous()) == (before.shape, dtype, True)
    flips = torch.randint(0, 2, (SAMPLES,), generator=torch.Generator().manual_seed(derived_seed(1, "flip", 2)))
    draws = torch.Generator().manual_seed(derived_seed(1, "crop", 2))
    shifts = torch.randint(0, 2 * settings.crop + 1, (2, SAMPLES), generator=draws) - settings.crop
    for row in range(SAMPLES):
        expected = by_hand(before[row], settings.flip and bool(flips[row]), int(shifts[0, row]), int(shifts[1, row]))
        assert torch.equal(after[row], expected), row


def test_an_image_is_changed_alike_however_the_batches_are_split() -> None:
    settings = Augment(flip=True, crop=2)
    whole = augmented(settings, list(range(SAMPLES)))
    assert torch.equal(augmented(settings, [40, 3, 17]), whole[[40, 3, 17]])
    one = Augmentation(settings, SAMPLES, 1)
    parts = [one(images()[start : start + 7], torch.arange(start, min(start + 7, SAMPLES)), 2) for start in range(0, SAMPLES, 7)]
    assert torch.equal(torch.cat(parts), whole)


def test_epochs_that_take_turns_do_not_disturb_each_other() -> None:
    settings = Augment(flip=True, crop=2)
    both = Augmentation(settings, SAMPLES, 1)
    rows = torch.arange(10)
    for epoch in (0, 1, 0):
        assert torch.equal(both(images()[rows], rows, epoch), augmented(settings, list(range(10)), epoch))


def test_every_epoch_and_seed_changes_the_images_anew() -> None:
    settings, rows = Augment(flip=True, crop=2), list(range(SAMPLES))
    first = augmented(settings, rows, epoch=0)
    assert not torch.equal(first, augmented(settings, rows, epoch=1))
    assert not torch.equal(first, augmented(settings, rows, epoch=0, seed=2))


def test_the_global_generator_is_neither_used_nor_changed() -> None:
    torch.manual_seed(5)
    first = augmented(Augment(flip=True, crop=2), [1, 2])
    torch.manual_seed(6)
    before = torch.get_rng_state()
    assert torch.equal(augmented(Augment(flip=True, crop=2), [1, 2]), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_flipping_as_well_does_not_change_where_the_images_are_cropped() -> None:
    cropped, both = (augmented(Augment(flip=flip, crop=2), list(range(SAMPLES))) for flip in (False, True))
    alike = [torch.equal(one, other) for one, other in zip(cropped, both, strict=True)]
    assert 10 < sum(alike) < 40  # those that are not flipped


def test_without_flip_and_crop_nothing_changes() -> None:
    assert torch.equal(augmented(Augment(), [1, 2, 3]), images()[[1, 2, 3]])


def test_half_of_the_images_are_mirrored_and_every_shift_is_as_frequent() -> None:
    rows = torch.arange(9000)
    middle = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    middle[:, 0, 1, 1] = 1
    moved = Augmentation(Augment(flip=True, crop=1), 9000, 0)(middle, rows, 0)
    assert torch.allclose(moved.flatten(1).float().mean(0), torch.full((9,), 1 / 9), atol=0.02)
    left = torch.zeros(9000, 1, 1, 2, dtype=torch.uint8)
    left[..., 0] = 1
    mirrored = Augmentation(Augment(flip=True), 9000, 0)(left, rows, 0)[:, 0, 0, 1]
    assert 0.47 < float(mirrored.float().mean()) < 0.53
