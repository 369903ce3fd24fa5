"""The registry of data sets. A package adds one as an entry point ``cloud_train.datasets`` that names a subclass of ``DataSection``."""

from typing import Annotated

from cloud_train.data.base import DataSection, FilesData
from cloud_train.data.cifar10 import Cifar10Data
from cloud_train.data.digits import DigitsData
from cloud_train.data.images import ImagesData
from cloud_train.data.mnist import MnistData
from cloud_train.data.python_docs import PythonDocsData
from cloud_train.data.sequences import SequencesData
from cloud_train.data.series import SeriesData
from cloud_train.data.text import TextData
from cloud_train.spec.registry import Registry

DATASETS: Registry[DataSection] = Registry(
    noun="dataset",
    field="dataset",
    group="cloud_train.datasets",
    base=DataSection,
    requires=("sample_kind",),
    target="loader",
    built_in={
        "digits": DigitsData,
        "mnist": MnistData,
        "cifar10": Cifar10Data,
        "images": ImagesData,
        "python-docs": PythonDocsData,
        "text": TextData,
        "sequences": SequencesData,
        "series": SeriesData,
        "files": FilesData,
    },
)

Data = Annotated[DataSection, DATASETS]
"""The ``data`` section: the section of the data set that it names."""
