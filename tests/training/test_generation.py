"""Continuing a text: what is drawn, and what it depends on."""

from typing import Any

import pytest
import torch

from cloud_train.errors import UsageError
from cloud_train.networks.rnn import RnnModel
from cloud_train.training import generation
from cloud_train.training.data.text import encode
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.generation import generate
from cloud_train.training.models.rnn import LanguageModel

VOCABULARY = " .abcdefghijklmnopqrstuvwxyz"


def test_the_same_seed_draws_the_same_text_and_another_one_another() -> None:
    network = untrained()
    texts = [generate(network, VOCABULARY, "the ", length=60, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert len(texts[0]) == 60
    assert texts[0] == texts[1] != texts[2]


def test_temperature_0_and_top_k_1_take_the_likeliest_character() -> None:
    network = untrained()
    coldest = generate(network, VOCABULARY, "the ", length=30, temperature=0)
    assert generate(network, VOCABULARY, "the ", length=30, temperature=5.0, top_k=1, seed=9) == coldest
    assert generate(network, VOCABULARY, "the ", length=30, temperature=1e-30, seed=9) == coldest
    assert generate(network, VOCABULARY, "the ", length=30, temperature=5.0, seed=9) != coldest


@pytest.mark.parametrize("cell", ["linear", "elman", "gru", "lstm"])
def test_each_character_follows_from_all_that_was_written_before_it(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_READ_AT_ONCE", 3)
    network = untrained(cell=cell, layers=2)
    text = "the quick brown fox "
    written = generate(network, VOCABULARY, text, length=5, temperature=0)
    for character in written:
        scores_BTV, _ = network(encode(text, VOCABULARY).unsqueeze(0))
        assert VOCABULARY[int(scores_BTV[0, -1].argmax())] == character
        text += character


def test_drawing_from_more_characters_than_there_are_draws_from_all() -> None:
    network = untrained()
    assert generate(network, VOCABULARY, "a", length=20, top_k=10**6) == generate(network, VOCABULARY, "a", length=20)


def test_nothing_is_drawn_if_nothing_is_wanted() -> None:
    assert generate(untrained(), VOCABULARY, "a", length=0) == ""
    with pytest.raises(UsageError):
        generate(untrained(), VOCABULARY, "a", length=-1)


def untrained(**fields: Any) -> LanguageModel:
    network = build(ModelDescription(RnnModel(kind="rnn", hidden_size=16, **fields), tuple(VOCABULARY)), seed=1)
    assert isinstance(network, LanguageModel)
    with torch.no_grad():  # larger weights than the first ones, so that what was read long ago still matters
        for weight in network.parameters():
            weight.mul_(2)
    return network.eval()
