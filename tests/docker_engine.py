"""The Docker Engine that tests use: the real one of this machine, and the base image that tests build upon.

Where there is none, tests are skipped with the reason; ``CLOUD_TRAIN_REQUIRE_DOCKER=1`` (as in CI) turns that into a failure.
"""

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from docker import DockerClient

from cloud_train.orchestrator.packaging import DEFAULT_BASE
from tests import lanes

BASE_IMAGE = "cloud-train-test/python:3.11"
"""Python and pip on Debian, made by .ci/engine; named by CLOUD_TRAIN_TEST_BASE where another one shall be used."""


def trainers_or_skip() -> "DockerClient":
    """A client of an engine that also has the project's own base image (``make image``), with what the trainers need."""
    return engine_or_skip(DEFAULT_BASE)


def engine_or_skip(*images: str) -> "DockerClient":
    """A client of the engine, which has the base image and these; close it after use."""
    lanes.require("docker")
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as error:
        return _absent(f"the Docker SDK is not installed: {error}")
    client = None
    try:
        client = docker.from_env(version="auto")
        for image in (base_image(), *images):
            client.images.get(image)
    except DockerException as error:
        if client is not None:
            client.close()
        return _absent(f"no Docker Engine with the images of the tests: {error}")
    return client


def base_image() -> str:
    """The name of an image with Python 3.11 or later in it."""
    return os.environ.get("CLOUD_TRAIN_TEST_BASE") or BASE_IMAGE


def _absent(reason: str) -> "DockerClient":
    if os.environ.get("CLOUD_TRAIN_REQUIRE_DOCKER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
