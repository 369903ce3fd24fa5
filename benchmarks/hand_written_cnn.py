"""The classic CNN as a fast hand-written program: one loop, data in memory, and each optimization a flag. Independent of cloud-train.

The baseline of classic_cnn.py, on data that ``_mnist.write_mnist`` wrote. On its own, ``python -m benchmarks.hand_written_cnn FOLDER``
trains 300 steps on the four IDX files there, and prints the samples per second after a warm-up and the peak memory.
"""

import argparse
import resource
import sys
import time
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks._mnist import read_mnist

BATCH_SIZE, LEARNING_RATE, WARM_UP_STEPS, STEPS_BETWEEN_LOOKS = 128, 1e-3, 30, 100


def main() -> None:
    """Train and print the speed; with ``--without-end``, print the time at the end of each step instead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the four IDX files")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--without-end", action="store_true", help="train until killed, and print when each step ended")
    parser.add_argument("--channels-last", action="store_true", help="keep the channels innermost in memory")
    parser.add_argument("--fused", action="store_true", help="one kernel changes all weights")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--bytes", action="store_true", help="keep the images as bytes, a quarter of the memory")
    parser.add_argument("--threads", type=int, help="threads of torch; by default one for each core")
    parser.add_argument("--look-at-each", action="store_true", help="look at the loss of each step, and stop where it is not finite")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    times = train(arguments)
    seconds, steps = times[-1] - times[WARM_UP_STEPS], len(times) - 1 - WARM_UP_STEPS
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20
    print(f"{steps * BATCH_SIZE / seconds:,.0f} samples/s over {steps} steps after {WARM_UP_STEPS}; peak memory {peak_mib:.0f} MiB")


def train(options: argparse.Namespace) -> list[float]:
    """Train; returns the end of each step, in seconds since 1970."""
    images, labels = load(options.folder, as_bytes=options.bytes)
    network: nn.Module = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1600, 10),
    )
    if options.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's own signature
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=options.fused)
    if options.compile:
        network.compile()

    times: list[float] = []
    for _epoch in count():
        order = torch.randperm(len(images))
        for start in range(0, len(images), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            batch = images.index_select(0, rows)
            if options.bytes:
                batch = batch.float().div_(255)
            loss = functional.cross_entropy(network(batch), labels.index_select(0, rows))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            optimizer.step()
            if (options.look_at_each or len(times) % STEPS_BETWEEN_LOOKS == 0) and not loss.isfinite():
                raise ArithmeticError(f"the loss is {loss.item()}")
            times.append(time.time())
            if options.without_end:
                print(f"{times[-1]:.6f}", flush=True)
            elif len(times) == options.steps:
                return times
    raise AssertionError("epochs do not end")


def load(folder: Path, *, as_bytes: bool) -> tuple[Tensor, Tensor]:
    """Images, (images, 1, height, width), bytes or float32 from 0 to 1, and labels, int64 (images,)."""
    pixels, digits = (torch.from_numpy(array) for array in read_mnist(folder))
    images = pixels.unsqueeze(1)
    return images if as_bytes else images.float().div_(255), digits.long()


if __name__ == "__main__":
    main()
