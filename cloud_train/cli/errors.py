"""Turns exceptions into messages: ``error:`` and ``hint:`` on standard error, or with ``--json`` one object on standard output.

No error that a user can cause shows a traceback. The traceback of an unexpected error is saved to a file, whose path is in the message.
"""

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from cloud_train.cli.output.terminal import FULL, OutputClosedError, Painter, clean, clean_lines, say_aside, say_json
from cloud_train.errors import CloudTrainError, StoreError, UsageError
from cloud_train.exit_status import INTERNAL, INTERRUPTED, OUTPUT_CLOSED

_OF_THE_MACHINE = FULL | {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EMFILE, errno.ENFILE),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ENOMEM),
}
"""Errors of the operating system that are no mistake of the program, wherever they occur."""


@dataclass(frozen=True)
class Failure:
    """An error, ready to be shown."""

    code: str
    message: str
    hint: str | None
    exit_code: int
    problems: tuple[Any, ...] = ()
    """Every mistake in a job file, each with its position."""


def guarded(work: Callable[[], int], as_json: bool) -> int:
    """Do the work and return its exit status. An exception is shown, and its exit status is returned."""
    try:
        return work()
    except OutputClosedError:
        _discard_output()
        return OUTPUT_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost handler: a user always gets a message
        failure = explain(error)
    # An error that cannot be shown as JSON is still shown as words; if neither can be written, the exit status is all that is left.
    for form in (True, False) if as_json else (False,):
        try:
            show(failure, form)
            break
        except OutputClosedError:
            _discard_output()
            break
        except StoreError:
            _discard_output()
    return failure.exit_code


def explain(error: Exception) -> Failure:
    """The message for an exception, with credentials removed from any URL in it."""
    from cloud_train.spec.secret_names import without_credentials

    failure = _explain(error)
    hint = failure.hint and without_credentials(failure.hint)
    return replace(failure, message=without_credentials(failure.message), hint=hint)


def _explain(error: Exception) -> Failure:
    if isinstance(error, CloudTrainError):
        problems = tuple(getattr(error, "problems", ()))
        return Failure(error.code, error.message, error.hint, error.exit_code, problems)
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return _refused_by_the_system(error)
    if isinstance(error, FileNotFoundError) and _is_current_folder_gone():
        return Failure(UsageError.code, "the current folder was deleted", "change to another folder", UsageError.exit_code)
    return _bug(error)


def _is_current_folder_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def show(failure: Failure, as_json: bool) -> None:
    """Print the failure."""
    if as_json:
        say_json({"error": to_json(failure)})
        return
    paint = Painter.of(sys.stderr)
    say_aside(f"{paint('error:', 'red')} {clean_lines(failure.message)}")
    if failure.hint:
        say_aside(f"{paint('hint:', 'cyan')} {clean_lines(failure.hint)}")


def to_json(failure: Failure) -> dict[str, Any]:
    """The object under ``error``."""
    fields: dict[str, Any] = {"code": failure.code, "message": failure.message, "hint": failure.hint, "exit_code": failure.exit_code}
    if failure.problems:
        fields["problems"] = [problem.to_json() for problem in failure.problems]
    return fields


def _usage(error: typer.TyperException) -> Failure:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "cloud-train"
    message = error.format_message().rstrip(".")
    return Failure("usage", message[:1].lower() + message[1:], f"see: {command} --help", error.exit_code)


def _refused_by_the_system(error: OSError) -> Failure:
    where = f": {clean(str(error.filename))}" if error.filename else ""
    is_denied = error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}
    hint = "free some space on that disk, then retry" if error.errno in FULL else "check its owner and permissions" if is_denied else None
    return Failure(StoreError.code, f"{(error.strerror or str(error)).lower()}{where}", hint, StoreError.exit_code)


def _bug(error: Exception) -> Failure:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    try:
        place = _write_traceback(error)
        hint = f"please report it, and attach the file {place}"
    except (OSError, CloudTrainError) as failed:
        hint = f"the traceback could not be saved ({getattr(failed, 'strerror', None) or failed}); set CLOUD_TRAIN_HOME to another folder"
    return Failure(CloudTrainError.code, f"this is a bug in cloud-train: {what}", hint, INTERNAL)


def _write_traceback(error: Exception) -> Path:
    from cloud_train import private
    from cloud_train.client import Client

    folder = Client().home / "errors"
    private.make_folder(folder.parent)
    private.make_folder(folder)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.txt"
    private.write_text(path, "".join(traceback.format_exception(error)))
    return path


def _discard_output() -> None:
    # The interpreter flushes the streams again on exit, and would report that it cannot.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
