"""One image file as pixels: formats, orientation, what is seen of it, and files that are no images."""

import os
import resource
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from cloud_train.data.pixels import PhotoAugment
from cloud_train.errors import CorruptError, StoreError
from cloud_train.training.data.decoding import UnreadableImageError, View, deep_images, middle, prepare_pillow, random_part, read_image
from tests.training.images.pictures import SIDE, jpeg_that_claims, noise, oriented, png_header, slope

ORIENTATIONS = range(1, 9)


@pytest.fixture(autouse=True)
def prepared() -> Iterator[None]:
    prepare_pillow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in training: Pillow warns of large images before they are refused here
        yield


def whole(width: int, height: int) -> View:
    return View(0, 0, width, height)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image.jpg"  # whatever is in it


def test_an_image_that_has_the_size_already_is_taken_as_it_is(path: Path) -> None:
    noise().save(path, format="PNG")
    assert np.array_equal(read_image(path, SIDE, 3, middle(SIDE)), np.asarray(noise()))


def test_a_jpeg_is_what_pillow_makes_of_it(path: Path) -> None:
    noise().save(path, format="JPEG")
    with Image.open(path) as image:
        assert np.array_equal(read_image(path, SIDE, 3, middle(SIDE)), np.asarray(image))


def test_the_middle_of_a_larger_image_is_seven_eighths_of_its_shorter_side() -> None:
    assert middle(224)(256, 320) == View(16, 48, 240, 272)
    assert middle(224)(512, 256) == View(144, 16, 368, 240)


def test_the_middle_is_cut_out_and_scaled(path: Path) -> None:
    slope(80, 48).save(path, format="PNG")
    pixels = read_image(path, 21, 3, middle(21)).astype(float)
    expected = np.asarray(slope(80, 48).crop((19, 3, 61, 45)).resize((21, 21), Image.Resampling.BOX)).astype(float)
    assert np.abs(pixels - expected).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_png_of_any_mode_becomes_colours_or_grey(path: Path, mode: str, channels: int) -> None:
    image = noise().convert(mode)
    image.save(path, format="PNG")
    expected = image.convert("L" if channels == 1 else "RGB")
    assert np.array_equal(read_image(path, SIDE, channels, middle(SIDE)), np.asarray(expected).reshape(SIDE, SIDE, channels))


def test_what_is_transparent_is_taken_as_it_is(path: Path) -> None:
    Image.new("RGBA", (SIDE, SIDE), (10, 20, 30, 0)).save(path, format="PNG")
    assert read_image(path, SIDE, 3, middle(SIDE))[0, 0].tolist() == [10, 20, 30]


def test_sixteen_bits_a_pixel_are_scaled_to_eight(path: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE), 0x8042, np.uint16)).save(path, format="PNG")
    assert set(read_image(path, SIDE, 1, middle(SIDE)).flatten().tolist()) == {0x80}


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_in_grey_or_for_print_becomes_colours(path: Path, mode: str) -> None:
    Image.new("RGB", (SIDE, SIDE), (200, 200, 200)).convert(mode).save(path, format="JPEG")
    assert np.abs(read_image(path, SIDE, 3, middle(SIDE)).astype(int) - 200).max() <= 3


def test_of_several_pictures_in_a_jpeg_the_first_one_counts(path: Path) -> None:
    noise().save(path, format="MPO", save_all=True, append_images=[noise(seed=1)])
    first = BytesIO()
    noise().save(first, format="JPEG")
    with Image.open(first) as image:
        assert np.array_equal(read_image(path, SIDE, 3, middle(SIDE)), np.asarray(image))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_png_is_turned_upright(path: Path, orientation: int) -> None:
    noise().save(path, format="PNG", exif=oriented(orientation))
    with Image.open(path) as image:
        assert np.array_equal(read_image(path, SIDE, 3, middle(SIDE)), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_what_is_seen_of_a_jpeg_is_a_part_of_the_upright_image(path: Path, orientation: int) -> None:
    slope(300, 200).save(path, format="JPEG", exif=oriented(orientation), quality=95)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    assert upright is not None
    part = (20, 30, 180, 140)
    expected = upright.resize((SIDE, SIDE), Image.Resampling.BILINEAR, part)
    shapes = []

    def choose(width: int, height: int) -> View:
        shapes.append((width, height))
        return View(*part)

    pixels = read_image(path, SIDE, 3, choose)
    assert shapes == [upright.size]
    assert np.abs(pixels.astype(int) - np.asarray(expected).astype(int)).max() <= 5


def test_an_orientation_that_cannot_be_read_is_upright(path: Path) -> None:
    noise().save(path, format="JPEG", exif=b"Exif\0\0no Exif data at all")
    expected = BytesIO()
    noise().save(expected, format="JPEG")
    with Image.open(expected) as image:
        assert np.array_equal(read_image(path, SIDE, 3, middle(SIDE)), np.asarray(image))


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
@pytest.mark.parametrize("side", [17, 33, 100, 129, 500])  # JPEGs of 33 are decoded at half their size, those of 129 at an eighth
def test_a_large_image_looks_the_same_however_it_is_made_smaller(path: Path, format_: str, side: int) -> None:
    slope(side, side).save(path, format=format_, quality=95, subsampling=0)
    expected = slope(side, side).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    assert np.abs(read_image(path, SIDE, 3, whole).astype(int) - np.asarray(expected).astype(int)).max() <= 6


def test_a_flat_part_of_a_jpeg_is_not_decoded_at_less_than_its_height_needs(path: Path) -> None:
    stripes = Image.fromarray(np.tile(np.repeat(np.array([0, 255], np.uint8), 4), 32).repeat(256).reshape(256, 256))
    stripes.save(path, format="JPEG", quality=95)
    expected = stripes.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (0, 0, 256, 32))
    pixels = read_image(path, SIDE, 1, lambda _width, _height: View(0, 0, 256, 32))
    assert np.abs(pixels[:, :, 0].astype(int) - np.asarray(expected).astype(int)).max() <= 40


def test_a_small_image_is_made_larger(path: Path) -> None:
    Image.new("RGB", (1, 3), (10, 20, 30)).save(path, format="PNG")
    assert np.array_equal(read_image(path, SIDE, 3, middle(SIDE)), np.full((SIDE, SIDE, 3), (10, 20, 30)))


def test_a_random_part_follows_from_its_seed() -> None:
    views = [random_part(SIDE, PhotoAugment(), seed)(640, 480) for seed in (0, 0, 1)]
    assert views[0] == views[1] != views[2]


def test_a_random_part_has_the_area_and_the_aspect_ratio_that_are_allowed() -> None:
    views = [random_part(SIDE, PhotoAugment(crop=0.25), seed)(640, 480) for seed in range(300)]
    areas = [(view.right - view.left) * (view.bottom - view.top) / (640 * 480) for view in views]
    aspects = [(view.right - view.left) / (view.bottom - view.top) for view in views]
    assert 0.24 < min(areas) < 0.3
    assert 0.85 < max(areas) <= 1
    assert 0.74 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.35
    assert all(0 <= view.left < view.right <= 640 and 0 <= view.top < view.bottom <= 480 for view in views)
    assert 100 < sum(view.is_mirrored for view in views) < 200


@pytest.mark.parametrize(("shape", "part"), [((4000, 20), View(1986, 0, 2013, 20)), ((3, 3000), View(0, 1498, 3, 1502))])
def test_where_no_random_part_fits_it_is_the_largest_in_the_middle(shape: tuple[int, int], part: View) -> None:
    assert random_part(SIDE, PhotoAugment(flip=False, crop=0.9), seed=0)(*shape) == part


def test_a_random_part_of_the_whole_is_the_middle() -> None:
    views = [random_part(SIDE, PhotoAugment(crop=1), seed)(640, 480) for seed in range(20)]
    assert {view[:4] for view in views} == {middle(SIDE)(640, 480)[:4]}
    assert {view.is_mirrored for view in views} == {False, True}


def test_nothing_is_mirrored_unless_the_job_says_so() -> None:
    assert not any(random_part(SIDE, PhotoAugment(flip=False), seed)(640, 480).is_mirrored for seed in range(20))


def test_a_mirrored_view_shows_left_what_was_right(path: Path) -> None:
    noise().save(path, format="PNG")
    pixels = read_image(path, SIDE, 3, lambda width, height: View(0, 0, width, height, is_mirrored=True))
    assert np.array_equal(pixels, np.asarray(noise())[:, ::-1])


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        (np.full((1, 1), 255, np.uint8), ""),
        (np.full((1, 1), 65535, np.uint16), "images with 16 bits per channel, such as {}, are scaled to 8 bits"),
        (
            np.full((1, 1), 4095, np.uint16),
            "{}, are scaled to 8 bits; its brightest pixel is 4,095 of 65,535, so they become almost black: ",
        ),
    ],
)
def test_images_with_16_bits_are_remarked_on_and_those_of_12_bits_too(path: Path, values: np.ndarray, remark: str) -> None:
    Image.fromarray(values).save(path, format="PNG")
    broken = path.with_name("broken.png")
    broken.write_bytes(b"")
    assert remark.format(path) in deep_images([str(broken), str(path)])
    assert bool(remark) == bool(deep_images([str(path)]))


@pytest.mark.parametrize("format_", ["WEBP", "BMP", "GIF", "TIFF"])
def test_other_formats_are_read_by_their_contents(path: Path, format_: str) -> None:
    picture = slope(40, 40)
    picture.save(path, format=format_, **({"lossless": True} if format_ == "WEBP" else {}))
    expected = picture.quantize(256).convert("RGB") if format_ == "GIF" else picture
    difference = read_image(path, 40, 3, middle(40)).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= (40 if format_ == "GIF" else 0)


def test_16_bits_are_scaled_and_floating_point_numbers_refused(path: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE), 0x8040, np.uint16)).save(path, format="TIFF")
    assert np.unique(read_image(path, SIDE, 1, middle(SIDE))).tolist() == [0x80]
    Image.fromarray(np.full((SIDE, SIDE), 0.5, np.float32)).save(path, format="TIFF")
    with pytest.raises(UnreadableImageError, match="its pixels are floating-point numbers"):
        read_image(path, SIDE, 1, middle(SIDE))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "not a JPEG, PNG, WebP, BMP, GIF or TIFF"),
        (b"GIF89a" + bytes(100), "not a JPEG, PNG, WebP, BMP, GIF or TIFF"),
        # Were it decoded, the reason would be that it has no pixels.
        (png_header(10_000, 10_000), "too large: 10,000×10,000 pixels exceeds the limit of 64 million pixels"),
        (png_header(100_000, 100_000), "too large: the image exceeds the limit of 64 million pixels"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path, SIDE, 3, middle(SIDE))
    assert caught.value.message == f"{path}: {reason}"
    assert caught.value.reason == reason
    assert isinstance(caught.value, CorruptError)


def test_a_jpeg_of_100_megapixels_is_refused_before_it_is_decoded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg_that_claims(path, 10_000, 10_000)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _image: pytest.fail("it was decoded"))
    with pytest.raises(UnreadableImageError, match="10,000×10,000 pixels exceeds the limit"):
        read_image(path, SIDE, 3, middle(SIDE))


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_a_file_that_is_cut_off_is_named(path: Path, format_: str) -> None:
    noise(100, 100).save(path, format=format_)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UnreadableImageError, match="truncated"):
        read_image(path, SIDE, 3, middle(SIDE))


def test_a_png_with_a_flipped_bit_is_named(path: Path) -> None:
    noise(100, 100).save(path, format="PNG")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"image\.jpg: "):
        read_image(path, SIDE, 3, middle(SIDE))


def test_a_file_that_is_gone_is_named(path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"image\.jpg: No such file or directory"):
        read_image(path, SIDE, 3, middle(SIDE))


def test_an_image_is_not_called_broken_where_no_file_can_be_opened(path: Path) -> None:
    noise().save(path, format="PNG")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot open .*: Too many open files"):
            read_image(path, SIDE, 3, middle(SIDE))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
