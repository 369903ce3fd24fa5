"""A program of the user's own in place of a network."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cloud_train.data.base import SampleKind
from cloud_train.networks.base import ModelSection
from cloud_train.spec.facts import DataFacts, LayerFacts


class ScriptModel(ModelSection):
    """Your own program, in any language and any framework."""

    kind: Literal["script"]
    """A program of your own."""
    command: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
    """A list is started as it stands; a text is run by ``/bin/sh -c``, so that ``$VARIABLES`` expand."""
    directory: str = "."
    """Where the command starts, relative to the job file."""

    reads: ClassVar[tuple[SampleKind, ...]] = ("files",)

    def layer_facts(self, data: DataFacts) -> tuple[LayerFacts, ...]:
        """None are known."""
        return ()
