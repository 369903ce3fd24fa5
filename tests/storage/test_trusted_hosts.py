"""Where a credential may be sent, by the URL and by what this machine's environment names."""

import pytest

from cloud_train.job.loopback import is_loopback
from cloud_train.storage.trusted_hosts import AZURE, AZURE_VAULT, GOOGLE, VARIABLE, Credential, UntrustedHostError, check, check_google


def allowed(url: str, credential: Credential, trusted: str = "") -> bool:
    try:
        check(url, credential, "gcp.endpoint", {VARIABLE: trusted})
    except UntrustedHostError:
        return False
    return True


@pytest.mark.parametrize(
    ("url", "credential"),
    [
        ("https://europe-west4-aiplatform.googleapis.com/v1/projects/p/locations/l/customJobs?pageSize=1", GOOGLE),
        ("https://logging-training.p.googleapis.com/v2/entries:list", GOOGLE),
        ("https://iam.googleapis.com/v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com:testIamPermissions", GOOGLE),
        ("https://serviceusage.googleapis.com/v1beta1/x/consumerQuotaMetrics/aiplatform.googleapis.com%2Fcpus", GOOGLE),
        ("https://management.azure.com/subscriptions/x/jobs?api-version=1&$skiptoken=%2e%2e%2f", AZURE),
        ("https://management.azure.com:443/subscriptions/x/resourceGroups/Größe(1)/y", AZURE),
        ("https://westeurope.api.azureml.ms/history/v1.0/x", AZURE),
        ("https://0f.workspace.westeurope.api.azureml.ms/history/v1.0/x", AZURE),
        ("https://management.usgovcloudapi.net/x", AZURE),
        ("https://usgovarizona.api.ml.azure.us/x", AZURE),
        ("https://management.chinacloudapi.cn/x", AZURE),
        ("https://chinaeast2.api.ml.azure.cn/x", AZURE),
        ("https://cloud-train.vault.azure.net/secrets/x", AZURE_VAULT),
        ("https://cloud-train.vault.azure.cn/secrets/x", AZURE_VAULT),
        ("https://cloud-train.vault.usgovcloudapi.net/secrets/x", AZURE_VAULT),
        ("https://MyVault.vault.azure.net/", AZURE_VAULT),
        ("HTTPS://Management.Azure.com/subscriptions/X", AZURE),
        ("http://127.0.0.1:8080/x", GOOGLE),
        ("https://localhost:8443", AZURE),
        ("http://[::1]:8080/", AZURE_VAULT),
    ],
)
def test_a_credential_goes_to_its_own_cloud_and_to_this_machine(url: str, credential: Credential) -> None:
    assert allowed(url, credential)


@pytest.mark.parametrize(
    ("url", "credential"),
    [
        ("https://googleapis.com/", GOOGLE),
        ("https://xgoogleapis.com/", GOOGLE),
        ("https://management.azure.com/", GOOGLE),
        ("https://storage.googleapis.com/", AZURE),
        ("https://cloud-train.vault.azure.net/", AZURE),
        ("https://management.azure.com/", AZURE_VAULT),
        ("https://vault.azure.net/", AZURE_VAULT),
        ("https://x.googleapis.com:8443/", GOOGLE),
        ("http://x.googleapis.com/", GOOGLE),
        ("ftp://x.googleapis.com/", GOOGLE),
        ("x.googleapis.com", GOOGLE),
        ("https://x.googleapis.com/../y", GOOGLE),
        ("https://x.googleapis.com/%2E%2e/y", GOOGLE),
        ("https://x.goog\u212ae.googleapis.com/", GOOGLE),
        ("HTTP://x.googleapis.com/", GOOGLE),
        ("https://X.GoogleApis.com.Attacker.example/", GOOGLE),
        ("https://x.googleapis.com/a b", GOOGLE),
        ("https://x.googleapis.com/a#b", GOOGLE),
        ("https://x.googleapis.com/a\u0085b", GOOGLE),
        ("https://.googleapis.com/", GOOGLE),
        ("https://x..googleapis.com/", GOOGLE),
        ("https://x.googleapis.com.", GOOGLE),
        ("https://x.googleapis.com\u3002attacker.example/", GOOGLE),
        ("http://2130706433/", GOOGLE),
        ("http://0.0.0.0/", GOOGLE),
        ("http://169.254.169.254/", GOOGLE),
    ],
)
def test_a_credential_goes_nowhere_else(url: str, credential: Credential) -> None:
    assert not allowed(url, credential)


@pytest.mark.parametrize(
    ("trusted", "url"),
    [
        ("private.example", "https://private.example/x"),
        (" other.example , private.example ", "https://private.example:443/x"),
        ("private.example:8443", "https://private.example:8443/x"),
        ("*.private.example", "https://logging.eu.private.example/x"),
        ("10.0.0.7", "https://10.0.0.7/x"),
        ("*.Private.example", "https://Logging.private.Example/x"),
    ],
)
def test_a_host_that_this_machine_names_is_trusted(trusted: str, url: str) -> None:
    assert allowed(url, GOOGLE, trusted)
    assert not allowed(url, GOOGLE)
    assert not allowed(url.replace("https", "http"), GOOGLE, trusted), "never unencrypted"


@pytest.mark.parametrize(
    ("trusted", "url"),
    [
        ("private.example", "https://x.private.example/"),
        ("private.example", "https://private.example:8443/"),
        ("private.example", "https://private.example.attacker.example/"),
        ("private.example:8443", "https://private.example/"),
        ("*.private.example", "https://private.example/"),
        ("*.private.example", "https://xprivate.example/"),
        ("*", "https://attacker.example/"),
        ("*.", "https://attacker.example/"),
        (",,", "https://attacker.example/"),
        ("https://attacker.example", "https://attacker.example/"),
    ],
)
def test_nothing_beside_what_was_named_is_trusted(trusted: str, url: str) -> None:
    assert not allowed(url, GOOGLE, trusted)


def test_googles_token_may_go_to_the_universe_that_the_credentials_are_for() -> None:
    class Sovereign:
        universe_domain = "sovereign.example"

    class Careless:
        universe_domain = "example"

    check_google("https://logging.sovereign.example/v2", Sovereign(), "gcp.endpoint", {})
    for credentials in (Sovereign(), Careless(), object()):
        with pytest.raises(UntrustedHostError):
            check_google("https://logging.attacker.example/v2", credentials, "gcp.endpoint", {})


def test_a_refusal_names_host_setting_and_variable_and_no_password() -> None:
    with pytest.raises(
        UntrustedHostError, match=r"refusing to send Google's access token to attacker\.example, which is not one of its hosts"
    ) as caught:
        check("https://attacker.example/x", GOOGLE, "gcp.endpoint", {})
    assert caught.value.hint is not None
    assert "gcp.endpoint" in caught.value.hint
    assert VARIABLE in caught.value.hint
    for url in (
        "https://me:sesame@x.googleapis.com/\x1b[2J",
        "https://me:ses ame sesame@x.googleapis.com/",
        "https://x.googleapis.com/a b?sig=sesame",
        "https://x.googleapis.com/#access_token=sesame",
        "https:/x.googleapis.com/?sig=sesame",
        f"https://me:{'x' * 200}sesame@x.googleapis.com/",
    ):
        with pytest.raises(UntrustedHostError) as caught:
            check(url, GOOGLE, "gcp.endpoint", {})
        assert "sesame" not in caught.value.message
        assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1", "127.1.2.3:65535", "[::1]", "[::1]:80", "LocalHost:80"])
def test_an_address_of_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "127.0.0.256",
            "0.0.0.0",
            "[::]",
            "-.localhost",
            "x.localhost",
            "x.localhost:1",
            "localhost.attacker.example",
            "127.0.0.1.attacker.example",
            "127.0.0.1:1@attacker.example",
            "localhost:x@attacker.example",
        ),
        *(
            "me@localhost",
            "attacker.example:127.0.0.1",
            "localhost/attacker",
            "localhost:80:80",
            "[::1]x",
            "[::1",
            "10.0.0.1",
            "local host",
        ),
    ],
)
def test_what_only_looks_like_one_is_not(host: str) -> None:
    assert not is_loopback(host)
