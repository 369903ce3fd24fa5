"""The job's secrets, read from where a cloud keeps them. Those of Google and Azure are read in tests/conformance, by workers there."""

import json

import pytest

from cloud_train.errors import UsageError
from cloud_train.worker.secrets import SecretsError, fetch, parsed
from tests.stores import server_or_skip, use

VALUES = {"WANDB_API_KEY": "sesame-open-4711"}


def test_a_secret_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", server.endpoint)
    import boto3

    client = boto3.client("secretsmanager", region_name="eu-west-1")
    name = "cloud-train/some-run-1"
    client.create_secret(Name=name, SecretString=json.dumps(VALUES))
    assert parsed(fetch(f"aws-secret:{name}@eu-west-1"), "there") == VALUES
    with pytest.raises(SecretsError, match="the secret cloud-train/other cannot be read") as caught:
        fetch("aws-secret:cloud-train/other@eu-west-1")
    assert "secretsmanager:GetSecretValue" in str(caught.value)  # a text is all that comes through from a child


@pytest.mark.parametrize("text", ["", "[]", "7", '{"A": 7}', "sesame-open-4711"])
def test_what_is_no_document_of_names_and_texts_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(SecretsError, match="not a JSON document of names and texts") as caught:
        parsed(text, "aws-secret:name@region")
    assert "sesame" not in caught.value.message


def test_another_kind_of_place_is_refused() -> None:
    with pytest.raises(UsageError, match="begins with one of aws-secret, gcp-secret, azure-secret, not with 'file'"):
        fetch("file:///etc/passwd")
