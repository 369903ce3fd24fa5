"""``cloud-train pack``: make tar shards of a folder of images."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli.copying import copy_progress
from cloud_train.cli.options import JsonOption
from cloud_train.cli.terminal import clean, is_terminal, say, say_aside, say_json
from cloud_train.errors import UsageError


def pack(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Images, one folder a class, or such in train and val.", show_default=False)
    ],
    destination: Annotated[
        str,
        typer.Argument(metavar="DESTINATION", help="A folder, or s3://…, gs://…, az://…; nothing else may be there.", show_default=False),
    ],
    *,
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="The most that a shard takes.")] = "256MB",
    as_json: JsonOption = False,
) -> int:
    """Make tar shards of a folder of images, with an index.

    A job whose data.path names them in a store begins to train when the first ones have arrived. Each shard has images of all classes; the
    same folder makes the same bytes. The index shards.json is written last. Prints the destination.

    Examples:
      cloud-train pack photos packed-photos
      cloud-train pack photos s3://my-bucket/photos --shard-size 1GB
    """
    from cloud_train.cli.render import words
    from cloud_train.orchestrator.packing import pack as make
    from cloud_train.spec.types import ByteSize

    try:
        shard_bytes = ByteSize.parse(shard_size).bytes
    except ValueError as error:
        raise UsageError(f"--shard-size {shard_size!r} is no size", hint=f"write {ByteSize.expected}") from error
    with copy_progress(quiet=as_json) as report:
        packed = make(folder, destination, shard_bytes, report)
    if as_json:
        say_json(
            {
                "destination": packed.destination,
                "shards": packed.shards,
                "images": packed.images,
                "classes": packed.classes,
                "bytes": packed.bytes,
            }
        )
        return 0
    say(clean(packed.destination))
    if is_terminal(sys.stderr):
        say_aside(
            f"{words.count(packed.images, 'image')} of {packed.classes:,} classes in {words.count(packed.shards, 'shard')},"
            f" {words.size(packed.bytes)}"
        )
    return 0
