"""Labelled lines of text: reads them, splits them into tokens, numbers the tokens. Imports no torch, so that a dry run can count them.

A file is UTF-8; each of its lines is a label, a tab and a text. Further tabs belong to the text. Empty lines are skipped.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from cloud_train.data.base import DataSection, SampleKind, check_source
from cloud_train.data.listing import SHOWN, LeftOut, may_be_data
from cloud_train.data.reading import read_text
from cloud_train.data.shares import held_out
from cloud_train.spec.facts import UNKNOWN, DataFacts
from cloud_train.spec.paths import LARGEST_TEXT_BYTES
from cloud_train.spec.problems import FieldError, Finding, shortened
from cloud_train.spec.problems import Path as FieldPath
from cloud_train.spec.types import Count, Fraction, PathText, Seed, Sha256, Url

Unit = Literal["characters", "words"]
"""The kind of tokens."""

_TRAINING = "train.tsv"
_PARTS = {_TRAINING: "train", "validation.tsv": "validation", "valid.tsv": "validation", "val.tsv": "validation", "dev.tsv": "validation"}
_PARTS |= {"test.tsv": "test"}
_NAMES = (_TRAINING, "validation.tsv", "test.tsv")
_HEADER_LABELS = ("label", "labels", "class", "category", "target", "sentiment", "y")
_HEADER_TEXTS = ("text", "texts", "sentence", "sentences", "review", "content", "document", "title", "tweet", "x")
_EXPECTED = "each line must be a label, a tab and a text"


class Line(NamedTuple):
    """One sample."""

    label: str
    text: str


class Parts(NamedTuple):
    """The lines of a file or folder."""

    train: list[Line]
    validation: list[Line] | None = None
    """None if they are taken from those for training."""
    test: list[Line] | None = None
    """None if there are none."""
    remarks: tuple[str, ...] = ()
    """Notes on files that are not read, and on likely mistakes."""


def read_lines(path: Path, field: FieldPath = ("data", "path")) -> Parts:
    """The lines of the file ``path``, or of the files ``train.tsv``, ``validation.tsv`` and ``test.tsv`` in that folder.

    ``field`` names it in the job. Raises FieldError naming the file, the line, and what is wrong with it.
    """
    files, left_out = _files(path, field)
    train = _whole(files["train"], field)
    counts = Counter(line.label for line in train)
    _check_labels(train, counts, files["train"], field)
    others = {part: _whole(file, field, set(counts)) for part, file in files.items() if part != "train"}
    lonely = [label for label, count in counts.items() if count == 1]
    remarks = [left_out.sentence("lines", _NAMES)] if left_out else []
    if lonely:
        shown = ", ".join(repr(shortened(label)) for label in lonely[:SHOWN]) + (", …" if len(lonely) > SHOWN else "")
        remarks.append(f"{'a label has' if len(lonely) == 1 else f'{len(lonely):,} labels have'} a single training line: {shown}")
    return Parts(train, others.get("validation"), others.get("test"), tuple(remarks))


def _files(path: Path, field: FieldPath) -> tuple[dict[str, Path], LeftOut]:
    """The file of each part, and the other files of the folder. A folder has at least a file for training, which may be missing."""
    left_out = LeftOut()
    if not path.is_dir():
        return {"train": path}, left_out
    found: dict[str, Path] = {}
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise FieldError(field, f"{path}: {(error.strerror or 'cannot be read').lower()}", _EXPECTED) from error
    for name in filter(may_be_data, names):
        part = _PARTS.get(name.lower())
        if part is None:
            left_out.add(name)
        elif part in found:
            raise FieldError(field, f"{found[part]} and {path / name} have the same purpose", "keep one of them, or rename the other")
        else:
            found[part] = path / name
    return {"train": path / _TRAINING, **found}, left_out


def _whole(path: Path, field: FieldPath, labels: set[str] | None = None) -> list[Line]:
    lines = list(_lines(path, field, labels))
    if not lines:
        raise FieldError(field, f"{path} contains no lines", hint=_EXPECTED)
    return lines


def _check_labels(train: Sequence[Line], labels: Mapping[str, int], path: Path, field: FieldPath) -> None:
    if len(labels) == 1:
        raise FieldError(field, f"{path}: every training line has the label {shortened(train[0].label)!r}", hint="use at least two labels")
    header = train[0]
    if labels[header.label] == 1 and header.label.lower() in _HEADER_LABELS and header.text.strip().lower() in _HEADER_TEXTS:
        raise FieldError(field, f"{path}:1: {header.label!r} and {header.text.strip()!r} look like the names of columns", "delete the line")
    spelled = Counter(unicodedata.normalize("NFC", label) for label in labels)
    if twice := [label for label, count in spelled.items() if count > 1]:
        reason = "occurs with composed and with decomposed characters (Unicode NFC and NFD), which are two labels"
        raise FieldError(field, f"{path}: the label {shortened(twice[0])!r} {reason}", hint="write it in one way")


def tokenize(text: str, unit: Unit) -> list[str]:
    """The tokens of ``text`` in order: its characters, unchanged, or its words.

    Words are in lower case. A word is a run of letters and digits with their combining marks, and with apostrophes inside (``don't``; a
    typographic apostrophe counts as a plain one). Every other visible character is a token by itself; spaces and control characters are
    not tokens.
    """
    return [token for piece in pieces(text, unit) for token in tokens_of(piece, unit)]


def vocabulary(lines: Iterable[Line], unit: Unit, size: int) -> tuple[str, ...]:
    """The ``size`` most frequent tokens, the most frequent first; equally frequent ones in the order of their code points."""
    return most_frequent(Counter(chain.from_iterable(pieces(line.text, unit) for line in lines)), unit, size)


def encode(text: str, numbers: Mapping[str, int], unit: Unit, most: int) -> list[int]:
    """The numbers of the first ``most`` tokens of ``text``, 0 for a token that is not in the vocabulary."""
    return [numbers.get(token, 0) for token in tokenize(text, unit)[:most]]


def numbered(tokens: Iterable[str]) -> dict[str, int]:
    """The number of each token of a vocabulary, from 1."""
    return {token: number for number, token in enumerate(tokens, start=1)}


def pieces(text: str, unit: Unit) -> Sequence[str]:
    """The text in pieces that no token crosses. Most pieces repeat often, so a reader of many lines can tokenize each distinct piece only
    once.
    """
    return text if unit == "characters" else text.lower().split()


def tokens_of(piece: str, unit: Unit) -> list[str]:
    """The tokens of one of the ``pieces``."""
    if unit == "characters":
        return [piece]
    pattern = _ascii_pattern() if piece.isascii() else _pattern()
    return pattern.findall(piece.replace("’", "'"))


def most_frequent(counts: Mapping[str, int], unit: Unit, size: int) -> tuple[str, ...]:
    """The vocabulary of lines, given how often each piece occurs in them."""
    tokens: Counter[str] = Counter()
    for piece, count in counts.items():
        for token in tokens_of(piece, unit):
            tokens[token] += count
    return tuple(sorted(tokens, key=lambda token: (-tokens[token], token))[:size])


@cache
def _pattern() -> re.Pattern[str]:
    """A word, or one other visible character."""
    marks = f"[{_characters('Mn', 'Mc', 'Me')}]"
    word = rf"[^\W_]+(?:{marks}+[^\W_]+)*{marks}*"  # a run of marks can match in only one way
    return re.compile(rf"{word}(?:'{word})*|[^\w\s{_characters('Cc', 'Cf')}]|_")


@cache
def _ascii_pattern() -> re.Pattern[str]:
    """The same for ASCII, which has neither combining marks nor other scripts, and faster."""
    return re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*|[!-/:-@\[-`{-~]")


def _characters(*categories: str) -> str:
    """The characters of these Unicode categories as ranges, for use inside the brackets of a pattern."""
    inside = [code for code in chain(range(0x20000), range(0xE0000, 0xE0200)) if unicodedata.category(chr(code)) in categories]
    # In a run of consecutive codes, code and position differ by a constant.
    runs = [list(run) for _, run in groupby(enumerate(inside), key=lambda pair: pair[1] - pair[0])]
    return "".join(f"\\U{run[0][1]:08x}-\\U{run[-1][1]:08x}" for run in runs)


def _lines(path: Path, field: FieldPath, labels: set[str] | None = None) -> Iterator[Line]:
    """The lines of a file; ``labels`` are the allowed ones, None allows any."""
    hint = f"a folder of labelled lines must contain a file {_TRAINING}" if path.name == _TRAINING else _EXPECTED
    for number, line in enumerate(read_text(path, field, hint).split("\n"), start=1):
        if not line.strip(" \r"):
            continue
        label, tab, text = line.removesuffix("\r").partition("\t")
        label = label.strip()
        problem = ""
        if not tab:
            problem = f"no tab in {shortened(line)!r}"
        elif not label:
            problem = "no label before the tab"
        elif _pattern().search(text) is None:
            problem = "no text after the tab"
        elif labels is not None and label not in labels:
            problem = f"the label {shortened(label)!r} does not occur in the training lines"
        if problem:
            raise FieldError(field, f"{path}:{number}: {problem}", hint=_EXPECTED)
        yield Line(label, text)


class SequencesData(DataSection):
    """Labelled lines to classify, such as reviews: ``label<TAB>text``, UTF-8, of any length."""

    dataset: Literal["sequences"]
    """Lines of text, each with a label."""
    path: PathText | None = None
    """A file of lines ``label<TAB>text``, or a folder with ``train.tsv`` and, if they exist, ``validation.tsv`` and ``test.tsv``; relative
    to the job file, or a store URL.
    """
    url: Url | None = None
    """Such a file to download into a cache, instead of ``path``."""
    sha256: Sha256 | None = None
    """SHA-256 of the file that is downloaded."""
    tokens: Literal["characters", "words"] = "words"
    """What a token is. Words are runs of letters and digits, with apostrophes inside, in lower case; every other visible character is
    a token too.
    """
    vocabulary: Annotated[int, Field(ge=2, le=10**6)] = 20_000
    """Number of the most frequent tokens of the training lines to distinguish; all others become one token, "unknown"."""
    max_length: Count = 256
    """Most tokens to read from a line; longer lines are truncated."""
    bucketing: bool = True
    """Put lines of similar length in one batch, which reduces padding."""
    validation: Fraction = 0.1
    """Fraction of the lines that is held out for validation, if there is no ``validation.tsv``."""
    seed: Seed = 0
    """Chooses the samples that are held out for validation; ``train.seed`` does not."""

    sample_kind: ClassVar[SampleKind] = "lines"
    most_download_bytes: ClassVar[int | None] = LARGEST_TEXT_BYTES
    loader: ClassVar[str] = "cloud_train.training.data.sequences:load_sequences"

    def read(self, place: Path) -> Parts:
        """The lines for training, validation and test. Raises FieldError."""
        return read_lines(place, ("data", "path" if self.path is not None else "url"))

    def facts_at(self, place: Path) -> DataFacts:
        """The labels, lines and tokens."""
        training, validation, test, remarks = self.read(place)
        if validation is not None:
            samples = (len(training), len(validation))
        else:
            sizes = [*Counter(line.label for line in training).values()]
            count, on_split = held_out(sizes, self.validation, "lines")
            remarks = (*remarks, *on_split)
            samples = (len(training) - count, count)
        return DataFacts(
            dataset=self.dataset,
            sample_shape=(self.max_length,),
            classes=len({line.label for line in training}),
            train_samples=samples[0],
            validation_samples=samples[1],
            source=self.source,
            tokens=len(vocabulary(training, self.tokens, self.vocabulary)) + 1,
            test_samples=len(test) if test is not None else None,
            remarks=remarks,
        )

    def check(self) -> Iterator[Finding]:
        """Mistakes in the source."""
        yield from super().check()
        yield from check_source(self, self.sha256)

    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """The length of a line, the vocabulary and the labels."""
        known = f"at most {facts.tokens:,} {self.tokens}, including one for all others" if facts.tokens else UNKNOWN
        return [
            ("sample", f"a line of at most {self.max_length:,} {self.tokens}"),
            ("vocabulary", known),
            ("classes", f"{facts.classes:,}"),
        ]
