"""The tensors of torchvision's ResNet by our names. Both are the same network, so that torchvision's pretrained weights can be loaded.

torchvision (``torchvision/models/resnet.py``, version 0.20) names the layers after their kind and number: ``conv1`` and ``bn1`` begin the
network, ``layer1.0.conv2`` is in a block, ``downsample`` is a block's shortcut, and ``fc`` computes the scores.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor

from cloud_train.networks.cnn import RESIDUAL_NETS


def renamed(weights: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """The weights, with torchvision's names replaced by those of our ``network``; others stay as they are."""
    layers = dict(_layers(network))
    found = {}
    for name, tensor in weights.items():
        layer, _, part = name.rpartition(".")
        found[f"{layers.get(layer, layer)}.{part}" if layer else name] = tensor
    return found


def _layers(network: str) -> Iterator[tuple[str, str]]:
    """Torchvision's name of each layer that has tensors, and ours."""
    net = RESIDUAL_NETS[network]
    yield "conv1", "stem.conv"
    yield "bn1", "stem.norm"
    for stage, blocks in enumerate(net.blocks, 1):
        for block in (f"layer{stage}.{number}" for number in range(blocks)):
            for number in range(1, 3 if net.expansion == 1 else 4):
                yield f"{block}.conv{number}", f"{block}.body.conv{number}"
                yield f"{block}.bn{number}", f"{block}.body.norm{number}"
            yield f"{block}.downsample.0", f"{block}.shortcut.conv"
            yield f"{block}.downsample.1", f"{block}.shortcut.norm"
    yield "fc", "classifier"
