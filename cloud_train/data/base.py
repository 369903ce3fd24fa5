"""The base class of data sets: a section of the job file, and everything known about the data without torch."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, final
from urllib.parse import urlsplit

from cloud_train.data.downloads import Download, downloads_of
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.paths import is_there, mistake_in
from cloud_train.spec.problems import AbsentDataError, FieldError, Finding
from cloud_train.spec.secret_names import granting_parameter
from cloud_train.spec.types import PATTERNS, SHA256_PATTERN, PathText, Section

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
"""The beginning of a URL, which a path does not have."""
IN_STORE = re.compile(r"(s3|gs)://[^/]+(/.+)?|az://[^/]+/[^/]+(/.+)?")
"""The URLs of stores."""
_SOURCES = "path, or url and sha256"

SampleKind = Literal["images", "text", "lines", "series", "files"]
"""What a sample is: an image with its class, a piece of running text, a line of text with its label, a window of a time series with what
follows it; ``files`` are for a script.
"""


class DataSection(Section):
    """A data set. Its samples, which need torch, are loaded by the function that ``loader`` names."""

    dataset: str

    sample_kind: ClassVar[SampleKind]
    loader: ClassVar[str] = ""
    """``module:function`` that loads the data, called in the training process as ``function(section, place, seed)``.

    ``place`` is the file or folder of ``path``, or the download cache if there is no path. It returns a ``training.data.dataset.DataSet``.
    """
    packages: ClassVar[Mapping[str, str]] = {}
    """The packages that loading needs in addition to torch and NumPy: module → package that contains it."""

    most_download_bytes: ClassVar[int | None] = None
    """The largest file to download from ``url``, in bytes; None if only the disk sets a limit, as for an archive."""

    @property
    def given_path(self) -> str | None:
        """The field ``path``; None if the data set has no such field or the job does not set it."""
        path: str | None = getattr(self, "path", None)
        return path

    @property
    def given_url(self) -> str | None:
        """The URL that the data is downloaded from; None where it comes from a path or with a package."""
        url: str | None = getattr(self, "url", None)
        return url if self.given_path is None else None

    @property
    def store_url(self) -> str | None:
        """``path`` where it is a URL: such data is fetched from a store when the run starts."""
        path = self.given_path
        return path if path is not None and SCHEME.match(path) else None

    @property
    def source(self) -> str:
        """Where the data comes from, for display."""
        return self.given_path or self.given_url or ""

    def place(self, directory: Path) -> Path | None:
        """The file or folder on this machine that ``path`` names; ``directory`` is where a relative path starts.

        None for data without a path, which is downloaded or comes with a package, and for data in a store.
        """
        path = self.given_path
        return None if path is None or self.store_url else directory / Path(path).expanduser()

    def describe(self, directory: Path) -> DataFacts | None:
        """What is known about the data before a run; ``directory`` is where a relative path starts.

        None if nothing is known: for a script's files, and for data that has yet to be downloaded. Raises FieldError for data that cannot
        be used, and AbsentDataError, with what is known nevertheless, if ``path`` does not exist.
        """
        known = self.expected_facts()
        place = self.place(directory)
        if place is None:
            return known
        if not is_there(place):
            raise AbsentDataError(
                ("data", "path"), f"no such file or folder: {place}", "a file or a folder, relative to the job file", known
            )
        return self.facts_at(place) or known

    @final
    def downloads(self) -> list[Download]:
        """The files that have to be downloaded before the data can be loaded: those of the fields ``url`` and ``sha256``.

        The worker reads these two and the limit from ``run.json``, without the section's class.
        """
        return downloads_of(self.model_dump(mode="json"), self.most_download_bytes)

    def source_at(self, place: Path) -> Path:
        """The file or folder to load: ``place`` itself where the job sets ``path``, otherwise the one download in the cache ``place``.

        Raises FieldError if the job sets neither a path nor a URL with its checksum.
        """
        if self.given_path is not None:
            return place
        files = self.downloads()
        if not files:
            raise FieldError(("data",), "the source is missing", hint=f"set {_SOURCES}")
        return files[0].place_in(place)

    def expected_facts(self) -> DataFacts | None:
        """What is known without reading the data. Raises FieldError for fields that cannot be used together."""
        return None

    def facts_at(self, place: Path) -> DataFacts | None:
        """The facts about the data at ``place``; None if reading it adds nothing to ``expected_facts``. Raises FieldError."""
        return None

    @abstractmethod
    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """Rows of the plan, each a name and a value, that describe a sample and what the network distinguishes."""

    def check(self) -> Iterator[Finding]:
        """Mistakes in this section by itself."""
        path = self.given_path
        mistake = None if path is None else mistake_in(path)
        if mistake is not None:
            yield ("data", "path"), *mistake
        url = self.store_url
        if url is not None and mistake is None and not IN_STORE.fullmatch(url):
            wanted = "s3://bucket/…, gs://bucket/… or az://account/container/…, or a file or folder"
            yield ("data", "path"), f"{url!r} is not a store URL", wanted
        download = getattr(self, "url", None)
        if download is not None and "@" in urlsplit(download).netloc:
            yield ("data", "url"), "a user name or password must not be in a job file", "a URL without them, or path"
        elif download is not None and (name := granting_parameter(download)):
            wanted = "a URL that needs none, or path with a store URL (s3://…, gs://…, az://…)"
            yield ("data", "url"), f"the URL contains a signature or a key ({name!r}), which must not be in a job file", wanted
        if url is not None and granting_parameter(url):
            yield ("data", "path"), "a signature or a key must not be in a job file", "the store URL without them"

    def ignored_fields(self) -> Iterator[Finding]:
        """Fields that have no effect beside the others, whether the job sets them or not."""
        if self.given_path is not None and hasattr(self, "url"):
            yield ("data", "url"), "path and url cannot both be set", "path or url"
            yield ("data", "sha256"), "sha256 has no effect on data at a path", "url and sha256, or path alone"


def check_source(data: DataSection, sha256: str | None) -> Iterator[Finding]:
    """What is missing from a section that needs either ``path``, or ``url`` with its ``sha256``."""
    if data.given_path is None and data.given_url is None:
        yield ("data",), f"'path' is missing in 'data': the data set {data.dataset!r} needs a source", _SOURCES
    elif data.given_path is None and sha256 is None:
        yield ("data", "url"), "a download needs a checksum", f"sha256: {PATTERNS[SHA256_PATTERN]}"


class FilesData(DataSection):
    """Files for a script, passed to it as ``CLOUD_TRAIN_DATA`` without being read."""

    dataset: Literal["files"]
    """Any files, for a script."""
    path: PathText
    """A file or a folder, relative to the job file, or a store URL (``s3://…``, ``gs://…``, ``az://…``), fetched when the run starts.
    """

    sample_kind: ClassVar[SampleKind] = "files"

    def sample_rows(self, facts: DataFacts) -> list[tuple[str, str]]:
        """No rows: only the script knows its data."""
        return []
