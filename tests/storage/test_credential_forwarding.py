"""What goes along to a machine that shares nothing with this one."""

from pathlib import Path

import pytest

from cloud_train.storage.credential_forwarding import loopback_endpoint, settings_for

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(autouse=True)
def no_aws_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*KEYS, "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def test_each_cloud_gets_its_own_settings_and_no_other() -> None:
    everything = KEYS | {"AZURE_STORAGE_KEY": "a", "STORAGE_EMULATOR_HOST": "http://h", "PATH": "/bin", "AWS_REGION": "eu-west-1"}
    assert settings_for("s3://bucket", everything) == KEYS | {"AWS_REGION": "eu-west-1"}
    assert settings_for("gs://bucket", everything) == {"STORAGE_EMULATOR_HOST": "http://h"}
    assert settings_for("az://account/container", everything) == {"AZURE_STORAGE_KEY": "a"}
    assert settings_for("/a/folder", everything) == {}


def test_the_keys_of_a_profile_go_along_with_its_region(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = mine\naws_secret_access_key = hidden\n")
    (tmp_path / "config").write_text("[default]\nregion = eu-north-1\n")
    found = settings_for("s3://bucket", {})
    assert found == {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_DEFAULT_REGION": "eu-north-1"}


def test_where_there_are_no_credentials_nothing_is_made_up() -> None:
    assert settings_for("s3://bucket", {}) == {}


def test_the_login_of_gcloud_goes_along_as_a_file(tmp_path: Path) -> None:
    login = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    login.parent.mkdir(parents=True)
    login.write_text("{}")
    assert settings_for("gs://bucket", {}) == {"GOOGLE_APPLICATION_CREDENTIALS": str(login)}
    assert settings_for("gs://bucket", {"GOOGLE_APPLICATION_CREDENTIALS": "/my/key.json"}) == {
        "GOOGLE_APPLICATION_CREDENTIALS": "/my/key.json"
    }


@pytest.mark.parametrize(
    ("settings", "endpoint"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}, "http://127.0.0.1:9000"),
        ({"STORAGE_EMULATOR_HOST": "http://localhost:4443"}, "http://localhost:4443"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "AccountKey=a==;BlobEndpoint=http://[::1]:1/dev;"}, "http://[::1]:1/dev"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.2:9000"}, "http://127.0.0.2:9000"),
        ({"AWS_ENDPOINT_URL": "http://me:pw@localhost:9000"}, "http://me:pw@localhost:9000"),
        ({"AWS_ENDPOINT_URL": "http://me:pw@s3.localhost:9000"}, None),  # a name server may answer for it
        ({"AWS_ENDPOINT_URL": "http://0.0.0.0:9000"}, "http://0.0.0.0:9000"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1.example.org"}, None),
        ({"AWS_ENDPOINT_URL": "https://s3.example.org"}, None),
        ({"AWS_SECRET_ACCESS_KEY": "localhost"}, None),
    ],
)
def test_an_endpoint_that_only_this_machine_reaches_is_found(settings: dict[str, str], endpoint: str | None) -> None:
    assert loopback_endpoint(settings) == endpoint
