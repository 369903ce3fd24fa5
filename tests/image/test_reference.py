"""Names of images."""

import pytest

from cloud_train.image.errors import ImageError
from cloud_train.image.reference import parse_reference

DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    ("text", "repository", "version", "explicit"),
    [
        ("python", "docker.io/library/python", "latest", False),
        ("python:3.12-slim", "docker.io/library/python", "3.12-slim", False),
        ("me/digits", "docker.io/me/digits", "latest", False),
        ("docker.io/python", "docker.io/library/python", "latest", True),
        ("index.docker.io/me/digits:1", "docker.io/me/digits", "1", True),
        ("localhost/digits", "localhost/digits", "latest", True),
        ("localhost:5000/digits:1", "localhost:5000/digits", "1", True),
        ("registry.example.com/a/b/c", "registry.example.com/a/b/c", "latest", True),
        (f"ghcr.io/me/digits@{DIGEST}", "ghcr.io/me/digits", DIGEST, True),
        (f"ghcr.io/me/digits:1@{DIGEST}", "ghcr.io/me/digits", DIGEST, True),
        ("[::1]:5000/digits", "[::1]:5000/digits", "latest", True),
        ("a__b/c-d.e_f--g", "docker.io/a__b/c-d.e_f--g", "latest", False),
    ],
)
def test_a_name_is_read_as_docker_reads_it(text: str, repository: str, version: str, explicit: bool) -> None:
    reference = parse_reference(text)
    assert (reference.repository, reference.version, reference.explicit_host) == (repository, version, explicit)
    assert parse_reference(str(reference)).repository == repository


@pytest.mark.parametrize(
    "text",
    ["", "Python", "me/", "a//b", "python:", "python:-x", "python@sha256:12", "https://example.com/x", "a b", "exa mple.com/x", "x:1:2"],
)
def test_what_is_no_name_is_an_error_that_repeats_it(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse_reference(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("python", "https://registry-1.docker.io"),
        ("registry.example.com/x", "https://registry.example.com"),
        ("registry.example.com:5000/x", "https://registry.example.com:5000"),
        ("localhost:5000/x", "http://localhost:5000"),
        ("127.0.0.1:5000/x", "http://127.0.0.1:5000"),
        ("[::1]:5000/x", "http://[::1]:5000"),
        ("127.0.0.1.example.com/x", "https://127.0.0.1.example.com"),
        ("10.0.0.1:5000/x", "https://10.0.0.1:5000"),
    ],
)
def test_only_this_machine_is_spoken_to_without_encryption(text: str, url: str) -> None:
    assert parse_reference(text).registry_url == url
