"""What the attacks share with the tests of what they attack."""

from tests.cli.conftest import cloud_train
from tests.orchestrator.conftest import home, start, write_job

__all__ = ["cloud_train", "home", "start", "write_job"]
