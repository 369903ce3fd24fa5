"""An exponential moving average of the weights (Polyak and Juditsky, 1992), which often generalizes better than the weights themselves."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

_UPDATES = "updates"
_WEIGHTS = "network."


class WeightAverage:
    """The average starts as the initial weights, and each update moves it towards the weights by the fraction 1 - decay.

    At first the average moves faster, with the decay (1 + n) / (10 + n) after n updates while that is smaller: otherwise the initial,
    random weights would dominate for about 1 / (1 - decay) steps (as TensorFlow's ``ExponentialMovingAverage``). Buffers, such as the means
    of batch normalization, are averages already, and are taken from the newest weights.

    ``torch.optim.swa_utils.AveragedModel`` has no such beginning, and its average starts only after the first step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        """The average, ready to be used as a network; its tensors change in place."""
        self._decay, self._updates = decay, 0
        for module in self.network.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()  # a copy's weights are scattered in memory, which cuDNN would warn of and repair at every use
        self._weights = list(self.network.parameters())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the weights of ``network`` after a step."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch declares no types for it
        move(self._weights, list(network.parameters()), None)
        for mine, newest in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(newest)
        self._updates += 1

    def state(self) -> dict[str, Tensor]:
        """The state that ``update`` keeps between steps; the tensors of the average are not copies."""
        weights = {_WEIGHTS + name: tensor for name, tensor in self.network.state_dict().items()}
        return {**weights, _UPDATES: torch.tensor(self._updates)}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore a copy of what ``state`` returned; raises ValueError if it belongs to another network."""
        mine = self.state()
        if state.keys() != mine.keys() or any(state[name].shape != tensor.shape for name, tensor in mine.items()):
            raise ValueError("the average of the weights belongs to another network")
        for name, tensor in mine.items():
            tensor.copy_(state[name])
        self._updates = int(mine[_UPDATES])
