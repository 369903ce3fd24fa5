"""Pickles as Python 2 and the NumPy of its day wrote them, with protocol 2: what CIFAR-10 comes in."""

import struct

import numpy as np

_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R"
_BYTES_TYPE = b"cnumpy\ndtype\nq\x03U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def python2_pickle(value: object) -> bytes:
    """The pickle of a value made of dict, list, int, bytes (Python 2's str), str (its unicode) and arrays of unsigned bytes."""
    return b"\x80\x02" + _written(value) + b"."


def _written(value: object) -> bytes:
    match value:
        case bool() | None:
            return {None: b"N", False: b"\x89", True: b"\x88"}[value]
        case int():
            return struct.pack("<cB", b"K", value) if 0 <= value < 256 else struct.pack("<ci", b"J", value)
        case bytes() | str():
            return _written_text(value)
        case list():
            return b"](" + b"".join(map(_written, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_written(part) for pair in value.items() for part in pair) + b"u"
    assert isinstance(value, np.ndarray), value
    return _written_array(value)


def _written_text(text: bytes | str) -> bytes:
    if isinstance(text, str):
        return struct.pack("<ci", b"X", len(text.encode())) + text.encode()
    return (struct.pack("<cB", b"U", len(text)) if len(text) < 256 else struct.pack("<ci", b"T", len(text))) + text


def _written_array(array: np.ndarray) -> bytes:
    shape = b"(" + b"".join(map(_written, array.shape)) + b"t"
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    content = array.tobytes(order="F" if is_fortran else "C")
    return _ARRAY + b"(K\x01" + shape + _BYTES_TYPE + _written(is_fortran) + _written(content) + b"tb"
