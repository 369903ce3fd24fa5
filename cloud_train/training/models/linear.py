"""The linear cell, h' = i2h([x, h]), without a step-by-step graph: the loop over time has nothing left in it but h @ W.

A one-hot x picks one column of i2h's matrix, so its part of the product is a look-up, for all steps at once. What is left of the
recurrence, h[t] = input[t] + h[t-1] @ W, has no non-linearity, so its gradient needs no h on the way back: only the weight's gradient does,
and that is one product over all steps in the end.

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
    """A recurrent layer of the linear cell; ``width`` is that of its input, the number of tokens where it reads tokens."""

    def __init__(self, width: int, hidden_size: int) -> None:
        super().__init__()
        self.width, self.hidden_size = width, hidden_size
        self.i2h = nn.Linear(width + hidden_size, hidden_size)

    def forward(self, steps: PackedSequence) -> tuple[PackedSequence, Tensor]:
        """The states after all steps, and of each sequence the last, (1, B, H), as torch's layers have them. It begins with zeros."""
        data, batch_sizes, order, unsorted = steps
        batch = int(batch_sizes[0])
        zeros_BH = self.i2h.weight.new_zeros(batch, self.hidden_size)
        after_NH = self.states(data, zeros_BH, batch_sizes.tolist())[batch:]
        lengths_B = (batch_sizes.view(-1, 1) > torch.arange(batch)).sum(0)
        ends_B = (batch_sizes.cumsum(0) - batch_sizes)[lengths_B - 1] + torch.arange(batch)
        last_BH = after_NH[ends_B.to(after_NH.device)]
        return PackedSequence(after_NH, batch_sizes, order, unsorted), (last_BH if unsorted is None else last_BH[unsorted]).unsqueeze(0)

    def states(self, steps: Tensor, state_BH: Tensor, sizes: list[int]) -> Tensor:
        """``state_BH`` and the states after each step, (M, H); ``steps`` are tokens (N,) or inputs (N, X)."""
        weight_HH = self.i2h.weight[:, self.width :].t()
        return linear_recurrence(input_part(self.i2h, steps, self.width), state_BH, weight_HH, sizes)


def input_part(layer: nn.Linear, steps: Tensor, width: int) -> Tensor:
    """The part of ``layer([x, h])`` that x and the bias make, of the first ``width`` columns: tokens (N,) stand for one-hot vectors."""
    weight_XH = layer.weight[:, :width].t()
    if steps.is_floating_point():
        return torch.addmm(layer.bias, steps, weight_XH)
    return functional.embedding(steps, weight_XH + layer.bias)


def linear_recurrence(input_NH: Tensor, state_BH: Tensor, weight_HH: Tensor, sizes: list[int]) -> Tensor:
    """``state_BH``, then h[t] = input[t] + h[t-1] @ weight for each step, (M, H); ``sizes`` says how many sequences have each step.

    In the weight's precision also where autocast is on: nothing squashes what the steps add up to, and rounding adds up with it.
    """
    if torch.compiler.is_compiling():  # a compiler would unroll the loop and take minutes for it
        return torch.compiler.disable(_recur)(input_NH, state_BH, weight_HH, sizes)  # type: ignore[no-any-return, no-untyped-call]  # as below
    return _recur(input_NH, state_BH, weight_HH, sizes)


def _recur(input_NH: Tensor, state_BH: Tensor, weight_HH: Tensor, sizes: list[int]) -> Tensor:
    with torch.autocast(input_NH.device.type, enabled=False):
        return _LinearRecurrence.apply(input_NH.to(weight_HH.dtype), state_BH.to(weight_HH.dtype), weight_HH, sizes)  # type: ignore[no-any-return, no-untyped-call]  # torch declares no types for it


class _LinearRecurrence(torch.autograd.Function):
    # A blocked scan (a few steps for all blocks at once, then the blocks' ends by powers of the weight) does up to twice the work in larger
    # products. On two CPU cores it took 1.6 × the loop's time at batch 64, as long at 16, and 0.85 × at 4: not worth a second way to round.

    @staticmethod
    def forward(ctx: Any, input_NH: Tensor, state_BH: Tensor, weight_HH: Tensor, sizes: list[int]) -> Tensor:
        batch = len(state_BH)
        hidden_MH = input_NH.new_empty(batch + len(input_NH), input_NH.shape[1])
        before, *after = torch.split(hidden_MH, [batch, *sizes])
        before.copy_(state_BH)
        for step, given in zip(after, torch.split(input_NH, sizes), strict=True):
            torch.addmm(given, _first(before, len(step)), weight_HH, out=step)
            before = step
        ctx.save_for_backward(hidden_MH, weight_HH)
        ctx.sizes = sizes
        return hidden_MH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_MH: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden_MH, weight_HH = ctx.saved_tensors
        parts = [len(hidden_MH) - sum(ctx.sizes), *ctx.sizes]
        total_MH = torch.empty_like(hidden_MH)  # what each state does to the loss, directly and through those that follow
        totals, directs = torch.split(total_MH, parts), torch.split(gradient_MH, parts)
        totals[-1].copy_(directs[-1])
        with torch.autocast(hidden_MH.device.type, enabled=False):
            for before, direct, after in zip(totals[-2::-1], directs[-2::-1], totals[:0:-1], strict=True):
                count = len(after)
                torch.addmm(_first(direct, count), after, weight_HH.t(), out=_first(before, count))
                if count < len(before):
                    before[count:] = direct[count:]  # of sequences that end here
            before_NH = _befores(hidden_MH, parts)
            return total_MH[parts[0] :], total_MH[: parts[0]], before_NH.t() @ total_MH[parts[0] :], None


def _befores(hidden_MH: Tensor, parts: list[int]) -> Tensor:
    """The state before each of the N steps."""
    if parts[-1] == parts[0]:
        return hidden_MH[: -parts[0]]
    return torch.cat([_first(state, count) for state, count in zip(torch.split(hidden_MH, parts), parts[1:], strict=False)])


def _first(rows: Tensor, count: int) -> Tensor:
    return rows if len(rows) == count else rows[:count]  # to slice off nothing would cost a microsecond at each step
