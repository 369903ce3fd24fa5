"""Text to learn from: read it, name its characters, split it. Imports no torch, so that a dry run can tell the size of a job."""

from pathlib import Path

from cloud_train.job.models import PythonDocsData, TextData
from cloud_train.spec.problems import FieldError
from cloud_train.spec.problems import Path as Field

_LARGEST_BYTES = 1 << 30


def read_text(data: PythonDocsData | TextData, path: Path) -> str:
    """The whole text. ``path`` is the file or folder that it is read from; the Python documentation comes from CPython itself.

    Raises FieldError naming the file and what is wrong with it.
    """
    if isinstance(data, PythonDocsData):
        text = _python_docs()
    else:
        text = _own_text(path, ("data", "path" if data.path is not None else "url"))
    training, validation = split(text, data.validation)
    shortest = data.sequence_length + 1
    if len(training) < shortest or len(validation) < shortest:
        raise FieldError(
            ("data", "sequence_length"),
            f"the text has {len(text):,} characters, {len(training):,} of them to train and {len(validation):,} to validate,"
            f" and one sequence takes {shortest:,}",
            hint="give more text, or a smaller data.sequence_length",
        )
    return text


def vocabulary(text: str) -> str:
    """The distinct characters of ``text`` in the order of their code points; a character's place is its class."""
    return "".join(sorted(set(text)))


def split(text: str, validation: float) -> tuple[str, str]:
    """The text to train on and, from its end, the fraction ``validation`` to validate on."""
    place = len(text) - round(len(text) * validation)
    return text[:place], text[place:]


def _python_docs() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def _own_text(path: Path, field: Field) -> str:
    try:
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    except OSError as error:
        raise _unreadable(path, field, error) from error
    if not files:
        raise FieldError(field, f"no *.txt file lies in {path}", hint="name a file, or a folder of *.txt files")
    return "\n\n".join(_read(file, field) for file in files)


def _read(path: Path, field: Field) -> str:
    try:
        size = path.stat().st_size
        if not path.is_file() or size > _LARGEST_BYTES:
            raise FieldError(field, f"{path} is not a text file of at most 1 GiB")
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise FieldError(
            field,
            f"{path} is not UTF-8: byte {error.start:,} is 0x{error.object[error.start]:02x}",
            hint=f"convert it with: iconv -f ENCODING -t UTF-8 {path.name}",
        ) from error
    except OSError as error:
        raise _unreadable(path, field, error) from error


def _unreadable(path: Path, field: Field, error: OSError) -> FieldError:
    reason = (error.strerror or "cannot be read").lower()
    return FieldError(field, f"{path}: {reason}", hint="a text file, or a folder of *.txt files, relative to the job file")
