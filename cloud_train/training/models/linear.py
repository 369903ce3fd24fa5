"""The linear cell, h' = i2h([x, h]), without a step-by-step graph: the loop over time only computes h @ W.

A one-hot x selects one column of i2h's matrix, so its part of the product is a lookup, for all steps at once. The remaining recurrence,
h[t] = input[t] + h[t-1] @ W, has no non-linearity, so its backward pass needs no h: only the weight's gradient does, and that is one
product over all steps at the end.

Sizes in names: B batch, N steps of all sequences together, M = B + N, H hidden, X width of an input. The N rows are in the order of torch's
PackedSequence: all sequences' first step, then all second steps, and so on, with the sequences sorted from the longest to the shortest.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence


class LinearLayer(nn.Module):
    """A recurrent layer of the linear cell; ``width`` is that of its input, or the number of tokens if it reads tokens."""

    def __init__(self, width: int, hidden_size: int) -> None:
        super().__init__()
        self.width, self.hidden_size = width, hidden_size
        self.i2h = nn.Linear(width + hidden_size, hidden_size)

    def forward(self, steps: PackedSequence) -> tuple[PackedSequence, Tensor]:
        """The states after all steps, and each sequence's last state, (1, B, H), as torch's layers return them. It starts from zeros."""
        data, batch_sizes, order, unsorted = steps
        batch = int(batch_sizes[0])
        zeros_BH = self.i2h.weight.new_zeros(batch, self.hidden_size)
        _, after_NH = self.states(data, zeros_BH, batch_sizes.tolist())
        lengths_B = (batch_sizes.view(-1, 1) > torch.arange(batch)).sum(0)
        ends_B = (batch_sizes.cumsum(0) - batch_sizes)[lengths_B - 1] + torch.arange(batch)
        last_BH = after_NH[ends_B.to(after_NH.device)]
        return PackedSequence(after_NH, batch_sizes, order, unsorted), (last_BH if unsorted is None else last_BH[unsorted]).unsqueeze(0)

    def states(self, steps: Tensor, state_BH: Tensor, sizes: list[int]) -> tuple[Tensor | None, Tensor]:
        """Like ``linear_recurrence``; ``steps`` are tokens (N,) or inputs (N, X)."""
        weight_HH = self.i2h.weight[:, self.width :].t()
        return linear_recurrence(input_part(self.i2h, steps, self.width), state_BH, weight_HH, sizes)


def input_part(layer: nn.Linear, steps: Tensor, width: int) -> Tensor:
    """The part of ``layer([x, h])`` from x and the bias, with the first ``width`` columns; tokens (N,) represent one-hot vectors."""
    weight_XH = layer.weight[:, :width].t()
    if steps.is_floating_point():
        return torch.addmm(layer.bias, steps, weight_XH)
    return functional.embedding(steps, weight_XH + layer.bias)


def linear_recurrence(input_NH: Tensor, state_BH: Tensor, weight_HH: Tensor, sizes: list[int]) -> tuple[Tensor | None, Tensor]:
    """h[t] = input[t] + h[t-1] @ weight, starting from ``state_BH``; ``sizes`` is the number of sequences at each step.

    Returns the states before the steps (None if sequences differ in length) and after them, both (N, H). They have the weight's precision
    even under autocast: without a squashing function the states accumulate, and rounding errors accumulate with them.
    """
    if torch.compiler.is_compiling():  # a compiler would unroll the loop, which takes minutes
        return torch.compiler.disable(_recur)(input_NH, state_BH, weight_HH, sizes)  # type: ignore[no-any-return, no-untyped-call]  # as below
    return _recur(input_NH, state_BH, weight_HH, sizes)


def _recur(input_NH: Tensor, state_BH: Tensor, weight_HH: Tensor, sizes: list[int]) -> tuple[Tensor | None, Tensor]:
    with torch.autocast(input_NH.device.type, enabled=False):
        return _LinearRecurrence.apply(input_NH.to(weight_HH.dtype), state_BH.to(weight_HH.dtype), weight_HH, sizes)  # type: ignore[no-any-return, no-untyped-call]  # torch declares no types for it


class _LinearRecurrence(torch.autograd.Function):
    # A blocked scan (a few steps for all blocks at once, then the blocks' ends by powers of the weight) does up to twice the work in larger
    # products. On two CPU cores it took 1.6 × the loop's time at batch 64, as long at 16, and 0.85 × at 4: not worth different rounding.
    # On a GPU, where the loop is bound by kernel launches, it has not been measured.

    @staticmethod
    def forward(ctx: Any, input_NH: Tensor, state_BH: Tensor, weight_HH: Tensor, sizes: list[int]) -> tuple[Tensor | None, Tensor]:
        batch = len(state_BH)
        hidden_MH = input_NH.new_empty(batch + len(input_NH), input_NH.shape[1])  # the states before and after, in one tensor
        before, *afters = torch.split(hidden_MH, [batch, *sizes])
        before.copy_(state_BH)
        for after, given in zip(afters, torch.split(input_NH, sizes), strict=True):
            torch.addmm(given, _first(before, len(after)), weight_HH, out=after)
            before = after
        ctx.save_for_backward(hidden_MH, weight_HH)
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        return hidden_MH[:-batch] if sizes[-1] == batch else None, hidden_MH[batch:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_before_NH: Tensor | None, of_after_NH: Tensor | None) -> tuple[Tensor | None, ...]:
        if of_before_NH is None and of_after_NH is None:
            return None, None, None, None
        hidden_MH, weight_HH = ctx.saved_tensors
        sizes, batch, back_HH = ctx.sizes, len(hidden_MH) - sum(ctx.sizes), weight_HH.t()
        total_MH = torch.empty_like(hidden_MH)  # each state's gradient, direct and through later states
        totals, directs = torch.split(total_MH, [batch, *sizes]), _directs(of_before_NH, of_after_NH, batch, sizes)
        totals[-1].copy_(directs[-1])
        with torch.autocast(hidden_MH.device.type, enabled=False):
            for before, direct, after in zip(totals[-2::-1], directs[-2::-1], totals[:0:-1], strict=True):
                count = len(after)
                torch.addmm(_first(direct, count), after, back_HH, out=_first(before, count))
                if count < len(before):
                    before[count:] = direct[count:]  # of sequences that end here
            return total_MH[batch:], total_MH[:batch], _befores(hidden_MH, batch, sizes).t() @ total_MH[batch:], None


def _directs(of_before_NH: Tensor | None, of_after_NH: Tensor | None, batch: int, sizes: list[int]) -> list[Tensor]:
    """The direct gradients of the states, step by step: the initial ones, then those after each step."""
    if of_before_NH is None:
        assert of_after_NH is not None  # one of the two is given
        return [of_after_NH.new_zeros(batch, of_after_NH.shape[1]), *torch.split(of_after_NH, sizes)]
    zeros_BH = of_before_NH.new_zeros(batch, of_before_NH.shape[1])
    if of_after_NH is None:
        return [*torch.split(of_before_NH, sizes), zeros_BH]
    both_MH = torch.cat([of_before_NH, zeros_BH]) + torch.cat([zeros_BH, of_after_NH])
    return list(torch.split(both_MH, [batch, *sizes]))


def _befores(hidden_MH: Tensor, batch: int, sizes: list[int]) -> Tensor:
    """The state before each of the N steps."""
    if sizes[-1] == batch:
        return hidden_MH[:-batch]
    states = torch.split(hidden_MH, [batch, *sizes])
    return torch.cat([_first(state, count) for state, count in zip(states, sizes, strict=False)])


def _first(rows: Tensor, count: int) -> Tensor:
    return rows if len(rows) == count else rows[:count]  # an empty slice would cost a microsecond at each step
