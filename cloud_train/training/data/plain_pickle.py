"""Pickles read as data: lists, mappings, texts, numbers, and arrays of bytes. Nothing that a pickle names is imported or called.

A pickle is a program for a small machine, whose instructions can import any name and call it. Three things make it harmless here:

- of the instructions, only those are let through that build plain values, plus the ones that name something and "call" it;
- whatever is named has to be one of the few things of NumPy that an array is written with, and stands for a class of this module that
  does no more than keep what it is given;
- there are bounds for what a small file could make large: the number of values, the depth of tuples, the places of the machine's memory.

The instructions are described in CPython's ``Lib/pickletools.py``, how NumPy writes an array in the ``ndarray.__reduce__`` and
``ndarray.__setstate__`` of its reference.
"""

import io
import pickle
import pickletools
from typing import Self

import numpy as np

from cloud_train.errors import CorruptError

_MOST_INSTRUCTIONS = 1_000_000
_MOST_TUPLES = 100
_PLAIN = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
)
_NAMING = ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD")
_MALFORMED = (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError)
"""What the standard library raises for a pickle that is cut off or makes no sense."""


def read_plain(content: bytes, origin: str) -> object:
    """What the pickle ``content`` holds; texts of Python 2 as bytes, arrays as ``PlainArray``.

    Raises CorruptError, which begins with ``origin``, for a pickle that is damaged, or that names or does anything else.
    """
    try:
        _check_instructions(content, origin)
        return _Unpickler(content, origin).load()
    except _MALFORMED as error:
        raise CorruptError(f"{origin}: not a pickle that can be read: {error}", hint=_HINT) from error


_HINT = "get the file anew, and check where it comes from"


class _Kept:
    """Stands for something of NumPy: it is made with anything, can be told anything, and does nothing."""

    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments
        self._state: object = None

    def __setstate__(self, state: object) -> None:
        self._state = state


class _PlainType(_Kept):
    """Stands for ``numpy.dtype``."""

    @property
    def name(self) -> object:
        """What it was made with, such as ``u1``."""
        return self._arguments[0] if self._arguments else None


class PlainArray(_Kept):
    """Stands for an array, and for what makes one."""

    def to_numpy(self) -> np.ndarray:
        """The array, if it is one of unsigned bytes of two axes; read-only. Raises ValueError in words if it is not."""
        match self._state:
            case (int(), (int(rows), int(columns)), _PlainType(name="u1" | b"u1"), bool(is_fortran), bytes(content)):
                if len(content) != rows * columns:
                    raise ValueError(f"it has {len(content):,} bytes instead of {rows:,} × {columns:,}")
                return np.frombuffer(content, dtype=np.uint8).reshape((rows, columns), order="F" if is_fortran else "C")
        raise ValueError("it is no array of unsigned bytes with two axes")


class _PlainBytes(bytes):
    """Stands for ``_codecs.encode``, with which Python 3 writes bytes for Python 2: as a text of the code points from 0 to 255."""

    def __new__(cls, text: str, _encoding: str) -> Self:
        return super().__new__(cls, text.encode("latin-1"))

    def __setstate__(self, state: object) -> None:
        """Bytes have no state."""


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): PlainArray,
    ("numpy", "dtype"): _PlainType,
    ("numpy.core.multiarray", "_reconstruct"): PlainArray,
    ("numpy._core.multiarray", "_reconstruct"): PlainArray,
    ("_codecs", "encode"): _PlainBytes,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, origin: str) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._origin = origin

    def find_class(self, module: str, name: str) -> type:
        """The stand-in; the name itself is never looked up."""
        if (module, name) not in _STAND_INS:
            raise CorruptError(f"{self._origin}: the pickle names {module}.{name}, which is no data; nothing was executed", hint=_HINT)
        return _STAND_INS[module, name]


def _check_instructions(content: bytes, origin: str) -> None:
    allowed, tuples = frozenset(_PLAIN + _NAMING), 0
    for number, (instruction, argument, place) in enumerate(pickletools.genops(content)):
        if instruction.name not in allowed:
            raise CorruptError(
                f"{origin}: byte {place:,} of the pickle is the instruction {instruction.name}, which no data needs; nothing was executed",
                hint=_HINT,
            )
        tuples += instruction.name.startswith("TUPLE")
        is_far = instruction.name == "LONG_BINPUT" and isinstance(argument, int) and argument > number
        if number >= _MOST_INSTRUCTIONS or tuples > _MOST_TUPLES or is_far:
            raise CorruptError(f"{origin}: byte {place:,} of the pickle goes beyond what data needs; nothing was executed", hint=_HINT)
