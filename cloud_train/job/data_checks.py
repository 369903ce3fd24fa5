"""What no single field of the ``data`` section can decide."""

from collections.abc import Iterator
from pathlib import Path as FilePath

from cloud_train.job.addresses import IN_STORE, data_in_store
from cloud_train.job.data import MNIST_SHA256
from cloud_train.job.document import has_home
from cloud_train.job.explain import PATTERNS
from cloud_train.job.models import Cifar10Data, Data, DigitsData, ImagesData, MnistData, Normalize, SequencesData, TextData
from cloud_train.spec.problems import Finding
from cloud_train.spec.section import SHA256_PATTERN

_SOURCES = "path, or url and sha256"


def check_data(data: Data | None) -> Iterator[Finding]:
    """What is wrong in the data section by itself."""
    path = getattr(data, "path", None)
    if path is not None and not has_home(path):
        yield (
            ("data", "path"),
            f"nobody here is called {FilePath(path).parts[0]!r}",
            "a path that starts with '~/', or the whole path",
        )
    address = data_in_store(data)
    if address is not None and not IN_STORE.fullmatch(address):
        wanted = "s3://bucket/…, gs://bucket/… or az://account/container/…, or a file or folder"
        yield ("data", "path"), f"{address!r} is not an address in a store that is known", wanted
    url = getattr(data, "url", None)
    if url is not None and "@" in url.split("/")[2]:
        yield ("data", "url"), "a job file is no place for a name and a password", "an address without them, or path"
    if isinstance(data, ImagesData | TextData | SequencesData):
        yield from _source(data)
    if isinstance(data, MnistData):
        yield from _checksums(data)
    if isinstance(data, DigitsData | MnistData | Cifar10Data | ImagesData):
        yield from _pixels(data)
    if isinstance(data, ImagesData) and data.classes == 1:
        yield ("data", "classes"), "with one class there is nothing to tell apart", "at least 2"


def _source(data: ImagesData | TextData | SequencesData) -> Iterator[Finding]:
    if data.path is None and data.url is None:
        yield ("data",), f"'path' is missing in 'data': nothing says where this {data.dataset} data comes from", _SOURCES
    elif data.path is None and data.sha256 is None:
        yield ("data", "url"), "a download needs a checksum that tells whether it is whole", f"sha256: {PATTERNS[SHA256_PATTERN]}"


def _checksums(data: MnistData) -> Iterator[Finding]:
    wanted = ", ".join(MNIST_SHA256)
    for name in data.sha256:
        if name not in MNIST_SHA256:
            yield ("data", "sha256", name), f"{name!r} is no file of MNIST", wanted
    missing = [name for name in MNIST_SHA256 if name not in data.sha256]
    if missing:
        yield ("data", "sha256"), f"the checksum of {', '.join(missing)} is missing", f"one for each of {wanted}"


def _pixels(data: DigitsData | MnistData | Cifar10Data | ImagesData) -> Iterator[Finding]:
    channels = 3 if isinstance(data, Cifar10Data) else data.channels if isinstance(data, ImagesData) else 1
    if data.normalize is not None:
        yield from _normalize(data.normalize, channels)
    if isinstance(data, ImagesData) or data.augment is None:
        return
    side = data.size if isinstance(data, DigitsData) else 28 if isinstance(data, MnistData) else 32
    if data.augment.crop >= side:
        yield ("data", "augment", "crop"), f"images of {side}×{side} pixels would be shifted out of sight", f"less than {side}"


def _normalize(normalize: Normalize, channels: int) -> Iterator[Finding]:
    of_images = f"the images have {channels} channel{'s' if channels > 1 else ''}"
    wanted = "one number" if channels == 1 else f"one number for all channels, or {channels}"
    for name, values in (("mean", normalize.mean), ("std", normalize.std)):
        if len(values) not in (1, channels):
            yield ("data", "normalize", name), f"{name} has {len(values)} numbers, and {of_images}", wanted
    lengths = {len(normalize.mean), len(normalize.std)}
    if len(lengths) == 2 and lengths <= {1, channels}:
        yield ("data", "normalize", "std"), f"mean has {len(normalize.mean)} numbers, and std {len(normalize.std)}", "as many of both"
