"""The ``train.optimizer`` section. A package adds an optimizer as an entry point ``cloud_train.optimizers``."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, get_args

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


def _for(others: Any, **own: Any) -> Any:
    """A default that depends on the optimizer's name: ``others`` except for those that are named."""
    return Field(default_factory=lambda known: own.get(known.get("name", ""), others))


OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop", "adagrad"]
_ADAMS: tuple[OptimizerName, ...] = ("adam", "adamw")


class Optimizer(OptimizerSection):
    """How gradients change the weights."""

    name: OptimizerName = "adam"
    """``adam`` (Kingma and Ba, 2015), ``adamw`` with its decoupled weight decay (Loshchilov and Hutter, 2019), stochastic gradient descent,
    ``rmsprop`` (Hinton, 2012) or ``adagrad`` (Duchi et al., 2011), each as in PyTorch.
    """
    lr: Positive = _for(1e-3, sgd=1e-2, adagrad=1e-2)
    """Learning rate; if left out, 0.001, for ``sgd`` and ``adagrad`` 0.01."""
    momentum: Share = _for(0.0, sgd=0.9)
    """Momentum, for ``sgd`` and ``rmsprop``; if left out, 0.9 for ``sgd``, otherwise 0."""
    nesterov: bool = Field(default_factory=lambda known: known.get("name") == "sgd" and bool(known.get("momentum")))
    """Nesterov's momentum (Sutskever et al., 2013), for ``sgd`` with momentum; true if left out."""
    betas: tuple[Share, Share] | None = None
    """How slowly the averages of the gradient and of its square change, for ``adam`` and ``adamw``; 0.9 and 0.999 if left out."""
    smoothing: Share | None = None
    """How slowly the average of the squared gradient changes, for ``rmsprop``; 0.99 if left out, as in PyTorch. Keras has 0.9."""
    eps: Positive | None = None
    """Added to the denominator; not for ``sgd``. If left out, 1e-8, for ``adagrad`` 1e-10."""
    weight_decay: NonNegative = _for(0.0, adamw=1e-2)
    """Weight decay: added to the gradient as an L2 penalty, except for ``adamw``, which subtracts it from the weights directly;
    if left out, 0, for ``adamw`` 0.01.
    """
    no_decay: tuple[Literal["bias", "norm", "embedding"], ...] = ()
    """Weights that do not decay: biases, the scales of normalizations, embeddings."""

    maker: ClassVar[str] = "cloud_train.training.optimizers:make_built_in"

    def check(self) -> Iterator[Finding]:
        """Fields of other optimizers, and Nesterov momentum without momentum."""
        for field, names in _ONLY_FOR.items():
            if getattr(self, field) != _UNUSED.get(field) and self.name not in names:
                listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
                yield (*_HERE, field), f"{field} is for {listed}, not {self.name}", f"name: {names[0]}, or no {field}"
        if self.name == "sgd" and self.nesterov and not self.momentum:
            yield (*_HERE, "nesterov"), "nesterov needs momentum", "a momentum, such as 0.9"


_ONLY_FOR: dict[str, tuple[OptimizerName, ...]] = {
    "momentum": ("sgd", "rmsprop"),
    "nesterov": ("sgd",),
    "betas": _ADAMS,
    "smoothing": ("rmsprop",),
    "eps": (*_ADAMS, "rmsprop", "adagrad"),
}
"""Field → the optimizers that have it."""
_UNUSED = {"momentum": 0.0, "nesterov": False}
"""Field → the value that it has for the others; None if it is not here."""


OPTIMIZERS: Registry[OptimizerSection] = Registry(
    noun="optimizer",
    field="name",
    group="cloud_train.optimizers",
    base=OptimizerSection,
    requires=("maker",),
    target="maker",
    built_in=dict.fromkeys(get_args(OptimizerName), Optimizer),
    annotation=Optimizer,
    default="adam",
)
