"""Continues a text with a character model: one character at a time, sampled from the model's predictions."""

import math

import torch

from cloud_train.errors import CorruptError, UsageError
from cloud_train.training.data.text import encode
from cloud_train.training.models.rnn import LanguageModel

_READ_AT_ONCE = 256


@torch.no_grad()
def generate(
    network: LanguageModel, vocabulary: str, prompt: str, *, length: int, temperature: float = 0.8, top_k: int | None = None, seed: int = 0
) -> str:
    """``length`` characters that follow ``prompt``; the same ``seed`` gives the same text.

    Scores are divided by ``temperature`` before the softmax (0 takes the likeliest character each time), and only the ``top_k`` likeliest
    characters are sampled. Raises UsageError for a prompt that is empty or has characters that are not in the model's vocabulary, and
    CorruptError for weights whose scores are not finite.
    """
    _check_prompt(vocabulary, prompt)
    _check_settings(length, temperature, top_k, seed)
    generator = torch.Generator().manual_seed(seed)
    state = None
    for piece in torch.split(encode(prompt, vocabulary), _READ_AT_ONCE):  # the scores of a whole long prompt would be large
        scores_BTV, state = network(piece.unsqueeze(0), state)
    written: list[str] = []
    for _ in range(length):
        chosen = _draw(scores_BTV[0, -1], temperature, top_k, generator)
        written.append(vocabulary[chosen])
        scores_BTV, state = network(torch.tensor([[chosen]]), state)
    return "".join(written)


def _check_prompt(vocabulary: str, prompt: str) -> None:
    if not prompt:
        raise UsageError("the prompt is empty", hint="give the model a few characters to continue")
    unknown = sorted(set(prompt) - set(vocabulary))
    if unknown:
        raise UsageError(f"the model does not know {', '.join(map(repr, unknown))}", hint="remove these characters from the prompt")


def _check_settings(length: int, temperature: float, top_k: int | None, seed: int) -> None:
    if length < 0 or not 0 <= temperature < math.inf or (top_k is not None and top_k < 1):
        raise UsageError("length and temperature must be at least 0, and top-k at least 1")
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"the seed must be a whole number from 0 to 2⁶³ - 1, not {seed}")


def _draw(scores_V: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if not scores_V.isfinite().all():
        raise CorruptError("the model's scores are not finite: its training must have failed")
    if temperature == 0:
        return int(scores_V.argmax())
    kept, places = scores_V.topk(min(top_k or len(scores_V), len(scores_V)))
    # Relative to the highest score, so that a temperature close to 0 does not overflow.
    probabilities = ((kept - kept[0]) / temperature).softmax(-1)
    return int(places[torch.multinomial(probabilities, 1, generator=generator)])
