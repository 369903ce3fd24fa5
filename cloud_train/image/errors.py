"""The errors of this room."""

from cloud_train import exit_status
from cloud_train.errors import CloudTrainError


class ImageError(CloudTrainError):
    """An image cannot be made, or cannot be brought to where it is needed."""

    code = "image"
    exit_code = exit_status.PROVIDER


class RegistryError(ImageError):
    """A registry did not do what it was asked. ``status`` is the HTTP status of its answer, 0 where there was none."""

    def __init__(self, message: str, hint: str | None = None, status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status


class BrokenConnectionError(RegistryError):
    """A registry gave no answer, or not all of it."""
