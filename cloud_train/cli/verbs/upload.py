"""``cloud-train upload``: copy data from this machine to a store."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption, open_client
from cloud_train.cli.output import words
from cloud_train.cli.output.live import RERUN, copy_progress
from cloud_train.cli.output.terminal import clean, is_terminal, say, say_aside, say_json


def upload(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder, or a single file.", show_default=False)],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to: s3://…, gs://… or az://….", show_default=False)],
    *,
    as_json: JsonOption = False,
) -> int:
    """Copy data from this machine to a store.

    For jobs on machines that cannot reach this one's folders. Each object is verified by its SHA-256 after it was sent. Repeat the command
    to send what changed, or what an interrupted upload left. Nothing is deleted at the URL; other objects there are counted, because a job
    that reads the URL reads them too.

    Hidden files are left out. A link out of the folder, and a file that looks like a key, are refused before anything is sent. Prints the
    URL, for data.path in a job.

    Examples:
      cloud-train upload photos s3://my-bucket/photos
      cloud-train upload moby-dick.txt gs://my-bucket/texts/
    """
    with copy_progress(as_json, RERUN) as report:
        uploaded = open_client(as_json).upload(source, url, report=report)
    if as_json:
        say_json(vars(uploaded))
        return 0
    if uploaded.others:
        several = words.count(uploaded.others, "other object")
        say_aside(f"note: {uploaded.url} has {several}, such as {clean(uploaded.an_other)}; a job that reads this URL reads them too")
    say(clean(uploaded.url))
    if is_terminal(sys.stderr):
        say_aside(f"{words.count(uploaded.files, 'file')} sent, {words.size(uploaded.bytes)}; {uploaded.unchanged:,} unchanged")
    return 0
