"""A package with one component of each kind, as somebody else would write it: installed as a distribution in a folder of a test's own."""

from pathlib import Path
from textwrap import dedent

SECTIONS = '''
    """The torch-free side: sections, facts, layers."""

    from typing import ClassVar, Literal

    from cloud_train.data.base import DataSection
    from cloud_train.job.optimizers import OptimizerSection
    from cloud_train.job.schedules import ScheduleSection
    from cloud_train.networks.base import ModelSection
    from cloud_train.spec.facts import DataFacts, LayerFacts


    class Stripes(DataSection):
        """Images of stripes, upright or level."""

        dataset: Literal["stripes"]
        count: int = 64
        sizes: tuple[int, ...] = (8, 8)

        sample_kind: ClassVar = "images"
        loader: ClassVar = "toys_torch:load_stripes"

        def expected_facts(self):
            return DataFacts(self.dataset, (*self.sizes, 1), 2, self.count, self.count, "thin air")

        def sample_rows(self, facts):
            return [("sample", "a stripe"), ("classes", "upright and level")]


    class Flat(ModelSection):
        """One dense layer."""

        kind: Literal["flat"]

        reads: ClassVar = ("images",)
        builder: ClassVar = "toys_torch:build_flat"

        def layer_facts(self, data):
            height, width, channels = data.sample_shape
            pixels = height * width * channels
            dense = LayerFacts("dense", "Linear", (data.classes,), (pixels + 1) * data.classes)
            return (LayerFacts("flatten", "Flatten", (pixels,), 0), dense)


    class Signs(OptimizerSection):
        """Steps of one size, in the direction of the gradient's signs."""

        name: Literal["signs"]
        lr: float = 0.01

        maker: ClassVar = "toys_torch:make_signs"


    class Halving(ScheduleSection):
        """Half the rate for the second half of the run."""

        name: Literal["halving"]

        def multiplier(self, step, last_step, steps_per_epoch):
            return 1.0 if 2 * step < last_step else 0.5
'''
TORCH = '''
    """The torch side: samples, the network, the optimizer."""

    import torch
    from torch import nn

    from cloud_train.training.data.dataset import DataSet
    from cloud_train.training.data.memory import TensorSamples
    from cloud_train.training.optimizers import Optimizer


    def load_stripes(section, place, seed):
        images = torch.zeros(section.count, 1, *section.sizes)
        targets = torch.arange(section.count) % 2
        images[targets == 0, :, :, 3] = 1
        images[targets == 1, :, 3, :] = 1
        samples = TensorSamples(images, targets)
        return DataSet(samples, samples, ("upright", "level"), image_shape=(1, *section.sizes))


    def build_flat(section, description):
        channels, height, width = description.image_shape
        layers = nn.Sequential()
        layers.add_module("flatten", nn.Flatten())
        layers.add_module("dense", nn.Linear(channels * height * width, len(description.classes)))
        return layers


    class Signs(Optimizer):
        def _first_state(self):
            return {}

        def _update(self, group, gradients):
            for weight, gradient in zip(group.weights, gradients):
                weight.sub_(self.learning_rate * gradient.sign())


    def make_signs(section, network):
        return Signs(network.parameters(), section.lr)
'''
ENTRY_POINTS = """
    [cloud_train.datasets]
    stripes = toys:Stripes
    broken-data = toys_broken:Anything
    not-a-data-set = toys:Flat
    digits = toys:Stripes

    [cloud_train.models]
    flat = toys:Flat

    [cloud_train.optimizers]
    signs = toys:Signs

    [cloud_train.schedules]
    halving = toys:Halving
"""
JOB = """
    name: toy
    model: {kind: flat}
    data: {dataset: stripes, count: 32}
    train: {steps: 6, batch_size: 8, optimizer: {name: signs, lr: 0.25}, schedule: halving, tensorboard: false}
"""


def install(folder: Path) -> Path:
    """Make the distribution in ``folder``, which then belongs on Python's path; returns it."""
    files = {"toys.py": SECTIONS, "toys_torch.py": TORCH, "toys_broken.py": "raise ValueError('on purpose')"}
    about = folder / "toys-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(dedent(ENTRY_POINTS).lstrip())
    for name, text in files.items():
        (folder / name).write_text(dedent(text).lstrip())
    return folder
