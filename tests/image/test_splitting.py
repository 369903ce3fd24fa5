"""The code of a job as several layers."""

import os
import random
import tarfile
from pathlib import Path

import pytest

from cloud_train.image.context import survey
from cloud_train.image.layers import Member, code_members, make_layer, write_layer
from cloud_train.image.splitting import LARGE_FILE_BYTES, split


def file(name: str, size: int = 100) -> Member:
    return Member(f"workspace/{name}", "file", source=Path("unused"), expected=(size, 0))


def folder_of(*files: Member) -> list[Member]:
    """The files, with the folders above them, in an order that means nothing."""
    names = {part for member in files for part in above(member.name)}
    members = [*files, *(Member(name, "folder") for name in names)]
    random.Random(0).shuffle(members)
    return members


def above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def contents(members: list[Member]) -> list[frozenset[str]]:
    """The files of each layer, by name."""
    return [frozenset(member.name for member in layer if member.kind != "folder") for layer in split(members)]


SMALL = [file(f"part_{number % 7}/module_{number}.py", 2_000) for number in range(300)]
LARGE = [file(f"weights_{number}.bin", LARGE_FILE_BYTES + number) for number in range(5)]


def test_a_small_folder_is_one_layer() -> None:
    members = folder_of(file("main.py", 8_000), file("config/a.yaml"), file("notes.txt"), file("picture.png", 5_000))
    assert len(split(members)) == 1


def test_a_folder_without_files_is_one_layer() -> None:
    assert split([Member("workspace", "folder")]) == [[Member("workspace", "folder")]]


def test_everything_is_in_exactly_one_layer() -> None:
    members = folder_of(*SMALL, *LARGE, Member("workspace/link", "link", target="part_0"), Member("workspace/empty", "folder"))
    names = [name for layer in contents(members) for name in layer]
    assert sorted(names) == sorted(member.name for member in members if member.kind != "folder")
    assert sum("workspace/empty" in {member.name for member in layer} for layer in split(members)) == 1


def test_a_large_file_is_alone() -> None:
    layers = contents(folder_of(*SMALL, *LARGE))
    assert all(frozenset({member.name}) in layers for member in LARGE)


def test_every_layer_names_the_folders_above_what_is_in_it_and_no_other() -> None:
    for layer in split(folder_of(*SMALL, *LARGE)):
        needed = {name for member in layer if member.kind == "file" for name in above(member.name)}
        assert {member.name for member in layer if member.kind == "folder"} == needed


def test_what_is_not_program_text_does_not_travel_with_program_text() -> None:
    pictures = [file(f"pictures/{number}.png", 3_000) for number in range(1_000)]
    layers = contents(folder_of(*SMALL, *pictures))
    assert not any({name.rpartition(".")[2] for name in layer} == {"py", "png"} for layer in layers)
    # Each costs something in every push.
    assert sum(any(name.endswith(".png") for name in layer) for layer in layers) <= 2


def test_there_are_never_more_layers_than_an_image_may_have() -> None:
    crowd = [file(f"weights_{number}.bin", LARGE_FILE_BYTES + number) for number in range(500)]
    text = [file(f"module_{number}.py", 20_000) for number in range(3_000)]
    others = [file(f"label_{number}.json", 20_000) for number in range(3_000)]
    assert len(split(folder_of(*crowd, *text, *others))) == 46  # an engine allows 125, which leaves 78 for the base and one for the worker


def test_100_kb_of_program_text_travel_in_layers_of_at_most_14_kib() -> None:
    sizes = {member.name: 2_000 for member in SMALL}
    layers = contents(folder_of(*SMALL[:50]))
    assert max(sum(sizes[name] for name in layer) for layer in layers) <= 14 * 1024
    assert len(layers) <= 16


def test_another_size_changes_no_other_layer() -> None:
    before = contents(folder_of(*SMALL, *LARGE))
    after = contents(folder_of(file("part_0/module_0.py", 2_050), *SMALL[1:], *LARGE))
    assert before == after


def test_a_new_file_a_removed_one_and_a_renamed_one_change_only_the_layers_they_are_in() -> None:
    before = set(contents(folder_of(*SMALL, *LARGE)))
    assert len(before - set(contents(folder_of(*SMALL, *LARGE, file("new.py"))))) == 1
    assert len(before - set(contents(folder_of(*SMALL[1:], *LARGE)))) == 1
    assert len(before - set(contents(folder_of(file("renamed.py", 2_000), *SMALL[1:], *LARGE)))) <= 2


def test_a_layer_that_becomes_too_large_is_halved_and_the_others_stay() -> None:
    files: list[Member] = []
    count, splits = 1, 0
    for member in SMALL[:60]:
        before = set(contents(folder_of(*files))) if files else set()
        files.append(member)
        after = set(contents(folder_of(*files)))
        assert len(before - after) <= 1
        splits += len(after) > count
        count = len(after)
    assert splits >= 3


@pytest.mark.parametrize("times", range(3))
def test_the_same_files_are_the_same_layers_in_whatever_order_they_come(times: int) -> None:
    members = folder_of(*SMALL, *LARGE)
    shuffled = list(members)
    random.Random(times).shuffle(shuffled)
    assert {frozenset(member.name for member in layer) for layer in split(members)} == {
        frozenset(member.name for member in layer) for layer in split(shuffled)
    }
    assert contents(members) == contents(shuffled)


def test_unpacked_over_each_other_the_layers_are_the_folder(tmp_path: Path) -> None:
    code = tmp_path / "code"
    shuffled = random.Random(0)
    for number in range(60):
        path = code / f"package_{number % 4}" / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shuffled.randbytes(1_500))
    (code / "weights.bin").write_bytes(shuffled.randbytes(LARGE_FILE_BYTES))
    (code / os.fsdecode(b"byte-\xff.txt")).write_text("odd")
    (code / "empty").mkdir()
    (code / "link").symlink_to("package_0")
    layers = [make_layer(members, "") for members in split(code_members(survey(code)))]
    assert len(layers) > 3
    for layer in layers:
        with (tmp_path / "layer.tar").open("w+b") as tar:
            write_layer(layer, tar)
            tar.seek(0)
            with tarfile.open(fileobj=tar) as archive:
                archive.extractall(tmp_path / "unpacked", filter="tar")
    assert listing(tmp_path / "unpacked" / "workspace") == listing(code)


def listing(folder: Path) -> dict[str, bytes | str | None]:
    """Every path below a folder, with what is in it."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
