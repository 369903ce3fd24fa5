"""``cloud-train logs``: the output of a run's program, byte for byte."""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated

import typer

from cloud_train.cli.options import FollowOption, JsonOption, RunArgument, open_client
from cloud_train.cli.output.terminal import Painter, ProgramOutput, clean, say_aside, say_bare
from cloud_train.client import Run
from cloud_train.errors import CloudTrainError, NotFoundError
from cloud_train.exit_status import INTERRUPTED


def logs(
    run: RunArgument = None,
    *,
    follow: FollowOption = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, metavar="N", help="Only the last N lines.", show_default=False)] = None,
    node: Annotated[int, typer.Option(min=0, metavar="RANK", help="Print the log of this node.")] = 0,
    attempt: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Print the log of this attempt instead of the newest one.", show_default=False)
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Send the exact bytes to a terminal too, including escape sequences.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Print the output of a run's program, byte for byte.

    On a terminal, escape sequences other than colours and line erasing are shown as text unless --raw is given; a pipe or a file always
    gets the exact bytes.

    The worker's own log goes to standard error. With --json, nothing is recorded, and bytes that are not UTF-8 become lone surrogates
    U+DC80 to U+DCFF, as with Python's "surrogateescape", so that nothing is lost.

    Examples:
      cloud-train logs --follow
      cloud-train logs digits-cnn --tail 100
      cloud-train logs digits-cnn --attempt 1 > first.log
    """
    chosen = open_client(as_json).run(run)
    pieces = chosen.log_bytes(attempt=attempt, node=node, tail=tail, follow=follow, record=not as_json)
    try:
        _show_log(chosen, pieces, attempt, node, raw=raw, as_json=as_json)
    except KeyboardInterrupt:
        if not follow:
            raise
        if not as_json:
            say_aside(f"\nthe run continues unless it has ended; follow it again with: cloud-train logs {shlex.quote(chosen.id)} --follow")
        return INTERRUPTED
    if not as_json:
        _show_worker_log(chosen, attempt, node)
    return 0


def _show_log(run: Run, pieces: Iterable[bytes], attempt: int | None, node: int, *, raw: bool, as_json: bool) -> None:
    try:
        if as_json:
            _print_json(run.id, attempt or run.view.attempt, node, pieces)
        else:
            _print(pieces, raw)
    except NotFoundError:
        _show_provider_logs(run)
        raise


def _print(pieces: Iterable[bytes], raw: bool) -> None:
    output = ProgramOutput(raw)
    try:
        for piece in pieces:
            output.write(piece)
    finally:
        output.close()


def _show_provider_logs(run: Run) -> None:
    """Show the cloud's own log of an attempt whose program never started."""
    paint = Painter.of(sys.stderr)
    with suppress(CloudTrainError):  # the error about the missing log follows
        for line in run.provider_logs():
            say_aside(paint(clean(line), "dim"))


def _show_worker_log(run: Run, attempt: int | None, node: int) -> None:
    paint = Painter.of(sys.stderr)
    for line in run.worker_log(attempt=attempt, node=node):
        say_aside(paint(f"worker: {clean(line)}", "dim"))


def _print_json(run_id: str, attempt: int, node: int, pieces: Iterable[bytes]) -> None:
    """Print one JSON object piece by piece, because the log may be larger than memory."""
    say_bare(json.dumps({"run_id": run_id, "attempt": attempt, "node": node})[:-1] + ', "lines": [')
    separator = "\n"
    try:
        for lines in _lines(pieces):
            say_bare(separator + ",\n".join(json.dumps(line.decode(errors="surrogateescape")) for line in lines))
            separator = ",\n"
    finally:
        say_bare("]}\n")


def _lines(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines that each piece completes, without line feeds; the last line may lack one."""
    parts: list[bytes] = []
    for piece in pieces:
        first, *more = piece.split(b"\n")
        parts.append(first)
        if more:
            yield [b"".join(parts), *more[:-1]]
            parts = [more[-1]]
    if rest := b"".join(parts):
        yield [rest]
