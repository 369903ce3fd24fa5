"""The baseline for character language models: an interpolated n-gram model, in bits per character, on the same split as the trainer's.

Two smoothings are computed, and the better one counts:

- Witten–Bell: the probability of unseen characters equals the context's rate of new ones (Witten and Bell, 1991, method C);
- Kneser–Ney, interpolated: an absolute discount, and lower orders that count in how many contexts a character was seen (Kneser and Ney,
  1995; Chen and Goodman, 1999), with the usual discount n₁ / (n₁ + 2 n₂) for each order.

Both fall back to the uniform distribution over the vocabulary. Pure Python: ``python -m benchmarks.ngram`` takes a few seconds.
"""

import math
from collections import Counter
from collections.abc import Mapping

from cloud_train.data.python_docs import PythonDocsData
from cloud_train.data.text import sequences, split, vocabulary

CONTEXT = 3
"""Characters that the model sees before the one that it predicts."""

Counts = list[Mapping[str, int]]
"""For each order n, from 0 to ``CONTEXT``: how often each text of n + 1 characters counts."""


def main() -> None:
    """Print the bits per character of both smoothings on python-docs."""
    for name, bits in python_docs_bits().items():
        print(f"{name}, context of {CONTEXT} characters: {bits:.4f} bits per character")


def python_docs_bits(data: PythonDocsData | None = None, context: int = CONTEXT) -> dict[str, float]:
    """Bits per character on the validation part of python-docs: exactly the characters that the trainer validates on."""
    data = data or PythonDocsData(dataset="python-docs")
    text = data.read()
    training, validation = split(text, data.validation)
    # The trainer predicts every character but the very first, which has no context.
    last = sequences(len(validation), data.sequence_length) * data.sequence_length
    return bits_per_character(training, validation[: last + 1], len(vocabulary(text)), context)


def bits_per_character(training: str, validation: str, characters: int, context: int = CONTEXT) -> dict[str, float]:
    """Mean of −log₂ p over ``validation`` without its first character, by smoothing; ``characters`` is the size of the vocabulary."""
    counts = count(training, context)
    models: dict[str, WittenBell | KneserNey] = {"Witten–Bell": WittenBell(counts, characters), "Kneser–Ney": KneserNey(counts, characters)}
    places = range(1, len(validation))
    return {
        name: -sum(math.log2(model.probability(validation[max(0, place - context) : place], validation[place])) for place in places)
        / len(places)
        for name, model in models.items()
    }


def count(text: str, context: int) -> Counts:
    """How often each text of 1 to ``context`` + 1 characters occurs."""
    return [Counter(text[place : place + size] for place in range(len(text) - size + 1)) for size in range(1, context + 2)]


class WittenBell:
    """p(c | h) = (count(hc) + kinds(h) · p(c | h without its first character)) / (count(h) + kinds(h))."""

    def __init__(self, counts: Counts, characters: int) -> None:
        self._counts, self._characters = counts, characters
        self._totals = [_by_context(one) for one in counts]
        self._kinds = [Counter(text[:-1] for text in one) for one in counts]
        self._known: dict[tuple[str, str], float] = {}

    def probability(self, history: str, character: str) -> float:
        """Of ``character`` after ``history``; they sum to 1 over the vocabulary."""
        key = (history, character)
        if key not in self._known:
            lower = self.probability(history[1:], character) if history else 1 / self._characters
            order = len(history)
            kinds = self._kinds[order][history]
            seen = self._totals[order].get(history, 0) + kinds
            self._known[key] = (self._counts[order].get(history + character, 0) + kinds * lower) / seen if seen else lower
        return self._known[key]


class KneserNey:
    """p(c | h) = (max(count(hc) − D, 0) + D · kinds(h) · p(c | h without its first character)) / count(h)."""

    def __init__(self, counts: Counts, characters: int) -> None:
        # Below the highest order, a text counts once for each character that was seen before it.
        lower = [Counter(text[1:] for text in longer) for longer in counts[1:]]
        self._counts: Counts = [*lower, counts[-1]]
        self._characters = characters
        self._totals = [_by_context(one) for one in self._counts]
        self._kinds = [Counter(text[:-1] for text in one) for one in self._counts]
        self._discounts = [_discount(one) for one in self._counts]
        self._known: dict[tuple[str, str], float] = {}

    def probability(self, history: str, character: str) -> float:
        """Of ``character`` after ``history``; they sum to 1 over the vocabulary."""
        key = (history, character)
        if key not in self._known:
            lower = self.probability(history[1:], character) if history else 1 / self._characters
            order = len(history)
            total, discount = self._totals[order].get(history, 0), self._discounts[order]
            seen = max(self._counts[order].get(history + character, 0) - discount, 0.0)
            self._known[key] = (seen + discount * self._kinds[order][history] * lower) / total if total else lower
        return self._known[key]


def _by_context(counts: Mapping[str, int]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for text, number in counts.items():
        totals[text[:-1]] += number
    return totals


def _discount(counts: Mapping[str, int]) -> float:
    once, twice = (sum(number == times for number in counts.values()) for times in (1, 2))
    return once / (once + 2 * twice) if once else 0.5


if __name__ == "__main__":
    main()
