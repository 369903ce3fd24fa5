"""One training step of a character model: cloud-train compared with hand-written torch code, the linear cell first.

Batch 64, 128 steps, 128 hidden, 96 characters; forward, loss, backward and the same fused Adam for all, in one process, alternately. The
linear cell is compared with its definition (a loop over the characters, two Linear layers of [x, h], log_softmax, NLLLoss) and with
torch's fused ``nn.RNN``, which has a tanh that this cell does not have; ``gru`` and ``lstm`` with the same layers of torch. A ratio is the
median of the ratios of the rounds, so that a noisy moment of the machine affects both sides; the ratio of the best times is shown beside
it.

Bounds: half of the loop's time, no more than ``nn.RNN``'s, gradients within 1e-5 of the loop's; gru and lstm within 3% of torch's layers.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks._measure import report, verdict
from cloud_train.networks.rnn import RnnModel
from cloud_train.training.description import ModelDescription, build
from cloud_train.training.device import usable_cpus
from cloud_train.training.losses import cross_entropy

BATCH, TIME, HIDDEN = 64, 128, 128
CHARACTERS = tuple(map(chr, range(32, 128)))
ROUNDS, WARM_UP = 60, 5


@dataclass(frozen=True)
class Contender:
    """A network and its loss function."""

    network: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    """The loss of inputs and targets, both (B, T)."""


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(usable_cpus())
    torch.manual_seed(0)
    inputs_BT, targets_BT = torch.randint(len(CHARACTERS), (2, BATCH, TIME)).unbind()
    linear = ours("linear")
    contenders = {"a loop over the steps": loop_like(linear.network), "torch's nn.RNN": torchs(nn.RNN), "cell: linear": linear}
    apart = largest_difference(contenders["a loop over the steps"], linear, inputs_BT, targets_BT)
    seconds = interleave(contenders, inputs_BT, targets_BT)
    report(
        f"A training step of the linear cell ({torch.get_num_threads()} threads)",
        table(seconds, "a loop over the steps"),
        verdict("time as a multiple of the loop's", ratio(seconds, "cell: linear", "a loop over the steps"), 0.5),
        verdict("time as a multiple of nn.RNN's", ratio(seconds, "cell: linear", "torch's nn.RNN"), 1.0),
        verdict("largest difference from the loop's gradients", apart, 1e-5),
    )
    for cell, layer in (("gru", nn.GRU), ("lstm", nn.LSTM)):
        theirs, mine = f"torch's nn.{layer.__name__}", f"cell: {cell}"
        seconds = interleave({theirs: torchs(layer), mine: ours(cell)}, inputs_BT, targets_BT)
        report(
            f"A training step of {cell}",
            table(seconds, theirs),
            verdict("time as a multiple of torch's", ratio(seconds, mine, theirs), 1 / 0.97),
        )


def ours(cell: Any) -> Contender:
    """The network that a job with this cell trains."""
    network = build(ModelDescription(RnnModel(kind="rnn", cell=cell, hidden_size=HIDDEN), CHARACTERS), seed=0)
    return Contender(network, lambda inputs_BT, targets_BT: cross_entropy(network(inputs_BT)[0], targets_BT))


def loop_like(linear: nn.Module) -> Contender:
    """The linear cell's definition, one character after another, with the weights of ``linear``."""
    vocabulary = len(CHARACTERS)
    network = nn.ModuleDict({"i2h": nn.Linear(vocabulary + HIDDEN, HIDDEN), "i2o": nn.Linear(vocabulary + HIDDEN, vocabulary)})
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), linear.parameters(), strict=True):
            mine.copy_(theirs)
    criterion = nn.NLLLoss()

    def loss(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        h_BH, total = torch.zeros(len(inputs_BT), HIDDEN), torch.zeros(())
        for x_BV, target_B in zip(functional.one_hot(inputs_BT, vocabulary).float().unbind(1), targets_BT.unbind(1), strict=True):
            both = torch.cat([x_BV, h_BH], dim=1)
            h_BH = network["i2h"](both)
            total = total + criterion(functional.log_softmax(network["i2o"](both), dim=1), target_B)
        return total / inputs_BT.shape[1]

    return Contender(network, loss)


def torchs(layer: Callable[..., nn.Module]) -> Contender:
    """One of torch's layers on one-hot characters, and a dense layer for the scores."""
    vocabulary = len(CHARACTERS)
    network = nn.ModuleDict({"rnn": layer(vocabulary, HIDDEN, batch_first=True), "decoder": nn.Linear(HIDDEN, vocabulary)})

    def loss(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        hidden_BTH, _ = network["rnn"](functional.one_hot(inputs_BT, vocabulary).float())
        return functional.cross_entropy(network["decoder"](hidden_BTH).flatten(0, 1), targets_BT.flatten())

    return Contender(network, loss)


def largest_difference(first: Contender, second: Contender, inputs_BT: Tensor, targets_BT: Tensor) -> float:
    """The largest difference between the gradients of two networks with the same weights."""
    gradients = [
        torch.autograd.grad(contender.loss(inputs_BT, targets_BT), list(contender.network.parameters())) for contender in (first, second)
    ]
    return max(float((mine - theirs).abs().max()) for mine, theirs in zip(*gradients, strict=True))


def interleave(contenders: dict[str, Contender], inputs_BT: Tensor, targets_BT: Tensor) -> dict[str, list[float]]:
    """Seconds of each training step, the contenders alternately."""
    optimizers = {name: torch.optim.Adam(contender.network.parameters(), fused=True) for name, contender in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(WARM_UP + ROUNDS):
        for name, contender in contenders.items():
            start = time.perf_counter()
            optimizers[name].zero_grad()
            contender.loss(inputs_BT, targets_BT).backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            optimizers[name].step()
            if round_number >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, baseline: str) -> float:
    """The time of a step of ``name`` as a multiple of the baseline's."""
    return statistics.median(mine / theirs for mine, theirs in zip(seconds[name], seconds[baseline], strict=True))


def table(seconds: dict[str, list[float]], baseline: str) -> str:
    """The steps as Markdown, each contender with its ratio to ``baseline``."""
    lines = ["| a step | median ms | best ms | characters/s | ratio | ratio of the best |", "|---|---:|---:|---:|---:|---:|"]
    for name, steps in seconds.items():
        median, best = statistics.median(steps), min(steps)
        ratios = f"{ratio(seconds, name, baseline):.2f} | {best / min(seconds[baseline]):.2f}"
        lines.append(f"| {name} | {median * 1000:.1f} | {best * 1000:.1f} | {BATCH * TIME / median:,.0f} | {ratios} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
