"""jobs/digits-cnn.yaml as a person would write it by hand: one plain script, torch and nothing of cloud-train.

The baseline for the time to the first step and for the overhead around a loop. It is written to be fast: it reads the digits from
scikit-learn's file (importing scikit-learn takes a second), keeps them in memory and slices batches from them. ``--steps N`` ends it
after N steps.
"""

import argparse
import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

EPOCHS, BATCH_SIZE, LEARNING_RATE, SIZE, SEED = 5, 16, 4e-3, 28, 0


def main() -> None:
    """Train, and print the loss of the first step and the validation accuracy of each epoch."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, help="end after so many steps")
    steps = arguments.parse_args().steps

    torch.manual_seed(SEED)
    images, digits = load_digits()
    order = torch.randperm(len(images))
    validation, train = order[: len(images) // 5], order[len(images) // 5 :]
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1600, 10)
    )
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(train) // BATCH_SIZE))

    step = 0
    for epoch in range(EPOCHS):
        shuffled = train[torch.randperm(len(train))]
        for start in range(0, len(shuffled), BATCH_SIZE):
            batch = shuffled[start : start + BATCH_SIZE]
            loss = functional.cross_entropy(network(images[batch]), digits[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            optimizer.step()
            schedule.step()
            step += 1
            if step == 1:
                print(f"step 1: loss {loss.item():.4f}", flush=True)
            if step == steps:
                return
        with torch.no_grad():
            right = (network(images[validation]).argmax(1) == digits[validation]).float().mean().item()
        print(f"epoch {epoch + 1}: validation accuracy {right:.4f}", flush=True)


def load_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The images, float32 (1797, 1, SIZE, SIZE) in [0, 1], and their digits, int64 (1797,)."""
    package = find_spec("sklearn")
    assert package is not None, "pip install scikit-learn"
    assert package.submodule_search_locations, "scikit-learn is a package"
    with gzip.open(Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :-1] / 16).view(-1, 1, 8, 8)
    return functional.interpolate(images, size=(SIZE, SIZE), mode="bilinear"), torch.from_numpy(table[:, -1]).long()


if __name__ == "__main__":
    main()
