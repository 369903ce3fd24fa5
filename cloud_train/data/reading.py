"""Reading a file of text: UTF-8, of a limited size, with a message for everything that can be wrong with it. Imports no torch."""

from pathlib import Path

from cloud_train.spec.paths import LARGEST_TEXT_BYTES, read_plain
from cloud_train.spec.problems import FieldError
from cloud_train.spec.problems import Path as FieldPath


def read_text(path: Path, field: FieldPath, hint: str) -> str:
    """The text of a file, without a byte order mark. ``field`` is the job's field that names it, and ``hint`` what it should be.

    Raises FieldError for a file that cannot be read, is not a regular file, is larger than 1 GiB, is not UTF-8, or has NUL bytes.
    """
    try:
        content = read_plain(path, LARGEST_TEXT_BYTES)
    except OSError as error:
        raise FieldError(field, f"{path}: {(error.strerror or 'cannot be read').lower()}", hint) from error
    if content is None:
        reason = "is larger than 1 GiB" if path.is_file() else "is not a file"
        raise FieldError(field, f"{path} {reason}", hint)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + len(content) - len(error.object)  # which lacks the byte order mark
        place = f"{path}:{_line(content, at)}"
        reason = f"byte {at:,} of the file is 0x{content[at]:02x}"
        raise FieldError(field, f"{place}: not UTF-8: {reason}", f"convert it with: iconv -f ENCODING -t UTF-8 {path.name}") from error
    if (at := content.find(b"\0")) >= 0:
        raise _with_nul(path, content, at, field)
    return text


def _with_nul(path: Path, content: bytes, at: int, field: FieldPath) -> FieldError:
    """The error for a file with NUL bytes, which no text has: every other byte of English in UTF-16 is one."""
    if content.count(b"\0", 0, 1000) > min(len(content), 1000) // 4:
        encoding = "UTF-16BE" if content.startswith(b"\0") else "UTF-16LE"
        reason, hint = f"it looks like {encoding}", f"convert it with: iconv -f {encoding} -t UTF-8 {path.name}"
    else:
        reason, hint = "it is not text, or it is damaged", f"if it is text, remove them with: tr -d '\\000' < {path.name}"
    return FieldError(field, f"{path}:{_line(content, at)}: NUL bytes, the first at byte {at:,} of the file: {reason}", hint)


def _line(content: bytes, at: int) -> int:
    """The number of the line, from 1, that the byte ``at`` is in."""
    return content.count(b"\n", 0, at) + 1
