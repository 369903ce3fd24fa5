"""The azure provider with azure-core and azure-identity as they are, against the simulator's API; no container runs."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import ProviderError
from cloud_train.providers.azure import client as azure_client
from cloud_train.providers.azure import diagnosis, jobs
from cloud_train.providers.azure.client import client
from cloud_train.providers.azure.provider import AzureMlProvider
from cloud_train.providers.azure.request import workspace_of
from cloud_train.providers.base import (
    AlreadyLaunchedError,
    ConsoleLinked,
    Diagnosed,
    Handle,
    JobDiagnosed,
    LaunchUnknownError,
    ManyObserved,
    RegistryLogin,
    Request,
)
from cloud_train.run.states import Cause, State
from cloud_train.storage.trusted_hosts import UntrustedHostError
from tests.clouds.azure_jobs import Pace
from tests.clouds.azure_simulator import CLUSTER, STUDIO_SCOPE, TENANT, AzureSimulator
from tests.clouds.clock import VirtualClock
from tests.clouds.faults import Fault
from tests.providers.azure_plans import RUN_ID, STORE, plan_of

JOB = f"{RUN_ID}-1"
SECRET = f"cloud-train-{JOB}"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureSimulator]:
    monkeypatch.setattr(azure_client, "POLICY", replace(azure_client.POLICY, sleep=lambda seconds: None))
    with AzureSimulator(page_size=3) as simulator:
        for name, value in simulator.environment.items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def azure(tmp_path: Path) -> AzureMlProvider:
    return AzureMlProvider(tmp_path)


def request_to(cloud: AzureSimulator, azure: AzureMlProvider, settings: dict[str, Any] | None = None, **more: Any) -> Request:
    request = azure.render(plan_of({**cloud.settings, **(settings or {})}, **more))
    assert azure.check(request) == []
    return request


def launched(cloud: AzureSimulator, azure: AzureMlProvider, **more: Any) -> Handle:
    return azure.launch(request_to(cloud, azure, **more), {})


def test_it_does_all_that_a_cloud_s_provider_may_do(azure: AzureMlProvider) -> None:
    assert isinstance(azure, ManyObserved)
    assert isinstance(azure, RegistryLogin)
    assert isinstance(azure, ConsoleLinked)
    assert isinstance(azure, JobDiagnosed)
    assert isinstance(azure, Diagnosed)
    assert azure.capabilities.pulls_images
    assert azure.capabilities.stores == ("az",)


def test_a_launch_takes_three_calls_and_makes_the_job_that_was_rendered(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    request = request_to(cloud, azure)
    handle = azure.launch(request, {})
    assert [logged.operation for logged in cloud.server.requests if logged.operation != "token"] == [
        "jobs/read",
        "environments/write",
        "jobs/write",
    ]
    assert cloud.jobs[JOB].properties == request["job"]["body"]["properties"]
    assert json.loads(json.dumps(handle.reference)) == handle.reference
    assert azure.observe(handle).state is State.QUEUED


def test_a_second_launch_starts_nothing_even_after_the_job_has_ended(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    launched(cloud, azure)
    for status in ("Running", "Completed"):
        cloud.jobs[JOB].status = status
        with pytest.raises(AlreadyLaunchedError, match=f"the job {JOB} already exists in Azure ML"):
            launched(cloud, azure)
    assert list(cloud.jobs) == [JOB]
    assert cloud.jobs[JOB].status == "Completed"
    assert cloud.server.count("jobs/write") == 1


def test_of_two_launches_at_once_one_starts_the_job(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.faults.hide("jobs", requests=1)  # neither sees the other's

    def launch(_: int) -> str:
        try:
            launched(cloud, azure)
        except AlreadyLaunchedError:
            return "already"
        return "launched"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(launch, range(2))) == ["already", "launched"]
    assert len(cloud.jobs) == 1


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.SERVER_ERROR, Fault.THROTTLE])
@pytest.mark.parametrize("operation", ["jobs/read", "environments/write", "jobs/write"])
def test_whatever_befalls_a_launch_once_there_is_one_job(
    cloud: AzureSimulator, azure: AzureMlProvider, fault: Fault, operation: str
) -> None:
    cloud.faults.add(operation, fault)
    handle = launched(cloud, azure)
    assert list(cloud.jobs) == [JOB]
    assert azure.observe(handle).state is State.QUEUED


def test_a_lost_answer_is_settled_even_where_the_job_does_not_show_yet(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.faults.hide("jobs", requests=1)
    cloud.faults.add("jobs/write", Fault.LOST_ANSWER)
    launched(cloud, azure)
    assert list(cloud.jobs) == [JOB]
    assert cloud.server.count("jobs/write") == 2


def test_a_launch_that_nobody_can_settle_is_unknown_and_found_later(
    cloud: AzureSimulator, azure: AzureMlProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, original = request_to(cloud, azure), cloud.handle
    cloud.faults.add("jobs/write", Fault.LOST_ANSWER)

    def handle(asked: Any) -> Any:
        if cloud.operation_of(asked) == "jobs/write":
            cloud.faults.add("jobs/read", Fault.SERVER_ERROR, times=4)
        return original(asked)

    monkeypatch.setattr(cloud, "handle", handle)  # the network breaks down right after the job was made
    with pytest.raises(LaunchUnknownError, match="it is unknown whether the Azure ML job") as error:
        azure.launch(request, {})
    assert "cloud-train list" in str(error.value.hint)
    found = azure.find(RUN_ID, 1, STORE, cloud.settings)
    assert found is not None
    assert azure.observe(found).state is State.QUEUED


def test_find_brings_the_handle_back_and_knows_of_nothing_else(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    settings = plan_of(cloud.settings).provider_settings
    assert azure.find(RUN_ID, 1, STORE, settings) is None
    handle = launched(cloud, azure)
    found = azure.find(RUN_ID, 1, STORE, settings)
    assert found is not None
    assert {**found.reference, "launched": handle.reference["launched"]} == handle.reference
    assert azure.find(RUN_ID, 2, STORE, settings) is None
    cloud.jobs[f"{RUN_ID}-3"] = cloud.jobs[JOB]
    cloud.jobs[JOB].properties["tags"]["cloud-train-run"] = "another"
    assert azure.find(RUN_ID, 1, STORE, settings) is None


def test_a_job_of_somebody_else_without_tags_is_not_the_attempt(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    launched(cloud, azure)
    del cloud.jobs[JOB].properties["tags"]  # Azure ML answers null
    assert azure.find(RUN_ID, 1, STORE, cloud.settings) is None


def test_find_raises_where_azure_cannot_be_asked(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.faults.add("jobs/read", Fault.SERVER_ERROR, times=4)
    with pytest.raises(ProviderError, match="Azure cannot show the job"):
        azure.find(RUN_ID, 1, STORE, cloud.settings)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"subscription": "11111111-2222-3333-4444-000000000000"}, "azure.subscription"),
        ({"resource_group": "another"}, "azure.resource_group"),
        ({"workspace": "another"}, "azure.workspace"),
    ],
)
def test_a_place_that_is_not_there_is_named(cloud: AzureSimulator, azure: AzureMlProvider, settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ProviderError, match=f"{setting} does not exist"):
        azure.launch(request_to(cloud, azure, settings), {})
    with pytest.raises(ProviderError, match=setting):
        azure.find(RUN_ID, 1, STORE, {**cloud.settings, **settings})


@pytest.mark.parametrize(
    "action",
    [f"Microsoft.MachineLearningServices/workspaces/{name}" for name in ("jobs/read", "environments/versions/write", "jobs/write")],
)
def test_a_missing_permission_is_named_by_its_action(cloud: AzureSimulator, azure: AzureMlProvider, action: str) -> None:
    cloud.denied.add(action)
    with pytest.raises(ProviderError, match=f"the permission {action} is missing") as error:
        launched(cloud, azure)
    assert error.value.hint == "docs/clouds/azure.md names the role that includes it"
    assert cloud.jobs == {}


def test_credentials_that_have_expired_are_one_message(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.faults.add("jobs/read", Fault.EXPIRED_TOKEN)
    with pytest.raises(ProviderError, match="Azure rejected the credentials") as error:
        launched(cloud, azure)
    assert "az login" in str(error.value.hint)


def test_no_credentials_are_one_line(cloud: AzureSimulator, azure: AzureMlProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", "wrong")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ProviderError, match="no credentials for Azure") as error:
        launched(cloud, azure)
    assert "\n" not in error.value.message
    assert "az login" in str(error.value.hint)


def test_a_throttling_storm_ends_in_a_message_and_no_job(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.faults.add("jobs/write", Fault.THROTTLE, times=4)
    with pytest.raises(ProviderError, match="TooManyRequests"):
        launched(cloud, azure)
    assert cloud.jobs == {}


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"machine": "Standard_NC4s_T4_v3"}, "VM size 'Standard_NC4s_T4_v3'", "azure.machine .* similar machines: Standard_NC4as_T4_v3"),
        ({"identity": "00000000-0000-0000-0000-000000000001"}, "is not assigned", "azure.identity"),
        ({"compute": "no-such-cluster"}, "no-such-cluster is not found", "azure.compute"),
    ],
)
def test_what_only_azure_knows_to_be_wrong_is_said_in_its_words_and_with_what_to_do(
    cloud: AzureSimulator, azure: AzureMlProvider, settings: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ProviderError, match=message) as caught:
        azure.launch(request_to(cloud, azure, settings), {})
    assert re.search(hint, caught.value.hint or "")
    assert cloud.jobs == {}


def test_secrets_lie_in_the_vault_before_the_job_is_made_and_nowhere_else(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    request = request_to(cloud, azure, secrets=["TOKEN"])
    handle = azure.launch(request, {"TOKEN": "canary-1234"})
    operations = [logged.operation for logged in cloud.server.requests]
    assert operations.index("secrets/set") < operations.index("jobs/write")
    assert json.loads(cloud.keys.secrets[SECRET]) == {"TOKEN": "canary-1234"}
    assert f"--secrets azure-secret:{cloud.url}/secrets/{SECRET}" in cloud.jobs[JOB].properties["command"]
    others = [logged.request.body for logged in cloud.server.requests if logged.operation != "secrets/set"]
    assert b"canary-1234" not in b"".join(others)
    assert "canary-1234" not in json.dumps(handle.reference)
    found = azure.find(RUN_ID, 1, STORE, plan_of(cloud.settings).provider_settings)
    assert found is not None
    assert found.reference["secret"] == handle.reference["secret"]


def test_the_secrets_of_a_launch_that_fails_are_deleted(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.denied.add("Microsoft.MachineLearningServices/workspaces/jobs/write")
    with pytest.raises(ProviderError):
        azure.launch(request_to(cloud, azure, secrets=["TOKEN"]), {"TOKEN": "canary-1234"})
    assert cloud.keys.secrets == {}


def test_clean_up_deletes_the_secrets_of_a_job_that_has_ended_twice_too(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handle = azure.launch(request_to(cloud, azure, secrets=["TOKEN"]), {"TOKEN": "x"})
    cloud.jobs[JOB].status = "Completed"
    azure.clean_up(handle)
    azure.clean_up(handle)
    assert cloud.keys.secrets == {}


def test_secrets_of_a_job_that_goes_on_are_left_to_a_later_launch(
    cloud: AzureSimulator, azure: AzureMlProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_train.providers.azure.provider._LEAVING_SECONDS", 0.0)
    handle = azure.launch(request_to(cloud, azure, secrets=["TOKEN"]), {"TOKEN": "x"})
    cloud.jobs[JOB].status = "Running"
    azure.clean_up(handle)
    assert list(cloud.keys.secrets) == [SECRET]
    cloud.jobs[JOB].status = "Completed"
    launched(cloud, azure, run_id="another-261124-120000-abcd")
    assert cloud.keys.secrets == {}


def test_cancel_asks_azure_ml_and_leaves_alone_what_has_ended_or_is_gone(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handle = launched(cloud, azure)
    cloud.jobs[JOB].status = "Running"
    azure.cancel(handle)
    assert azure.observe(handle).state is State.STOPPING
    cloud.jobs[JOB].status = "Canceled"
    assert azure.observe(handle).cause is Cause.CANCELLED
    azure.cancel(handle)
    azure.cancel(handle, force=True)
    cloud.jobs.clear()
    azure.cancel(handle)


def test_a_cancellation_that_is_not_allowed_says_so(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handle = launched(cloud, azure)
    cloud.denied.add("Microsoft.MachineLearningServices/workspaces/jobs/cancel/action")
    with pytest.raises(ProviderError, match="jobs/cancel/action is missing"):
        azure.cancel(handle)


def test_why_a_job_failed_comes_from_the_run_history(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handle = launched(cloud, azure)
    cloud.jobs[JOB].status = "Failed"
    cloud.jobs[JOB].error = {"code": "UserError", "message": "Execution failed. User process 'python3' exited with status code 11."}
    assert azure.observe(handle).cause is Cause.OUT_OF_MEMORY
    cloud.faults.add("history/details", Fault.SERVER_ERROR, times=4)
    assert azure.observe(handle).cause is Cause.UNKNOWN


def test_a_job_that_is_gone_has_ended_unless_it_is_fresh(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handle = launched(cloud, azure)
    cloud.jobs.clear()
    assert azure.observe(handle).state is State.QUEUED
    handle.reference["launched"] -= 3600
    gone = azure.observe(handle)
    assert (gone.state, gone.cause) == (State.INTERRUPTED, Cause.INFRASTRUCTURE)


def test_what_cannot_be_asked_is_unknown(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handle = launched(cloud, azure)
    cloud.faults.add("jobs/read", Fault.SERVER_ERROR, times=4)
    seen = azure.observe(handle)
    assert (seen.state, seen.cause) == (State.RUNNING, Cause.UNKNOWN)
    assert "InternalServerError" in seen.message


def test_many_jobs_take_one_listing_a_page(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handles = [launched(cloud, azure, run_id=f"run-261124-12000{number}-abcd") for number in range(7)]
    states = ["Running", "Queued", "Completed", "Preparing", "Canceled", "NotStarted", "NotResponding"]
    for handle, status in zip(handles, states, strict=True):
        cloud.jobs[handle.reference["job"]].status = status
    cloud.server.requests.clear()
    seen = azure.observe_all(handles)
    assert seen == [azure.observe(handle) for handle in handles]
    assert cloud.server.count("jobs/list") == 3
    assert cloud.server.count("jobs/read") == 7  # those of the comparison


def test_a_job_that_a_listing_does_not_show_is_asked_for_by_itself(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handles = [launched(cloud, azure, run_id=f"run-261124-12000{number}-abcd") for number in range(2)]
    cloud.faults.hide("jobs", requests=1)
    handles.append(launched(cloud, azure, run_id="run-261124-120009-abcd"))
    assert [each.state for each in azure.observe_all(handles)] == [State.QUEUED] * 3


def test_pages_that_repeat_do_not_go_on_for_ever(cloud: AzureSimulator, azure: AzureMlProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    handles = [launched(cloud, azure, run_id=f"run-261124-12000{number}-abcd") for number in range(4)]
    original = cloud.handle

    def handle(asked: Any) -> Any:
        if cloud.operation_of(asked) == "jobs/list":
            asked = type(asked)(asked.method, asked.path, {**asked.query, "$skip": "0"}, asked.headers, asked.body)
        return original(asked)

    monkeypatch.setattr(cloud, "handle", handle)  # the second page is the first again, and leads to itself
    assert [each.state for each in azure.observe_all(handles)] == [State.QUEUED] * 4
    assert cloud.server.count("jobs/list") == 2


def test_logs_come_in_pages_and_go_on_where_they_left_off(
    cloud: AzureSimulator, azure: AzureMlProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_train.providers.azure.provider._LOG_PAGE_BYTES", 4)
    handle = launched(cloud, azure)
    logs = cloud.jobs[JOB].logs
    assert azure.logs(handle, None) == (b"", "{}")
    logs["user_logs/std_log.txt"] = b"one two"
    logs["system_logs/lifecycler.log"] = b"not the program's"
    first, cursor = azure.logs(handle, None)
    second, cursor = azure.logs(handle, cursor)
    assert (first, second) == (b"one ", b"two")
    assert azure.logs(handle, cursor) == (b"", cursor)
    logs["user_logs/std_log.txt"] += b" \xff"
    assert azure.logs(handle, cursor)[0] == b" \xff"


def test_of_several_nodes_the_log_is_node_0_s(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handle = launched(cloud, azure, resources={"nodes": 2})
    cloud.jobs[JOB].logs = {"user_logs/std_log_process_0.txt": b"first\n", "user_logs/std_log_process_1.txt": b"second\n"}
    assert azure.logs(handle, None)[0] == b"first\n"


def test_a_log_that_lags_comes_later(azure: AzureMlProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    with AzureSimulator(clock=clock, pace=Pace(log_lag=30)) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        handle = launched(cloud, azure)
        cloud.jobs[JOB].logs["user_logs/std_log.txt"] = b"printed"
        said, cursor = azure.logs(handle, None)
        clock.advance(30)
        assert said == b""
        assert azure.logs(handle, cursor)[0] == b"printed"


def test_the_history_is_found_by_the_workspace_s_region_where_nothing_names_it(
    cloud: AzureSimulator, azure: AzureMlProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = launched(cloud, azure)
    handle.reference["history"] = None
    asked: list[str] = []
    original = azure_client.Client.call

    def call(self: azure_client.Client, method: str, url: str, *more: Any, **options: Any) -> Any:
        asked.append(url)
        return original(self, method, url.replace("https://westeurope.api.azureml.ms", cloud.url), *more, **options)

    monkeypatch.setattr(azure_client.Client, "call", call)
    azure.logs(handle, None)
    assert asked[-1].startswith("https://westeurope.api.azureml.ms/history/v1.0/subscriptions/")


def test_the_registry_s_password_is_a_token_of_its_own(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    host = cloud.url.removeprefix("http://")
    assert client().registry_password(host) == f"refresh-for-{host}"
    assert azure.registry_login({"repository": "docker.io/me/cloud-train"}) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"repository": "me.azurecr.cn/x"},
        {"repository": "me.azurecr.io/x", "cloud": "AzureUSGovernment"},
        {"repository": "me.azurecr.io/x", "endpoint": "https://management.chinacloudapi.cn"},
    ],
)
def test_no_token_of_one_cloud_is_sent_to_a_registry_of_another(azure: AzureMlProvider, settings: dict[str, str]) -> None:
    with pytest.raises(ProviderError, match=r"belongs to Azure\w+, so no token of Azure\w+ is sent to it"):
        azure.registry_login(settings)


def test_a_token_does_not_travel_unencrypted_to_another_machine(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    with pytest.raises(ProviderError, match="not encrypted"):
        client().call("GET", "http://management.example.org/", "try")


def test_the_doctor_finds_nothing_where_all_is_there(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    settings = {**cloud.settings, "repository": f"{cloud.url.removeprefix('http://')}/cloud-train", "machine": "Standard_F4s_v2"}
    found = list(azure.diagnose(settings, None))
    assert [each for each in found if each.status != "ok"] == []
    assert {each.name for each in found} == {"credentials", "workspace", "permissions", "machines", "identity", "registry", "vault"}


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"location": "northeurope"}, "workspace", "in westeurope, not in northeurope"),
        ({"machine": "Standard_NC99_v9"}, "machines", "westeurope has no Standard_NC99_v9"),
        ({"machine": "Standard_NC4s_T4_v3"}, "machines", "westeurope has no Standard_NC4s_T4_v3"),
        ({"compute": "no-such-cluster"}, "machines", "no-such-cluster"),
        ({"identity": "00000000-0000-0000-0000-000000000001"}, "identity", "is not assigned to the workspace"),
        ({"workspace": "another"}, "workspace", "azure.workspace does not exist"),
        ({"subscription": None}, "settings", "not set: azure.subscription"),
    ],
)
def test_the_doctor_names_what_is_missing(
    cloud: AzureSimulator, azure: AzureMlProvider, settings: dict[str, Any], name: str, words: str
) -> None:
    chosen = {key: value for key, value in {**cloud.settings, **settings}.items() if value is not None}
    found = next(each for each in azure.diagnose(chosen, None) if each.status == "error")
    assert found.name == name
    assert words in found.detail
    assert found.remedy


def test_the_doctor_names_each_permission_by_its_action(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.denied.add("Microsoft.MachineLearningServices/workspaces/jobs/write")
    cloud.keys.registry_actions = ["pull"]
    settings = {**cloud.settings, "repository": f"{cloud.url.removeprefix('http://')}/cloud-train"}
    found = {each.name: each for each in azure.diagnose(settings, None) if each.status == "error"}
    assert "Microsoft.MachineLearningServices/workspaces/jobs/write" in found["permissions"].detail
    assert "Microsoft.ContainerRegistry/registries/push/write" in found["registry"].detail


def test_the_doctor_does_without_what_a_submission_does_without(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    region = "Microsoft.MachineLearningServices/locations"
    settings = {**cloud.settings, "machine": "Standard_F4s_v2"}
    for action, name in ((f"{region}/usages/read", "machines"), ("Microsoft.Authorization/permissions/read", "permissions")):
        cloud.denied = {action}
        [found] = [each for each in azure.diagnose(settings, None) if each.status != "ok"]
        assert (found.name, found.status) == (name, "warning")
        assert f"the permission {action} is missing" in found.detail
        assert found.remedy


def test_the_doctor_says_what_quota_is_too_small(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.cores = 2
    found = {each.name: each for each in azure.diagnose({**cloud.settings, "machine": "Standard_F4s_v2"}, None)}
    assert found["machines"].status == "error"
    assert "2 are left" in found["machines"].detail


def test_the_doctor_counts_the_region_s_total_too(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.regional_cores, cloud.low_priority_cores = 3, 1
    found = {each.name: each for each in azure.diagnose({**cloud.settings, "machine": "Standard_F4s_v2"}, None)}["machines"]
    assert found.status == "error"
    assert "only 3 are left of 'Total Cluster Dedicated Regional vCPUs'; for low-priority machines, 1 are left" in found.detail
    assert "resources.spot" not in found.remedy


def test_the_doctor_names_the_pool_of_low_priority_machines_where_it_suffices(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.cores = 0
    found = {each.name: each for each in azure.diagnose({**cloud.settings, "machine": "Standard_F4s_v2"}, None)}["machines"]
    assert found.status == "error"
    assert "or use low-priority machines (resources.spot)" in found.remedy


def test_the_doctor_warns_of_another_registry_than_the_workspace_s_own(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    registries = f"/subscriptions/{cloud.settings['subscription']}/resourceGroups/x/providers/Microsoft.ContainerRegistry/registries"
    settings = {**cloud.settings, "repository": "mine.azurecr.io/cloud-train"}

    def warned(own: str, **more: str) -> bool:
        cloud.workspace_properties = {"containerRegistry": f"{registries}/{own}"} if own else {}
        place = {"properties": cloud.workspace_properties}
        return any("unable to pull" in each.detail for each in diagnosis._of_pulling({**settings, **more}, place))

    assert warned("theirs")
    assert warned("")
    assert not warned("Mine")
    assert not warned("theirs", compute=CLUSTER)
    assert not warned("theirs", repository="ghcr.io/me/cloud-train")


def test_the_doctor_warns_of_secrets_that_jobs_left_behind(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    others = {f"other-{number}": "x" for number in range(60)}
    cloud.keys.secrets = {**others, "cloud-train-old-1": "{}", "cloud-train-new-1": "{}", "another": "x"}
    cloud.keys.created = {
        **dict.fromkeys(others, 1_600_000_000),
        "cloud-train-old-1": 1_700_000_000,
        "cloud-train-new-1": int(time.time()),
        "another": 1_600_000_000,
    }
    found = {each.name: each for each in azure.diagnose(cloud.settings, None)}["vault"]
    assert (found.status, "cloud-train-old-1" in found.detail) == ("warning", True)
    assert found.remedy.startswith("delete them with: az keyvault secret delete")
    del cloud.keys.secrets["cloud-train-old-1"]
    assert {each.name: each for each in azure.diagnose(cloud.settings, None)}["vault"].status == "ok"


@pytest.mark.parametrize(
    ("resources", "retry", "is_said"),
    [({"spot": True}, {"attempts": 1}, True), ({"spot": True}, {"attempts": 2}, False), ({}, {"attempts": 1}, False)],
)
def test_a_plan_says_first_what_would_be_paid_for_nothing(
    azure: AzureMlProvider, resources: dict[str, Any], retry: dict[str, Any], is_said: bool
) -> None:
    said = list(azure.remarks(plan_of(resources=resources, retry=retry)))
    assert any(each.startswith("resources.spot without a retry: ") for each in said) is is_said


MACHINE = "Standard_NC4as_T4_v3"


@pytest.mark.parametrize(
    ("resources", "status", "said"),
    [
        ({"nodes": 3}, "ok", f"the job needs 3 × {MACHINE} dedicated, 12 cores; 12 are left of 'Standard"),
        ({"nodes": 4}, "error", f"the job needs 4 × {MACHINE} dedicated, 16 cores, but only 12 are left of 'Standard"),
        ({"nodes": 2, "spot": True}, "ok", f"the job needs 2 × {MACHINE} low-priority, 8 cores; 9 are left of 'Total Cluster LowPriority"),
        ({"nodes": 3, "spot": True}, "error", f"the job needs 3 × {MACHINE} low-priority, 12 cores, but only 9 are left of 'Total"),
    ],
)
def test_the_doctor_compares_the_quota_of_the_very_machine_with_what_a_job_needs(
    cloud: AzureSimulator, azure: AzureMlProvider, resources: dict[str, Any], status: str, said: str
) -> None:
    cloud.cores, cloud.low_priority_cores = 12, 9
    [found] = azure.diagnose_job(plan_of(cloud.settings, resources={"accelerator": "T4", **resources}))
    assert (found.name, found.status) == ("quota", status)
    assert found.detail.startswith(said)
    assert ("request more" in found.remedy) == (status == "error")


def test_the_doctor_of_a_job_counts_the_region_s_total_too(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    cloud.regional_cores = 7
    [found] = azure.diagnose_job(plan_of(cloud.settings, resources={"accelerator": "T4", "nodes": 2}))
    assert found.detail.endswith("8 cores, but only 7 are left of 'Total Cluster Dedicated Regional vCPUs'")


def test_the_doctor_of_a_job_names_a_machine_that_the_region_lacks_and_a_permission_that_is_missing(
    cloud: AzureSimulator, azure: AzureMlProvider
) -> None:
    [found] = azure.diagnose_job(plan_of({**cloud.settings, "machine": "Standard_NC4as_T4_v9"}))
    assert (found.status, found.detail) == ("error", "westeurope has no Standard_NC4as_T4_v9")
    assert MACHINE in found.remedy
    cloud.denied.add("Microsoft.MachineLearningServices/locations/usages/read")
    [found] = azure.diagnose_job(plan_of({**cloud.settings, "machine": MACHINE}))
    assert (found.status, "such as Reader" in found.remedy) == ("warning", True)


def test_the_doctor_compares_a_cluster_with_what_a_job_needs(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    def found(**resources: Any) -> list[tuple[str, str]]:
        plan = plan_of({**cloud.settings, "compute": CLUSTER}, resources=resources)
        return [(each.status, each.detail) for each in azure.diagnose_job(plan)]

    assert found(nodes=2) == [("ok", f"the cluster {CLUSTER} has up to 2 × STANDARD_F4S_V2, and the job needs 2")]
    assert found(nodes=3) == [("error", f"the cluster {CLUSTER} has up to 2 × STANDARD_F4S_V2, and the job needs 3")]
    lacking = ("error", "STANDARD_F4S_V2: it has no accelerator, but resources.accelerator asks for 1 × T4")
    assert found(accelerator="T4")[1:] == [lacking]


def test_a_cluster_s_own_identity_is_looked_at(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    found = {each.name: each for each in azure.diagnose({**cloud.settings, "compute": CLUSTER}, None)}
    assert found["identity"].detail == "assigned to the cluster"


@pytest.mark.parametrize(
    ("name", "manager", "vault"),
    [
        (None, "https://management.azure.com", "https://vault.azure.net"),
        ("AzureUSGovernment", "https://management.usgovcloudapi.net", "https://vault.usgovcloudapi.net"),
        ("AzureChinaCloud", "https://management.chinacloudapi.cn", "https://vault.azure.cn"),
    ],
)
def test_the_tokens_of_a_cloud_are_asked_for_by_its_own_scopes(cloud: AzureSimulator, name: str | None, manager: str, vault: str) -> None:
    azure = client(name)
    assert azure.token()
    for kind in (azure_client.MANAGER, azure_client.VAULT):
        with suppress(ProviderError):  # the simulator is the public cloud's
            azure.call_once("GET", f"{cloud.url}/secrets", "list secrets", token=kind)
    asked = [logged.request.query["resource"] for logged in cloud.server.requests if logged.operation == "token"]
    assert {*asked} == {manager, vault}


def test_a_run_in_a_sovereign_cloud_is_asked_for_there_later_too(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    settings = {**cloud.settings, "cloud": "AzureUSGovernment", "location": "usgovvirginia"}
    handle = Handle(RUN_ID, 1, "azure", STORE, {**workspace_of(settings), "job": JOB, "secret": None})
    azure.observe(handle)
    [asked] = {logged.request.query["resource"] for logged in cloud.server.requests if logged.operation == "token"}
    assert asked == "https://management.usgovcloudapi.net"


def test_a_job_has_the_page_in_the_studio_that_azure_answers(cloud: AzureSimulator, azure: AzureMlProvider) -> None:
    handle = launched(cloud, azure)
    page = f"https://ml.azure.com/runs/{JOB}?wsid={STUDIO_SCOPE}&tid={TENANT}"
    assert azure.console_url(handle) == page
    found = azure.find(RUN_ID, 1, STORE, cloud.settings)
    assert found is not None
    assert azure.console_url(found) == page


@pytest.mark.parametrize(
    "answered", [None, "https://ml.azure.com.attacker.example/runs/x", "javascript:alert(1)", "https://ml.azure.com/a\x1b[2J"]
)
def test_a_page_that_is_not_the_studio_s_is_not_shown(cloud: AzureSimulator, azure: AzureMlProvider, answered: str | None) -> None:
    cloud.studio_url = answered
    assert azure.console_url(launched(cloud, azure)) == f"https://ml.azure.com/runs/{JOB}?wsid={STUDIO_SCOPE}"


@pytest.mark.parametrize(
    ("name", "host"), [(None, "ml.azure.com"), ("AzureUSGovernment", "ml.azure.us"), ("AzureChinaCloud", "studio.ml.azure.cn")]
)
def test_the_page_is_known_before_the_job_exists_on_the_host_of_its_cloud(azure: AzureMlProvider, name: str | None, host: str) -> None:
    scope = "/subscriptions/11111111-2222-3333-4444-555555555555/resourcegroups/cloud-train/workspaces/training"
    request = azure.render(plan_of({"cloud": name}))
    assert azure.console_url(request) == f"https://{host}/runs/{JOB}?wsid={scope}"
    for missing in ("subscription", "resource_group", "workspace"):
        assert azure.console_url(azure.render(plan_of({missing: None}))) is None


@pytest.mark.parametrize(
    ("name", "properties", "history"),
    [
        (None, {"discoveryUrl": "https://abc.workspace.westeurope.api.azureml.ms/discovery"}, "abc.workspace.westeurope.api.azureml.ms"),
        (None, {}, "westeurope.api.azureml.ms"),
        (None, {"discoveryUrl": "not a URL"}, "westeurope.api.azureml.ms"),
        ("AzureChinaCloud", {}, "westeurope.api.ml.azure.cn"),
    ],
)
def test_the_workspace_names_the_host_of_its_run_history(
    cloud: AzureSimulator, name: str | None, properties: dict[str, str], history: str
) -> None:
    cloud.workspace_properties = properties
    cloud.managers.add("https://management.chinacloudapi.cn")
    place = workspace_of({key: value for key, value in cloud.settings.items() if key not in ("history_endpoint", "location")})
    assert place["history"] is None
    assert jobs.history_of(client(name), place) == f"https://{history}"


def test_a_host_that_the_workspace_invents_gets_no_token(cloud: AzureSimulator) -> None:
    cloud.workspace_properties = {"discoveryUrl": "https://example.com/discovery"}
    place = {**workspace_of({**cloud.settings, "history_endpoint": None, "location": None}), "job": JOB}
    with pytest.raises(UntrustedHostError, match=r"refusing to send .* to example\.com"):
        jobs.details(client(), place)
