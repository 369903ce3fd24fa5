import os
import unicodedata
from pathlib import Path

import pytest

from cloud_train.data.image_folder import ENDINGS, ImageFolder, list_images
from cloud_train.data.images import ImagesData
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
    touch(tmp_path, "dog/b.JPG", "dog/a.png", "dog/c.gif", "dog/d.WebP", "dog/e.bmp", "dog/f.tif", "cat/x.jpeg", "cat/y.TIFF", "readme.md")
    found = listed(images(), tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.train.images == (("x.jpeg", "y.TIFF"), ("a.png", "b.JPG", "c.gif", "d.WebP", "e.bmp", "f.tif"))
    assert (found.train.count, found.train.folder, found.validation, found.test, found.remarks) == (8, tmp_path, None, None, ())


def test_the_layout_of_imagenet_has_its_own_validation_images(tmp_path: Path) -> None:
    touch(tmp_path, "train/n01/1.JPEG", "train/n01/2.JPEG", "train/n02/3.JPEG", "val/n02/4.JPEG", "test/5.JPEG")
    found = listed(images(), tmp_path)
    assert (found.classes, found.train.count) == (("n01", "n02"), 3)
    assert found.validation is not None
    assert (found.train.folder, found.validation.folder) == (tmp_path / "train", tmp_path / "val")
    assert found.validation.images == ((), ("4.JPEG",))
    assert found.test is None
    assert "these folders" not in "".join(found.remarks)


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
    assert (found.classes, found.train.count) == (("a", "b"), 2)


def test_a_folder_or_a_pipe_with_the_name_of_an_image_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "link.png").symlink_to("pipe.png")  # reading it would block
    assert listed(images(), tmp_path).train.count == 2


def test_a_link_to_a_folder_is_a_class_and_one_to_a_file_an_image_even_if_it_leads_nowhere(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "data/b/2.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "b" / "3.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data" / "b" / "4.png").symlink_to(tmp_path / "gone.png")
    found = listed(images(), tmp_path / "data")
    assert (found.classes, found.train.images) == (("a", "b"), (("1.png",), ("2.png", "3.png", "4.png")))


def test_empty_classes_are_named_with_their_folders_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.txt", "c/3.png")
    (tmp_path / "d").mkdir()
    error = refused(tmp_path)
    assert error.path == ("data", "path")
    assert error.reason.startswith(
        f"2 of 4 classes have no images: {tmp_path / 'b'}, {tmp_path / 'd'}; 1 file is not read as images: 1 .txt"
    )


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
    assert listed(images(classes=2), tmp_path).train.count == 2


def test_a_class_that_only_validation_has_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "val/z/4.png")
    assert refused(tmp_path).reason == f"no training images for a class of val: {tmp_path / 'val' / 'z'}"


def test_validation_without_any_image_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/notes.txt")
    assert "contains no images of the 2 classes" in refused(tmp_path).reason


def test_a_file_in_the_place_of_the_folder_is_refused_in_words(tmp_path: Path) -> None:
    touch(tmp_path, "file")
    assert refused(tmp_path / "file").reason == f"{tmp_path / 'file'}: not a directory"


def test_what_a_download_holds_is_located_at_its_address(tmp_path: Path) -> None:
    data = ImagesData(dataset="images", url="https://x/y.zip", sha256="a" * 64)
    assert refused(tmp_path, data).path == ("data", "url")


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("train", "valid", "test"), ("Train", "Validation", "Testing"), ("training_set", "val_set", "test_set")],
)
def test_the_parts_may_have_any_of_their_usual_names(tmp_path: Path, train: str, validation: str, test: str) -> None:
    touch(tmp_path, *(f"{part}/{name}/1.png" for part in (train, validation, test) for name in ("a", "b")))
    found = listed(images(), tmp_path)
    assert found.validation is not None
    assert found.test is not None
    assert (found.train.folder.name, found.validation.folder.name, found.test.folder.name) == (train, validation, test)
    assert (found.classes, found.remarks) == (
        ("a", "b"),
        ("2 classes have a single image: " + ", ".join(str(tmp_path / train / name) for name in "ab"),),
    )


def test_a_test_set_alone_leaves_validation_to_the_training_images(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train/{name}/{number}.png" for name in "ab" for number in range(10)), "test/a/1.png")
    facts = images().facts_at(tmp_path)
    assert (facts.train_samples, facts.validation_samples, facts.test_samples) == (18, 2, 1)


def test_two_folders_for_one_part_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "val", "valid") for name in "ab"))
    assert refused(tmp_path).reason == f"{tmp_path / 'val'} and {tmp_path / 'valid'} have the same purpose"


def test_parts_without_training_images_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{name}/1.png" for part in ("test", "val") for name in "ab"))
    assert refused(tmp_path).reason == f"{tmp_path} has the folders 'test', 'val', but none called train"


def test_parts_without_class_folders_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "val/2.png")
    assert refused(tmp_path).reason == f"{tmp_path / 'train'} contains no folders, so there are no classes"


def test_a_folder_for_validation_without_class_folders_is_said(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train/{name}/{number}.png" for name in "ab" for number in range(2)), "val/1.png")
    assert listed(images(), tmp_path).remarks == (
        "this folder is not used: 'val' (used are train, val and test, if they contain one folder per class)",
    )


def test_the_images_in_sub_folders_belong_to_their_class(tmp_path: Path) -> None:
    touch(tmp_path, "cat/9.jpg", "cat/b/1.jpg", "cat/a/2.jpg", "cat/a/deep/er/3.jpg", "dog/.hidden/1.jpg", "dog/@eaDir/2.jpg", "dog/4.jpg")
    found = listed(images(), tmp_path)
    assert found.train.images == (("9.jpg", "a/2.jpg", "a/deep/er/3.jpg", "b/1.jpg"), ("4.jpg",))


def test_a_link_that_leads_back_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "dog/4.jpg")
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "all").symlink_to(tmp_path)
    found = listed(images(), tmp_path)
    assert found.train.images[0] == ("1.jpg", "2.jpg", "all/dog/3.jpg", "all/dog/4.jpg")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train/{name}/{number}.png" for name in "ab" for number in range(2)))
    touch(tmp_path, "train/a/1.avif", "train/b/2.AVIF", "train/a/labels.csv", "train/a/README", "train/a/Thumbs.db", "train/b/._1.png")
    touch(tmp_path, "train/stray.png", "stray.jpg", "extra/a/1.png", "data.yaml")
    assert listed(images(), tmp_path).remarks == (
        f"4 files are not read as images: 2 .avif, 1 .csv, 1 without an extension (only {', '.join(ENDINGS)} are)",
        "2 images are outside the class folders and not used",
        "this folder is not used: 'extra' (used are train, val and test, if they contain one folder per class)",
    )


def test_two_spellings_of_a_name_are_one_class_in_two_parts_and_refused_in_one(tmp_path: Path) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    touch(tmp_path, f"train/{composed}/1.png", "train/thé/1.png", f"val/{decomposed}/2.png")
    found = listed(images(), tmp_path)
    assert found.validation is not None
    assert found.classes == (composed, "thé")
    assert (found.validation.folders, found.validation.images) == ((decomposed, "thé"), (("2.png",), ()))
    touch(tmp_path, f"train/{decomposed}/3.png")
    assert "two folders have this name" in refused(tmp_path).reason
