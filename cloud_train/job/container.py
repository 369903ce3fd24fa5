"""The ``image`` section: what the container of a run is made of, on providers that run one."""

from cloud_train.spec.section import PathText, Section


class ImageSpec(Section):
    """What the container is made of; your code and cloud-train's worker are laid on top of it."""

    base: PathText | None = None
    """Image with Python 3.10 or later as python3; by default cloud-train's own, which has what the built-in trainers need."""
    dockerfile: PathText | None = None
    """A Dockerfile of your own instead of ``base``, relative to the job file; it sees the folder ``model.directory``."""
    requirements: PathText | None = None
    """A requirements file, relative to the job file, whose packages pip installs on top."""
