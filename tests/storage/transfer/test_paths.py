"""Keys of a store become files below a folder, and nowhere else."""

import os
from pathlib import Path

import pytest

from cloud_train.errors import StoreError
from cloud_train.storage.base import InvalidKeyError
from cloud_train.storage.transfer.paths import ignores_case, open_folder, place, unsafe

UNSAFE = [
    "",
    "folder/",
    "/etc/passwd",
    "../../x",
    "a/../../x",
    "a/./b",
    "a//b",
    "a\\..\\b",
    "C:\\x",
    "bell\a",
    "line\nfeed",
    "nul\0",
    "\x85next",
    "lone \ud800",
    "x" * 256,
    "ü" * 128,
    "a/.cloud-train-0.partial",
]


@pytest.mark.parametrize("key", UNSAFE)
def test_a_key_that_could_lead_elsewhere_is_no_path(key: str) -> None:
    assert unsafe(key)


@pytest.mark.parametrize("key", ["a", "a/b/c.txt", "..a/b..", "größe", "a b", "~/x", "-rf", "x" * 255, ".hidden", "%2e%2e/x"])
def test_any_other_key_is_a_path_below_the_folder(key: str, tmp_path: Path) -> None:
    assert unsafe(key) is None
    assert tmp_path in (tmp_path / key).parents


def test_where_a_key_is_a_file_and_a_folder_the_folder_stays() -> None:
    reason = "other objects are in a folder of this name"
    placed = place(["x/a", "x/a/b", "x/a/c/d", "x/a/c"], "x/", ignores_case=False)
    assert placed.paths == {"x/a/b": "a/b", "x/a/c/d": "a/c/d"}
    assert placed.skipped == [
        ("x/a", reason),
        ("x/a/c", reason),
    ]


def test_keys_that_differ_in_case_only_are_two_files_where_the_file_system_says_so() -> None:
    keys = ["A/x", "a/x", "b", "B"]
    assert not place(keys, "", ignores_case=False).skipped


def test_keys_that_differ_in_case_only_are_one_file_where_the_file_system_says_so() -> None:
    placed = place(["A/x", "a/y", "b", "B", "ä", "a\u0308"], "", ignores_case=True)
    assert list(placed.paths) == ["A/x", "b", "ä"]
    assert dict(placed.skipped) == {
        "a/y": "on this file system its folder is the same as A/",
        "B": "on this file system it is the same file as b",
        "a\u0308": "on this file system it is the same file as ä",
    }


def test_the_marker_of_the_folder_itself_is_skipped_and_said() -> None:
    assert place(["x/", "x/y/"], "x/", ignores_case=False).skipped == [
        ("x/", "it is only a folder marker"),
        ("x/y/", "it is only a folder marker"),
    ]


def test_a_folder_is_made_one_name_at_a_time(tmp_path: Path) -> None:
    os.close(open_folder(tmp_path / "new" / "folder", ("a", "b")))
    assert (tmp_path / "new" / "folder" / "a" / "b").is_dir()


def test_no_link_below_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidKeyError, match=r"inside/a is a link, where a folder is needed"):
        open_folder(tmp_path / "inside", ("a", "b"))
    assert not list((tmp_path / "outside").iterdir())


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.close(open_folder(tmp_path / "link", ("a",)))
    assert (tmp_path / "real" / "a").is_dir()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write into .*file: not a directory"):
        open_folder(tmp_path / "file")


def test_whether_case_counts_is_tried_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert ignores_case(tmp_path) == (tmp_path / "A").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
