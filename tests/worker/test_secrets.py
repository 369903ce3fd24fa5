"""The job's secrets, read from where a cloud keeps them. Those of Google and Azure are read in tests/conformance, by workers there."""

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cloud_train.errors import UsageError
from cloud_train.run.platform_rules import SecretUrl
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
    with pytest.raises(SecretsError, match="not a JSON object with string values") as caught:
        parsed(text, "aws-secret:name@region")
    assert "sesame" not in caught.value.message


def test_another_kind_of_place_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must begin with one of aws-secret, .*, url-secret, not with 'file'"):
        fetch("file:///etc/passwd")


def test_a_secret_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text(json.dumps(VALUES))
    assert parsed(fetch(f"file-secret:{tmp_path}/secrets"), "there") == VALUES
    with pytest.raises(SecretsError, match=f"the job's secrets in {tmp_path}/none cannot be read"):
        fetch(f"file-secret:{tmp_path}/none")
    (tmp_path / "secrets").write_text("x" * 100_000)
    with pytest.raises(SecretsError, match="the limit is 32,000"):
        fetch(f"file-secret:{tmp_path}/secrets")


@pytest.fixture
def keeper() -> Iterator[tuple[str, dict[str, str]]]:
    """A server that keeps secrets below ``data``; its URL, and the headers of the last request."""
    headers: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers.clear()
            headers.update(self.headers.items())
            is_moved = self.path == "/moved"
            self.send_response(302 if is_moved else 200)
            if is_moved:
                self.send_header("Location", "/secrets")
            self.end_headers()
            if not is_moved:
                self.wfile.write(json.dumps({"data": VALUES, "text": json.dumps(VALUES)}).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", headers
        server.shutdown()
        thread.join()


def test_a_secret_behind_a_url(keeper: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, headers = keeper
    monkeypatch.setenv("CLUSTER_TOKEN", "t-1")
    rule = SecretUrl(f"{url}/secrets", {"X-Cluster": "Token {CLUSTER_TOKEN}"}, path=("data",))
    assert parsed(fetch(rule.to_option()), "there") == VALUES
    assert headers["X-Cluster"] == "Token t-1"
    (tmp_path / "token").write_text("t-2\n")
    assert parsed(fetch(SecretUrl(f"{url}/secrets", token_file=str(tmp_path / "token"), path=("text",)).to_option()), "there") == VALUES
    assert headers["Authorization"] == "Bearer t-2"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SecretUrl("{url}/moved"), "cannot be read: HTTPError: HTTP Error 302"),
        (SecretUrl("{url}/secrets", path=("other",)), "cannot be read: KeyError"),
        (SecretUrl("{url}/secrets", {"A": "{NO_SUCH_VARIABLE}"}), "cannot be read: KeyError: 'NO_SUCH_VARIABLE'"),
        (SecretUrl("http://keeper.example/secrets"), "not encrypted"),
        (SecretUrl("file:///etc/passwd"), "not a plain URL"),
    ],
)
def test_a_request_that_fails_or_would_leak_its_token_is_an_error(
    keeper: tuple[str, dict[str, str]], rule: SecretUrl, message: str
) -> None:
    with pytest.raises(SecretsError, match=message):
        fetch(replace(rule, url=rule.url.replace("{url}", keeper[0])).to_option())
