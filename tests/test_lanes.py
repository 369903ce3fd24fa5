"""A test is in the lanes of what it uses, however far away that is."""

from collections.abc import Callable

import pytest

from tests import docker_engine, lanes, stores
from tests.clouds import kit
from tests.conformance.places import DOCKER, LOCAL


class Holder:
    """Uses a server in a method."""

    def server(self) -> object:
        return stores.server_or_skip("s3")


def indirect() -> None:
    docker_engine.trainers_or_skip().close()


def inside() -> Callable[[], object]:
    def later() -> object:
        return Holder().server()

    return later


def nothing() -> str:
    return docker_engine.base_image()


@pytest.mark.parametrize(
    ("function", "expected"), [(indirect, {"docker"}), (inside, {"cloud"}), (nothing, set()), (kit.small_base, {"docker"})]
)
def test_a_function_reaches_what_it_names_through_helpers_classes_and_modules(function: object, expected: set[str]) -> None:
    assert lanes.reached_by(function) == expected


def test_the_methods_of_an_object_count() -> None:
    assert "docker" in lanes.reached_by(DOCKER)
    assert not lanes.reached_by(LOCAL)


def test_a_test_outside_a_lane_cannot_start_what_the_lane_is_about(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("docker") is None
    with pytest.raises(pytest.fail.Exception, match=r"needs the marker 'docker'"):
        lanes.require("docker")


@pytest.mark.docker
def test_a_test_inside_a_lane_can() -> None:
    lanes.require("docker")


def test_every_starter_still_exists() -> None:
    for starter in lanes.STARTERS:
        module, _, name = starter.partition(":")
        assert module in {docker_engine.__name__, stores.__name__}
        assert hasattr(docker_engine, name) or hasattr(stores, name)
