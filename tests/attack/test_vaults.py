"""A machine's token for its job's secrets goes to its cloud's vault, encrypted, and to no address that a vault names instead."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cloud_train.errors import CloudTrainError
from cloud_train.worker.secrets import fetch
from tests.attack.wire import Wire, redirect
from tests.clouds.azure_simulator import AzureSimulator
from tests.clouds.gcp_simulator import GcpSimulator
from tests.clouds.server import Server

TRUSTED = "CLOUD_TRAIN_TRUSTED_HOSTS"
NAMES = ("attacker.example", "*.attacker.example", "*.vault.azure.net.attacker.example", "cloud-train.vault.azure.net", "*.private.example")


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """The network around a machine that has an identity of Google's and one of Azure's."""
    monkeypatch.delenv(TRUSTED, raising=False)
    with (
        Wire(tmp_path / "wire", *NAMES, "secretmanager.googleapis.com", "secretmanager.googleapis.com.attacker.example") as wire,
        GcpSimulator(tmp_path / "google") as google,
        AzureSimulator() as azure,
    ):
        for environment in (google.environment, azure.environment, wire.environment):
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.setenv(name, "canary")
        yield wire


@pytest.mark.parametrize(
    "place",
    [
        "azure-secret:http://cloud-train.vault.azure.net/secrets/x",
        "azure-secret:http://attacker.example/secrets/x",
        "azure-secret:https://attacker.example/secrets/x",
        "azure-secret:https://attacker.example/secrets/x#.vault.azure.net/secrets/x",
        "azure-secret:https://attacker.example#.vault.azure.net/secrets/x",
        "azure-secret:https://x.vault.azure.net@attacker.example/secrets/x",
        "azure-secret:https://x.vault.azure.net.attacker.example/secrets/x",
        "azure-secret:https://attacker.example\\.vault.azure.net/secrets/x",
        "azure-secret:https://attacker.example:443/secrets/x",
        "azure-secret:https://ATTACKER.example/secrets/x",
        "azure-secret:https://attacker.example./secrets/x",
        "azure-secret:http://127.0.0.1:1@attacker.example/secrets/x",
        "gcp-secret:http://secretmanager.googleapis.com/v1/projects/p/secrets/x",
        "gcp-secret:http://attacker.example/v1/projects/p/secrets/x",
        "gcp-secret:https://attacker.example/v1/projects/p/secrets/x",
        "gcp-secret:https://secretmanager.googleapis.com.attacker.example/v1/projects/p/secrets/x",
        "gcp-secret:https://secretmanager.googleapis.com@attacker.example/v1/projects/p/secrets/x",
        "gcp-secret:https://attacker.example#.googleapis.com/v1/projects/p/secrets/x",
        "gcp-secret:https://attacker.example?.googleapis.com/v1/projects/p/secrets/x",
        "gcp-secret:projects/p/secrets/x/../../../../v1/projects/q/secrets/y",
        "gcp-secret:projects/p/secrets/x?y",
        "aws-secret:x@attacker.example/#",
        "aws-secret:x@y@attacker.example/",
        "aws-secret:x@eu-west-1.attacker.example",
        "aws-secret:x@",
    ],
)
def test_a_token_does_not_go_to_a_vault_of_somebody_else_or_unencrypted(place: str, wire: Wire) -> None:
    with pytest.raises(CloudTrainError):
        fetch(place)
    assert wire.heard == []


def test_a_token_goes_to_the_cloud_s_own_vault_which_the_wire_hears(wire: Wire) -> None:
    for place in ("azure-secret:https://cloud-train.vault.azure.net/secrets/x", "gcp-secret:projects/my-project-123456/secrets/x"):
        with suppress(CloudTrainError):
            fetch(place)
    assert wire.hosts_that_heard("Bearer ") == {"cloud-train.vault.azure.net", "secretmanager.googleapis.com"}


def test_a_private_vault_gets_a_token_once_the_machine_s_own_environment_names_it(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "azure-secret:https://vault.private.example/secrets/x"
    with pytest.raises(CloudTrainError, match=rf"to vault\.private\.example.*azure\.vault.*{TRUSTED}"):
        fetch(place)
    assert wire.heard == []
    monkeypatch.setenv(TRUSTED, "vault.private.example")
    with pytest.raises(CloudTrainError, match="cannot be read"):
        fetch(place)
    assert wire.hosts_that_heard("Bearer ") == {"vault.private.example"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ["azure", "gcp"])
def test_a_vault_that_redirects_does_not_pass_the_token_on(kind: str, status: int, wire: Wire) -> None:
    with Server(redirect("http://127.0.0.1:1/")) as other, Server(redirect(f"{other.url}/secrets/x", status)) as vault:
        places = {"azure": f"azure-secret:{vault.url}/secrets/x", "gcp": f"gcp-secret:{vault.url}/v1/projects/p/secrets/x"}
        with pytest.raises(CloudTrainError) as caught:
            fetch(places[kind])
        [asked] = vault.requests
        token = asked.request.headers["authorization"].removeprefix("Bearer ")
        assert token
        assert token not in caught.value.message
        assert other.requests == []
    assert token not in json.dumps([each.path for each in wire.heard])
