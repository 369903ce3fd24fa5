"""``cloud-train logs``: what a run's program printed, byte for byte."""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.errors import INTERRUPTED
from cloud_train.cli.options import JsonOption, RunArgument
from cloud_train.cli.output.program_output import ProgramOutput
from cloud_train.cli.output.terminal import Painter, clean, say_aside, say_bare
from cloud_train.errors import CloudTrainError, NotFoundError, UsageError

if TYPE_CHECKING:
    from cloud_train.orchestrator.home import Home


def logs(
    run: RunArgument = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing until the run ends; Ctrl-C stops the printing, not the run.")
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

    What the worker noted about the attempt goes to standard error. With --json, bytes that are not UTF-8 are lone surrogates U+DC80 to
    U+DCFF, as Python's "surrogateescape" has them, so that nothing is lost.

    Examples:
      cloud-train logs --follow
      cloud-train logs digits-cnn --tail 100
      cloud-train logs digits-cnn --attempt 1 > first.log
    """
    if follow and attempt is not None:
        raise UsageError("--follow goes with the newest attempt; leave --attempt out")
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.reading import follow_logs, read_logs
    from cloud_train.orchestrator.state import read_run, select

    home = Home.from_environment()
    run_id = select(home, run)
    pieces = (
        follow_logs(home, run_id, node, tail, note=say_aside, record=not as_json)
        if follow
        else read_logs(home, run_id, attempt, node, tail)
    )
    try:
        if as_json:
            _print_json(run_id, attempt or read_run(home, run_id).attempt, node, pieces)
            return 0
        _print(pieces, raw)
    except NotFoundError:
        _show_provider_logs(home, run_id)
        raise
    except KeyboardInterrupt:
        if not follow:
            raise
        if not as_json:
            say_aside(f"\nthe run goes on, if it has not ended; come back with: cloud-train logs {shlex.quote(run_id)} --follow")
        return INTERRUPTED
    _show_notes(home, run_id, attempt, node)
    return 0


def _print(pieces: Iterable[bytes], raw: bool) -> None:
    output = ProgramOutput(raw)
    try:
        for piece in pieces:
            output.write(piece)
    finally:
        output.close()


def _show_provider_logs(home: "Home", run_id: str) -> None:
    """What the cloud itself says of an attempt whose program never began."""
    from cloud_train.orchestrator.provider_logs import read_provider_logs

    paint = Painter.of(sys.stderr)
    with suppress(CloudTrainError):  # that there is no log is what the user is told
        for line in read_provider_logs(home, run_id):
            say_aside(paint(clean(line), "dim"))


def _show_notes(home: "Home", run_id: str, attempt: int | None, node: int) -> None:
    from cloud_train.orchestrator.reading import worker_notes

    paint = Painter.of(sys.stderr)
    for line in worker_notes(home, run_id, attempt, node):
        say_aside(paint(f"worker: {clean(line)}", "dim"))


def _print_json(run_id: str, attempt: int, node: int, pieces: Iterable[bytes]) -> None:
    """One JSON object, written as it comes: a log may be larger than memory."""
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
