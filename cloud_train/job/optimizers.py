"""The ``train.optimizer`` section. A package adds an optimizer as an entry point ``cloud_train.optimizers``."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cloud_train.spec.problems import Finding, Path
from cloud_train.spec.registry import Registry
from cloud_train.spec.types import Section, Share

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
_HERE: Path = ("train", "optimizer")


class OptimizerSection(Section):
    """An optimizer's settings. The optimizer itself, which needs torch, is created by the function that ``maker`` names."""

    name: str
    lr: Positive = 1e-3
    """Learning rate."""

    maker: ClassVar[str]
    """``module:function`` that creates the optimizer, called in the training process as ``function(section, network)``.

    ``network`` is a ``torch.nn.Module``; the function returns a ``training.optimizers.Optimizer`` of its weights, in the order of their
    names.
    """

    def check(self) -> Iterator[Finding]:
        """Mistakes in this section by itself."""
        yield from ()


def _for(name: str, own: Any, others: Any) -> Any:
    """A default that is ``own`` for the optimizer ``name``."""
    return Field(default_factory=lambda known: own if known.get("name") == name else others)


class Optimizer(OptimizerSection):
    """How gradients change the weights."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """``adam`` (Kingma and Ba, 2015), ``adamw`` with its decoupled weight decay (Loshchilov and Hutter, 2019), or stochastic gradient
    descent.
    """
    lr: Positive = _for("sgd", 1e-2, 1e-3)
    """Learning rate; if left out, 0.001, for ``sgd`` 0.01."""
    momentum: Share = _for("sgd", 0.9, 0.0)
    """Momentum, for ``sgd``; 0.9 if left out."""
    nesterov: bool = Field(default_factory=lambda known: known.get("name") == "sgd" and bool(known.get("momentum")))
    """Nesterov's momentum (Sutskever et al., 2013), for ``sgd`` with momentum; true if left out."""
    weight_decay: NonNegative = _for("adamw", 1e-2, 0.0)
    """Weight decay: added to the gradient as an L2 penalty, except for ``adamw``, which subtracts it from the weights directly;
    if left out, 0, for ``adamw`` 0.01.
    """
    no_decay: tuple[Literal["bias", "norm", "embedding"], ...] = ()
    """Weights that do not decay: biases, the scales of normalizations, embeddings."""

    maker: ClassVar[str] = "cloud_train.training.optimizers:make_built_in"

    def check(self) -> Iterator[Finding]:
        """Momentum without SGD, and Nesterov momentum without momentum."""
        if self.name != "sgd":
            for field in ("momentum", "nesterov"):
                if getattr(self, field):
                    yield (*_HERE, field), f"{field} is for sgd, not {self.name}", f"name: sgd, or no {field}"
        elif self.nesterov and not self.momentum:
            yield (*_HERE, "nesterov"), "nesterov needs momentum", "a momentum, such as 0.9"


OPTIMIZERS: Registry[OptimizerSection] = Registry(
    noun="optimizer",
    field="name",
    group="cloud_train.optimizers",
    base=OptimizerSection,
    requires=("maker",),
    target="maker",
    built_in={"adam": Optimizer, "adamw": Optimizer, "sgd": Optimizer},
    annotation=Optimizer,
    default="adam",
)
