"""The errors of images and registries."""

from cloud_train import exit_status
from cloud_train.errors import CloudTrainError


class ImageError(CloudTrainError):
    """An image cannot be built, loaded or pushed."""

    code = "image"
    exit_code = exit_status.PROVIDER


class RegistryError(ImageError):
    """A registry refused a request. ``status`` is the HTTP status of its response, 0 without one."""

    def __init__(self, message: str, hint: str | None = None, status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status


class BrokenConnectionError(RegistryError):
    """A registry sent no response, or an incomplete one."""
