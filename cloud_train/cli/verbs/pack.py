"""``cloud-train pack``: pack a folder of images into tar shards."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption, open_client
from cloud_train.cli.output import words
from cloud_train.cli.output.live import copy_progress
from cloud_train.cli.output.terminal import clean, is_terminal, say, say_aside, say_json
from cloud_train.errors import UsageError
from cloud_train.spec.types import ByteSize


def pack(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Images in a folder per class, or train and val with such folders.", show_default=False)
    ],
    destination: Annotated[
        str,
        typer.Argument(metavar="DESTINATION", help="An empty or new folder, or s3://…, gs://…, az://….", show_default=False),
    ],
    *,
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="The maximum size of a shard.")] = "256MB",
    as_json: JsonOption = False,
) -> int:
    """Pack a folder of images into tar shards with an index.

    A job whose data.path is the URL of the shards starts training as soon as the first ones have been fetched. Each shard mixes images of
    all classes; the same folder gives the same bytes. The index shards.json is written last. Prints the destination.

    Examples:
      cloud-train pack photos packed-photos
      cloud-train pack photos s3://my-bucket/photos --shard-size 1GB
    """
    try:
        shard_bytes = ByteSize.parse(shard_size).bytes
    except ValueError as error:
        raise UsageError(f"--shard-size: {shard_size!r} is not a valid size", hint=f"use {ByteSize.expected}") from error
    with copy_progress(quiet=as_json) as report:
        packed = open_client(as_json).pack(folder, destination, shard_bytes=shard_bytes, report=report)
    if as_json:
        say_json(vars(packed))
        return 0
    say(clean(packed.destination))
    if is_terminal(sys.stderr):
        say_aside(
            f"{words.count(packed.images, 'image')} of {packed.classes:,} classes in {words.count(packed.shards, 'shard')},"
            f" {words.size(packed.bytes)}"
        )
    return 0
