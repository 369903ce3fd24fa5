"""The image in a request, before and after it is built."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloud_train.providers.aws import request as aws
from cloud_train.providers.azure import request as azure
from cloud_train.providers.cloud.request import NOT_BUILT, image_of
from cloud_train.providers.gcp import request as gcp
from cloud_train.providers.gcp import rules as gcp_rules
from cloud_train.run.plan import Plan
from tests.providers import aws_plans, azure_plans, gcp_plans

CLOUDS: dict[str, tuple[Callable[..., Plan], Callable[..., Any], Callable[..., Any]]] = {
    "aws": (aws_plans.plan_of, aws.request_of, aws.problems_of),
    "gcp": (gcp_plans.plan_of, gcp.request_of, gcp_rules.problems_of),
    "azure": (azure_plans.plan_of, azure.request_of, azure.problems_of),
}
PINNED = f"registry.example.com/base@sha256:{'5' * 64} + requirements.txt + worker, built when submitted"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_base_with_a_digest_is_not_taken_for_the_image_that_is_built_from_it(cloud: str) -> None:
    plan_of, request_of, problems_of = CLOUDS[cloud]
    plan = replace(plan_of(), image=PINNED)
    assert image_of(plan) == f"{plan.provider_settings['repository']}@{NOT_BUILT}"
    assert list(problems_of(request_of(plan))) == list(problems_of(request_of(plan_of())))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_with_such_a_base_the_repository_is_checked_all_the_same(cloud: str) -> None:
    plan_of, request_of, problems_of = CLOUDS[cloud]
    plan = plan_of()
    settings = {**plan.provider_settings, "repository": "x.dkr.ecr.eu-west-1.amazonaws.com.evil.example/x"}
    problems = list(problems_of(request_of(replace(plan, provider_settings=settings, image=PINNED))))
    assert any(f"{cloud}.repository" in problem and "resembles" in problem for problem in problems), problems


@pytest.mark.parametrize("cloud", CLOUDS)
def test_an_image_that_is_built_is_in_the_request_as_it_is(cloud: str) -> None:
    plan = CLOUDS[cloud][0]()
    assert image_of(plan) == plan.image
