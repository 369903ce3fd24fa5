"""How many wrong requests a dry run accepts, of those that the clouds' descriptions and their rules in prose forbid."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloud_train.providers.aws.provider import SageMakerProvider
from cloud_train.providers.azure.provider import AzureMlProvider
from cloud_train.providers.base import Provider, Request
from cloud_train.providers.cloud.request import description
from cloud_train.providers.gcp.provider import VertexProvider
from tests.clouds import aws_wrong, azure_wrong, gcp_wrong
from tests.clouds.mutants import Mutant, Spoil, mutants_of

GOLDEN = Path(__file__).parents[1] / "providers" / "golden"
MOST = 0.05
"""The largest share of wrong requests that may be accepted, each of them with the reason why."""


@dataclass(frozen=True)
class Cloud:
    """What a cloud's wrong requests are made from."""

    provider: Callable[[Path], Provider]
    parts: Mapping[str, str]
    """Where a request has a body, as ``field`` or ``field.body`` → the schema of the body."""
    wrong: Mapping[str, Spoil] = field(default_factory=dict)
    """Mistakes that the description does not know, by name."""
    accepted: Mapping[str, str] = field(default_factory=dict)
    """The wrong requests that a dry run accepts → why."""


CLOUDS = {
    "aws": Cloud(SageMakerProvider, {"body": "CreateTrainingJobRequest"}, aws_wrong.REQUESTS, aws_wrong.ACCEPTED),
    "gcp": Cloud(VertexProvider, {"body": "CustomJob"}, gcp_wrong.REQUESTS, gcp_wrong.ACCEPTED),
    "azure": Cloud(
        AzureMlProvider,
        {"job.body": "JobBase", "environment.body": "EnvironmentVersion"},
        azure_wrong.REQUESTS,
        azure_wrong.ACCEPTED,
    ),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_next_to_no_wrong_request_is_accepted_and_those_that_are_have_their_reason(name: str, tmp_path: Path) -> None:
    cloud = CLOUDS[name]
    provider = cloud.provider(tmp_path)
    found = {mutant: provider.check(request) for mutant, request in wrong_requests(name, cloud).items()}
    accepted = {mutant for mutant, problems in found.items() if not problems}
    assert len(found) > 100
    assert accepted == {*cloud.accepted}, f"{len(accepted)} of {len(found)} wrong requests are accepted"
    assert len(accepted) <= MOST * len(found)


@pytest.mark.parametrize("name", [name for name, cloud in CLOUDS.items() if cloud.wrong])
def test_every_mistake_that_is_written_by_hand_changes_the_request(name: str) -> None:
    for mistake, spoil in CLOUDS[name].wrong.items():
        assert any(_spoiled(request, spoil) != request for request in requests(name)), mistake


def wrong_requests(name: str, cloud: Cloud) -> dict[str, Request]:
    """The wrong requests of a cloud by name; a mistake in the same field is made once."""
    found: dict[str, Request] = {}
    for request in requests(name):
        for part, definition in cloud.parts.items():
            for mutant in mutants_of(_at(request, part), description(name)["$defs"], definition):
                found.setdefault(f"{part}: {mutant.name}", _with(request, part, mutant))
        for mistake, spoil in cloud.wrong.items():
            spoiled = _spoiled(request, spoil)
            if spoiled != request:
                found.setdefault(mistake, spoiled)
    return found


def requests(name: str) -> Iterator[Request]:
    """Valid requests of a cloud: those of its golden files."""
    for file in sorted((GOLDEN / name).glob("*.json")):
        yield json.loads(file.read_text(encoding="utf-8"))


def _spoiled(request: Request, spoil: Spoil) -> Request:
    spoiled = copy.deepcopy(request)
    spoil(spoiled)
    return spoiled


def _at(request: Request, part: str) -> Any:
    place: Any = request
    for name in part.split("."):
        place = place[name]
    return place


def _with(request: Request, part: str, mutant: Mutant) -> Request:
    changed = copy.deepcopy(request)
    first, _, rest = part.partition(".")
    if rest:
        changed[first][rest] = mutant.body
    else:
        changed[first] = mutant.body
    return changed
