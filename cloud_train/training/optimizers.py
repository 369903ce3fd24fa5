"""SGD, Adam, AdamW, RMSprop and Adagrad: torch's own kernels, with the state that a checkpoint needs.

``torch.optim.Adam`` and similar classes import torch's compiler when they are created, which takes longer than importing torch itself (1.6
s after 1.4 s, measured with torch 2.13) and is not needed here. The functions that they call do not, and give bit-identical weights; tests
check both.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from cloud_train.job import optimizers
from cloud_train.spec.registry import implementation, plugin_code

_BETAS = (0.9, 0.999)
"""Of Kingma and Ba (2015), and torch's defaults."""
_SMOOTHING = 0.99
"""torch's default for RMSprop."""
_EPSILON, _EPSILON_OF_ADAGRAD = 1e-8, 1e-10
"""torch's defaults."""
_NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def make_optimizer(settings: optimizers.OptimizerSection, network: nn.Module) -> "Optimizer":
    """The optimizer that the job asks for, for the weights of ``network`` in the order of their names."""
    make = implementation(settings, "maker")
    with plugin_code(settings, f"fails in {settings.maker}"):
        optimizer: Optimizer = make(settings, network)
    return optimizer


def make_built_in(settings: optimizers.Optimizer, network: nn.Module) -> "Optimizer":
    """One of the optimizers that a job can name without a plugin."""
    return _BUILT_IN[settings.name].of(settings, network)


class Optimizer(ABC):
    """Updates weights along their gradients. ``learning_rate`` may change between steps; the ``spared`` weights do not decay."""

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        learning_rate: float,
        weight_decay: float = 0.0,
        *,
        spared: frozenset[nn.Parameter] = frozenset(),
    ) -> None:
        self.weights = [weight for weight in weights if weight.requires_grad]
        self.learning_rate = learning_rate
        self._state = self._first_state()
        decays = [0.0 if weight in spared else weight_decay for weight in self.weights]
        self._groups = [self._group(decay, [place for place, own in enumerate(decays) if own == decay]) for decay in dict.fromkeys(decays)]

    @classmethod
    def of(cls, settings: optimizers.Optimizer, network: nn.Module) -> Self:
        """The optimizer with these settings, of all weights of ``network``."""
        return cls(network.parameters(), settings.lr, settings.weight_decay, spared=frozenset(_spared(settings.no_decay, network)))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The weights as in ``torch.optim.Optimizer``, where ``torch.amp.GradScaler`` looks for the gradients."""
        return [{"params": self.weights}]

    def clear_gradients(self) -> None:
        """Drop the gradients of the previous step."""
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights once. A weight without a gradient did not contribute to the loss; its gradient counts as zero."""
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self.weights]
        for group in self._groups:
            self._update(group, [gradients[place] for place in group.places])

    def state(self) -> dict[str, list[Tensor]]:
        """The state that ``step`` keeps between steps: under each name, a tensor for each of the ``weights``. Not copies."""
        return self._state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned, copied to the device of each weight; raises ValueError if it belongs to other weights or another
        optimizer.
        """
        if state.keys() != self._state.keys():
            kept, found = (", ".join(names) or "nothing" for names in (self._state, state))
            raise ValueError(f"the optimizer's state has {found}, but this optimizer keeps {kept}")
        for name, mine_by_weight in self._state.items():
            saved = list(state[name])
            if [tensor.shape for tensor in saved] != [tensor.shape for tensor in mine_by_weight]:
                raise ValueError(f"the optimizer's {name} belongs to other weights")
            for mine, other in zip(mine_by_weight, saved, strict=True):
                mine.copy_(other)

    @abstractmethod
    def _first_state(self) -> dict[str, list[Tensor]]:
        """The state before the first step."""

    @abstractmethod
    def _update(self, group: "_Group", gradients: list[Tensor]) -> None:
        """Update the weights of ``group`` along their ``gradients``."""

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(weight) for weight in self.weights]

    def _counts(self) -> list[Tensor]:
        """A count of steps for each weight, on the CPU, where kernels that are not fused read it."""
        return [torch.zeros(()) for _ in self.weights]

    def _group(self, weight_decay: float, places: list[int]) -> "_Group":
        state = {name: [tensors[place] for place in places] for name, tensors in self._state.items()}
        return _Group(places, [self.weights[place] for place in places], state, weight_decay)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015); the weight decay is an L2 penalty, added to the gradient."""

    _kernel: ClassVar[Callable[..., None]] = staticmethod(adam)
    betas, epsilon = _BETAS, _EPSILON

    @classmethod
    def of(cls, settings: optimizers.Optimizer, network: nn.Module) -> Self:
        """Adam with these settings, of all weights of ``network``."""
        made = super().of(settings, network)
        made.betas, made.epsilon = settings.betas or _BETAS, settings.eps or _EPSILON
        return made

    def _first_state(self) -> dict[str, list[Tensor]]:
        steps = [torch.zeros((), device=weight.device) for weight in self.weights]
        return {"mean": self._zeros(), "square": self._zeros(), "steps": steps}

    def _update(self, group: "_Group", gradients: list[Tensor]) -> None:
        self._kernel(
            group.weights,
            gradients,
            group.state["mean"],
            group.state["square"],
            [],
            group.state["steps"],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.learning_rate,
            weight_decay=group.weight_decay,
            eps=self.epsilon,
            maximize=False,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): each step also reduces a weight by the fraction
    ``learning_rate * weight_decay``.
    """

    _kernel = staticmethod(adamw)


class Sgd(Optimizer):
    """Stochastic gradient descent, with or without momentum; the weight decay is an L2 penalty, added to the gradient."""

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        learning_rate: float,
        weight_decay: float = 0.0,
        *,
        spared: frozenset[nn.Parameter] = frozenset(),
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self._momentum, self._nesterov = momentum, nesterov
        super().__init__(weights, learning_rate, weight_decay, spared=spared)

    @classmethod
    def of(cls, settings: optimizers.Optimizer, network: nn.Module) -> Self:
        """SGD with these settings, of all weights of ``network``."""
        spared = frozenset(_spared(settings.no_decay, network))
        momentum, nesterov = settings.momentum, settings.nesterov
        return cls(network.parameters(), settings.lr, settings.weight_decay, spared=spared, momentum=momentum, nesterov=nesterov)

    def _first_state(self) -> dict[str, list[Tensor]]:
        # torch initializes the momentum with the first gradient; starting from zeros without dampening gives the same.
        return {"momentum": self._zeros()} if self._momentum else {}

    def _update(self, group: "_Group", gradients: list[Tensor]) -> None:
        sgd(
            group.weights,
            gradients,
            list[Tensor | None](group.state["momentum"]) if self._momentum else [None] * len(gradients),
            fused=True,
            weight_decay=group.weight_decay,
            momentum=self._momentum,
            lr=self.learning_rate,
            dampening=0.0,
            nesterov=self._nesterov,
            maximize=False,
        )


class RmsProp(Optimizer):
    """RMSprop (Hinton, 2012), without centring; the weight decay is an L2 penalty, added to the gradient."""

    def __init__(self, weights: Iterable[nn.Parameter], settings: optimizers.Optimizer, spared: frozenset[nn.Parameter]) -> None:
        self._momentum, self._smoothing = settings.momentum, _SMOOTHING if settings.smoothing is None else settings.smoothing
        self._epsilon = settings.eps or _EPSILON
        super().__init__(weights, settings.lr, settings.weight_decay, spared=spared)

    @classmethod
    def of(cls, settings: optimizers.Optimizer, network: nn.Module) -> Self:
        """RMSprop with these settings, of all weights of ``network``."""
        return cls(network.parameters(), settings, frozenset(_spared(settings.no_decay, network)))

    def _first_state(self) -> dict[str, list[Tensor]]:
        state = {"square": self._zeros(), "steps": self._counts()}
        return {**state, "momentum": self._zeros()} if self._momentum else state

    def _update(self, group: "_Group", gradients: list[Tensor]) -> None:
        rmsprop(
            group.weights,
            gradients,
            group.state["square"],
            [],
            group.state["momentum"] if self._momentum else [],
            group.state["steps"],
            lr=self.learning_rate,
            alpha=self._smoothing,
            eps=self._epsilon,
            weight_decay=group.weight_decay,
            momentum=self._momentum,
            centered=False,
        )


class Adagrad(Optimizer):
    """Adagrad (Duchi et al., 2011); the weight decay is an L2 penalty, added to the gradient."""

    epsilon = _EPSILON_OF_ADAGRAD

    @classmethod
    def of(cls, settings: optimizers.Optimizer, network: nn.Module) -> Self:
        """Adagrad with these settings, of all weights of ``network``."""
        made = super().of(settings, network)
        made.epsilon = settings.eps or _EPSILON_OF_ADAGRAD
        return made

    def _first_state(self) -> dict[str, list[Tensor]]:
        return {"sum": self._zeros(), "steps": self._counts()}

    def _update(self, group: "_Group", gradients: list[Tensor]) -> None:
        adagrad(
            group.weights,
            gradients,
            group.state["sum"],
            group.state["steps"],
            lr=self.learning_rate,
            weight_decay=group.weight_decay,
            lr_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )


_BUILT_IN: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": Sgd, "rmsprop": RmsProp, "adagrad": Adagrad}


@dataclass(frozen=True)
class _Group:
    """Weights with the same decay, updated by one call of a kernel."""

    places: list[int]
    """Their indices among all weights."""
    weights: list[Tensor]
    state: dict[str, list[Tensor]]
    weight_decay: float


def _spared(kinds: Collection[str], network: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of the kinds that the job excludes from decay."""
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            if (
                ("bias" in kinds and "bias" in name)  # also a recurrent layer's bias_ih_l0
                or ("norm" in kinds and isinstance(module, _NORMALIZATIONS))
                or ("embedding" in kinds and isinstance(module, nn.Embedding))
            ):
                yield weight
