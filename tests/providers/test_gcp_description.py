"""The descriptions of Google's services that this project ships are those that Google publishes."""

import json

import pytest

from tests.clouds import gcp_description

needs_the_package = pytest.mark.skipif(
    not gcp_description.is_installed(), reason=f"{gcp_description.PACKAGE} is not installed: what it holds was made into the files before"
)


@needs_the_package
def test_what_is_shipped_is_what_the_discovery_document_says() -> None:
    made, kept = gcp_description.requests_description(), json.loads(gcp_description.REQUESTS.read_text(encoding="utf-8"))
    assert (made["$defs"], made["regions"]) == (kept["$defs"], kept["regions"])


@needs_the_package
def test_what_the_simulator_checks_by_is_what_the_discovery_documents_say() -> None:
    made, kept = gcp_description.simulator_description(), json.loads(gcp_description.SIMULATOR.read_text(encoding="utf-8"))
    assert {name: made[name] for name in made if name != "$comment"} == {name: kept[name] for name in kept if name != "$comment"}


def test_the_description_says_what_it_was_made_from() -> None:
    comment = json.loads(gcp_description.REQUESTS.read_text(encoding="utf-8"))["$comment"]
    assert gcp_description.PACKAGE in comment
    assert "aiplatform.v1 revision 20" in comment
