"""``cloud-train logs``: what a run's program printed, byte for byte."""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated

import typer

from cloud_train.cli.options import JsonOption, RunArgument
from cloud_train.cli.output.program_output import ProgramOutput
from cloud_train.cli.output.terminal import Painter, clean, say_aside, say_bare
from cloud_train.cli.session import open_client
from cloud_train.client import Run
from cloud_train.errors import CloudTrainError, NotFoundError, UsageError
from cloud_train.exit_status import INTERRUPTED


def logs(
    run: RunArgument = None,
    *,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Print until the run ends, and record the end; Ctrl-C stops printing only."),
    ] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, metavar="N", help="Only the last N lines.", show_default=False)] = None,
    node: Annotated[int, typer.Option(min=0, metavar="RANK", help="The log of this node.")] = 0,
    attempt: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The log of this attempt instead of the newest.", show_default=False)
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Send every byte to a terminal, too, escape sequences included.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Print what a run's program printed, byte for byte.

    On a terminal, escape sequences other than colours and the erasing of a line are shown as text unless --raw is given; a pipe or a file
    always gets the exact bytes.

    The worker's own log goes to standard error. With --json, nothing is recorded, and bytes that are not UTF-8 are lone surrogates U+DC80
    to U+DCFF, as Python's "surrogateescape" has them, so that nothing is lost.

    Examples:
      cloud-train logs --follow
      cloud-train logs digits-cnn --tail 100
      cloud-train logs digits-cnn --attempt 1 > first.log
    """
    if follow and attempt is not None:
        raise UsageError("--follow shows the newest attempt; leave --attempt out")
    chosen = open_client(as_json).run(run)
    pieces = chosen.log_bytes(attempt=attempt, node=node, tail=tail, follow=follow, record=not as_json)
    try:
        if as_json:
            _print_json(chosen.id, attempt or chosen.view.attempt, node, pieces)
            return 0
        _print(pieces, raw)
    except NotFoundError:
        _show_provider_logs(chosen)
        raise
    except KeyboardInterrupt:
        if not follow:
            raise
        if not as_json:
            come_back = f"cloud-train logs {shlex.quote(chosen.id)} --follow"
            say_aside(f"\nthe run continues unless it has ended; follow it again with: {come_back}")
        return INTERRUPTED
    _show_worker_log(chosen, attempt, node)
    return 0


def _print(pieces: Iterable[bytes], raw: bool) -> None:
    output = ProgramOutput(raw)
    try:
        for piece in pieces:
            output.write(piece)
    finally:
        output.close()


def _show_provider_logs(run: Run) -> None:
    """What the cloud itself logged of an attempt whose program never started."""
    paint = Painter.of(sys.stderr)
    with suppress(CloudTrainError):  # the user is told that there is no log
        for line in run.provider_logs():
            say_aside(paint(clean(line), "dim"))


def _show_worker_log(run: Run, attempt: int | None, node: int) -> None:
    paint = Painter.of(sys.stderr)
    for line in run.worker_log(attempt=attempt, node=node):
        say_aside(paint(f"worker: {clean(line)}", "dim"))


def _print_json(run_id: str, attempt: int, node: int, pieces: Iterable[bytes]) -> None:
    """One JSON object, written as the log is read: it may be larger than memory."""
    say_bare(json.dumps({"run_id": run_id, "attempt": attempt, "node": node})[:-1] + ', "lines": [')
    separator = "\n"
    try:
        for lines in _lines(pieces):
            say_bare(separator + ",\n".join(json.dumps(line.decode(errors="surrogateescape")) for line in lines))
            separator = ",\n"
    finally:
        say_bare("]}\n")


def _lines(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines that each piece completes, without their line feeds; the last one may have had none."""
    parts: list[bytes] = []
    for piece in pieces:
        first, *more = piece.split(b"\n")
        parts.append(first)
        if more:
            yield [b"".join(parts), *more[:-1]]
            parts = [more[-1]]
    if rest := b"".join(parts):
        yield [rest]
