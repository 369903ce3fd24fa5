"""Pickles read as data: what a pickle could do is not done."""

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_train.errors import CorruptError
from cloud_train.training.data.plain_pickle import PlainArray, read_plain
from tests.training.data.python2 import python2_pickle

ARRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def array_of(content: bytes) -> np.ndarray:
    found = read_plain(content, "file")
    assert isinstance(found, PlainArray)
    return found.to_numpy()


def test_what_python_2_wrote_is_read() -> None:
    value = {b"labels": [0, 9, 300, -1], b"names": [b"one", "zwei", b"x" * 300], b"flags": [True, False, None], b"data": ARRAY}
    found = read_plain(python2_pickle(value), "file")
    assert isinstance(found, dict)
    data = found.pop(b"data")
    assert isinstance(data, PlainArray)
    assert np.array_equal(data.to_numpy(), ARRAY)
    assert found == {key: part for key, part in value.items() if key != b"data"}


def test_the_pickles_made_here_are_those_that_pickle_reads() -> None:
    value = {b"labels": [0, 300, -1], b"names": [b"one", "zwei", b"x" * 300]}
    assert pickle.loads(python2_pickle(value), encoding="bytes") == value
    for array in (ARRAY, np.asfortranarray(ARRAY)):
        assert np.array_equal(pickle.loads(python2_pickle(array), encoding="bytes"), array)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY)], ids=["rows first", "columns first"])
def test_what_python_3_writes_today_is_read(protocol: int, array: np.ndarray) -> None:
    assert np.array_equal(array_of(pickle.dumps(array, protocol)), array)
    found = read_plain(pickle.dumps({b"labels": [1, 2], "text": "é", b"\xff" * 300: ()}, protocol), "file")
    assert found == {b"labels": [1, 2], "text": "é", b"\xff" * 300: ()}


@pytest.mark.parametrize(
    "array",
    [ARRAY.astype(np.int8), ARRAY.astype(np.float64), ARRAY.astype(object), ARRAY.ravel(), ARRAY.reshape(3, 2, 2), np.array(1, np.uint8)],
    ids=["signed", "float", "objects", "one axis", "three axes", "no axis"],
)
def test_an_array_of_another_kind_is_no_array_of_bytes(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="it is no array of unsigned bytes with two axes"):
        array_of(pickle.dumps(array, 2))


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (0, 4), (-3, -4), (2**31 - 1, 2**31 - 1)])
def test_an_array_has_as_many_bytes_as_its_shape_says(rows: int, columns: int) -> None:
    shape = b"".join(struct.pack("<ci", b"J", size) for size in (rows, columns))
    with pytest.raises(ValueError, match=r"instead of|one unknown dimension|negative dimensions"):
        array_of(python2_pickle(ARRAY).replace(b"(K\x03K\x04t", b"(" + shape + b"t"))


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def calls(target: Path) -> dict[str, bytes]:
    """Pickles that make the folder ``target`` when they are loaded by Python, each in another way."""
    command = f"mkdir {target}".encode()
    code = f"__import__('os').mkdir('{target}')".encode()
    text, program, path = (b"X" + struct.pack("<i", len(each)) + each for each in (command, code, str(target).encode()))
    return {
        "GLOBAL os.system": b"\x80\x02cos\nsystem\n" + text + b"\x85R.",
        "GLOBAL posix.system": b"\x80\x02cposix\nsystem\n" + text + b"\x85R.",
        "GLOBAL builtins.eval": b"\x80\x02cbuiltins\neval\n" + program + b"\x85R.",
        "GLOBAL __builtin__.eval": b"\x80\x02c__builtin__\neval\n" + program + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x08os.mkdir\x93" + path + b"\x85R.",
        "INST": b"(" + text + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + text + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04\x8c\x0asubprocess\x8c\x05Popen\x93" + text + b"\x85}\x92.",
        "in a list": b"\x80\x02](cos\nsystem\n" + text + b"\x85Re.",
        "as the state of an array": b"\x80\x02cnumpy\nndarray\n)Rcos\nsystem\n" + text + b"\x85Rb.",
        "after the data": b"\x80\x02}cos\nsystem\n" + text + b"\x85R0.",
        "os.mkdir by pickle": pickle.dumps(Call(os.mkdir, str(target))),
        "os.mkdir by pickle 0": pickle.dumps(Call(os.mkdir, str(target)), 0),
    }


@pytest.mark.parametrize("way", list(calls(Path())))
def test_what_calls_a_function_is_refused_and_nothing_is_called(tmp_path: Path, way: str) -> None:
    target = tmp_path / "made"
    with pytest.raises(CorruptError, match=r"^file: .*nothing was executed") as caught:
        read_plain(calls(target)[way], "file")
    assert caught.value.hint
    assert not target.exists()


def test_the_calls_made_here_would_be_made_by_pickle(tmp_path: Path) -> None:
    for way in ("GLOBAL os.system", "GLOBAL builtins.eval", "STACK_GLOBAL", "INST", "OBJ", "in a list", "os.mkdir by pickle"):
        target = tmp_path / way.replace(" ", "-")
        pickle.loads(calls(target)[way])
        assert target.is_dir(), way


def test_what_a_pickle_names_is_named() -> None:
    with pytest.raises(CorruptError, match=r"the pickle names os\.system, which is no data"):
        read_plain(b"\x80\x02cos\nsystem\n.", "file")


@pytest.mark.parametrize(
    "content",
    [
        b"Pid\n.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02\x83\x01\x00.",
        b"\x80\x02\x84\x01\x00\x00\x00.",
        b"\x80\x05\x97.",
        b"\x80\x02\x8a\x01\x01.",
        b"I1\n.",
    ],
    ids=["PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "LONG1", "INT"],
)
def test_instructions_that_no_data_needs_are_refused(content: bytes) -> None:
    with pytest.raises(CorruptError, match=r"is the instruction [A-Z0-9_]+, which no data needs"):
        read_plain(content, "file")


def test_a_place_far_out_in_memory_is_refused() -> None:
    with pytest.raises(CorruptError, match="goes beyond what data needs"):
        read_plain(b"\x80\x02Nr\xff\xff\xff\x7f.", "file")


def test_tuples_that_are_nested_without_end_are_refused() -> None:
    with pytest.raises(CorruptError, match="goes beyond what data needs"):
        read_plain(b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.", "file")


def test_too_many_values_are_refused() -> None:
    with pytest.raises(CorruptError, match="goes beyond what data needs"):
        read_plain(b"\x80\x02" + b"]" * 1_000_001 + b".", "file")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        b"\x80\x02",
        b"\x80\xff.",
        b"\x80\x02.",
        b"\x80\x02(K\x01",
        b"\x80\x02K\x01u.",
        b"\x80\x02}]Ns.",
        b"\x80\x02h\x07.",
        b"\x80\x02T\xff\xff\xff\x7fx.",
        b"\x80\x02T\xff\xff\xff\xffx.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02K\x01K\x02b.",
        b"\x80\x02cnumpy\nndarray\n}b.",
        b"\x80\x02c_codecs\nencode\nK\x01K\x02\x86R.",
        b"\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00\xc4\x80K\x02\x86R.",
        b"\x80\x02c_codecs\nencode\n(N}U\x01aK\x01sub.",
        python2_pickle({b"data": ARRAY})[:-30],
    ],
)
def test_a_pickle_that_makes_no_sense_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(CorruptError, match=r"^file: ") as caught:
        read_plain(content, "file")
    assert caught.value.hint


def test_a_pickle_cannot_change_what_stands_for_numpy() -> None:
    for name in (b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"):
        with pytest.raises(CorruptError, match=r"^file: "):
            read_plain(b"\x80\x02c" + name + b"\n(N}(X\x04\x00\x00\x00namedX\x01\x00\x00\x00xutb.", "file")
    assert not hasattr(PlainArray, "named")


def test_pickles_that_were_damaged_anywhere_are_read_or_refused_in_words() -> None:
    whole = python2_pickle({b"data": ARRAY, b"labels": [1, 2, 3], b"names": ["a", b"b"]})
    for place in range(len(whole)):
        for value in (0, 0x2E, 0x52, 0x62, 0xFF):
            damaged = bytearray(whole)
            damaged[place] = value
            try:
                read_plain(bytes(damaged), "file")
            except CorruptError:
                continue
