"""Labelled lines: read them, cut them into tokens, name and number the tokens. Imports no torch, so that a dry run can tell their size.

A file is UTF-8, each of its lines a label, a tab and a text; further tabs belong to the text. Empty lines are passed over.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import Literal, NamedTuple

from cloud_train.data.downloads import LARGEST_TEXT_BYTES
from cloud_train.spec.paths import read_plain
from cloud_train.spec.problems import FieldError, shortened
from cloud_train.spec.problems import Path as Field

Unit = Literal["characters", "words"]
"""What a token is."""

_TRAINING, _VALIDATION = "train.tsv", "validation.tsv"
_EXPECTED = "each line is a label, a tab and a text"


class Line(NamedTuple):
    """One sample."""

    label: str
    text: str


def read_lines(path: Path, field: Field = ("data", "path")) -> tuple[list[Line], list[Line] | None]:
    """The lines to train on, and those of ``validation.tsv``, or None if there is no such file.

    ``path`` is the file or folder that they are in, and ``field`` names it in the job. Raises FieldError naming the file and the line, and
    what is wrong with it.
    """
    if not path.is_dir():
        training, validation = list(_lines(path, field)), None
    else:
        training = list(_lines(path / _TRAINING, field))
        labels = {line.label for line in training}
        validation = list(_lines(path / _VALIDATION, field, labels)) if (path / _VALIDATION).exists() else None
    for lines, name in ((training, _TRAINING), (validation, _VALIDATION)):
        if lines is not None and not lines:
            raise FieldError(field, f"{path / name if path.is_dir() else path} contains no lines", hint=_EXPECTED)
    if all(line.label == training[0].label for line in training):
        raise FieldError(
            field, f"{path}: every training line has the label {shortened(training[0].label)!r}", hint="use at least two labels"
        )
    return training, validation


def tokenize(text: str, unit: Unit) -> list[str]:
    """What a network reads of ``text``, one after another: its characters as they are, or its words.

    Words are in lower case. A word is a run of letters and digits with the combining marks on them, and with apostrophes inside
    (``don't``; a typographic one is taken for a plain one). Every other visible character is a token by itself; spaces and control
    characters are none.
    """
    return [token for piece in pieces(text, unit) for token in tokens_of(piece, unit)]


def vocabulary(lines: Iterable[Line], unit: Unit, size: int) -> tuple[str, ...]:
    """The ``size`` most frequent tokens, the most frequent first; of equally frequent ones the first in the order of code points."""
    return most_frequent(Counter(chain.from_iterable(pieces(line.text, unit) for line in lines)), unit, size)


def encode(text: str, numbers: Mapping[str, int], unit: Unit, most: int) -> list[int]:
    """The numbers of the first ``most`` tokens of ``text``, 0 for a token that has none."""
    return [numbers.get(token, 0) for token in tokenize(text, unit)[:most]]


def numbered(tokens: Iterable[str]) -> dict[str, int]:
    """The number of each token of a vocabulary, from 1 on."""
    return {token: number for number, token in enumerate(tokens, start=1)}


def pieces(text: str, unit: Unit) -> Sequence[str]:
    """The text in pieces that no token goes beyond. There are far fewer different ones than there are pieces, so that a reader of many
    lines needs to look into each of them only once.
    """
    return text if unit == "characters" else text.lower().split()


def tokens_of(piece: str, unit: Unit) -> list[str]:
    """The tokens of one of the ``pieces``."""
    if unit == "characters":
        return [piece]
    pattern = _ascii_pattern() if piece.isascii() else _pattern()
    return pattern.findall(piece.replace("’", "'"))


def most_frequent(counts: Mapping[str, int], unit: Unit, size: int) -> tuple[str, ...]:
    """The vocabulary of lines in which each piece occurs so many times."""
    tokens: Counter[str] = Counter()
    for piece, count in counts.items():
        for token in tokens_of(piece, unit):
            tokens[token] += count
    return tuple(sorted(tokens, key=lambda token: (-tokens[token], token))[:size])


@cache
def _pattern() -> re.Pattern[str]:
    """A word, or one other visible character."""
    marks = f"[{_characters('Mn', 'Mc', 'Me')}]"
    word = rf"[^\W_]+(?:{marks}+[^\W_]+)*{marks}*"  # one way only to read a run of marks
    return re.compile(rf"{word}(?:'{word})*|[^\w\s{_characters('Cc', 'Cf')}]|_")


@cache
def _ascii_pattern() -> re.Pattern[str]:
    """The same where there are neither combining marks nor other writing systems, which is quicker."""
    return re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*|[!-/:-@\[-`{-~]")


def _characters(*categories: str) -> str:
    """The characters of these categories of Unicode as ranges, the way they stand inside the brackets of a pattern."""
    inside = [code for code in chain(range(0x20000), range(0xE0000, 0xE0200)) if unicodedata.category(chr(code)) in categories]
    # In a run of neighbours, code and place differ by the same number.
    runs = [list(run) for _, run in groupby(enumerate(inside), key=lambda pair: pair[1] - pair[0])]
    return "".join(f"\\U{run[0][1]:08x}-\\U{run[-1][1]:08x}" for run in runs)


def _lines(path: Path, field: Field, labels: set[str] | None = None) -> Iterator[Line]:
    """The lines of a file; ``labels`` are those that there may be, if not any."""
    for number, line in enumerate(_content(path, field).split("\n"), start=1):
        if not line.strip(" \r"):
            continue
        label, tab, text = line.removesuffix("\r").partition("\t")
        label = label.strip()
        problem = ""
        if not tab:
            problem = f"there is no tab in {shortened(line)!r}"
        elif not label:
            problem = "there is no label before the tab"
        elif _pattern().search(text) is None:
            problem = "there is no text after the tab"
        elif labels is not None and label not in labels:
            problem = f"no training line has the label {shortened(label)!r}"
        if problem:
            raise FieldError(field, f"{path}:{number}: {problem}", hint=_EXPECTED)
        yield Line(label, text)


def _content(path: Path, field: Field) -> str:
    try:
        if not path.is_file() and path.exists():
            raise FieldError(field, f"{path} is not a file", hint=_EXPECTED)
        content = read_plain(path, LARGEST_TEXT_BYTES)
        if content is None:
            raise FieldError(field, f"{path} has more than 1 GiB", hint="give fewer lines")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise FieldError(
            field,
            f"{path}:{number}: not UTF-8: byte {error.start:,} of the file is 0x{error.object[error.start]:02x}",
            hint=f"convert it with: iconv -f ENCODING -t UTF-8 {path.name}",
        ) from error
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        hint = f"a folder of labelled lines has a file {_TRAINING}" if path.name == _TRAINING else None
        raise FieldError(field, f"{path}: {reason}", hint=hint) from error
