"""The classic CNN in Lightning, trained endlessly; prints the end time of each step. Logger, checkpoints and progress bar are off."""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._mnist import read_mnist

BATCH_SIZE, LEARNING_RATE = 128, 1e-3


class ClassicCnn(lightning.LightningModule):  # type: ignore[misc]  # mypy does not see Lightning, which is no dependency
    """The classic net, tuned like the hand-written loop."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1600, 10),
        )
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own signature leaves it out

    def training_step(self, batch: list[Tensor], _number: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        return functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, fused."""
        return torch.optim.Adam(self.parameters(), LEARNING_RATE, fused=True)

    def on_train_batch_end(self, *_unused: Any) -> None:
        """Note the time."""
        print(f"{time.time():.6f}", flush=True)


def main() -> None:
    """Train until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the four IDX files")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # it advises loader processes, which are slower here than none
    pixels, digits = (torch.from_numpy(array) for array in read_mnist(arguments.folder))
    data = TensorDataset(pixels.unsqueeze(1).float().div_(255), digits.long())
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=10**6,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ClassicCnn(), DataLoader(data, BATCH_SIZE, shuffle=True))


if __name__ == "__main__":
    main()
