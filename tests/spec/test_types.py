import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cloud_train.spec.types import Accelerator, ByteSize, Cadence, Duration, Shorthand

NUMBERS = st.one_of(
    st.integers(0, 10**9).map(str), st.builds(lambda whole, part: f"{whole}.{part}", st.integers(0, 9999), st.integers(0, 999_999))
)
TEXTS = {
    Duration: st.builds(
        lambda number, space, unit: f"{number}{space}{unit}",
        NUMBERS,
        st.sampled_from(["", " "]),
        st.sampled_from(["", "s", "sec", "min", "m", "h", "d"]),
    ),
    ByteSize: st.builds(
        lambda number, unit: f"{number}{unit}", NUMBERS, st.sampled_from(["B", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"])
    ),
    Cadence: st.one_of(
        st.builds(
            lambda number, unit: f"{number} {unit}", st.integers(0, 10**9 - 1), st.sampled_from(["epoch", "epochs", "step", "steps"])
        ),
        st.builds(lambda number, unit: f"{number} {unit}", NUMBERS, st.sampled_from(["s", "min", "h"])),
    ),
    Accelerator: st.builds(lambda kind, count: f"{kind}:{count}", st.sampled_from(["L4", "A100-80GB", "T4"]), st.integers(1, 99)),
}


@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data())
def test_what_is_printed_is_read_again_as_the_same(kind: type[Shorthand], data: st.DataObject) -> None:
    text = data.draw(TEXTS[kind])
    adapter = TypeAdapter(kind)
    try:
        value = kind.parse(text)
    except ValueError:  # too much, or nothing
        with pytest.raises(ValidationError, match=re.escape(kind.expected)):
            adapter.validate_python(text)
    else:
        assert kind.parse(str(value)) == value
        assert adapter.validate_json(adapter.dump_json(value)) == value


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Duration, "90 s", Duration(90)),
        (Duration, "1.5h", Duration(5400)),
        (Duration, "2", Duration(2)),
        (Duration, " 1 d ", Duration(86400)),
        (ByteSize, "16GB", ByteSize(16 * 10**9)),
        (ByteSize, "1.5 KiB", ByteSize(1536)),
        (Cadence, "1 epoch", Cadence(1, "epoch")),
        (Cadence, "200steps", Cadence(200, "step")),
        (Cadence, "5 min", Cadence(300, "second")),
        (Accelerator, "L4", Accelerator("L4", 1)),
        (Accelerator, "A100:4", Accelerator("A100", 4)),
    ],
)
def test_a_shorthand_is_read_as_a_person_means_it(kind: type[Shorthand], text: str, value: Shorthand) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Duration, "1 week"),
        (Duration, "-1 s"),
        (Duration, "1e400"),
        (Duration, "9999999999 d"),
        (Duration, float("nan")),
        (Duration, True),
        (Duration, "٣ s"),
        (ByteSize, "16"),
        (ByteSize, 16),
        (ByteSize, "0GB"),
        (ByteSize, "16 gb"),
        (ByteSize, "9999999999999TB"),
        (Cadence, "0 epochs"),
        (Cadence, "0.0 s"),
        (Cadence, "1.5 epochs"),
        (Cadence, 5),
        (Accelerator, "L4:0"),
        (Accelerator, "4"),
        (Accelerator, ["L4"]),
    ],
)
def test_what_is_none_is_refused_in_plain_words(kind: type[Shorthand], value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    assert kind.expected in caught.value.errors()[0]["msg"]
