"""Number formats: the weights stay in fp32; with bf16 and fp16 what is dear (products, convolutions) is computed in the short format.

fp16 has too small a range for many gradients, so the loss is scaled up before they are computed, and the gradients down afterwards
(Micikevicius et al., 2018). A step whose scaled gradients overflow is left out, and the scale is halved.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from cloud_train.training.optimizers import Optimizer

_FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALLEST_SCALE = 1.0


class Precision:
    """How the arithmetic of one training is done."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._format, self._device = _FORMATS.get(name), device
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Around the forward pass and the loss."""
        return nullcontext() if self._format is None else torch.autocast(self._device.type, self._format)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, scaled, to those of the weights."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch declares no types for it

    def unscale(self, optimizer: Optimizer) -> bool:
        """Bring the gradients to their own size; False if they overflowed only because of the scale: then this step is to be left out."""
        if not self._scaler.is_enabled():
            return True
        self._scaler.unscale_(optimizer)  # type: ignore[arg-type]  # ours has the param_groups that it looks at
        overflowed = any(bool(found) for found in self._scaler._found_inf_per_device(optimizer).values())  # type: ignore[arg-type]  # as above
        scale = self._scaler.get_scale()
        self._scaler.update()
        return not overflowed or scale <= _SMALLEST_SCALE

    def state(self) -> dict[str, Any]:
        """What ``backward`` carries from one step to the next."""
        return self._scaler.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` returned."""
        self._scaler.load_state_dict(state)
