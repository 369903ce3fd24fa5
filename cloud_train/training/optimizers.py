"""Adam and SGD: torch's own fused kernels, with the state that a checkpoint needs.

``torch.optim.Adam`` and ``torch.optim.SGD`` import torch's compiler when they are made, which takes longer than importing torch itself
(1.6 s after 1.4 s, measured with torch 2.13) and is of no use here. The functions below them do not, and give the same weights to the
last bit; tests hold both.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from cloud_train.job import models

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # of Kingma and Ba (2015), and torch's defaults


class Optimizer(ABC):
    """Changes weights along their gradients. ``learning_rate`` may change between steps."""

    def __init__(self, weights: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        self.weights = [weight for weight in weights if weight.requires_grad]
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def clear_gradients(self) -> None:
        """Forget the gradients of the step before."""
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights once. A weight without a gradient had no part in the loss; it counts as one whose gradient is zero."""
        self.update([torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self.weights])

    def state(self) -> dict[str, list[Tensor]]:
        """What ``step`` carries from one step to the next: a tensor for each weight, under each name. Not copies."""
        return self._state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned, copied; raises ValueError if it is that of other weights or of another optimizer."""
        if state.keys() != self._state.keys():
            kept, found = (", ".join(names) or "nothing" for names in (self._state, state))
            raise ValueError(f"the optimizer's state has {found}, and this one keeps {kept}")
        for name, mine_by_weight in self._state.items():
            saved = list(state[name])
            if [tensor.shape for tensor in saved] != [tensor.shape for tensor in mine_by_weight]:
                raise ValueError(f"the optimizer's {name} is that of other weights")
            for mine, other in zip(mine_by_weight, saved, strict=True):
                mine.copy_(other)

    @abstractmethod
    def update(self, gradients: list[Tensor]) -> None:
        """Change the weights along ``gradients``."""

    _state: dict[str, list[Tensor]]


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015); the weight decay is an L2 penalty, added to the gradient."""

    def __init__(self, weights: Iterable[nn.Parameter], learning_rate: float, weight_decay: float = 0.0) -> None:
        super().__init__(weights, learning_rate, weight_decay)
        self._state = {
            "mean": [torch.zeros_like(weight) for weight in self.weights],
            "square": [torch.zeros_like(weight) for weight in self.weights],
            "steps": [torch.zeros((), device=weight.device) for weight in self.weights],
        }

    def update(self, gradients: list[Tensor]) -> None:
        """Change the weights along ``gradients``."""
        adam(
            list[Tensor](self.weights),
            gradients,
            self._state["mean"],
            self._state["square"],
            [],
            self._state["steps"],
            fused=True,
            amsgrad=False,
            beta1=_BETA1,
            beta2=_BETA2,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            eps=_EPSILON,
            maximize=False,
        )


class Sgd(Optimizer):
    """Stochastic gradient descent, with or without momentum; the weight decay is an L2 penalty, added to the gradient."""

    def __init__(self, weights: Iterable[nn.Parameter], learning_rate: float, weight_decay: float = 0.0, momentum: float = 0.0) -> None:
        super().__init__(weights, learning_rate, weight_decay)
        self._momentum = momentum
        # torch takes the first gradient as the first momentum. From zeros and without dampening, that is what comes out.
        self._state = {"momentum": [torch.zeros_like(weight) for weight in self.weights]} if momentum else {}

    def update(self, gradients: list[Tensor]) -> None:
        """Change the weights along ``gradients``."""
        sgd(
            list[Tensor](self.weights),
            gradients,
            list[Tensor | None](self._state["momentum"]) if self._momentum else [None] * len(gradients),
            fused=True,
            weight_decay=self.weight_decay,
            momentum=self._momentum,
            lr=self.learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


def make_optimizer(settings: models.Optimizer, weights: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer that the job asks for."""
    if settings.name == "sgd":
        return Sgd(weights, settings.lr, settings.weight_decay, settings.momentum)
    return Adam(weights, settings.lr, settings.weight_decay)
