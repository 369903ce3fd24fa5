"""A registry's login goes to that registry. Each cloud's login is tried with repositories of every wrong form, on a wire that hears all."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train import Client
from cloud_train.errors import CloudTrainError, ProviderError
from cloud_train.image.building import build_in_registry
from cloud_train.image.connection import POLICY
from cloud_train.image.errors import ImageError, RegistryError
from cloud_train.image.recipe import Recipe
from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from cloud_train.image.tokens import Login
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.packaging import push_image
from cloud_train.providers.aws.client import POLICY as AWS_POLICY
from cloud_train.providers.aws.provider import SageMakerProvider
from cloud_train.providers.azure import client as azure_client
from cloud_train.providers.azure.provider import AzureMlProvider
from cloud_train.providers.base import Provider
from cloud_train.providers.gcp.client import POLICY as GCP_POLICY
from cloud_train.providers.gcp.provider import VertexProvider
from cloud_train.run.plan import Plan
from tests.attack.wire import Heard, Wire, redirect
from tests.clouds.aws_simulator import aws_cloud
from tests.clouds.azure_simulator import AzureSimulator
from tests.clouds.gcp_simulator import PROJECT, REGION, GcpSimulator
from tests.clouds.server import Answer, Server
from tests.image.faulty_registry import Fault, FaultyRegistry, faulty_registry
from tests.image.real_registry import push_base
from tests.providers import aws_plans, azure_plans, gcp_plans

AT_ONCE = replace(POLICY, sleep=lambda seconds: None)

PASSWORD = "canary-registry-password"
HUB = {"registry-1.docker.io", "auth.docker.io"}
ECR, GAR, ACR = "123456789012.dkr.ecr.us-east-1.amazonaws.com", f"{REGION}-docker.pkg.dev", "ctreg.azurecr.io"
RIGHT = {"aws": (ECR, "cloud-train"), "gcp": (GAR, f"{PROJECT}/cloud-train/jobs"), "azure": (ACR, "cloud-train")}
"""Cloud → its registry, and a repository there."""
WRONG = {
    "no path": "{host}",
    "no path but a slash": "{host}/",
    "a tag for a path": "{host}:latest",
    "a port for a path": "{host}:443",
    "another host": "attacker.example/{path}",
    "another host, and the right one behind it": "attacker.example/{host}/{path}",
    "a name that ends in another host": "{host}.attacker.example/{path}",
    "a name that begins with another host": "attacker.example.{host}/{path}",
    "a port": "{host}:8443/{path}",
    "a user before another host": "{host}@attacker.example/{path}",
    "a user with a password": "x:y@{host}/{path}",
    "another host before '#'": "attacker.example#.{host}/{path}",
    "another host before '?'": "attacker.example?.{host}/{path}",
    "another host before a backslash": "attacker.example\\.{host}/{path}",
    "a host in front, which a '#' would cut off": "attacker.example#{host}/{path}",
    "upper case": "{HOST}/{path}",
    "an international name": "аttacker.{host}/{path}",
    "a space in front": " {host}/{path}",
    "a newline behind": "{host}/{path}\n",
    "a tab in the host": "attacker.example\t.{host}/{path}",
    "a scheme": "https://{host}/{path}",
    "a dot behind the host": "{host}./{path}",
    "a scheme without encryption": "http://{host}/{path}",
    "a user without a password before the right host": "me@{host}/{path}",
    "two slashes": "{host}//{path}",
    "a path that leaves the host": "{host}/../{path}",
    "an encoded slash": "{host}%2f{path}",
    "a tag": "{host}/{path}:latest",
    "a digest": "{host}/{path}@sha256:" + "0" * 64,
    "an address": "10.0.0.1/{path}",
    "an address with a port": "10.0.0.1:5000/{path}",
    "an address in one number": "167772161/{path}",
    "an address of version 6": "[fd00::1]/{path}",
    "a hyphen for a dot": "attacker-{host}.attacker.example/{path}",
    "a domain of another end": "{host}.co/{path}",
    "Docker Hub by name": "docker.io/{host}",
    "Docker Hub by another name": "index.docker.io/{host}/{path}",
    "Docker Hub's own server": "registry-1.docker.io/{host}/{path}",
    "Amazon's registry": f"{ECR}/{{path}}",
    "Google's registry": f"{GAR}/p/{{path}}",
    "Azure's registry": f"{ACR}/{{path}}",
    "a user of Docker Hub": "me/cloud-train",
}
FOREIGN = {"another host", "another host, and the right one behind it"}
"""Registries of others, which may be meant."""
NAMES = (
    *(*HUB, "attacker.example", "*.attacker.example", ECR, GAR, ACR, f"{ECR}.attacker.example", f"{GAR}.attacker.example"),
    *(f"{ACR}.attacker.example", f"attacker.example.{ECR}", f"attacker.example.{GAR}", f"attacker.example.{ACR}"),
    *(f"attacker-{host}.attacker.example" for host in (ECR, GAR, ACR)),
    *(*(f"{host}.co" for host in (ECR, GAR, ACR)), "10.0.0.1", "fd00::1"),
)


def challenging(heard: Heard) -> Answer:
    """What a registry says that takes any login, by a token server on its own host or, on Docker Hub, on that one's."""
    if heard.path == "/oauth2/exchange":
        return Answer.json({"refresh_token": f"{PASSWORD}-azure"})
    if heard.path.startswith("/v2/") and "Authorization" not in heard.headers:
        server = "auth.docker.io" if heard.host in HUB else heard.host
        scheme = "Basic" if heard.host == ECR else "Bearer"
        challenge = f'{scheme} realm="https://{server}/token",service="{heard.host}"'
        return Answer(401, {"WWW-Authenticate": challenge, "Content-Type": "application/json"}, b"{}")
    return Answer.json({"token": "bearer-of-anybody"}) if heard.path.startswith("/token") else Answer.json({}, 404)


@dataclass(frozen=True)
class Cloud:
    """A cloud's provider, with a way to push an image with that cloud's own login."""

    provider: Provider
    plan: Plan
    settings: Mapping[str, Any]
    wire: Wire
    secrets: tuple[str, ...]
    """Beginnings of the words that nobody but the cloud may hear."""

    def push(self, repository: str, folder: Path) -> None:
        """Push an image, as far as it goes."""
        with faulty_registry() as base, suppress(CloudTrainError):
            push_base(f"{base.host}/base:1", folder / "base")
            (folder / "job").mkdir(exist_ok=True)
            image = self.plan.job.image.model_copy(update={"base": f"{base.host}/base:1"})
            job = self.plan.job.model_copy(update={"image": image})
            settings = {**self.settings, "repository": repository}
            plan = replace(self.plan, job=job, job_file=str(folder / "job" / "job.yaml"), provider_settings=settings)
            push_image(Home(folder / "home"), self.provider, plan, repository, lambda line: None)


@pytest.fixture(params=RIGHT)
def cloud(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Each cloud, on a wire, with credentials that are good."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    monkeypatch.setattr(azure_client, "POLICY", replace(azure_client.POLICY, sleep=lambda seconds: None))
    monkeypatch.delenv("CLOUD_TRAIN_TRUSTED_HOSTS", raising=False)
    azure_client._client.cache_clear()

    def enter(*environments: Mapping[str, str]) -> None:
        for environment in environments:
            for name, value in environment.items():
                monkeypatch.setenv(name, value)

    with Wire(tmp_path / "wire", *NAMES, answer=challenging) as wire:
        if request.param == "aws":
            with aws_cloud() as aws:
                enter(aws.environment, wire.environment)
                plan = aws_plans.plan_of()
                provider = SageMakerProvider(tmp_path, replace(AWS_POLICY, attempts=1))
                yield Cloud(provider, plan, aws.settings, wire, ("AWS:", "-auth-token"))
        elif request.param == "gcp":
            with GcpSimulator(tmp_path / "google") as google:
                enter(google.environment, wire.environment)
                pauseless = VertexProvider(tmp_path, timeouts=(5.0, 5.0), policy=replace(GCP_POLICY, sleep=lambda seconds: None))
                yield Cloud(pauseless, gcp_plans.plan_of(), google.settings, wire, ("ya29.",))
        else:
            with AzureSimulator() as azure:
                enter(azure.environment, wire.environment)
                settings = {**azure_plans.SETTINGS, **azure.settings}
                yield Cloud(AzureMlProvider(tmp_path), azure_plans.plan_of(), settings, wire, (PASSWORD, "access_token="))


def test_the_right_registry_hears_the_login(cloud: Cloud, tmp_path: Path) -> None:
    host, path = RIGHT[cloud.provider.name]
    cloud.push(f"{host}/{path}", tmp_path)
    assert cloud.wire.hosts_that_heard(*cloud.secrets) == {host}


def leading_away(heard: Heard) -> Answer:
    """A registry that sends its uploads, and whatever is redirected, to an attacker."""
    if heard.host == "attacker.example" or heard.path.startswith(("/token", "/oauth2/")) or "Authorization" not in heard.headers:
        return challenging(heard)
    if heard.method == "POST":
        return Answer(202, {"Location": "https://attacker.example/upload"})
    if heard.method == "PUT":
        return Answer(307, {"Location": "https://attacker.example/redirected"})
    return Answer.json({}, 404)


def test_a_login_and_its_token_follow_no_upload_to_another_host(cloud: Cloud, tmp_path: Path) -> None:
    host, path = RIGHT[cloud.provider.name]
    cloud.wire.answer = leading_away
    cloud.push(f"{host}/{path}", tmp_path)
    assert "attacker.example" in cloud.wire.hosts_that_heard("/upload?digest=")
    assert cloud.wire.hosts_that_heard(*cloud.secrets, "bearer-of-anybody") == {host}
    assert not any("Authorization" in heard.headers for heard in cloud.wire.heard if heard.host == "attacker.example")


def test_a_login_goes_to_no_token_server_on_another_host(cloud: Cloud, tmp_path: Path) -> None:
    host, path = RIGHT[cloud.provider.name]

    def naming_another(heard: Heard) -> Answer:
        answer = challenging(heard)
        realm = {"WWW-Authenticate": 'Bearer realm="https://attacker.example/token",service="s"'}
        return Answer(401, realm, b"{}") if answer.status == 401 else answer

    cloud.wire.answer = naming_another
    cloud.push(f"{host}/{path}", tmp_path)
    assert cloud.wire.hosts_that_heard(*cloud.secrets) <= {host}
    assert "attacker.example" not in cloud.wire.hosts()


def test_no_other_host_hears_the_login_whatever_the_repository_looks_like(cloud: Cloud, tmp_path: Path) -> None:
    host, path = RIGHT[cloud.provider.name]
    others = {}
    for form, wrong in WRONG.items():
        cloud.wire.heard.clear()
        cloud.push(wrong.format(host=host, HOST=host.upper(), path=path), tmp_path)
        if heard := cloud.wire.hosts_that_heard(*cloud.secrets) - {host}:
            others[form] = heard
    assert others == {}


def test_the_dry_run_refuses_a_repository_of_every_wrong_form(cloud: Cloud) -> None:
    name, (host, path) = cloud.provider.name, RIGHT[cloud.provider.name]
    accepted = []
    for form, wrong in WRONG.items():
        settings = {**cloud.plan.provider_settings, "repository": wrong.format(host=host, HOST=host.upper(), path=path)}
        problems = cloud.provider.check(cloud.provider.render(replace(cloud.plan, provider_settings=settings, image=None)))
        if not any(problem.startswith(f"{name}.repository: ") for problem in problems):
            accepted.append(form)
    own = {"aws": "Amazon's registry", "gcp": "Google's registry", "azure": "Azure's registry"}[name]
    assert set(accepted) - {own} == (set() if name == "aws" else FOREIGN)
    assert cloud.wire.heard == []


def test_a_repository_without_a_path_is_refused_and_nobody_is_asked(cloud: Cloud, tmp_path: Path) -> None:
    host, _ = RIGHT[cloud.provider.name]
    cloud.push(host, tmp_path)
    assert cloud.wire.heard == []


@pytest.mark.parametrize("repository", ["ctreg.azurecr.io", "localhost:5000", "registry", "ctreg.azurecr.io:1"])
def test_a_plugin_s_login_does_not_go_to_docker_hub_for_a_repository_without_a_path(repository: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not include a repository"):
        build_in_registry(Recipe(None, "127.0.0.1:1/base"), repository, print, login=Login("me", PASSWORD))


def test_a_plugin_s_login_does_not_go_to_docker_hub_for_a_repository_without_a_registry() -> None:
    with pytest.raises(ImageError, match="has no registry host"):
        build_in_registry(Recipe(None, "127.0.0.1:1/base"), "me/digits", print, login=Login("me", PASSWORD))


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with faulty_registry() as running:
        yield running


def challenge(realm: str) -> Fault:
    return Fault("GET", "/manifests/", 401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})


def docker_login(folder: Path, monkeypatch: pytest.MonkeyPatch, host: str, **more: str) -> None:
    """Let Docker have a login for this host."""
    login = {"auth": base64.b64encode(f"me:{PASSWORD}".encode()).decode(), **more}
    (folder / "docker").mkdir()
    (folder / "docker" / "config.json").write_text(json.dumps({"auths": {host: login}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder / "docker"))


def asked(registry: FaultyRegistry, login: Login | None = None) -> str:
    """The refusal of a registry that is asked for an image."""
    with pytest.raises(RegistryError) as caught, Repository(parse_reference(f"{registry.host}/x"), AT_ONCE, login) as there:
        there.manifest("latest")
    return caught.value.message


def test_a_cloud_s_login_does_not_go_to_a_token_server_on_another_host(registry: FaultyRegistry) -> None:
    with Server(redirect("/")) as other:
        registry.faults = [challenge(f"{other.url}/token")]
        said = asked(registry, Login("me", PASSWORD).bound_to(registry.host))
        assert other.requests == []
    assert "another host" in said


def test_the_login_of_another_registry_is_not_sent_at_all(registry: FaultyRegistry) -> None:
    for login in (Login("me", PASSWORD), Login("me", PASSWORD).bound_to("ctreg.azurecr.io")):
        with pytest.raises(ImageError, match="refusing to send the login for"):
            Repository(parse_reference(f"{registry.host}/x"), login=login)
    with pytest.raises(ImageError, match=r"refusing to send the login for ctreg\.azurecr\.io to"):
        Login("me", PASSWORD).bound_to("ctreg.azurecr.io").bound_to(registry.host)
    assert registry.requests == []


def test_a_login_that_renews_another_is_bound_to_the_same_registry() -> None:
    renewed = Login("me", PASSWORD, renew=lambda: Login("me", PASSWORD)).bound_to("a.example").renew
    assert renewed is not None
    login = renewed()
    assert login is not None
    assert login.host == "a.example"


def test_docker_s_login_goes_to_the_token_server_that_the_registry_names(
    registry: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker_login(tmp_path, monkeypatch, registry.host)
    with faulty_registry() as tokens:
        tokens.token = "good"
        registry.token = "good"
        registry.faults = [challenge(f"http://{tokens.host}/token")]
        with Repository(parse_reference(f"{registry.host}/x")) as there:
            assert there.manifest("latest") is None
        assert tokens.headers[0]["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "realm",
    [
        *("http://attacker.example/token", "http://127.0.0.1:1@attacker.example/token", "http://localhost:x@attacker.example/token"),
        *("https://me@attacker.example/token", "https://127.0.0.1\\@attacker.example/token", "https:///token", "ftp://127.0.0.1/token"),
    ],
)
def test_docker_s_login_goes_to_no_token_server_that_is_unencrypted_or_hidden_behind_another_name(
    realm: str, registry: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker_login(tmp_path, monkeypatch, registry.host)
    with Wire(tmp_path / "wire", "attacker.example") as wire:
        for name, value in wire.environment.items():
            monkeypatch.setenv(name, value)
        registry.faults = [challenge(realm)]
        asked(registry)
        assert wire.heard == []


def test_docker_hub_s_login_goes_to_docker_hub_s_token_server_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker_login(tmp_path, monkeypatch, "https://index.docker.io/v1/")

    def elsewhere(heard: Heard) -> Answer:
        return Answer(401, {"WWW-Authenticate": 'Bearer realm="https://attacker.example/token",service="s"'})

    with Wire(tmp_path / "wire", *HUB, "attacker.example", answer=elsewhere) as wire:
        for name, value in wire.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RegistryError, match="another host"), Repository(parse_reference("me/digits"), AT_ONCE) as there:
            there.manifest("latest")
        assert wire.hosts() == {"registry-1.docker.io"}
        wire.answer = challenging
        with Repository(parse_reference("me/digits"), AT_ONCE) as there:
            there.manifest("latest")
        assert wire.hosts_that_heard(PASSWORD) == {"auth.docker.io"}


@pytest.mark.parametrize("status", [302, 307, 308])
@pytest.mark.parametrize("kind", ["password", "identity token"])
def test_a_login_follows_no_redirect_of_a_token_server(
    kind: str, status: int, registry: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker_login(tmp_path, monkeypatch, registry.host, **({"identitytoken": PASSWORD} if kind == "identity token" else {}))
    with Server(redirect("http://127.0.0.1:1/")) as other, Server(redirect(f"{other.url}/token", status)) as tokens:
        registry.faults = [challenge(f"{tokens.url}/token")]
        asked(registry)
        assert len(tokens.requests) == 1
        assert other.requests == []


@pytest.mark.parametrize("status", [302, 307])
def test_a_registry_that_redirects_does_not_pass_the_login_on(status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_registry() as other, faulty_registry() as registry:
        docker_login(tmp_path, monkeypatch, registry.host)
        moved = {"Location": f"http://{other.host}/elsewhere"}
        basic = Fault("GET", "/v2/", 401, {"WWW-Authenticate": 'Basic realm="x"'})
        registry.faults = [basic, Fault("GET", "/v2/", status, moved), Fault("GET", "/v2/", status, moved)]
        with Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there:
            assert there.manifest("latest") is None
            with suppress(RegistryError):
                there.small_blob(f"sha256:{'4' * 64}")
        assert "Authorization" in registry.headers[1]
        assert len(other.headers) == 2
        assert not any("Authorization" in headers for headers in other.headers)


@pytest.mark.parametrize(
    ("provider", "repository"),
    [
        ("aws", "111122223333.dkr.ecr.eu-west-1.amazonaws.com/cloud-train"),
        ("gcp", "europe-west4-docker.pkg.dev/your-project-123456/cloud-train/jobs"),
        ("azure", "your-registry.azurecr.io/cloud-train"),
        ("azure", f"{ACR}.attacker.example/cloud-train"),
    ],
)
def test_the_verb_package_asks_for_no_login_for_a_repository_that_a_submission_refuses(
    provider: str, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_train.orchestrator.packaging.push_image", lambda *_: pytest.fail("it was pushed"))
    (tmp_path / "job.yaml").write_text("name: digits\nmodel: {kind: script, command: ['true']}\n", encoding="utf-8")
    with pytest.raises(ProviderError, match=f"nothing was pushed: {provider}.repository: "):
        Client(tmp_path / "home").package(tmp_path / "job.yaml", provider=provider, push=True, repository=repository, trust=True)
