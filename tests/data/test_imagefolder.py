import os
from pathlib import Path

import pytest

from cloud_train.data.images import ImageFolder, ImagesData, list_images
from cloud_train.spec.problems import FieldError


def touch(folder: Path, *names: str) -> None:
    """Empty files: nothing here opens an image."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def images(classes: int | None = None) -> ImagesData:
    return ImagesData(dataset="images", path=".", classes=classes)


def listed(data: ImagesData, folder: Path) -> ImageFolder:
    return list_images(folder, data.classes, data.source_field)


def refused(folder: Path, data: ImagesData | None = None) -> FieldError:
    with pytest.raises(FieldError) as caught:
        listed(data or images(), folder)
    return caught.value


def test_each_folder_is_a_class_and_its_files_are_images_by_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.JPG", "dog/a.png", "dog/notes.txt", "dog/c.gif", "cat/x.jpeg", "readme.md")
    found = listed(images(), tmp_path)
    assert (found.classes, found.images, found.count) == (("cat", "dog"), (("x.jpeg",), ("a.png", "b.JPG")), 3)
    assert (found.train, found.validation, found.validation_count) == (tmp_path, None, 0)


def test_the_layout_of_imagenet_has_its_own_validation_images(tmp_path: Path) -> None:
    touch(tmp_path, "train/n01/1.JPEG", "train/n01/2.JPEG", "train/n02/3.JPEG", "val/n02/4.JPEG", "test/5.JPEG")
    found = listed(images(), tmp_path)
    assert (found.classes, found.count) == (("n01", "n02"), 3)
    assert (found.train, found.validation) == (tmp_path / "train", tmp_path / "val")
    assert found.validation_images == ((), ("4.JPEG",))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "car/2.png")
    assert listed(images(), tmp_path).classes == ("car", "train")


def test_training_images_alone_are_a_layout_too(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/2.png")
    found = listed(images(), tmp_path)
    assert (found.classes, found.validation) == (("a", "b"), None)


def test_what_a_desktop_leaves_behind_is_not_looked_at(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/._1.png", "b/2.png", ".thumbnails/3.png", "__MACOSX/4.png")
    found = listed(images(), tmp_path)
    assert (found.classes, found.count) == (("a", "b"), 2)


def test_a_folder_or_a_pipe_with_the_name_of_an_image_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert listed(images(), tmp_path).count == 2


def test_a_link_to_a_folder_is_a_class_and_one_to_a_file_an_image(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "data/b/2.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "b" / "3.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data" / "b" / "4.png").symlink_to(tmp_path / "gone.png")
    found = listed(images(), tmp_path / "data")
    assert (found.classes, found.images) == (("a", "b"), (("1.png",), ("2.png", "3.png")))


def test_empty_classes_are_named_with_their_folders_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.txt", "c/3.png")
    (tmp_path / "d").mkdir()
    error = refused(tmp_path)
    assert error.path == ("data", "path")
    assert error.reason == f"2 of 4 classes have no images: {tmp_path / 'b'}, {tmp_path / 'd'}"


@pytest.mark.parametrize(
    ("names", "reason"), [((), "has no classes: it contains no folders"), (("only/1.png",), "has only one class, 'only'")]
)
def test_less_than_two_classes_are_refused(tmp_path: Path, names: tuple[str, ...], reason: str) -> None:
    touch(tmp_path, *names, "1.png")
    assert refused(tmp_path).reason == f"{tmp_path} {reason}"


def test_another_number_of_classes_than_the_job_says_is_refused_where_it_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    error = refused(tmp_path, images(classes=3))
    assert (error.path, error.reason) == (("data", "classes"), f"{tmp_path} has 2 classes, not 3")
    assert listed(images(classes=2), tmp_path).count == 2


def test_a_class_that_only_validation_has_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "val/z/4.png")
    assert refused(tmp_path).reason == f"no training images for 1 classes: {tmp_path / 'val' / 'z'}"


def test_validation_without_any_image_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/notes.txt")
    assert "contains no images of the 2 classes" in refused(tmp_path).reason


def test_a_file_in_the_place_of_the_folder_is_refused_in_words(tmp_path: Path) -> None:
    touch(tmp_path, "file")
    assert refused(tmp_path / "file").reason == f"{tmp_path / 'file'}: not a directory"


def test_what_a_download_holds_is_located_at_its_address(tmp_path: Path) -> None:
    data = ImagesData(dataset="images", url="https://x/y.zip", sha256="a" * 64)
    assert refused(tmp_path, data).path == ("data", "url")
