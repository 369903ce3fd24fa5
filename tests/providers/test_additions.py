"""The setting ``request``: fields of a cloud's own request, as the last word."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_train.job.config import load_config
from cloud_train.orchestrator.configs import _decisive
from cloud_train.providers.aws import request as aws
from cloud_train.providers.azure import request as azure
from cloud_train.providers.cloud.additions import with_additions
from cloud_train.providers.gcp import request as gcp
from cloud_train.providers.gcp import rules as gcp_rules
from cloud_train.run.plan import Plan
from tests.providers import aws_plans, azure_plans, gcp_plans


def test_mappings_are_merged_and_other_values_replace() -> None:
    body = {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    added = {"a": {"b": 2, "c": (3,), "new": {"deep": True, "gone": None}}, "d": None}
    assert with_additions(body, {"request": added}, (), "aws") == ({"a": {"b": 2, "c": [3], "new": {"deep": True}}}, [])
    assert body == {"a": {"b": 1, "c": [1, 2]}, "d": "x"}


def test_a_mapping_is_merged_into_each_item_of_a_list() -> None:
    body = {"pools": [{"machine": {"type": "a"}}, {"machine": {"type": "a"}, "count": 3}]}
    added = {"pools": {"machine": {"type": "b", "more": 1}}}
    machine = {"type": "b", "more": 1}
    assert with_additions(body, {"request": added}, (), "gcp")[0] == {"pools": [{"machine": machine}, {"machine": machine, "count": 3}]}


def test_without_the_setting_nothing_changes() -> None:
    assert with_additions({"a": None, "b": []}, {}, ("a",), "aws") == ({"a": None, "b": []}, [])


CLOUDS: dict[str, tuple[Callable[..., Plan], Any, Callable[..., Any], str]] = {
    "aws": (aws_plans.plan_of, aws.request_of, aws.problems_of, "EnableInterContainerTrafficEncryption"),
    "gcp": (gcp_plans.plan_of, gcp.request_of, gcp_rules.problems_of, "jobSpec.enableDashboardAccess"),
    "azure": (azure_plans.plan_of, azure.request_of, azure.problems_of, "properties.isArchived"),
}


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    added: dict[str, Any] = value
    return added


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_field_that_has_no_setting_reaches_the_request_and_is_validated(cloud: str) -> None:
    plan_of, request_of, problems_of, field = CLOUDS[cloud]
    plain = list(problems_of(request_of(plan_of())))
    request = request_of(plan_of(settings={"request": nested(field, True)}))
    body = request["job"]["body"] if cloud == "azure" else request["body"]
    for name in field.split("."):
        body = body[name]
    assert body is True
    assert list(problems_of(request)) == plain
    wrong = list(problems_of(request_of(plan_of(settings={"request": nested(field, "perhaps")}))))
    assert [problem for problem in wrong if problem not in plain and field in problem]
    unknown = list(problems_of(request_of(plan_of(settings={"request": nested(f"{field}x", True)}))))
    assert [problem for problem in unknown if problem not in plain and field.rpartition(".")[2] in problem]


@pytest.mark.parametrize(("cloud", "own"), [("aws", aws._OWN), ("gcp", gcp._OWN), ("azure", azure._OWN)])
@pytest.mark.parametrize("value", ["other", None, ["other"], {}, {"Key": "cloud-train-run", "Value": "other"}])
def test_a_field_by_which_a_job_is_found_again_stays_as_it_is(cloud: str, own: tuple[str, ...], value: Any) -> None:
    plan_of, request_of, problems_of, _ = CLOUDS[cloud]
    plain = request_of(plan_of())
    for field in own:
        request = request_of(plan_of(settings={"request": nested(field, value)}))
        if (
            value == {}
            and not isinstance(_value(plain, cloud, field), str)
            and _value(request, cloud, field) == _value(plain, cloud, field)
        ):
            continue  # an empty mapping adds nothing to a mapping, nor to a list of mappings
        assert _value(request, cloud, field) == _value(plain, cloud, field)
        assert f"{cloud}.request: {field} is a field that cloud-train needs itself; remove it from {cloud}.request" in problems_of(request)


def _value(request: dict[str, Any], cloud: str, field: str) -> Any:
    found: Any = request["job"]["body"] if cloud == "azure" else request["body"]
    for name in field.split("."):
        found = found[0] if isinstance(found, list) else found
        found = found[name]
    return found


def test_a_config_file_that_comes_with_a_job_is_asked_about_before_its_additions_take_effect(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("aws: {request: {EnableNetworkIsolation: true}}\n")
    assert _decisive(load_config(tmp_path / "c.yaml")) == ["aws.request"]
