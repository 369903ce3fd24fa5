"""An image is pushed into each cloud's registry with that cloud's own login, by the command line, under the registry's own name.

The clouds are simulators without containers; a real registry is behind each cloud's own way to ask for a login (``registries``) and its
manners. In the middle of every push, all logins that were given out before end.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from tests.cli.command import CommandLine
from tests.clouds import gcp_services, kit
from tests.clouds.aws_platform import ACCOUNT, LOGIN, REGION
from tests.clouds.aws_simulator import aws_cloud
from tests.clouds.azure_simulator import AzureSimulator
from tests.clouds.gcp_answers import RefusedError
from tests.clouds.gcp_simulator import REGION as GOOGLE_REGION
from tests.clouds.gcp_simulator import REPOSITORY, GcpSimulator
from tests.clouds.registries import Basic, Bearer, Gate, Logins, Registries
from tests.clouds.server import Answer, Request
from tests.image.cloud_registries import Acr, ArtifactRegistry, Ecr
from tests.image.real_registry import RunningRegistry, push_base, running_registry

ECR = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ACR = "cloudtrain.azurecr.io"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry") / "real") as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path) -> CommandLine:
    """A machine with an empty home, and a job."""
    for name in ("home", "work", "work/code"):
        (tmp_path / name).mkdir()
    (tmp_path / "work" / "code" / "train.py").write_text("print('trained')\n")
    home = tmp_path / "home"
    return CommandLine(
        home, tmp_path / "work", {"PATH": "/usr/bin:/bin", "HOME": str(home), "CLOUD_TRAIN_HOME": str(home / ".cloud-train")}
    )


def submitted(desk: CommandLine, provider: str, settings: Mapping[str, Any], store: str, environment: Mapping[str, str]) -> str:
    """Submit the job; the run's id. Its base lies in the repository itself."""
    job = {
        "name": "pushed",
        "model": {"kind": "script", "command": ["python3", "train.py"], "directory": "code"},
        "image": {"base": f"{settings['repository']}:base"},
        "store": store,
    }
    (desk.folder / "job.yaml").write_text(json.dumps(job))
    (desk.folder / "config.yaml").write_text(json.dumps({"provider": provider, provider: settings}))
    ended = desk("submit", "job.yaml", "--config", "config.yaml", **environment)
    assert ended.status == 0, ended.err
    (desk.folder / "said").write_text(ended.text + ended.err)
    return ended.text.strip()


def pushed(real: RunningRegistry, image: str, repository: str) -> bool:
    """Whether it is named by a digest that the real registry has, in that repository."""
    named, _, digest = image.partition("@")
    with Repository(parse_reference(f"{real.host}/{named.partition('/')[2]}")) as there:
        return named == repository and digest.startswith("sha256:") and there.manifest(digest) is not None


def traces(desk: CommandLine, *words: str) -> list[Path]:
    """The files of the machine, what was printed too, in which one of the words stands, also as Docker writes logins down."""
    spelled = [word.encode() for word in words] + [base64.b64encode(word.encode()).rstrip(b"=") for word in words]
    files = [file for folder in (desk.home, desk.folder) for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if any(word in file.read_bytes() for word in spelled)]


def end_in_the_midst(registries: Registries, logins: Logins, gate: Gate) -> None:
    """Let all logins end when the first layer is to be sent."""

    def before(method: str, path: str) -> None:
        if method == "POST":
            registries.before = lambda method, path: None
            logins.end()
            if isinstance(gate, Bearer):
                gate.tokens.end()

    registries.before = before


def test_an_image_is_pushed_to_amazon_ecr_in_a_repository_made_for_it(real: RunningRegistry, desk: CommandLine, tmp_path: Path) -> None:
    repository, [(user, password)] = f"{ECR}/pushed/{tmp_path.name}".lower(), LOGIN.items()
    push_base(f"{repository.replace(ECR, real.host)}:base", tmp_path / "base")
    with aws_cloud() as aws:
        logins = Logins()

        def is_password(login: str) -> bool:
            # moto's password is always the same: it is good as often as it was given out since the last end.
            given = f"GetAuthorizationToken {aws.server.count('GetAuthorizationToken')}"
            if given not in logins.ever:
                logins.add(given)
            return login == f"{user}:{password}" and given in logins.good

        with Registries(tmp_path, real.host, {ECR: Basic(is_password)}, {ECR: Ecr()}) as registries:
            end_in_the_midst(registries, logins, registries.gates[ECR])
            settings = {**aws.settings, "repository": repository, "create_repository": True}
            run_id = submitted(desk, "aws", settings, aws.new_store(), {**aws.environment, **registries.environment})
        assert pushed(real, aws.simulator.job(f"{run_id}-1").request["AlgorithmSpecification"]["TrainingImage"], repository)
        [made] = aws.simulator.client("ecr").describe_repositories(repositoryNames=[repository.partition("/")[2]])["repositories"]
        assert made["imageTagMutability"] == "IMMUTABLE"
        assert aws.server.count("GetAuthorizationToken") >= 2  # moto's are all the same, so each thread that was refused asks for one
    assert traces(desk, password, f"{user}:{password}") == []


def test_an_image_is_pushed_to_artifact_registry_in_a_repository_made_for_it(
    real: RunningRegistry, desk: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcp_services, "TOKEN_SECONDS", 200.0)  # so little that google-auth takes none twice
    store, host = kit.store("gcp"), REPOSITORY.partition("/")[0]
    push_base(f"{real.host}/{REPOSITORY.partition('/')[2]}:base", tmp_path / "base")
    with GcpSimulator(tmp_path / "google") as google:
        google.repositories.clear()
        logins = Logins()

        def is_password(login: str) -> bool:
            user, _, token = login.partition(":")
            if token not in logins.ever:
                with suppress(RefusedError):
                    google.accounts.check(Request("GET", "/", {}, {"authorization": f"Bearer {token}"}, b""))
                    logins.add(token)
            return user == "oauth2accesstoken" and token in logins.good

        gate = Bearer("/v2/token", is_password)
        with Registries(tmp_path, real.host, {host: gate}, {host: ArtifactRegistry()}) as registries:
            end_in_the_midst(registries, logins, gate)
            bucket = store.new_url()
            settings = {**google.settings, "service_account": google.accounts.machines, "create_repository": True}
            run_id = submitted(desk, "gcp", settings, bucket, {**store.environment, **google.environment, **registries.environment})
        [job] = google.jobs_of(run_id)
        assert pushed(real, job.body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["imageUri"], REPOSITORY)
        assert len(google.repositories) == 1
        assert GOOGLE_REGION in next(iter(google.repositories))
    assert len(logins.ever) == 2, "each that was used"
    assert traces(desk, "ya29.", *gate.tokens.ever) == []


def test_an_image_is_pushed_to_azure_s_registry(real: RunningRegistry, desk: CommandLine, tmp_path: Path) -> None:
    store, repository = kit.store("azure"), f"{ACR}/cloud-train"
    push_base(f"{real.host}/cloud-train:base", tmp_path / "base")
    with AzureSimulator() as azure:
        logins = Logins()

        def exchange(body: bytes) -> Answer:
            answer = azure.keys.exchange(Request("POST", "/oauth2/exchange", {}, {}, body))
            good = {"refresh_token": logins.add(f"refresh-{len(logins.ever)}-canary")}
            return Answer.json(good) if answer.status == 200 else answer

        gate = Bearer("/oauth2/token", lambda login: login.removeprefix("00000000-0000-0000-0000-000000000000:") in logins.good, exchange)
        with Registries(tmp_path, real.host, {ACR: gate}, {ACR: Acr()}) as registries:
            end_in_the_midst(registries, logins, gate)
            settings = {**azure.settings, "repository": repository}
            submitted(desk, "azure", settings, store.new_url(), {**store.environment, **azure.environment, **registries.environment})
        [environment] = azure.environments.values()
        assert pushed(real, environment["properties"]["image"], repository)
    assert len(logins.ever) == 2
    assert traces(desk, *logins.ever, *gate.tokens.ever) == []
