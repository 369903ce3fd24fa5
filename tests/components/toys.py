"""A package with one component of each kind, as another author would write it, and broken ones; a test installs it in its own folder."""

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
FAULTY = '''
    """Components that lack a part of their contract, or whose code fails."""

    from typing import ClassVar, Literal

    from cloud_train.data.base import DataSection
    from cloud_train.job.optimizers import OptimizerSection
    from cloud_train.job.schedules import ScheduleSection
    from cloud_train.networks.base import ModelSection
    from toys import Flat, Signs, Stripes


    class Kindless(DataSection):
        dataset: str
        loader: ClassVar = "toys_torch:load_stripes"

        def sample_rows(self, facts):
            return []


    class Undescribed(Stripes):
        dataset: str

        def describe(self, directory):
            raise KeyError("on purpose")


    class Misdescribed(Stripes):
        dataset: str

        def describe(self, directory):
            return {"classes": 2}


    class Unchecked(Stripes):
        dataset: str

        def check(self):
            return None


    class Unloadable(Stripes):
        dataset: str
        loader: ClassVar = ""


    class Homeless(Stripes):
        dataset: str
        loader: ClassVar = "toys_nowhere:load"


    class Nameless(Stripes):
        dataset: str
        loader: ClassVar = "toys_torch:load_dots"


    class Formless(Stripes):
        dataset: str
        loader: ClassVar = "toys_torch"


    class Broke(Stripes):
        dataset: str
        loader: ClassVar = "toys_broken:load"


    class Illiterate(ModelSection):
        kind: str
        builder: ClassVar = "toys_torch:build_flat"

        def layer_facts(self, data):
            return ()


    class Unlayered(Flat):
        kind: str

        def layer_facts(self, data):
            return data.no_such_number


    class Mislayered(Flat):
        kind: str

        def layer_facts(self, data):
            return ("dense",)


    class Abstract(ModelSection):
        kind: str
        reads: ClassVar = ("images",)
        builder: ClassVar = "toys_torch:build_flat"


    class Noteless(Flat):
        kind: str

        def notes(self, data, batch_size):
            raise ZeroDivisionError("on purpose")


    class Makerless(OptimizerSection):
        name: str


    class Unruled(Signs):
        name: str

        def check(self):
            raise RuntimeError("on purpose")


    class Flatline(ScheduleSection):
        name: str
'''
ENTRY_POINTS = """
    [cloud_train.datasets]
    stripes = toys:Stripes
    broken-data = toys_broken:Anything
    not-a-data-set = toys:Flat
    digits = toys:Stripes
    kindless = toys_faulty:Kindless
    undescribed = toys_faulty:Undescribed
    misdescribed = toys_faulty:Misdescribed
    unchecked = toys_faulty:Unchecked
    unloadable = toys_faulty:Unloadable
    homeless = toys_faulty:Homeless
    nameless = toys_faulty:Nameless
    formless = toys_faulty:Formless
    broke = toys_faulty:Broke

    [cloud_train.models]
    flat = toys:Flat
    illiterate = toys_faulty:Illiterate
    unlayered = toys_faulty:Unlayered
    mislayered = toys_faulty:Mislayered
    abstract = toys_faulty:Abstract
    noteless = toys_faulty:Noteless

    [cloud_train.optimizers]
    signs = toys:Signs
    makerless = toys_faulty:Makerless
    unruled = toys_faulty:Unruled

    [cloud_train.schedules]
    halving = toys:Halving
    flatline = toys_faulty:Flatline
"""
JOB = """
    name: toy
    model: {kind: flat}
    data: {dataset: stripes, count: 32}
    train: {steps: 6, batch_size: 8, optimizer: {name: signs, lr: 0.25}, schedule: halving, tensorboard: false}
"""


def install(folder: Path) -> Path:
    """Make the distribution in ``folder``, which then belongs on Python's path; returns it."""
    files = {
        "toys.py": SECTIONS,
        "toys_torch.py": TORCH,
        "toys_faulty.py": FAULTY,
        "toys_broken.py": "raise ValueError('on purpose')\ndef load(): ...",
    }
    about = folder / "toys-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(dedent(ENTRY_POINTS).lstrip())
    for name, text in files.items():
        (folder / name).write_text(dedent(text).lstrip())
    return folder
