"""What messages leave out: values behind names of secrets, and the credentials in URLs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_train.spec.secret_names import granting_parameter, looks_secret, masked, without_credentials


@pytest.mark.parametrize("name", ["TOKEN", "WANDB_API_KEY", "my_password_2", "SECRETKEY", "DB_PASSWD", "credentials"])
def test_a_name_that_looks_like_a_secrets(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "KEYBOARD", "MONKEY", "PATH"])
def test_a_name_that_only_resembles_one(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/x?a=1&X-Amz-Signature=abc", "X-Amz-Signature"),
        ("https://h/x?sig=abc", "sig"),
        ("https://h/x#access_token=abc", "access_token"),
        ("https://h/x;jwt=abc", "jwt"),
        ("https://h/x?to=https%3A%2F%2Fi%2F%3Ftoken%3Dabc", "token"),
        ("gs://bucket?key=abc", "key"),
        ("https://h/key=5/x?download=1", None),
        ("https://h/x?sig=&design=a&signal=b&tokenizer=c&monkey=d", None),
    ],
)
def test_a_url_is_signed_if_a_parameter_is_called_so(url: str, name: str | None) -> None:
    assert granting_parameter(url) == name


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  API_KEY: abc", "  API_KEY: •••"),
        ("env: {A: 1, 'my-token' : x}", "env: {A: 1, 'my-token' : ••"),
        ("password=ab cd", "password=•••••"),
        ("TOKENIZERS: 1", "TOKENIZERS: 1"),
        ("url: https://me:pw@host/x", "url: https://•••••@host/x"),
        ("{url: https://host/x?sig=abc, a: 1}", "{url: https://host/x?•••••••, a: 1}"),
        ('url: "https://host/x#access=abc"', 'url: "https://host/x#••••••••••"'),
        ("url: https://host:8080/a@b", "url: https://host:8080/a@b"),
        ("url: https://me:p/w@host", "url: https://••••••@host"),
        (r'url: "https:\/\/me:pw@host"', r'url: "https:\/•••••••••••••'),
        ("s3://bucket/key https://a@b", "s3://bucket/key https://•@b"),
    ],
)
def test_a_line_is_masked_character_by_character(line: str, shown: str) -> None:
    assert masked(line) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no URL?at all", "no URL?at all"),
        ("'https://me:pw@host/x?sig=abc' cannot be read", "'https://…@host/x?…' cannot be read"),
        ("from a://u:p@h,b://v:q@i to c://j", "from a://…@h,b://…@i to c://j"),
        ("no folder /data/https:/me:pw@host/x", "no folder /data/https:/…@host/x"),
        ("cannot read s3://bucket/x#1/run.json, see https://host/x#y", "cannot read s3://bucket/x#1/run.json, see https://host/x#…"),
        ("cannot read /data/file:/x#1 or az:/me:pw@a/x#1?sig=abc", "cannot read /data/file:/x#1 or az:/…@a/x#1?…"),
        ("is3://host/x#abc gs://bucket/a#b,https://host/x#c", "is3://host/x#… gs://bucket/a#b,https://host/x#…"),
        ("--set data.url=https://:pw@host", "--set data.url=https://…@host"),
        ("'host/name?t=abc' in 'c?sig=abc' is not one", "'host/name?…' in 'c?…' is not one"),
        ("user:pw@host/x?sig=abc", "…@host/x?…"),
        ("from https://host/token@x:y?z y", "from https://host/…@x:y?… y"),
        ("https://host/name@sha256:ab s3://bucket/a@b/c", "https://host/name@sha256:ab s3://bucket/a@b/c"),
    ],
)
def test_a_message_names_a_url_without_its_credentials(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


USERS = st.text(st.characters(exclude_characters="@/?#", exclude_categories=["C", "Z"]), max_size=8)


@given(USERS, USERS, st.sampled_from(["", " ", "'", "x="]), st.sampled_from(["", " and so on", "'", "/path,"]))
def test_no_user_and_no_query_of_any_url_is_left(user: str, more: str, before: str, after: str) -> None:
    canary = "CANARY"
    for url in (f"https://{user}:{canary}{more}@host", f"https://{canary}{user}@host", f"https://host/x?{more}{canary}"):
        assert canary not in without_credentials(f"{before}{url}{after}")
        assert canary not in masked(f"{before}{url}{after}")
        assert len(masked(f"{before}{url}{after}")) == len(f"{before}{url}{after}")
