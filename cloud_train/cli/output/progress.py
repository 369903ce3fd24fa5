"""The progress bar of a copy, with rate and time to go, on standard error: for ``fetch-model``, ``sync`` and ``pack``."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cloud_train.cli.output.terminal import moves_its_cursor, say_aside

if TYPE_CHECKING:
    from cloud_train.storage.transfer.progress import Progress as Transfer

RERUN = "interrupted; rerun the same command to resume"
"""What Ctrl-C shows where that is so."""


@contextmanager
def copy_progress(quiet: bool, interrupted: str = "interrupted") -> Iterator["Callable[[Transfer], None] | None"]:
    """A callback that moves the bar, or None without a terminal; the bar is gone after the block. Ctrl-C shows ``interrupted``."""
    try:
        with _bar(quiet) as report:
            yield report
    except KeyboardInterrupt:
        if not quiet:
            say_aside(f"\n{interrupted}")
        raise


@contextmanager
def _bar(quiet: bool) -> Iterator["Callable[[Transfer], None] | None"]:
    if quiet or not moves_its_cursor(sys.stderr):
        yield None
        return
    # 50 ms, and only where a person waits for a copy
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def report(now: "Transfer") -> None:
            progress.update(task, completed=now.bytes_done, total=now.bytes, description=f"{now.files_done}/{now.files} files")

        yield report
