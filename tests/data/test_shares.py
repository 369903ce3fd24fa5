"""How many samples of each class are for validation: compared with scikit-learn's stratified split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_train.data.shares import class_shares, held_back, held_out
from cloud_train.spec.problems import FieldError

SIZES = st.lists(st.integers(2, 60), min_size=2, max_size=12)
FRACTIONS = st.floats(0.01, 0.99)


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 10), (0.105, 10), (0.004, None), (0.996, None), (0.995, None)])
def test_a_split_is_rounded_and_leaves_at_least_one_sample_on_each_side(fraction: float, count: int | None) -> None:
    if count is None:
        with pytest.raises(FieldError, match="of 100 things leaves none"):
            held_back(100, fraction, "things")
    else:
        assert held_back(100, fraction, "things") == count


@pytest.mark.parametrize(
    ("sizes", "fraction", "shares"),
    [
        ([100, 100], 0.1, [10, 10]),
        ([50, 30, 20], 0.1, [5, 3, 2]),
        ([14, 13, 13], 0.1, [2, 1, 1]),  # 1.4, 1.3 and 1.3, together 4
        ([15, 15, 15, 15], 0.1, [2, 2, 1, 1]),  # of equal remainders, the earlier classes round up
        ([500, 2, 2], 0.1, [50, 1, 1]),  # a rare class does not vanish, and takes nothing from the others
        ([500, 2, 2], 0.9, [450, 1, 1]),
        ([500, 1, 0], 0.1, [50, 0, 0]),
        ([2, 2], 0.8, [1, 1]),
    ],
)
def test_each_class_gives_its_share(sizes: list[int], fraction: float, shares: list[int]) -> None:
    assert class_shares(sizes, fraction, "images") == shares


def test_a_class_of_one_sample_is_for_training_and_if_all_are_none_is_left() -> None:
    assert class_shares([1, 1, 10], 0.2, "images") == [0, 0, 2]
    with pytest.raises(FieldError, match=r"every class has a single sample, .* none of the 4 images is left for validation") as caught:
        class_shares([1, 1, 1, 1], 0.5, "images")
    assert caught.value.path == ("data", "validation")
    assert caught.value.hint


@given(SIZES, FRACTIONS)
def test_every_class_is_in_both_parts_and_no_further_than_one_from_its_fraction(sizes: list[int], fraction: float) -> None:
    if not 0 < round(sum(sizes) * fraction) < sum(sizes):
        return
    shares = class_shares(sizes, fraction, "images")
    assert all(0 < share < size for share, size in zip(shares, sizes, strict=True))
    assert all(abs(share - size * fraction) <= 1 for share, size in zip(shares, sizes, strict=True))
    if all(1 <= size * fraction <= size - 1 for size in sizes):
        assert sum(shares) == held_back(sum(sizes), fraction, "images")


@settings(max_examples=50, deadline=None)  # the first example imports scikit-learn
@given(SIZES, st.floats(0.05, 0.95), st.integers(0, 99))
def test_the_shares_are_those_of_scikit_learn(sizes: list[int], fraction: float, seed: int) -> None:
    from sklearn.model_selection import train_test_split

    wanted = round(sum(sizes) * fraction)
    if min(wanted, sum(sizes) - wanted) < len(sizes):
        return  # which scikit-learn refuses
    targets = [number for number, size in enumerate(sizes) for _ in range(size)]
    _, validation = train_test_split(targets, test_size=wanted, stratify=targets, random_state=seed)
    theirs = [validation.count(number) for number in range(len(sizes))]
    ours = class_shares(sizes, fraction, "images")
    assert all(abs(one - other) <= 1 for one, other in zip(ours, theirs, strict=True))


def test_a_number_that_is_not_the_fraction_is_remarked_on() -> None:
    assert held_out([50, 50], 0.1, "images") == (10, ())
    more = "20 of 100 images are held out for validation, not 10 (data.validation: 0.1): every class has at least one"
    assert held_out([5] * 20, 0.1, "images") == (20, (more,))
    less = "8 of 90 lines are held out for validation, not 9 (data.validation: 0.1): at least one of every class is for training"
    assert held_out([80, *[1] * 10], 0.1, "lines") == (8, (less,))
