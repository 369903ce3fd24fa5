"""``cloud-train pack`` and ``cloud-train upload`` as commands."""

from pathlib import Path

import pytest

from cloud_train.data.shards import INDEX, read_index
from tests.cli.command import CommandLine
from tests.stores import server_or_skip


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


@pytest.mark.cloud
def test_data_is_uploaded_and_its_url_printed(cloud_train: CommandLine) -> None:
    server = server_or_skip("s3")
    cloud_train.environment.update(server.environment)
    photos(cloud_train.folder / "photos")
    url = f"{server.new_url()}/photos"
    ended = cloud_train("upload", "photos", url)
    assert (ended.status, ended.text, ended.err) == (0, f"{url}\n", "")
    (cloud_train.folder / "photos/cat/1.jpg").rename(cloud_train.folder / "photos/cat/2.jpg")
    told = cloud_train("upload", "photos", url).err
    assert told == f"note: {url} has 1 other object, such as photos/cat/1.jpg; a job that reads this URL reads them too\n"
    expected = {
        "url": url,
        "files": 0,
        "bytes": 0,
        "unchanged": 2,
        "others": 1,
        "an_other": "photos/cat/1.jpg",
    }
    assert cloud_train("upload", "photos", url, "--json").json == expected


def test_data_that_cannot_be_uploaded_is_a_usage_error(cloud_train: CommandLine) -> None:
    photos(cloud_train.folder / "photos")
    assert "is not in a cloud's store" in cloud_train("upload", "photos", "elsewhere").err
    assert "there is no file or folder nowhere" in cloud_train("upload", "nowhere", "s3://bucket/photos").err
    assert cloud_train("upload", "nowhere", "s3://bucket/photos").status == 2
