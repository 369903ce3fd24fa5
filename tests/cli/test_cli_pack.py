"""``cloud-train pack`` as a command."""

from pathlib import Path

from cloud_train.data.shards import INDEX, read_index
from tests.cli.command import CommandLine


def photos(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.jpg").write_bytes(name.encode())
    return folder


def test_a_folder_becomes_shards_and_the_destination_is_printed(cloud_train: CommandLine) -> None:
    photos(cloud_train.folder / "photos")
    ended = cloud_train("pack", "photos", "packed")
    assert (ended.status, ended.text, ended.err) == (0, "packed\n", "")
    assert read_index(cloud_train.folder / "packed" / INDEX).count("train") == 2
    listed = cloud_train("pack", "photos", "again", "--shard-size", "1KB", "--json").json
    assert listed == {"destination": "again", "shards": 2, "images": 2, "classes": 2, "bytes": 2 * 2048}


def test_an_unusable_folder_or_size_is_a_usage_error(cloud_train: CommandLine) -> None:
    photos(cloud_train.folder / "photos")
    assert cloud_train("pack", "photos", "photos").status == 2
    assert "is not a valid size" in cloud_train("pack", "photos", "packed", "--shard-size", "much").err
    assert "nowhere: no such file or directory" in cloud_train("pack", "nowhere", "packed").err
