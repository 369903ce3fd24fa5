"""Files for a script."""

from typing import ClassVar, Literal

from cloud_train.data.base import DataSection, SampleKind
from cloud_train.spec.facts import DataFacts
from cloud_train.spec.section import PathText


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
