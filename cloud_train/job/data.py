"""The ``data`` section: which data set, from where, and how it is prepared."""

from typing import Annotated, Literal

from pydantic import Field

from cloud_train.spec.section import Count, Fraction, PathText, Section, Sha256, Url

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


class Normalize(Section):
    """Scaling of each channel: (pixel - mean) / std, with pixels from 0 to 1. It belongs to the model, so predictions do the same."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    """Mean of each channel."""
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    """Standard deviation of each channel."""


class Augment(Section):
    """Small changes of the training images, drawn anew for each image and epoch."""

    flip: bool = False
    """Mirror every second image, on average, left to right."""
    crop: Annotated[int, Field(ge=0, le=64)] = 0
    """Shift the image by up to so many pixels each way; what comes in from outside is black."""


class PhotoAugment(Section):
    """Changes of the training photographs, drawn anew for each photograph and epoch."""

    flip: bool = True
    """Mirror every second photograph, on average, left to right."""
    crop: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Smallest part of the area that is cut out at random and scaled to ``size`` (Szegedy et al., 2015); 1 takes the middle, as in
    validation.
    """


class DigitsData(Section):
    """1,797 handwritten digits of 8×8 grey pixels in 10 classes (the UCI optical digits that scikit-learn carries)."""

    dataset: Literal["digits"]
    """scikit-learn's handwritten digits; nothing is downloaded."""
    size: Annotated[int, Field(ge=8, le=256)] = 28
    """Side to which the images are resized, in pixels."""
    validation: Fraction = 0.2
    """Fraction of the samples that is kept for validation."""
    augment: Augment | None = None
    """Changes of the training images."""
    normalize: Normalize | None = None
    """Scaling of the pixels."""


class MnistData(Section):
    """Files of MNIST's format (IDX): MNIST itself, 70,000 handwritten digits of 28×28 grey pixels, or what took its place, such as
    Fashion-MNIST.
    """

    dataset: Literal["mnist"]
    """The four IDX files of MNIST."""
    path: PathText | None = None
    """A folder with the four files, plain or ``.gz``; relative to the job file, or a URL in a store. They are downloaded if left out."""
    url: Url = MNIST_URL
    """Where the four files are downloaded from, into a cache."""
    sha256: dict[str, Sha256] = Field(default_factory=lambda: dict(MNIST_SHA256))
    """The SHA-256 of each file that is downloaded; the default is that of MNIST."""
    validation: Fraction | None = None
    """Fraction of the training images that is kept for validation; without it, validation is with the test images."""
    augment: Augment | None = None
    """Changes of the training images."""
    normalize: Normalize | None = None
    """Scaling of the pixels."""


class Cifar10Data(Section):
    """CIFAR-10: 60,000 photographs of 32×32 pixels in 10 classes (Krizhevsky, 2009), in the "python version"."""

    dataset: Literal["cifar10"]
    """The python version of CIFAR-10. Its pickles are read as data: nothing in them is executed."""
    path: PathText | None = None
    """``cifar-10-python.tar.gz``, or the folder that it unpacks to; relative to the job file, or a URL in a store. It is downloaded if left
    out.
    """
    url: Url = CIFAR10_URL
    """Where the archive is downloaded from, into a cache."""
    sha256: Sha256 = CIFAR10_SHA256
    """SHA-256 of the archive that is downloaded."""
    validation: Fraction | None = None
    """Fraction of the training images that is kept for validation; without it, validation is with the test images."""
    augment: Augment | None = None
    """Changes of the training images."""
    normalize: Normalize | None = None
    """Scaling of the pixels."""


class ImagesData(Section):
    """Photographs of your own: one folder a class, JPEG and PNG, decoded while the training goes on."""

    dataset: Literal["images"]
    """A folder of images, one folder a class."""
    path: PathText | None = None
    """A folder with ``train`` and ``val`` in it, each with one folder a class (the layout of ImageNet), or with the classes themselves;
    or with tar shards, which ``cloud-train pack FOLDER DESTINATION`` makes; relative to the job file, or a URL in a store (``s3://…``,
    ``gs://…``, ``az://…``), there also of an archive of such a folder.
    """
    url: Url | None = None
    """A ``.zip``, ``.tar`` or ``.tar.gz`` of such a folder to download into a cache, instead of ``path``."""
    sha256: Sha256 | None = None
    """SHA-256 of the archive that is downloaded."""
    size: Annotated[int, Field(ge=8, le=2048)] = 224
    """Side of the square that is cut out of each image, in pixels."""
    channels: Literal[1, 3] = 3
    """3 for colours, 1 for grey."""
    classes: Count | None = None
    """How many classes there are: checked when the folder is read, and what a plan is made with where the folder is not."""
    validation: Fraction = 0.1
    """Fraction of the images that is kept for validation, where there is no folder ``val``."""
    broken: Literal["fail", "skip"] = "fail"
    """What an image that cannot be read does: end the run, or be named and left out."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Processes that decode images beside the training, each process of it; as many as it may use CPU cores, less one, if left out."""
    augment: PhotoAugment | None = Field(default_factory=PhotoAugment)
    """Changes of the training photographs; null takes them as they are."""
    normalize: Normalize | None = None
    """Scaling of the pixels."""


class PythonDocsData(Section):
    """The Python language documentation inside CPython (``pydoc_data.topics``): about half a megabyte of English."""

    dataset: Literal["python-docs"]
    """CPython's own documentation text; nothing is downloaded."""
    sequence_length: Count = 128
    """Characters in one training sequence."""
    validation: Fraction = 0.1
    """Fraction of the text, from its end, that is kept for validation."""


class TextData(Section):
    """Text of your own, UTF-8."""

    dataset: Literal["text"]
    """Your own text files."""
    path: PathText | None = None
    """A file, or a folder whose ``*.txt`` files are read in the order of their names; relative to the job file, or a URL in a store."""
    url: Url | None = None
    """A text file to download into a cache, instead of ``path``."""
    sha256: Sha256 | None = None
    """SHA-256 of the file that is downloaded."""
    sequence_length: Count = 128
    """Characters in one training sequence."""
    validation: Fraction = 0.1
    """Fraction of the text, from its end, that is kept for validation."""


class SequencesData(Section):
    """Labelled lines to classify, such as reviews: ``label<TAB>text``, UTF-8, of any lengths."""

    dataset: Literal["sequences"]
    """Lines of text, each with a label."""
    path: PathText | None = None
    """A file of lines ``label<TAB>text``, or a folder with ``train.tsv`` and, if there is one, ``validation.tsv``; relative to the job
    file, or a URL in a store.
    """
    url: Url | None = None
    """Such a file to download into a cache, instead of ``path``."""
    sha256: Sha256 | None = None
    """SHA-256 of the file that is downloaded."""
    tokens: Literal["characters", "words"] = "words"
    """What the network reads one after another. Words are runs of letters and digits, with apostrophes inside, in lower case, and
    single other marks.
    """
    vocabulary: Annotated[int, Field(ge=2, le=10**6)] = 20_000
    """Most frequent tokens of the training lines that are told apart; all others are one token, "unknown"."""
    max_length: Count = 256
    """Tokens of a line that are read; what is longer is cut off."""
    bucketing: bool = True
    """Put lines of similar lengths into one batch, so that little of it is padding."""
    validation: Fraction = 0.1
    """Fraction of the lines that is kept for validation, where there is no ``validation.tsv``."""


class FilesData(Section):
    """Files for a script: handed to it, unread, as ``CLOUD_TRAIN_DATA``."""

    dataset: Literal["files"]
    """Any files, for a script."""
    path: PathText
    """A file or a folder, relative to the job file, or a URL in a store (``s3://…``, ``gs://…``, ``az://…``), fetched when the run starts.
    """


ImageData = DigitsData | MnistData | Cifar10Data | ImagesData
LanguageData = PythonDocsData | TextData
OwnData = ImageData | LanguageData | SequencesData
"""What the built-in models learn from."""
Data = Annotated[
    DigitsData | MnistData | Cifar10Data | ImagesData | PythonDocsData | TextData | SequencesData | FilesData,
    Field(discriminator="dataset"),
]
