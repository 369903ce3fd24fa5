"""The image pipeline compared with plain Pillow: images from a folder of JPEGs per second of one core.

The baseline is the bare loop: open, convert to RGB, copy into an existing array; its second form converts that to float32 from 0 to 1,
as a training needs it. They are compared with the trainer's batches, float32 from 0 to 1, made in the process that requests them or in
one process beside it. Every figure is from a separate process with one thread, run alternately, not counting its start.

A second of a core is a second of CPU time: it depends less on the machine's other load than wall time, which is shown as well. Bound, for
images of the right size: 0.9 of the bare loop's rate for a decoding process; 0.9 of its second form's if one process does everything. The
images are smooth noise, with files as large as those of photographs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks._measure import report, verdict
from cloud_train.data.images import ImagesData
from cloud_train.data.pixels import PhotoAugment
from cloud_train.training.data.dataset import Pick
from cloud_train.training.data.images import FolderSamples, load_images

BATCH_SIZE = 64
BATCHES = 32
SIZE = 224
QUALITY = 90
BARE = "plain Pillow"
BARE_FLOATS = "plain Pillow, then floats"
HERE = "batches, made in the same process"
BESIDE = "batches, made in one process beside it"
WAYS = {
    BARE: "",
    BARE_FLOATS: "--floats",
    HERE: "--workers=0",
    BESIDE: "--workers=1",
    f"{HERE}, cropped and mirrored": "--workers=0 --augment",
    f"{BESIDE}, cropped and mirrored": "--workers=1 --augment",
}
"""The variants, with the arguments of the process that runs each."""


class Seconds(NamedTuple):
    """The time for all batches."""

    clock: float
    asking: float
    """CPU time of the process that requested the batches."""
    decoding: float
    """CPU time of the process beside it, from its start on; 0 if there is none."""

    @property
    def cpu(self) -> float:
        """CPU time of both."""
        return self.asking + self.decoding


def main(repeats: int = 5) -> None:
    """Measure and print; with a folder as an argument, run as one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="decode what is in here, and print the seconds that it took")
    parser.add_argument("--workers", type=int, help="processes beside this one; plain Pillow if left out")
    parser.add_argument("--augment", action="store_true", help="a random part of each image, and half of them mirrored")
    parser.add_argument("--floats", action="store_true", help="make float32 from 0 to 1 of what plain Pillow decodes")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        torch.set_num_threads(1)
        print(json.dumps(_decode(arguments.folder, arguments.workers, arguments.augment, arguments.floats)))
        return
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        bytes_each = {folder: write_images(folder, *shape) for folder, shape in ((small, (SIZE, SIZE)), (large, (500, 400)))}
        of_small, of_large = _measured(small, repeats), _measured(large, repeats)
    report(
        "The images pipeline",
        f"{BATCHES} batches of {BATCH_SIZE} images of {SIZE}×{SIZE}, {repeats} times alternately.",
        f"Files of {SIZE}×{SIZE} pixels, {bytes_each[small] / 1000:.0f} kB each:",
        _table(of_small),
        f"Files of 500×400 pixels, {bytes_each[large] / 1000:.0f} kB each, which plain Pillow decodes whole and does not scale:",
        _table(of_large),
        "\n".join(_verdicts(of_small)),
    )


def _verdicts(measured: dict[str, list[Seconds]]) -> Iterator[str]:
    for choice, by in ((statistics.median, "by the medians"), (min, "by the best")):
        bare, floats = (choice(one.cpu for one in measured[name]) for name in (BARE, BARE_FLOATS))
        decoding, all_here = choice(one.decoding for one in measured[BESIDE]), choice(one.cpu for one in measured[HERE])
        yield verdict(f"CPU time of a decoding process compared with plain Pillow's, {by}", decoding / bare, 1 / 0.9)
        yield verdict(
            f"CPU time of batches made in the same process compared with plain Pillow's with floats, {by}", all_here / floats, 1 / 0.9
        )
        yield f"- the same against plain Pillow's without floats, {by}: {all_here / bare:.3g}"


def write_images(folder: Path, width: int, height: int, images: int = 256) -> float:
    """Write JPEG files of two classes; returns their mean size in bytes."""
    sizes = []
    for number in range(images):
        path = folder / f"class-{number % 2}" / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth_noise(width, height, number).save(path, quality=QUALITY)
        sizes.append(path.stat().st_size)
    return statistics.mean(sizes)


def smooth_noise(width: int, height: int, seed: int) -> Image.Image:
    """Noise that decreases with frequency, as in photographs, mostly in brightness and less in colour."""
    generator = np.random.default_rng(seed)
    total_HWC = np.zeros((height, width, 3), np.float32)
    side, strength = 4, 1.0
    while side <= max(width, height):
        shape = (max(2, height * side // max(width, height)), side)
        grey = generator.normal(size=shape)
        for channel in range(3):
            layer = (grey + 0.3 * generator.normal(size=shape)).astype(np.float32)
            total_HWC[:, :, channel] += strength * np.asarray(Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC))
        side, strength = side * 2, strength * 0.55
    pixels = (total_HWC - total_HWC.mean()) / total_HWC.std() * 55 + 120
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _measured(folder: Path, repeats: int) -> dict[str, list[Seconds]]:
    """Each variant, without the first round."""
    rounds = [{name: _run(folder, arguments) for name, arguments in WAYS.items()} for _ in range(repeats + 1)]
    return {name: [one[name] for one in rounds[1:]] for name in WAYS}


def _run(folder: Path, arguments: str) -> Seconds:
    command = [sys.executable, "-m", "benchmarks.image_pipeline", str(folder), *arguments.split()]
    return Seconds(*json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def _table(measured: dict[str, list[Seconds]]) -> str:
    lines = [
        "| what | images for a second of a core, median | best | ratio of medians | of the decoding process | by the clock |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    bare = statistics.median(one.cpu for one in measured[BARE])
    for name, several in measured.items():
        cpu, decoding, clock = (statistics.median(column) for column in zip(*((o.cpu, o.decoding, o.clock) for o in several), strict=True))
        rates = [_rate(cpu), _rate(min(one.cpu for one in several)), f"{bare / cpu:.2f}", _rate(decoding), _rate(clock)]
        lines.append(f"| {name} | {' | '.join(rates)} |")
    return "\n".join(lines)


def _rate(seconds: float) -> str:
    return f"{BATCH_SIZE * BATCHES / seconds:,.0f}" if seconds else ""


def _decode(folder: Path, workers: int | None, augment: bool, floats: bool) -> Seconds:
    """Decode all batches in this process."""
    data = ImagesData(dataset="images", path=str(folder), size=SIZE, workers=workers, augment=PhotoAugment() if augment else None)
    samples = load_images(data, folder, seed=0).train
    assert isinstance(samples, FolderSamples)  # for the type checker
    picks = list(islice(_picks(len(samples)), BATCHES))
    clock, before = time.perf_counter(), os.times()
    if workers is None:
        _decode_plainly([[samples.path(int(row)) for row in pick.rows] for pick in picks], floats)
    else:
        for batch in samples.batches(picks):
            assert len(batch) == BATCH_SIZE
    seconds, after = time.perf_counter() - clock, os.times()
    asking, decoding = (after.user + after.system, after.children_user + after.children_system)
    return Seconds(seconds, asking - before.user - before.system, decoding - before.children_user - before.children_system)


def _decode_plainly(batches: list[list[str]], floats: bool) -> None:
    with Image.open(batches[0][0]) as first:
        pixels_BHWC = np.empty((BATCH_SIZE, first.height, first.width, 3), np.uint8)
    inputs_BHWC = np.empty(pixels_BHWC.shape, np.float32)
    for paths in batches:
        for place, path in enumerate(paths):
            pixels_BHWC[place] = np.asarray(Image.open(path).convert("RGB"))
        if floats:
            np.divide(pixels_BHWC, np.float32(255), out=inputs_BHWC)


def _picks(samples: int) -> Iterator[Pick]:
    """Batches from as many epochs as necessary."""
    for epoch in count():
        for first in range(0, samples - BATCH_SIZE + 1, BATCH_SIZE):
            yield Pick(torch.arange(first, first + BATCH_SIZE), epoch)


if __name__ == "__main__":
    main()
