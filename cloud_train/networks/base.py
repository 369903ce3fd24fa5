"""The ``model`` section: a network, with its layers computed by arithmetic, or the user's own program instead."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cloud_train.data.base import DataSection, SampleKind
from cloud_train.spec.facts import DataFacts, LayerFacts
from cloud_train.spec.problems import Finding
from cloud_train.spec.types import Section


class ModelSection(Section):
    """A network, or a script instead of one. The network itself, which needs torch, is built by the function that ``builder`` names."""

    kind: str

    reads: ClassVar[tuple[SampleKind, ...]]
    """The kinds of samples that it can learn from."""
    builder: ClassVar[str] = ""
    """``module:function`` that builds the network, called in the training process as ``function(section, description)``.

    ``description`` is a ``training.description.ModelDescription``; the function returns a ``torch.nn.Module``, with the parameters and
    layers that ``layer_facts`` lists.
    """
    default_clip_norm: ClassVar[float] = 0.0
    """The global L2 norm to which gradients are scaled down if the job sets no ``train.clip_norm``; 0 never scales them."""

    @abstractmethod
    def layer_facts(self, data: DataFacts) -> tuple[LayerFacts, ...]:
        """The layers for ``data``, in the order in which data passes through them, named after the torch modules.

        Shapes leave out the batch axis; images are channels × height × width, and ``T`` is the length of a sequence. Raises FieldError if
        the network cannot be built for this data.
        """

    def check(self, data: DataSection | None) -> Iterator[Finding]:
        """Mistakes in this section, by itself or in combination with the ``data`` section; the data itself is not read."""
        yield from ()

    def ignored_fields(self) -> Iterator[Finding]:
        """Fields that have no effect beside the others, whether the job sets them or not."""
        yield from ()

    def notes(self, data: DataFacts, batch_size: int) -> Iterator[str]:
        """What a reader of the plan should know before submitting."""
        yield from ()


class ScriptModel(ModelSection):
    """Your own program, in any language and any framework."""

    kind: Literal["script"]
    """Your own program."""
    command: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
    """A list is run without a shell; a string is run by ``/bin/sh -c``, so that ``$VARIABLES`` expand."""
    directory: str = "."
    """Where the command starts, relative to the job file."""

    reads: ClassVar[tuple[SampleKind, ...]] = ("files",)

    def layer_facts(self, data: DataFacts) -> tuple[LayerFacts, ...]:
        """No layers: only the script knows them."""
        return ()
