"""``cloud-train logs``: the output of a run's program, byte for byte."""

import codecs
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

_LONGEST_HELD = 1 << 16
"""Characters of a line without its end that are kept before they are printed."""


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
    chosen = open_client(as_json).run(run, latest=True)
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
    """Print one JSON object piece by piece, because the log, and even one line of it, may be larger than memory."""
    say_bare(json.dumps({"run_id": run_id, "attempt": attempt, "node": node})[:-1] + ', "lines": [')
    separator, is_open = "\n", False
    try:
        for lines, begun in _lines(pieces):
            items = [*lines, begun] if begun else lines
            if not items:
                continue
            text = json.dumps(items, separators=(",\n", ":"))[1:-1]
            text = text[1:] if is_open else separator + text  # the first item may continue a string
            is_open, separator = bool(begun), ",\n"
            say_bare(text[:-1] if is_open else text)
    finally:
        say_bare('"]}\n' if is_open else "]}\n")


def _lines(pieces: Iterable[bytes]) -> Iterator[tuple[list[str], str]]:
    """For each piece, the lines that it completes, and the beginning of a line that is too long to wait for its end; without line feeds.

    The first line may continue one that has begun before. The last line may lack a line feed.
    """
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    held = ""
    for piece in pieces:
        *lines, held = (held + decode(piece)).split("\n")
        begun, held = (held, "") if len(held) > _LONGEST_HELD else ("", held)
        yield lines, begun
    held += decode(b"", final=True)
    if held:
        yield [held], ""
