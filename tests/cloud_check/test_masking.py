"""What a user may send has no secret in it."""

import base64
import json

import pytest

from tools.cloud_check.masking import COVER, Mask, accounts_of, is_secret, secrets_of_environment

CANARY = "canary-4711-of-the-tests"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "document",
    [
        {"authorizationData": [{"authorizationToken": CANARY}]},
        {"access_token": CANARY, "expires_in": 3600},
        {"SecretString": json.dumps({"API_KEY": CANARY})},
        {"Credentials": {"SecretAccessKey": CANARY, "SessionToken": CANARY}},
        {"properties": {"primaryKey": CANARY, "list": [{"connectionPassword": CANARY}]}},
        {"message": json.dumps({"password": CANARY})},
        {"url": f"https://user:{CANARY}@example.com/"},
        {"url": f"https://example.com/blob?sv=1&sig={CANARY}"},
    ],
    ids=str,
)
def test_a_document_has_no_secret(document: dict[str, object]) -> None:
    assert CANARY not in json.dumps(Mask().document(document))


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"the token {TOKEN} is not valid",
        "the access key AKIAIOSFODNN7EXAMPLE is unknown",
        f"<GetSessionTokenResult><SecretAccessKey>{CANARY}</SecretAccessKey></GetSessionTokenResult>",
        f"DefaultEndpointsProtocol=https;AccountName=mine;AccountKey={CANARY};EndpointSuffix=core.windows.net",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
    ],
)
def test_a_text_has_no_secret(text: str) -> None:
    shown = Mask().text(text)
    assert not [secret for secret in (CANARY, TOKEN, "AKIAIOSFODNN7EXAMPLE") if secret in shown]


def test_a_path_keeps_its_parameters_but_not_those_that_grant_something() -> None:
    shown = Mask().path(f"/logs/user_logs/std_log.txt?api-version=1&sig={CANARY}&X-Amz-Credential={CANARY}")
    assert shown == f"/logs/user_logs/std_log.txt?api-version=1&sig={COVER}&X-Amz-Credential={COVER}"


def test_the_content_of_a_secret_is_hidden_under_the_names_that_it_has_there() -> None:
    assert Mask().document({"value": CANARY, "id": "a"}, of_secret=True) == {"value": COVER, "id": "a"}
    assert Mask().document({"value": CANARY, "id": "a"}) == {"value": CANARY, "id": "a"}


def test_a_value_that_was_secret_once_is_hidden_everywhere() -> None:
    mask = Mask()
    mask.document({"refresh_token": CANARY})
    mask.learn_headers({"Authorization": b"Basic " + base64.b64encode(b"AWS:another-canary-4711")})
    assert mask.words(f"{CANARY} another-canary-4711") == f"{COVER} {COVER}"
    assert CANARY not in mask.document({f"the field {CANARY}": 1}).__repr__()


def test_what_is_no_secret_stays() -> None:
    document = {
        "TrainingJobName": "cloud-check-1",
        "NextToken": "abc",
        "Tags": [{"Key": "cloud-train-run", "Value": "x"}],
        "done": True,
        "SecretList": [],
    }
    assert Mask().document(document) == document
    assert (
        Mask().words("https://console.aws.amazon.com/?region=eu-west-1#/jobs/x")
        == "https://console.aws.amazon.com/?region=eu-west-1#/jobs/x"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x-amz-security-token", True), ("IDENTITY_TOKEN", True), ("AWSSecretKey", True), ("TokenCount", True), ("Monkey", False)],
)
def test_names_of_secrets_are_recognized(name: str, expected: bool) -> None:
    assert is_secret(name) is expected


def test_the_secrets_of_the_environment_are_those_of_its_names_and_of_connection_strings() -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "one", "HOME": "/root", "STORE_CONNECTION_STRING": "AccountName=a;AccountKey=two"}
    assert secrets_of_environment(environment) == ["one", "two"]


def test_the_account_is_hidden_where_that_was_asked_for() -> None:
    settings = {"role": "arn:aws:iam::123456789012:role/machines", "repository": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine"}
    mask = Mask((), accounts_of(settings, "s3://my-bucket/runs"))
    shown = mask.words(
        "arn:aws:iam::123456789012:user/me may not read s3://my-bucket/runs/x of 123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine"
    )
    assert "123456789012" not in shown
    assert "my-bucket" not in shown
    assert "<repository>" in shown
    assert Mask().words("123456789012") == "123456789012"
    assert mask.words("sha256:ab123456789012cd") == "sha256:ab123456789012cd", "a digest is not an account"


@pytest.mark.parametrize(("name", "value"), [("name", "value"), ("Key", "Value")])
def test_the_value_beside_a_secrets_name_is_hidden_there_and_later(name: str, value: str) -> None:
    mask = Mask()
    listed = {"env": [{name: "WANDB_API_KEY", value: "0123456789abcdef"}, {name: "HOME", value: "/tmp"}]}
    assert mask.document(listed) == {"env": [{name: "WANDB_API_KEY", value: COVER}, {name: "HOME", value: "/tmp"}]}
    assert mask.text("it was 0123456789abcdef") == f"it was {COVER}"
