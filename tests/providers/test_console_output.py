"""The setting ``console_output``, which every container's worker has to hear of."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.providers.aws.request import request_of as aws_request
from cloud_train.providers.azure.request import request_of as azure_request
from cloud_train.providers.docker.request import request_of as docker_request
from cloud_train.providers.gcp.request import request_of as gcp_request
from cloud_train.run.platform_rules import CONSOLE_OUTPUT
from tests.providers import aws_plans, azure_plans, gcp_plans
from tests.providers.docker_runs import plan_of as docker_plan

IMAGE = "sha256:" + "1" * 64


def docker(settings: dict[str, Any]) -> Any:
    plan = replace(docker_plan(Path("/home/me/runs"), "true", image=IMAGE), provider_settings=settings)
    return docker_request(plan, "1000:100", Path("/home/me/caches"), Path("/home/me/work"))


REQUESTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "aws": lambda settings: aws_request(aws_plans.plan_of(settings)),
    "azure": lambda settings: azure_request(azure_plans.plan_of(settings)),
    "gcp": lambda settings: gcp_request(gcp_plans.plan_of(settings=settings)),
    "gcp behind a private endpoint": lambda settings: gcp_request(
        gcp_plans.plan_of(settings={"endpoint": "https://{service}-training.p.googleapis.com", **settings})
    ),
    "docker": docker,
}


@pytest.mark.parametrize("place", REQUESTED)
def test_a_worker_hears_that_its_programs_output_is_not_wanted_and_nothing_otherwise(place: str) -> None:
    requested = REQUESTED[place]
    assert CONSOLE_OUTPUT not in json.dumps([requested({}), requested({"console_output": True})])
    assert CONSOLE_OUTPUT in json.dumps(requested({"console_output": False}))
