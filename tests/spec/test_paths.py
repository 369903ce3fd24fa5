"""Paths as a job file writes them."""

from pathlib import Path

import pytest

from cloud_train.errors import UsageError
from cloud_train.spec.paths import mistake_in
from cloud_train.storage.registry import absolute_url, check_url, open_store


@pytest.mark.parametrize(
    ("path", "variable"),
    [
        ("${HOME}/runs", "${HOME}"),
        ("$HOME/runs", "$HOME"),
        ("${HOME", "${HOME"),
        ("runs/${HOME}/x", "${HOME}"),
        ("/data/$USER/runs", "$USER"),
        ("/data/$user", "$user"),
        ("/data/run-${user}", "${user}"),
        ("/data/run-$USER-1", "$USER"),
        ("$JOB$ID", "$JOB"),
        ("file:///data/$USER", "$USER"),
        ("s3://bucket/${USER}/runs", "${USER}"),
        ("gs://bucket/$USER", "$USER"),
    ],
)
def test_a_variable_is_not_replaced_wherever_it_is(path: str, variable: str) -> None:
    mistake = mistake_in(path)
    assert mistake is not None
    assert mistake[0] == f"{variable} is not replaced by the variable's value"


@pytest.mark.parametrize(
    "path",
    [
        "a$b",
        "a$B",
        "x/a$b/c",
        "a$HOMEdir",
        "$5",
        "x/$5",
        "x$",
        "$$",
        "a${b",
        "price$usd",
        "photos/$recycle.bin",
        "s3://bucket/a$b",
        "https://example.org/$USER",
    ],
)
def test_a_name_may_contain_a_dollar_sign(path: str) -> None:
    assert mistake_in(path) is None


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("S3://bucket/runs", "s3://bucket/runs"),
        ("Gs://bucket", "gs://bucket"),
        ("AZ://account/container", "az://account/container"),
        ("HTTPS://example.org/x", "https://example.org/x"),
        ("FILE:///runs", "file:///runs"),
    ],
)
def test_a_scheme_is_written_in_lower_case(url: str, meant: str) -> None:
    scheme = url.partition("://")[0]
    assert mistake_in(url) == (f"the scheme {scheme}:// is not in lower case", meant)
    for use in (check_url, open_store, lambda one: absolute_url(one, Path("/"))):
        with pytest.raises(UsageError, match="is not in lower case") as raised:
            use(url)
        assert raised.value.hint == f"expected: {meant}"


def test_a_login_in_a_url_is_not_repeated() -> None:
    mistake = mistake_in("S3://me:secret@bucket/runs")
    assert mistake is not None
    assert "secret" not in "".join(mistake)


def test_a_folder_that_was_recorded_stays_open_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "$USER").mkdir()
    assert open_store(f"{tmp_path}/$USER").url.endswith("/$USER")
    with pytest.raises(UsageError, match=r"\$USER is not replaced"):
        absolute_url(f"{tmp_path}/$USER", Path("/"))
