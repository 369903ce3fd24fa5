"""Tar shards of small images, with their index, as ``cloud-train pack`` makes them."""

from collections.abc import Mapping
from pathlib import Path

from cloud_train.orchestrator.packing import pack
from tests.training.images.pictures import write_folder


def write_shards(folder: Path, images: Mapping[str, int], shard_bytes: int = 12_000) -> Path:
    """Pack so many images of each class into ``folder``, a few a shard; returns it. The images themselves lie beside it."""
    source = write_folder(folder.with_name(f"{folder.name}-images"), images)
    pack(source, str(folder), shard_bytes)
    return folder
