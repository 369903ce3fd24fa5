"""Whatever settings and run directories say, a cloud's token goes to no attacker. ``Wire`` hears all that leaves the machine."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import CloudTrainError, ProviderError
from cloud_train.job.config import load_config
from cloud_train.providers.aws.client import POLICY as AWS_POLICY
from cloud_train.providers.aws.provider import SageMakerProvider
from cloud_train.providers.azure import client as azure_client
from cloud_train.providers.azure.provider import AzureMlProvider
from cloud_train.providers.base import Handle
from cloud_train.providers.docker.provider import DockerProvider
from cloud_train.providers.gcp.client import POLICY as GCP_POLICY
from cloud_train.providers.gcp.provider import VertexProvider
from cloud_train.spec.problems import JobFileError
from cloud_train.storage.registry import check_url, open_store
from tests.attack.wire import Wire, redirect
from tests.clouds.azure_simulator import PATH, AzureSimulator
from tests.clouds.gcp_simulator import PROJECT, REGION, GcpSimulator
from tests.clouds.server import Server
from tests.providers.azure_plans import SETTINGS as AZURE_SETTINGS

RUN = "digits-261124-120000-abcd"
NAMES = (
    *("attacker.example", "*.attacker.example", "*.googleapis.com.attacker.example", "management.azure.com.attacker.example"),
    *("europe-west4-aiplatform.googleapis.com", "private.example", "*.private.example", "*.vault.azure.net.attacker.example"),
)
TRUSTED = "CLOUD_TRAIN_TRUSTED_HOSTS"


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with Wire(tmp_path / "wire", *NAMES) as wire:
        yield wire


@pytest.fixture
def google(tmp_path: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexProvider]:
    """A provider whose credentials are good, on that wire."""
    with GcpSimulator(tmp_path / "google") as simulator:
        enter(monkeypatch, simulator.environment, wire.environment)
        yield VertexProvider(tmp_path, timeouts=(5.0, 5.0), policy=replace(GCP_POLICY, sleep=lambda seconds: None))


@pytest.fixture
def azure(tmp_path: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[AzureMlProvider, AzureSimulator]]:
    """A provider whose identity is good, on that wire."""
    monkeypatch.setattr(azure_client, "POLICY", replace(azure_client.POLICY, sleep=lambda seconds: None))
    with AzureSimulator() as simulator:
        enter(monkeypatch, simulator.environment, wire.environment)
        yield AzureMlProvider(tmp_path), simulator


def enter(monkeypatch: pytest.MonkeyPatch, *environments: Mapping[str, str]) -> None:
    monkeypatch.delenv(TRUSTED, raising=False)
    azure_client._client.cache_clear()
    for environment in environments:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)


def tried(*asks: Callable[[], object]) -> None:
    for ask in asks:
        with suppress(CloudTrainError):
            ask()


GOOGLE = [
    {"endpoint": "http://attacker.example/{service}"},
    {"endpoint": "http://europe-west4-aiplatform.googleapis.com"},
    {"endpoint": "https://attacker.example/{service}"},
    {"endpoint": "https://{service}.googleapis.com.attacker.example"},
    {"endpoint": "https://{service}.googleapis.com@attacker.example"},
    {"endpoint": "https://{service}.googleapis.com:x@attacker.example"},
    {"endpoint": "https://attacker.example#{service}.googleapis.com"},
    {"endpoint": "https://attacker.example?{service}.googleapis.com"},
    {"endpoint": "https://attacker.example\\{service}.googleapis.com"},
    {"endpoint": "https://attacker.example:443/{service}"},
    {"endpoint": "https://ATTACKER.example/{service}"},
    {"endpoint": "https://attacker.example./{service}"},
    {"endpoint": "https://attacker.example/{service}\n"},
    {"endpoint": " https://attacker.example/{service}"},
    {"endpoint": "https://аttacker.example/{service}"},
    {"endpoint": "http://127.0.0.1:1@attacker.example/{service}"},
    {"endpoint": "//attacker.example/{service}"},
    {"region": "attacker.example/#"},
    {"region": "attacker.example/x?y="},
    {"region": "x@attacker.example/"},
    {"region": "attacker.example\\"},
    {"region": "attacker.example:443/"},
    {"region": "europe-west4-aiplatform.googleapis.com@attacker.example/"},
    {"project": "x/../../../#"},
]


@pytest.mark.parametrize("settings", GOOGLE, ids=str)
def test_googles_token_does_not_go_where_hostile_settings_lead(
    settings: dict[str, str], google: VertexProvider, wire: Wire, tmp_path: Path
) -> None:
    chosen = {"project": PROJECT, "region": REGION, "endpoint": None, **settings}
    job = {"job": f"projects/{PROJECT}/locations/{REGION}/customJobs/1", "created": "2026-11-24T12:00:00Z", "launched": 0.0, "secret": "x"}
    handle = Handle(RUN, 1, "gcp", "gs://bucket/runs", {**chosen, **job})
    tried(
        lambda: google.find(RUN, 1, "gs://bucket/runs", chosen),
        lambda: google.observe(handle),
        lambda: google.observe_all([handle, handle]),
        lambda: google.logs(handle, None),
        lambda: google.cancel(handle),
        lambda: google.clean_up(handle),
        lambda: list(google.diagnose(chosen, "gs://bucket/runs")),
    )
    assert wire.heard == []


def test_the_wire_hears_the_token_that_goes_to_google_itself(google: VertexProvider, wire: Wire) -> None:
    tried(lambda: google.find(RUN, 1, "gs://bucket/runs", {"project": PROJECT, "region": REGION}))
    assert wire.hosts_that_heard("Bearer ya29.") == {"europe-west4-aiplatform.googleapis.com"}


@pytest.mark.parametrize("named", ["other.example, private.example", "*.example,", "private.example:443"])
def test_a_private_endpoint_gets_the_token_once_this_machine_names_it(
    named: str, google: VertexProvider, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"project": PROJECT, "region": REGION, "endpoint": "https://private.example/{service}"}
    with pytest.raises(ProviderError, match=r"refusing to send Google's access token to private\.example") as caught:
        google.find(RUN, 1, "gs://bucket/runs", settings)
    assert wire.heard == []
    assert "gcp.endpoint" in str(caught.value.hint)
    assert TRUSTED in str(caught.value.hint)
    monkeypatch.setenv(TRUSTED, named)
    tried(lambda: google.find(RUN, 1, "gs://bucket/runs", settings))
    assert wire.hosts_that_heard("Bearer ya29.") == {"private.example"}


def test_googles_token_follows_no_redirect(google: VertexProvider) -> None:
    with Server(redirect("http://127.0.0.1:1/")) as other, Server(redirect(other.url, 307)) as first:
        tried(lambda: google.find(RUN, 1, "gs://b", {"project": PROJECT, "region": REGION, "endpoint": f"{first.url}/{{service}}"}))
        assert first.requests[0].request.headers["authorization"].startswith("Bearer ya29.")
        assert other.requests == []


AZURE = [
    {"endpoint": "http://attacker.example"},
    {"endpoint": "http://management.azure.com.attacker.example"},
    {"endpoint": "https://attacker.example"},
    {"endpoint": "https://management.azure.com@attacker.example"},
    {"endpoint": "https://management.azure.com.attacker.example"},
    {"endpoint": "https://attacker.example#"},
    {"endpoint": "https://attacker.example\\.azure.com"},
    {"endpoint": "https://attacker.example:443"},
    {"endpoint": "https://x.vault.azure.net.attacker.example"},
    {"history_endpoint": "https://attacker.example"},
    {"history_endpoint": "https://attacker.example/#.api.azureml.ms"},
    {"location": "attacker.example/#"},
    {"location": "x@attacker.example/"},
    {"location": "attacker.example\\"},
    {"vault": "https://attacker.example"},
    {"vault": "https://x.vault.azure.net.attacker.example"},
    {"vault": "http://attacker.example"},
    {"vault": "https://x.vault.azure.net@attacker.example"},
]


@pytest.mark.parametrize("settings", AZURE, ids=str)
def test_azures_tokens_do_not_go_where_hostile_settings_lead(
    settings: dict[str, str], azure: tuple[AzureMlProvider, AzureSimulator], wire: Wire
) -> None:
    provider, simulator = azure
    chosen: dict[str, Any] = {**AZURE_SETTINGS, "endpoint": simulator.url, **settings}
    history = settings.get("history_endpoint") or f"https://{settings.get('location', 'westeurope')}.api.azureml.ms"
    secret = f"{settings['vault']}/secrets/x" if "vault" in settings else f"{simulator.url}/secrets/x"
    reference = {"endpoint": chosen["endpoint"], "path": PATH, "history": history, "job": f"{RUN}-1", "secret": secret, "launched": 0.0}
    handle = Handle(RUN, 1, "azure", "az://account/container", reference)
    tried(
        lambda: provider.find(RUN, 1, handle.store, chosen),
        lambda: provider.observe(handle),
        lambda: provider.logs(handle, None),
        lambda: provider.cancel(handle),
        lambda: provider.clean_up(handle),
        lambda: list(provider.diagnose(chosen, None)),
    )
    assert wire.hosts() == set()


def test_a_private_vault_gets_its_token_once_this_machine_names_it(
    azure: tuple[AzureMlProvider, AzureSimulator], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, simulator = azure
    chosen = {**AZURE_SETTINGS, "endpoint": simulator.url, "vault": "https://vault.private.example"}
    found = {each.name: each for each in provider.diagnose(chosen, None)}
    assert "refusing to send the token of Azure Key Vault to vault.private.example" in found["vault"].detail
    assert wire.heard == []
    monkeypatch.setenv(TRUSTED, "*.private.example")
    list(provider.diagnose(chosen, None))
    assert wire.hosts_that_heard("Bearer ") == {"vault.private.example"}


@pytest.mark.parametrize("status", [302, 307])
def test_azures_tokens_follow_no_redirect(status: int, azure: tuple[AzureMlProvider, AzureSimulator]) -> None:
    provider, _ = azure
    with Server(redirect("http://127.0.0.1:1/")) as other, Server(redirect(other.url, status)) as first:
        chosen = {**AZURE_SETTINGS, "endpoint": first.url, "history_endpoint": first.url, "vault": first.url}
        reference = {"endpoint": first.url, "path": PATH, "history": first.url, "job": "x", "secret": f"{first.url}/secrets/x"}
        handle = Handle(RUN, 1, "azure", "az://account/container", {**reference, "launched": 0.0})
        tried(
            lambda: provider.find(RUN, 1, handle.store, chosen),
            lambda: provider.logs(handle, None),
            lambda: provider.cancel(handle),
            lambda: list(provider.diagnose(chosen, None)),
        )
        assert any("authorization" in logged.request.headers for logged in first.requests)
        assert other.requests == []


@pytest.mark.parametrize(
    "region", ["attacker.example/#", "x@attacker.example/", "eu-west-1.attacker.example", "eu-west-1\n", "EU-WEST-1", ""]
)
def test_a_request_signed_for_aws_does_not_go_to_a_region_that_is_none(
    region: str, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "session", "AWS_EC2_METADATA_DISABLED": "true"}
    enter(monkeypatch, keys, wire.environment)
    provider = SageMakerProvider(tmp_path, replace(AWS_POLICY, attempts=1))
    handle = Handle(RUN, 1, "aws", "s3://bucket/runs", {"job": f"{RUN}-1", "region": region, "secret": "x", "launched": 0.0})
    tried(
        lambda: provider.find(RUN, 1, handle.store, {"region": region}),
        lambda: provider.observe(handle),
        lambda: provider.logs(handle, None),
        lambda: provider.cancel(handle),
        lambda: provider.clean_up(handle),
        lambda: list(provider.diagnose({"region": region, "repository": f"123456789012.dkr.ecr.{region}.amazonaws.com/x"}, None)),
    )
    assert wire.heard == []


HOSTILE_CONFIGS = [
    *(f"gcp: {{{key}: {value!r}}}" for settings in GOOGLE for key, value in settings.items() if key != "endpoint"),
    *(f"azure: {{{key}: {value!r}}}" for settings in AZURE for key, value in settings.items() if key == "location"),
    *(
        f"{cloud}: {{repository: {name!r}}}"
        for cloud in ("aws", "gcp", "azure")
        for name in ("ctreg.azurecr.io", "x@y.io/z", "https://y.io/z")
    ),
    *("gcp: {endpoint: 'http://attacker.example/{service}'}", "gcp: {endpoint: 'https://x.googleapis.com@attacker.example'}"),
    *("gcp: {service_account: 'x/../y@p.iam.gserviceaccount.com'}", "gcp: {network: 'projects/1/../2/global/networks/x'}"),
    *("azure: {endpoint: 'http://attacker.example'}", "azure: {vault: 'http://attacker.example'}", "azure: {vault: 'https://a@b.example'}"),
    *("azure: {subscription: '../x'}", "azure: {resource_group: 'a/b'}", "azure: {workspace: 'a/../b'}", "azure: {compute: 'a/b'}"),
    *("aws: {region: 'attacker.example/#'}", "aws: {role: 'arn:aws:iam::1:role/x'}"),
    *("docker: {host: 'tcp://a b'}", "docker: {host: 'ssh://-oProxyCommand=x'}", "docker: {hots: 'unix:///x'}", "docker: {user: 'a b'}"),
]


@pytest.mark.parametrize("text", HOSTILE_CONFIGS)
def test_a_config_file_with_such_a_setting_is_refused_with_its_place(text: str, tmp_path: Path) -> None:
    (tmp_path / "hostile.yaml").write_text(text)
    with pytest.raises(JobFileError) as caught:
        load_config(tmp_path / "hostile.yaml")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].place.line == 1


@pytest.mark.parametrize(
    "url",
    [
        *("az://x.attacker/container", "az://attacker.example#/container", "az://evil@attacker/container", "az://ACCOUNT/container"),
        *("az://account/con tainer", "az://account/con#tainer", "az://account/C", "az://account:1/container", "az://аccount/container"),
        *("s3://attacker.example#/x", "s3://user@bucket/x", "s3://bucket:443/x", "s3://Bucket/x", "s3://bucket?x/y", "s3://-bucket/x"),
        *("s3://bucket./x", "s3://a..b/x", "s3://10.0.0.1/x", "s3://bücket/x", "s3://ab/x", "s3://bucket%2e/x"),
        *("gs://bucket#/x", "gs://user@bucket/x", "gs://bucket:1/x", "gs://Bucket/x", "gs://buc ket/x", "gs://a..b/x"),
    ],
)
def test_a_store_s_url_cannot_name_a_host_of_its_own(url: str) -> None:
    for opened in (check_url, open_store):
        with pytest.raises(CloudTrainError) as caught:
            opened(url)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("host", ["tcp://gpu-box.attacker.example:2375", "http://gpu-box.attacker.example:2375"])
def test_secrets_do_not_go_to_an_engine_that_is_reached_without_encryption(
    host: str, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, wire.environment)
    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    body = {"Image": "x", "User": "1:1", "Env": [], "HostConfig": {"NetworkMode": "bridge", "Mounts": []}}
    containers = [{"name": "ct-x", "body": body}]
    request = {"engine": host, "run_id": RUN, "attempt": 1, "store": "/runs", "network": None, "containers": containers}
    with pytest.raises(ProviderError, match="is not encrypted") as caught:
        DockerProvider(tmp_path).launch(request, {"GITHUB_TOKEN": "canary"})
    assert "GITHUB_TOKEN" in caught.value.message
    assert "canary" not in caught.value.message
    assert wire.heard == []
