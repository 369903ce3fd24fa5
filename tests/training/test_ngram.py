"""The yardstick of the character language models: it has to be a good one, or beating it would say little."""

import math
import random
from itertools import product

import pytest

from benchmarks.ngram import KneserNey, WittenBell, bits_per_character, count

ALPHABET = "abc "
TEXT = "".join(random.Random(0).choices(ALPHABET, weights=(5, 3, 1, 2), k=400))


@pytest.mark.parametrize("smoothing", [WittenBell, KneserNey])
def test_the_probabilities_after_each_history_sum_to_1(smoothing: type[WittenBell] | type[KneserNey]) -> None:
    model = smoothing(count(TEXT, 3), len(ALPHABET) + 1)
    for length in range(4):
        for history in map("".join, product(ALPHABET + "x", repeat=length)):
            total = sum(model.probability(history, character) for character in ALPHABET + "x")
            assert total == pytest.approx(1)
            assert all(model.probability(history, character) > 0 for character in ALPHABET + "x")


def test_witten_bell_is_what_a_calculation_by_hand_gives() -> None:
    # "aab" with a context of 1: p(a) = (2 + 2/4) / (3 + 2) = 0.5; after one "a" came an "a" and a "b": p(a | a) = (1 + 2 · 0.5) / (2 + 2).
    model = WittenBell(count("aab", 1), 4)
    assert model.probability("", "a") == pytest.approx(0.5)
    assert model.probability("a", "a") == pytest.approx(0.5)
    assert model.probability("c", "a") == model.probability("", "a")  # never seen: what the lower order says


def test_kneser_ney_is_what_a_calculation_by_hand_gives() -> None:
    # "abacab" with a context of 1: ab twice, ba, ac, ca once. D = 3 / (3 + 2 · 1) = 0.6. "a" was seen after b and c; b after a; c after a:
    # of 4 continuations, a has 2, so D₀ = 2 / (2 + 2 · 1) = 0.5 and p(a) = (2 - 0.5) / 4 + 0.5 · 3 / 4 · 1/3 = 0.5.
    model = KneserNey(count("abacab", 1), 3)
    assert model.probability("", "a") == pytest.approx(0.5)
    # After an "a" came b twice and c once: p(b | a) = (2 - 0.6) / 3 + 0.6 · 2 / 3 · p(b), where p(b) = (1 - 0.5) / 4 + 0.5 · 3 / 4 · 1/3.
    assert model.probability("a", "b") == pytest.approx(1.4 / 3 + 0.4 * 0.25)


def test_text_that_follows_a_rule_needs_few_bits_and_random_text_needs_its_entropy() -> None:
    assert max(bits_per_character("abcabd" * 200, "abcabd" * 20, 4).values()) < 0.3
    draw = random.Random(1)
    training, validation = ("".join(draw.choices("abcd", k=size)) for size in (20_000, 2_000))
    for bits in bits_per_character(training, validation, 4).values():
        assert math.log2(4) - 0.02 < bits < math.log2(4) + 0.1


def test_a_longer_context_helps_where_the_text_has_one() -> None:
    text = "the cat sat on the mat, the rat ate the hat. " * 30
    short, long = (bits_per_character(text, text[:200], 30, context) for context in (1, 3))
    assert all(long[name] < short[name] for name in short)
