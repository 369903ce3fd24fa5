"""Labelled lines of any length as token numbers, concatenated in memory; a batch is padded to its longest line."""

from array import array
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from cloud_train.data.sequences import Line, SequencesData, Unit, most_frequent, numbered, pieces, tokens_of
from cloud_train.data.shares import share_remarks
from cloud_train.training.data.dataset import Batch, DataSet, Pick, Samples, digest_of
from cloud_train.training.data.memory import split

_BLOCK_LINES = 2048
PADDING = 0
"""The token after the end of a line, and every token that is not in the vocabulary."""


class RaggedSamples(Samples):
    """Samples that are the tokens of a line and its class."""

    def __init__(self, tokens: Tensor, lengths: Tensor, targets: Tensor) -> None:
        self.tokens = tokens
        """Tokens of all lines, concatenated, int64."""
        self.lengths: Tensor = lengths
        self.targets = targets
        self._begins = lengths.cumsum(0) - lengths

    def fingerprint(self) -> str:
        """A digest of all tokens, the lengths of the lines, and their classes."""
        return digest_of(self.tokens, self.lengths, self.targets)

    def batches(self, picks: Iterable[Pick]) -> Generator[Batch]:
        """A batch for each pick, as wide as its longest line."""
        device = self.tokens.device
        for rows, _ in picks:
            lengths = self.lengths.index_select(0, rows)
            places_T = torch.arange(int(lengths.max()), device=device)
            begins_B1, lengths_B1 = (numbers.to(device).unsqueeze(1) for numbers in (self._begins.index_select(0, rows), lengths))
            is_token_BT = places_T < lengths_B1
            # After a line's end any index will do: it becomes padding.
            places_BT = torch.where(is_token_BT, begins_B1 + places_T, begins_B1)
            tokens_BT = self.tokens.index_select(0, places_BT.flatten()).view_as(places_BT)
            yield Batch(tokens_BT.masked_fill_(~is_token_BT, PADDING), self.targets.index_select(0, rows.to(device)), lengths)

    def to(self, device: torch.device) -> Self:
        """The same samples on ``device``; the lengths stay on the CPU, where they are used."""
        return type(self)(self.tokens.to(device), self.lengths, self.targets.to(device))


def load_sequences(data: SequencesData, place: Path, _seed: int) -> DataSet:
    """The job's lines; the classes are their labels, sorted, and the vocabulary is that of the training lines.

    ``place`` is the file or folder of ``data.path``, or without it the cache with the downloaded file. ``data.seed`` chooses which
    lines are for validation, unless there is a ``validation.tsv``. Raises FieldError for lines that cannot be used.
    """
    lines, held_back, tested, remarks = data.read(data.source_at(place))
    classes = tuple(sorted({line.label for line in lines}))
    number = {label: place for place, label in enumerate(classes)}
    if held_back is None:
        targets = torch.tensor([number[line.label] for line in lines])
        train_rows, validation_rows = split(targets, data.validation, data.seed, "lines")
        remarks = (*remarks, *share_remarks(len(lines), len(validation_rows), data.validation, "lines"))
        lines, held_back = [lines[row] for row in train_rows], [lines[row] for row in validation_rows]
    reader = _Reader(data.tokens)
    read = [(reader.read(part), part) for part in (lines, held_back, tested or [])]
    tokens = reader.vocabulary(read[0][0], data.vocabulary)
    parts = [
        RaggedSamples(*reader.encoded(blocks, tokens, data.max_length), torch.tensor([number[line.label] for line in part]))
        for blocks, part in read
        if part
    ]
    return DataSet(
        train=parts[0],
        validation=parts[1],
        test=parts[2] if tested else None,
        remarks=remarks,
        classes=classes,
        tokens=tokens,
        unit=data.tokens,
        max_length=data.max_length,
        bucketing=data.bucketing,
    )


class _Block(NamedTuple):
    """Some lines, as the numbers of their pieces."""

    pieces: np.ndarray
    """Piece numbers of all lines, concatenated, int32."""
    lengths: np.ndarray
    """Pieces of each line, int64."""


class _Reader:
    """Reads many lines quickly: splits each text once and tokenizes each distinct piece once; everything else is arithmetic on their
    numbers.

    The results are those of ``data.sequences.vocabulary`` and ``data.sequences.encode``, a few times faster.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._numbers: defaultdict[str, int] = defaultdict()
        self._numbers.default_factory = self._numbers.__len__  # a new piece gets the next number

    def read(self, lines: Sequence[Line]) -> list[_Block]:
        """The lines in blocks, small enough that computing with one takes little memory."""
        return [self._block(lines[start : start + _BLOCK_LINES]) for start in range(0, len(lines), _BLOCK_LINES)]

    def _block(self, lines: Sequence[Line]) -> _Block:
        if self._unit == "characters":
            return _Block(self._characters("".join(line.text for line in lines)), np.array([len(line.text) for line in lines]))
        numbers, lengths = array("i"), []
        for line in lines:
            found = pieces(line.text, self._unit)
            numbers.extend(map(self._numbers.__getitem__, found))
            lengths.append(len(found))
        return _Block(np.frombuffer(numbers, dtype=np.int32), np.array(lengths))

    def _characters(self, text: str) -> np.ndarray:
        """The number of each character, by a table of code points."""
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        present = np.flatnonzero(np.bincount(codes))
        table = np.zeros(present[-1] + 1, dtype=np.int32)
        table[present] = [self._numbers[chr(code)] for code in present]
        return table[codes]

    def vocabulary(self, blocks: Sequence[_Block], size: int) -> tuple[str, ...]:
        """The most frequent tokens of ``blocks``."""
        counts = np.zeros(len(self._numbers), dtype=np.int64)
        for block in blocks:
            counts += np.bincount(block.pieces, minlength=len(counts))
        found = zip(self._numbers, counts.tolist(), strict=True)
        return most_frequent({piece: count for piece, count in found if count}, self._unit, size)

    def encoded(self, blocks: Sequence[_Block], tokens: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """The numbers of the first ``max_length`` tokens of each line, concatenated, and how many each line has; both int64."""
        numbers = numbered(tokens)
        of_pieces = [[numbers.get(token, 0) for token in tokens_of(piece, self._unit)] for piece in self._numbers]
        table = np.array(list(chain.from_iterable(of_pieces)), dtype=np.int64)
        counts = np.array([len(of_piece) for of_piece in of_pieces])
        begins = _begins(counts)
        flat, lengths = [], []
        for block in blocks:
            in_pieces = counts[block.pieces]
            in_lines = np.add.reduceat(in_pieces, _begins(block.lengths))
            encoded = table[_runs(begins[block.pieces], in_pieces)]
            lengths.append(np.minimum(in_lines, max_length))
            flat.append(encoded[_runs(_begins(in_lines), lengths[-1])])
        return torch.from_numpy(np.concatenate(flat)), torch.from_numpy(np.concatenate(lengths))


def _begins(lengths: np.ndarray) -> np.ndarray:
    """Where each of the consecutive runs begins."""
    begins: np.ndarray = lengths.cumsum() - lengths
    return begins


def _runs(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices of runs with these begins and lengths, concatenated: [5, 0], [2, 3] gives 5, 6, 0, 1, 2."""
    places: np.ndarray = np.arange(lengths.sum()) + np.repeat(begins - _begins(lengths), lengths)
    return places
