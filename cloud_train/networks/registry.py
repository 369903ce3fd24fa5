"""The registry of networks. A package adds one as an entry point ``cloud_train.models`` that names a subclass of ``ModelSection``."""

from typing import Annotated

from cloud_train.networks.base import ModelSection, ScriptModel
from cloud_train.networks.cnn import CnnModel
from cloud_train.networks.rnn import RnnModel
from cloud_train.spec.registry import Registry

MODELS: Registry[ModelSection] = Registry(
    noun="kind",
    field="kind",
    group="cloud_train.models",
    base=ModelSection,
    requires=("reads", "builder"),
    target="builder",
    built_in={"cnn": CnnModel, "rnn": RnnModel, "script": ScriptModel},
)

Model = Annotated[ModelSection, MODELS]
"""The ``model`` section: the section of the network that it names."""
